"""The training set: features as they were known at past cut-offs, and who left afterwards.

The features come from the same SQL as the live ones: the compiled model of `dyn_customer_features`, with the cut-off in the
place of today and the accounts as they stood at its end. This module holds that rewriting, the label and the choice of
cut-offs. Training is in `training`.
"""

from collections.abc import Callable
from datetime import date, datetime, timedelta

import pandas as pd
import sqlglot
from sqlglot import exp

from churn_assets.errors import ChurnError
from churn_assets.rules import FEATURE_WINDOW_DAYS, FEATURES, LABEL_DAYS, TRAINING_WEEKS
from churn_assets.warehouse.protocol import Transaction, Warehouse

_SUNDAY = 6
_ACCOUNTS = "dim_accounts"
# When an account was closed; the contract does not require closed_at.
_CLOSED_AT = "CASE WHEN account_status = 'CLOSED' THEN coalesce(closed_at, updated_at) END"


class TrainingSetError(ChurnError):
    """The SQL of the features cannot be moved to another day; the message says what it lacks."""


def features_as_of(sql: str, day: date, dialect: str = "duckdb") -> str:
    """The features' query, compiled for a warehouse, rewritten to answer as at the end of `day` (UTC).

    Every clock in it becomes `day`. Only accounts opened by then count, each with its status at that time. Events need no
    change, because the query reads none after its clock. `TrainingSetError` if it has no clock or reads no accounts.
    """
    tree = sqlglot.parse_one(sql, dialect=dialect)
    clocks = [node for node in tree.find_all(exp.ConvertTimezone, exp.Anonymous) if _is_clock(node)]
    accounts = [table for table in tree.find_all(exp.Table) if table.name.lower() == _ACCOUNTS]
    if not clocks or not accounts:
        raise TrainingSetError(
            f"the query of the features reads no {'clock' if not clocks else _ACCOUNTS}; it cannot be moved to {day}"
        )
    for clock in clocks:
        clock.replace(exp.cast(exp.Literal.string(f"{day}"), "date"))
    for table in accounts:
        end = f"CAST('{day + timedelta(days=1)}' AS TIMESTAMP)"
        then = (
            f"SELECT account_id, customer_id, CASE WHEN {_CLOSED_AT} >= {end} THEN 'OPEN' ELSE account_status END"
            f" AS account_status FROM {table.sql(dialect)} WHERE opened_at IS NULL OR opened_at < {end}"
        )
        table.replace(sqlglot.parse_one(then, dialect=dialect).subquery(table.alias_or_name))  # type: ignore[union-attr]
    return tree.sql(dialect)


def cut_offs(first_day: date, now: datetime) -> list[date]:
    """The Sundays whose window lies after `first_day`, the first one with events, and whose label is known at `now` (UTC)."""
    first = first_day + timedelta(days=FEATURE_WINDOW_DAYS)
    last = now.date() - timedelta(days=LABEL_DAYS + 1)
    sunday = first + timedelta(days=(_SUNDAY - first.weekday()) % 7)
    return [sunday + timedelta(weeks=week) for week in range(max(0, (last - sunday).days // 7 + 1))]


def extend(
    warehouse: Warehouse, features_sql: str, now: datetime, report: Callable[[str], None], dialect: str = "duckdb"
) -> int:
    """Add the cut-offs that are missing from `churn_training_set`; returns the number of rows added.

    An existing cut-off stays unchanged, as models have learned from it. Each is added in its own transaction, newest last.
    """
    first_day = warehouse.query("SELECT min(event_day) AS day FROM customer_day")["day"][0].as_py()
    if first_day is None:
        return 0
    known = set(warehouse.query("SELECT DISTINCT cut_off FROM churn_training_set")["cut_off"].to_pylist())
    added = 0
    for cut_off in cut_offs(first_day, now):
        if cut_off not in known:
            rows = warehouse.transact(
                lambda tx, day=cut_off: _add(tx, features_as_of(features_sql, day, dialect), day, now)
            )
            report(f"{cut_off}: {rows:,} customers")
            added += rows
    return added


def read(warehouse: Warehouse, after: date | None = None) -> pd.DataFrame:
    """The rows of the latest TRAINING_WEEKS cut-offs, or of those later than `after`, as `training.train` takes them."""
    since = (
        "cut_off > ?"
        if after
        else (
            "cut_off IN (SELECT cut_off FROM churn_training_set GROUP BY cut_off ORDER BY cut_off DESC NULLS LAST"
            f" LIMIT {TRAINING_WEEKS})"
        )
    )
    return warehouse.query(
        f"SELECT customer_id, cut_off, {', '.join(FEATURES)}, has_left FROM churn_training_set WHERE {since}",
        [after] if after else [],
    ).to_pandas(date_as_object=True)


def latest_cut_off(warehouse: Warehouse) -> date | None:
    """The latest cut-off in the training set, or None if it is empty."""
    return warehouse.query("SELECT max(cut_off) AS latest FROM churn_training_set")["latest"][0].as_py()


def leavers_by_cut_off(warehouse: Warehouse) -> dict[date, tuple[int, int]]:
    """By cut-off, for those that `read` returns without `after`: how many customers, and how many of them left."""
    rows = warehouse.query(
        "SELECT cut_off, count(*) AS customers, count(CASE WHEN has_left THEN 1 END) AS leavers FROM churn_training_set"
        f" GROUP BY cut_off ORDER BY cut_off DESC NULLS LAST LIMIT {TRAINING_WEEKS}"
    ).to_pylist()
    return {row["cut_off"]: (row["customers"], row["leavers"]) for row in reversed(rows)}


def _add(tx: Transaction, features: str, cut_off: date, now: datetime) -> int:
    """Add one cut-off; returns its rows. Label: no account that was opened before the window's end is open at that end."""
    end = f"CAST('{cut_off + timedelta(days=1 + LABEL_DAYS)}' AS TIMESTAMP)"
    return tx.execute(
        f"INSERT INTO churn_training_set (customer_id, cut_off, {', '.join(FEATURES)}, has_left, made_at)"
        f" SELECT features.customer_id, CAST('{cut_off}' AS DATE), {', '.join(f'features.{name}' for name in FEATURES)},"
        f" stays.customer_id IS NULL, CAST(? AS TIMESTAMP) FROM ({features}) AS features LEFT JOIN ("
        f"SELECT DISTINCT customer_id FROM dim_accounts WHERE (opened_at IS NULL OR opened_at < {end})"
        f" AND coalesce({_CLOSED_AT}, {end}) >= {end}) AS stays ON features.customer_id = stays.customer_id",
        [now],
    )


def _is_clock(node: exp.Expr) -> bool:
    """Whether a node is what dbt's macro as_of_day compiles to, on Snowflake or the lake, without the cast to a date."""
    if isinstance(node, exp.ConvertTimezone):
        return isinstance(node.args["timestamp"], exp.CurrentTimestamp)
    return node.name.lower() == "getvariable" and [arg.name for arg in node.expressions] == ["as_of_day"]
