"""The simulated bank: its identity, and its whole history as rows of the ledgers.

The history is a pure function of the bank's parameters. Events after it are in `live`.
"""

# pyarrow ships no types; this module only passes its tables on.

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from churn_assets.simulator import behaviour, ledgers, population
from churn_assets.simulator.behaviour import Courses, reordered
from churn_assets.simulator.population import Floats, People

CUSTOMER_DAYS_PER_CHUNK = 1_000_000
"""About half of the customer-days give a row of `fact_transaction_ledger`; 1,000,000 keep a chunk near 100 MB."""
LONGEST_CHUNK_DAYS = 31


@dataclass(frozen=True)
class Bank:
    """A retail bank. The same parameters always give the same bank, byte for byte.

    Its history covers `days` whole UTC days from `first_day` and, if `until` is given (naive, UTC), the part of the
    next day before that instant.
    """

    customers: int
    seed: int
    first_day: date
    days: int
    until: datetime | None = None

    def __post_init__(self):
        if self.customers < 1 or self.days < 1 or self.seed < 0:
            raise ValueError(f"A bank needs customers >= 1, days >= 1 and seed >= 0, not {self.parameters()}")
        if self.until is not None:
            whole_days_end = self._whole_days_end
            if self.until.tzinfo is not None:
                raise ValueError(f"until must be naive and mean UTC, not {self.until}")
            if not whole_days_end <= self.until < whole_days_end + timedelta(days=1):
                raise ValueError(f"until must be on the day after the last whole day, {whole_days_end.date()}")

    @classmethod
    def from_parameters(cls, parameters: dict[str, str | int | None]) -> "Bank":
        """Return the bank that `parameters()` was taken from."""
        until = parameters["until"]
        return cls(
            customers=int(parameters["customers"] or 0),
            seed=int(parameters["seed"] or 0),
            first_day=date.fromisoformat(str(parameters["first_day"])),
            days=int(parameters["days"] or 0),
            until=None if until is None else datetime.fromisoformat(str(until)),
        )

    def parameters(self) -> dict[str, str | int | None]:
        """Return everything that identifies the bank, ready for JSON."""
        return {
            "customers": self.customers,
            "seed": self.seed,
            "first_day": self.first_day.isoformat(),
            "days": self.days,
            "until": None if self.until is None else self.until.isoformat(),
        }

    @property
    def ends_at(self) -> datetime:
        """The first instant after the history (UTC)."""
        return self.until or self._whole_days_end

    @cached_property
    def people(self) -> People:
        """All customers who have joined by the end of the history."""
        joined_at = population.joining_instants(self.seed, self.customers, np.datetime64(self.first_day), self.days)
        return population.draw_people(self.seed, 1, joined_at)

    @cached_property
    def courses(self) -> Courses:
        """The courses of their relationships, also after the end of the history."""
        return behaviour.draw_courses(self.seed, self.people, np.datetime64(self.first_day))

    def history(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield the history as (ledger, rows): the dimensions as they stand at its end, then the facts in order.

        Memory does not grow with the number of days.
        """
        ids = ledgers.Ids(self.people)
        ends_at = np.datetime64(self.ends_at, "us")
        yield "dim_customers", ledgers.customers_table(ids, self.people)
        yield "dim_accounts", ledgers.accounts_table(ids, self.people, self.courses, ends_at)
        first_day = np.datetime64(self.first_day, "D")
        # The day of ends_at is only partly covered, or not at all if the history ends at midnight.
        days = np.arange(first_day, ends_at.astype("M8[D]") + 1)
        size = min(LONGEST_CHUNK_DAYS, max(1, CUSTOMER_DAYS_PER_CHUNK // self.customers))
        for start in range(0, len(days), size):
            chunk: dict[str, list[pa.Table]] = {}
            for day in days[start : start + size]:
                for ledger, rows in self._facts_on(ids, day, ends_at):
                    chunk.setdefault(ledger, []).append(rows)
            for ledger, tables in chunk.items():
                rows = ledgers.one_table(tables)
                if rows.num_rows:
                    yield ledger, rows

    def chance_of_leaving(self, as_of: date, days: int = 30) -> Floats:
        """Return the true probability of leaving within `days` after the start of `as_of`, per customer.

        It is NaN for customers who have not joined or have already left.
        """
        instant = np.datetime64(as_of, "us")
        chance = behaviour.chance_of_leaving(self.courses, instant, days)
        return np.where((self.people.joined_at < instant) & (instant < self.courses.left_at), chance, np.nan)

    @property
    def _whole_days_end(self) -> datetime:
        return datetime.combine(self.first_day + timedelta(days=self.days), datetime.min.time())

    def _facts_on(self, ids: ledgers.Ids, day: np.datetime64, ends_at: np.datetime64) -> list[tuple[str, pa.Table]]:
        transactions, actions, cases = behaviour.draw_day(self.seed, self.people, self.courses, day)
        transactions = reordered(transactions, transactions.at < ends_at)
        actions = reordered(actions, actions.at < ends_at)
        cases = reordered(cases, cases.at < ends_at)
        return [
            (
                "fact_transaction_ledger",
                ledgers.transactions_table(ids, transactions, ledgers.history_refs("T", day, len(transactions.at))),
            ),
            (
                "app_activity_logs",
                ledgers.app_actions_table(ids, actions, ledgers.history_refs("L", day, len(actions.at))),
            ),
            ("support_cases", ledgers.cases_table(ids, cases, ledgers.history_refs("S", day, len(cases.at)))),
        ]
