"""Who has left: the rule `[labels]` of churn.toml as SQL over the ledgers, which runs on both warehouses.

Here belong the signs that a customer is still there, whose labels a change of the ledgers can move, and what the ledgers fail
to say. Building and correcting the rows is in `training_set`; the live features leave out who has left by the same rule, in dbt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from churn_assets.configuration import rules
from churn_assets.warehouse.codes import closed_at, is_closed
from churn_assets.warehouse.protocol import Queries
from churn_assets.warehouse.values import literal

_DAY = "____-__-__%"  # how a day of labels.column begins, for LIKE


@dataclass(frozen=True)
class Changed:
    """A query of the customers whose labels may have moved, and its parameters."""

    sql: str
    parameters: tuple[datetime, ...]


@dataclass(frozen=True)
class Signs:
    """Rows with a column `customer_id`, and two conditions on them, in which they are called `signs`."""

    table: str
    """A table, or a query in parentheses."""
    stays: str
    """Who has such a row has not left after the cut-off."""
    was_there: str
    """Who has such a row had not left before it."""


def signs(cut_off: str) -> Signs:
    """What shows who has left after a cut-off, which is SQL for a date; the label's days begin on the day after it."""
    days = rules().labels.days
    match rules().labels.churn:
        case "account_closed":
            ends = (f"CAST({cut_off} + {after} AS TIMESTAMP)" for after in (days + 1, 1))
            return Signs("dim_accounts", *(is_open_at(end, "signs.") for end in ends))
        case "silent":
            # Nothing that comes later can show that a customer was not heard of before.
            heard = f"signs.event_day > {cut_off} AND signs.event_day <= {cut_off} + {days}"
            return Signs("customer_day", heard, "TRUE")
        case "column":
            ends = (f"{cut_off} + {days}", cut_off)
            return Signs("dim_customers", *(f"coalesce({_left_on()} > {end}, TRUE)" for end in ends))
        case "event":
            ends = (f"{cut_off} + {days}", cut_off)
            first = (
                "(SELECT people.customer_id, min(CAST(events.event_timestamp AS DATE)) AS left_on FROM dim_customers AS people"
                " LEFT JOIN app_activity_logs AS events ON people.customer_id = events.customer_id AND"
                f" events.event_type = {_own_event()} GROUP BY people.customer_id)"
            )
            return Signs(first, *(f"coalesce(signs.left_on > {end}, TRUE)" for end in ends))


def changed(since: datetime, latest_cut_off: date) -> Changed:
    """The customers whose labels up to a cut-off may be moved by what was stored since then (UTC)."""
    match rules().labels.churn:
        case "account_closed":
            # Most changes of accounts are balances. Only a closure makes a leaver; only of a leaver can it be taken back.
            return Changed(
                f"SELECT customer_id FROM dim_accounts WHERE ingested_at >= ? AND {is_closed()} UNION ALL"
                " SELECT accounts.customer_id FROM dim_accounts AS accounts INNER JOIN churn_training_set AS known"
                " ON accounts.customer_id = known.customer_id WHERE accounts.ingested_at >= ? AND known.has_left",
                (since, since),
            )
        case "silent":
            end = datetime.combine(latest_cut_off + timedelta(days=rules().labels.days + 1), datetime.min.time())
            late = " UNION ALL ".join(
                f"SELECT customer_id FROM {ledger} WHERE ingested_at >= ? AND {time} < ?"
                for ledger, time in (("app_activity_logs", "event_timestamp"), ("support_cases", "open_timestamp"))
            )
            return Changed(
                "SELECT accounts.customer_id FROM fact_transaction_ledger AS postings INNER JOIN dim_accounts AS accounts"
                " ON postings.account_id = accounts.account_id WHERE postings.ingested_at >= ? AND postings.posting_date < ?"
                f" UNION ALL {late}",
                (since, end) * 3,
            )
        case "column":
            return Changed("SELECT customer_id FROM dim_customers WHERE ingested_at >= ?", (since,))
        case "event":
            return Changed(
                f"SELECT customer_id FROM app_activity_logs WHERE ingested_at >= ? AND event_type = {_own_event()}",
                (since,),
            )


def undated_closures(warehouse: Queries) -> tuple[int, int]:
    """How many closed accounts nobody has said the time of, and how many are closed."""
    (found,) = warehouse.query(
        f"SELECT count(*) AS closed, count({closed_at()}) AS dated FROM dim_accounts WHERE {is_closed()}"
    ).to_pylist()
    return found["closed"] - found["dated"], found["closed"]


def about_undated_closures(undated: int, closed: int) -> str:
    """The finding of `undated_closures` in one line, with what to do."""
    if not undated:
        return f"all {closed:,} closed accounts say when they were closed"
    return (
        f"{undated:,} of {closed:,} closed accounts do not say when they were closed, so their closing makes no leaver: load or"
        " correct them with closed_at"
    )


def problem(warehouse: Queries, ledger: str | None = None) -> str | None:
    """What the ledgers (or one of them) fail to say of who has left, in one line; None if nothing."""
    labels = rules().labels
    if labels.churn == "account_closed" and ledger in (None, "dim_accounts"):
        undated, closed = undated_closures(warehouse)
        return about_undated_closures(undated, closed) if undated else None
    if labels.churn == "column" and ledger in (None, "dim_customers"):
        value = _own_column()
        (found,) = warehouse.query(
            f"SELECT count({value}) AS said, count({_left_on()}) AS days,"
            f" min(CASE WHEN {_left_on()} IS NULL THEN {value} END) AS example FROM dim_customers AS signs"
        ).to_pylist()
        if not found["days"]:
            return f"no customer has a day in {labels.column}, the column of [labels] in churn.toml; load customers with it"
        if wrong := found["said"] - found["days"]:
            return (
                f"of {wrong:,} customers {labels.column} is no day such as 2026-05-31, as {found['example']!r}; they count as"
                " staying"
            )
    if labels.churn == "event" and ledger in (None, "app_activity_logs"):
        sql = f"SELECT count(*) AS events FROM app_activity_logs WHERE event_type = {_own_event()}"
        if not warehouse.query(sql)["events"][0].as_py():
            return (
                f"no action in app_activity_logs has the event_type {labels.event}, the event of [labels] in churn.toml; load"
                " those that say who left"
            )
    return None


def without_leavers(rows: Mapping[date, tuple[int, int]]) -> str | None:
    """What to do if nobody of the customers by cut-off (customers, leavers) has left; None if somebody has."""
    if not rows or any(leavers for _, leavers in rows.values()):
        return None
    return (
        f"nobody left at {len(rows)} cut-offs from {min(rows)} to {max(rows)}, where leaving is: {rules().labels.in_words};"
        " correct the data, or [labels] and [codes] of churn.toml, then run `churn model prepare --rebuild`"
    )


def is_open_at(end: str, prefix: str = "") -> str:
    """A condition: an account is open at a time, which is SQL. One that is closed, nobody said when, is open at no time."""
    return (
        f"({prefix}opened_at IS NULL OR {prefix}opened_at < {end})"
        f" AND (NOT {is_closed(f'{prefix}account_status')} OR {closed_at(prefix)} >= {end})"
    )


def _own_column() -> str:
    return f"nullif(json_extract_path_text(signs.extra_fields, {literal(rules().labels.column or '')}), '')"


def _own_event() -> str:
    return literal(rules().labels.event or "")


def _left_on() -> str:
    """The day on which a customer left; the macro of this name in dbt says the same."""
    return f"CASE WHEN {_own_column()} LIKE '{_DAY}' THEN TRY_CAST(substr({_own_column()}, 1, 10) AS DATE) END"
