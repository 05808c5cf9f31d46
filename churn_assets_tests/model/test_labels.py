"""Who has left by the rule of churn.toml, and that labels follow what is stored after their cut-off was made."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from churn_assets.model import labels
from churn_assets.model.training_set import TrainingSetError, clear, extend, leavers_by_cut_off, refuse_other_rule
from churn_assets.operations import dbt
from churn_assets.settings import Settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction

CUT_OFF = date(2026, 5, 10)  # a Sunday
END = datetime.fromisoformat("2026-05-11")
NOW = datetime.fromisoformat("2026-06-15T12:00:00")
EARLIER = datetime.fromisoformat("2026-04-01")
DAY = timedelta(days=1)


@dataclass
class Bank:
    """Customers with one account each, written by hand, and the training set of CUT_OFF alone."""

    lake: LakeWarehouse
    query: str

    def write(self, *statements: tuple[str, dict[str, Any]]) -> None:
        def run(tx: Transaction) -> None:
            for table, row in statements:
                places = ", ".join("?" * len(row))
                tx.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))

        self.lake.transact(run)

    def customer(self, name: str, extra: str | None = None, **account: Any) -> None:
        known = {"updated_at": EARLIER, "ingested_at": EARLIER}
        person = {"customer_id": name, "full_name": "N", "segment": "MASS", "join_date": date(2020, 1, 1)}
        of_account = {"account_id": name, "customer_id": name, "product_code": "P", "account_status": "OPEN"}
        self.write(
            ("dim_customers", person | known | {"extra_fields": extra}),
            ("dim_accounts", of_account | known | {"opened_at": EARLIER - 900 * DAY} | account),
        )

    def action(self, name: str, at: datetime, ingested_at: datetime = EARLIER, kind: str = "LOGIN") -> None:
        row = {"log_id": f"{name} {at}", "customer_id": name, "event_type": kind, "event_timestamp": at}
        self.write(("app_activity_logs", row | {"ingested_at": ingested_at}))

    def close(self, name: str, at: datetime | None, status: str = "CLOSED", ingested_at: datetime = NOW) -> None:
        change = "UPDATE dim_accounts SET account_status = ?, closed_at = ?, ingested_at = ? WHERE account_id = ?"
        self.lake.transact(lambda tx: tx.execute(change, [status, at, ingested_at, name]))

    def extend(self, now: datetime = NOW) -> int:
        """Bring the set up to date; the rows corrected."""
        self.lake.refresh(["customer_day"], now)
        return extend(self.lake, self.query, now, lambda _: None).corrected

    def left(self) -> dict[str, bool]:
        rows = self.lake.query(
            "SELECT customer_id, has_left FROM churn_training_set WHERE cut_off = ?", [CUT_OFF]
        ).to_pylist()
        return {row["customer_id"]: row["has_left"] for row in rows}


@pytest.fixture
def bank(lake: LakeWarehouse) -> Bank:
    query = lake.query("SELECT query FROM dynamic_tables WHERE name = 'dyn_customer_features'")["query"][0].as_py()
    bank = Bank(lake, query)
    bank.customer("first")
    bank.action("first", datetime.fromisoformat("2026-04-09T10:00:00"))  # so that CUT_OFF is the first one
    return bank


def test_closures_that_come_later_correct_the_cut_offs_that_exist_and_touch_no_other_row(bank: Bank):
    for name in ("leaves", "had left", "leaves late", "comes back"):
        bank.customer(name)
    bank.close("comes back", END, ingested_at=EARLIER)
    bank.extend()
    assert bank.left() == {
        "first": False,
        "leaves": False,
        "had left": False,
        "leaves late": False,
        "comes back": True,
    }
    assert bank.extend(NOW + DAY) == 0

    loaded = NOW + 2 * DAY
    bank.close("leaves", END + 29 * DAY, ingested_at=loaded)
    bank.close("had left", END - timedelta(seconds=1), ingested_at=loaded)
    bank.close("leaves late", END + 30 * DAY, ingested_at=loaded)
    bank.close("comes back", None, "OPEN", ingested_at=loaded)

    assert bank.extend(NOW + 3 * DAY) == 3
    assert bank.left() == {"first": False, "leaves": True, "leaves late": False, "comes back": False}
    assert bank.extend(NOW + 4 * DAY) == 0


def test_a_closure_has_the_time_that_a_person_or_a_message_says_and_never_that_of_a_file(bank: Bank):
    after = {"updated_at": END + DAY, "account_status": "CLOSED"}
    bank.customer("in a file", **after)
    bank.customer("in a message", **after, kafka_topic="t")
    assert bank.left() == {}

    bank.extend()

    assert bank.left() == {"first": False, "in a message": True}
    assert labels.problem(bank.lake) == (
        "1 of 2 closed accounts do not say when they were closed, so their closing makes no leaver: load or correct them with"
        " closed_at"
    )


def test_silence_and_a_day_of_ones_own_label_by_the_live_population(
    bank: Bank, settings: Settings, with_rules: Callable[[str], None]
):
    with_rules('[labels]\nchurn = "silent"\ndays = 20\n')
    silent = Bank(bank.lake, _query(settings))
    for name in ("falls silent", "goes on", "was silent", "is heard late"):
        silent.customer(name)
    for name in ("falls silent", "goes on", "is heard late"):
        silent.action(name, END - timedelta(seconds=1))
    silent.action("was silent", END - 21 * DAY)
    silent.action("was silent", END + DAY)
    silent.action("goes on", END + 20 * DAY - timedelta(seconds=1))
    silent.action("falls silent", END + 20 * DAY)

    silent.extend()
    assert silent.left() == {"falls silent": True, "goes on": False, "is heard late": True}
    silent.action("is heard late", END + DAY, ingested_at=NOW)
    assert silent.extend(NOW + DAY) == 1
    assert silent.left() == {"falls silent": True, "goes on": False, "is heard late": False}

    with_rules('[labels]\nchurn = "column"\ncolumn = "left_on"\n')
    own = Bank(bank.lake, _query(settings))
    with pytest.raises(TrainingSetError, match=r"another rule than \[labels\] of churn.toml .*prepare --rebuild"):
        own.extend()
    clear(own.lake)
    assert labels.problem(own.lake) == (
        "no customer has a day in left_on, the column of [labels] in churn.toml; load customers with it"
    )
    for name, day in {
        "on the first day": "2026-05-11",
        "on the last day": "2026-06-09T23:59:59Z",
        "a day late": "2026-06-10",
        "before": "2026-05-10T08:00:00",
        "without end": "9999-12-31",
        "by a word": "yes",
        "without": "",
    }.items():
        own.customer(name, f'{{"left_on": "{day}"}}')

    own.extend()
    assert own.left() == dict.fromkeys(("first", "falls silent", "goes on", "was silent", "is heard late"), False) | {
        "on the first day": True,
        "on the last day": True,
        "a day late": False,
        "without end": False,
        "by a word": False,
        "without": False,
    }
    assert labels.problem(own.lake) == (
        "of 1 customers left_on is no day such as 2026-05-31, as 'yes'; they count as staying"
    )
    own.lake.transact(
        lambda tx: tx.execute(
            'UPDATE dim_customers SET extra_fields = \'{"left_on": "2026-05-20"}\', ingested_at = ?'
            " WHERE customer_id IN ('first', 'without')",
            [NOW],
        )
    )
    assert own.extend(NOW + DAY) == 2
    assert {name for name, left in own.left().items() if left} >= {"first", "without"}


def test_an_event_of_ones_own_says_who_left_and_only_its_first_counts(
    bank: Bank, settings: Settings, with_rules: Callable[[str], None]
):
    with_rules('[labels]\nchurn = "event"\nevent = "CONTRACT_ENDED"\ndays = 20\n')
    own = Bank(bank.lake, _query(settings))
    assert labels.problem(own.lake) == (
        "no action in app_activity_logs has the event_type CONTRACT_ENDED, the event of [labels] in churn.toml; load those that"
        " say who left"
    )
    for name, when in {
        "on the first day": END,
        "on the last day": END + 20 * DAY - timedelta(seconds=1),
        "a day late": END + 20 * DAY,
        "before": END - timedelta(seconds=1),
        "stays": None,
    }.items():
        own.customer(name)
        own.action(name, END + DAY)
        if when:
            own.action(name, when, kind="CONTRACT_ENDED")
    own.action("before", END + 2 * DAY, kind="CONTRACT_ENDED")

    own.extend()
    left = {"first": False, "on the first day": True, "on the last day": True, "a day late": False, "stays": False}
    assert own.left() == left
    assert labels.problem(own.lake) is None
    own.action("stays", END + 5 * DAY, ingested_at=NOW, kind="CONTRACT_ENDED")
    own.action("first", END + 5 * DAY, ingested_at=NOW)
    assert own.extend(NOW + DAY) == 3  # left after CUT_OFF, and was gone at the two that follow
    assert own.left() == left | {"stays": True}


def _query(settings: Settings) -> str:
    (found,) = [model.query for model in dbt.compiled(settings) if model.name == "dyn_customer_features"]
    return found


def test_a_rule_by_which_nobody_left_is_one_line_that_says_the_rule(bank: Bank):
    bank.extend()
    refuse_other_rule(bank.lake)

    assert labels.without_leavers(leavers_by_cut_off(bank.lake)) == (
        "nobody left at 1 cut-offs from 2026-05-10 to 2026-05-10, where leaving is: all accounts are closed within 30 days after"
        " the cut-off; correct the data, or [labels] and [codes] of churn.toml, then run `churn model prepare --rebuild`"
    )
    assert labels.without_leavers({CUT_OFF: (9, 0), CUT_OFF + 7 * DAY: (9, 1)}) is None
