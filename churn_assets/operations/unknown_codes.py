"""Which codes of postings and which states of accounts no rule of the bank knows, for `churn status`, the doctor and the checks.

A posting with an unknown code counts as a posting, but neither as spend nor as a wire; an account with an unknown state counts
as open. Nothing of that is an error of an event, so it is told here, and nothing is rejected.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from churn_assets.configuration import rules
from churn_assets.rules import MAX_UNKNOWN_POSTINGS
from churn_assets.warehouse.codes import has_code
from churn_assets.warehouse.protocol import Warehouse

DAYS = 30  # up to the newest posting, so that the count does not grow with the history
SHOWN = 10  # codes


@dataclass(frozen=True)
class Unknown:
    """The rows of a ledger with a code that no rule knows, and the most frequent of these codes with their rows."""

    ledger: str
    rows: int
    all_rows: int
    codes: dict[str, int]
    since: date | None = None
    """The first day (UTC) that was counted; None for the whole ledger."""

    @property
    def share(self) -> float:
        """The share of the rows, 0 to 1."""
        return self.rows / self.all_rows if self.all_rows else 0.0

    @property
    def is_too_much(self) -> bool:
        """Whether somebody should act: more than a hundredth of the postings, or any account, as few of them ever close."""
        return self.share > (MAX_UNKNOWN_POSTINGS if self.since else 0.0)

    @property
    def in_words(self) -> str:
        """The finding in one sentence, and what to do if there is something to do."""
        what, where, effect, lists = _WORDS[self.ledger]
        counted = f"{self.all_rows:,} {what}{f' since {self.since}' if self.since else ''}"
        if not self.rows:
            return f"a rule knows the {where} of all {counted}"
        named = ", ".join(f"{code!r} ({rows:,})" for code, rows in self.codes.items())
        more = ", …" if sum(self.codes.values()) < self.rows else ""
        return (
            f"no rule knows the {where} of {self.rows:,} of {counted} ({_percent(self.share)}): {named}{more}; {effect};"
            f" name them in {lists} under [codes] of churn.toml, then run `churn deploy`"
        )


# By ledger: what its rows are, what is unknown about them, what follows, and where the user can name it.
_WORDS = {
    "fact_transaction_ledger": (
        "postings",
        "code",
        "they count neither as spend nor as wires",
        "money_out, wire_out, reversal or money_in",
    ),
    "dim_accounts": ("accounts", "state", "they count as open", "account_open or account_closed"),
}


def unknown_codes(warehouse: Warehouse) -> list[Unknown]:
    """What no rule knows: of the postings of the last DAYS days that have postings, and of all accounts."""
    return [unknown_postings(warehouse), unknown_states(warehouse)]


def unknown_postings(warehouse: Warehouse) -> Unknown:
    """The postings of DAYS days up to the newest one whose code no rule knows."""
    newest = warehouse.query("SELECT max(posting_date) AS newest FROM fact_transaction_ledger")["newest"][0].as_py()
    since = newest.date() - timedelta(days=DAYS - 1) if newest else None
    # A literal, because a scan of the lake skips files by it.
    which = f"posting_date >= CAST('{since}' AS TIMESTAMP)" if since else "TRUE"
    return _unknown(warehouse, "fact_transaction_ledger", "transaction_code", which, since)


def unknown_states(warehouse: Warehouse) -> Unknown:
    """The accounts whose state no rule knows."""
    return _unknown(warehouse, "dim_accounts", "account_status", "TRUE", None)


def _unknown(warehouse: Warehouse, ledger: str, column: str, which: str, since: date | None) -> Unknown:
    is_known = has_code(column, tuple(rules().codes.of_column(column)))
    (counted,) = warehouse.query(
        f"SELECT count(*) AS all_rows, count(CASE WHEN NOT {is_known} THEN 1 END) AS unknown FROM {ledger} WHERE {which}"
    ).to_pylist()
    codes = (
        warehouse.query(
            f"SELECT min(trim({column})) AS code, count(*) AS row_count FROM {ledger} WHERE {which} AND NOT {is_known}"
            f" GROUP BY upper(trim({column})) ORDER BY row_count DESC NULLS LAST, code LIMIT {SHOWN}"
        ).to_pylist()
        if counted["unknown"]
        else []
    )
    return Unknown(
        ledger, counted["unknown"], counted["all_rows"], {row["code"]: row["row_count"] for row in codes}, since
    )


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
