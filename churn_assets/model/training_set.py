"""The training set: features as they were known at past cut-offs, and who left afterwards.

The features come from the same SQL as the live ones: the compiled model of `dyn_customer_features`, with the cut-off in the
place of today and the accounts as they stood at its end. This module holds that rewriting, the choice of cut-offs, and how
the rows are made and corrected. Who has left is in `labels`, training in `training`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pandas as pd
import sqlglot
from sqlglot import exp

from churn_assets.configuration import rules
from churn_assets.errors import ChurnError
from churn_assets.model import labels
from churn_assets.rules import FEATURES, TRAINING_WEEKS, Labels
from churn_assets.warehouse.codes import closed_at
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import literal

_SUNDAY = 6
_ACCOUNTS = "dim_accounts"
# What is stored may be committed so long after its `ingested_at`; it is looked at twice rather than never.
_COMMITTED_WITHIN = timedelta(hours=1)
_EVER = datetime.fromisoformat("1970-01-01")


class TrainingSetError(ChurnError):
    """The training set cannot be made or extended; the message says why and what to do."""


@dataclass(frozen=True)
class Extended:
    """What became of the training set: rows that were added, and rows whose label or presence was corrected."""

    added: int
    corrected: int


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
        is_open = literal(rules().codes.account_open[0])
        then = (
            f"SELECT account_id, customer_id, CASE WHEN {closed_at()} >= {end} THEN {is_open} ELSE account_status END"
            f" AS account_status FROM {table.sql(dialect)} WHERE opened_at IS NULL OR opened_at < {end}"
        )
        table.replace(sqlglot.parse_one(then, dialect=dialect).subquery(table.alias_or_name))  # type: ignore[union-attr]
    return tree.sql(dialect)


def cut_offs(first_day: date, now: datetime) -> list[date]:
    """The Sundays whose window lies after `first_day`, the first one with events, and whose label is known at `now` (UTC)."""
    first = first_day + timedelta(days=rules().features.window_days)
    last = now.date() - timedelta(days=rules().labels.days + 1)
    sunday = first + timedelta(days=(_SUNDAY - first.weekday()) % 7)
    return [sunday + timedelta(weeks=week) for week in range(max(0, (last - sunday).days // 7 + 1))]


def due(warehouse: Warehouse, now: datetime) -> list[date]:
    """The cut-offs that the training set should have at `now` (UTC): as many of the latest as a model is trained on."""
    first_day = first_event_day(warehouse)
    return cut_offs(first_day, now)[-TRAINING_WEEKS:] if first_day else []


def first_event_day(warehouse: Warehouse) -> date | None:
    """The first day with an event of a known customer; None before the first refresh of `customer_day`."""
    return warehouse.query("SELECT min(event_day) AS day FROM customer_day")["day"][0].as_py()


def extend(
    warehouse: Warehouse, features_sql: str, now: datetime, report: Callable[[str], None], dialect: str = "duckdb"
) -> Extended:
    """Add the cut-offs that are missing from `churn_training_set`, and correct the labels of the others.

    The features of an existing cut-off stay, as models have learned from them. Its labels follow what was stored since the
    last time, at a cost that grows with that: leavers become known, and customers who had left before it are taken out. Each
    cut-off is added in its own transaction, newest last. `TrainingSetError` if the rule of the labels has changed.
    """
    latest, corrected = latest_cut_off(warehouse), 0
    if latest:
        refuse_other_rule(warehouse)
        since = _state(warehouse)[1] - _COMMITTED_WITHIN
        corrected = _correct(warehouse, since, latest, now)
        if corrected:
            report(f"{corrected:,} rows of known cut-offs corrected")
    else:
        warehouse.transact(lambda tx: _set_state(tx, now))
    known = set(warehouse.query("SELECT DISTINCT cut_off FROM churn_training_set")["cut_off"].to_pylist())
    missing = [day for day in due(warehouse, now) if day not in known]
    added = 0
    for number, cut_off in enumerate(missing, 1):
        rows = warehouse.transact(
            lambda tx, day=cut_off: _add(tx, features_as_of(features_sql, day, dialect), day, now)
        )
        report(f"cut-off {number} of {len(missing)}: {cut_off}, {rows:,} customers")
        added += rows
    return Extended(added, corrected)


def why_empty(warehouse: Warehouse, now: datetime) -> str:
    """Why an extended training set has no rows, in one line with what to do."""
    first_day = first_event_day(warehouse)
    if first_day is None:
        return "there is no event of a known customer to learn from; load customers, accounts and history first"
    if not cut_offs(first_day, now):
        needed = rules().features.window_days + rules().labels.days
        return (
            f"the history begins on {first_day}, and the first cut-off needs {rules().features.window_days} days before it and"
            f" {rules().labels.days} after it; load history, or wait until about {first_day + timedelta(days=needed + 7)}"
        )
    return "nobody was a customer at any cut-off; check the states and the opened_at and closed_at of the accounts"


def clear(warehouse: Warehouse) -> None:
    """Empty the training set, so that `extend` makes it anew. Interrupted, the next `extend` goes on with it."""
    warehouse.transact(lambda tx: tx.execute("DELETE FROM churn_training_set"))


def refuse_other_rule(warehouse: Warehouse) -> None:
    """`TrainingSetError` if the rows that are there were labelled by another rule than that of `churn.toml` now."""
    made_with = _state(warehouse)[0]
    if made_with != rules().labels.model_dump_json():
        raise TrainingSetError(
            "the training set was made with another rule than [labels] of churn.toml has now; run `churn model prepare"
            " --rebuild`, then `churn model train`"
        )


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
    """Add one cut-off; returns its rows."""
    day = f"CAST('{cut_off}' AS DATE)"
    signs = labels.signs(day)
    return tx.execute(
        f"INSERT INTO churn_training_set (customer_id, cut_off, {', '.join(FEATURES)}, has_left, made_at)"
        f" SELECT features.customer_id, {day}, {', '.join(f'features.{name}' for name in FEATURES)},"
        f" stays.customer_id IS NULL, CAST(? AS TIMESTAMP) FROM ({features}) AS features LEFT JOIN ("
        f"SELECT DISTINCT signs.customer_id FROM {signs.table} AS signs WHERE {signs.stays}) AS stays"
        " ON features.customer_id = stays.customer_id",
        [now],
    )


def _correct(warehouse: Warehouse, since: datetime, latest: date, now: datetime) -> int:
    """Take out who had left before a cut-off, and correct who left after it, of customers with news; returns the rows."""
    changed, signs = labels.changed(since, latest), labels.signs("known.cut_off")
    found = warehouse.query(
        "SELECT known.customer_id, known.cut_off, count(CASE WHEN {stays} THEN 1 END) = 0 AS has_left,"
        " count(CASE WHEN {was_there} THEN 1 END) = 0 AS was_gone FROM churn_training_set AS known"
        " INNER JOIN (SELECT DISTINCT customer_id FROM ({changed}) AS news) AS moved"
        " ON known.customer_id = moved.customer_id LEFT JOIN {table} AS signs ON known.customer_id = signs.customer_id"
        " GROUP BY known.customer_id, known.cut_off, known.has_left HAVING known.has_left <>"
        " (count(CASE WHEN {stays} THEN 1 END) = 0) OR count(CASE WHEN {was_there} THEN 1 END) = 0".format(
            changed=changed.sql, **vars(signs)
        ),
        changed.parameters,
    )

    def write(tx: Transaction) -> None:
        if found.num_rows:
            same = "found.customer_id = churn_training_set.customer_id AND found.cut_off = churn_training_set.cut_off"
            tx.execute(
                "DELETE FROM churn_training_set WHERE EXISTS"
                f" (SELECT 1 FROM staged_labels AS found WHERE {same} AND found.was_gone)"
            )
            tx.execute(
                f"UPDATE churn_training_set SET has_left = found.has_left FROM staged_labels AS found WHERE {same}"
            )
        _set_state(tx, now)

    warehouse.transact(write, {"staged_labels": found})
    return found.num_rows


def _state(warehouse: Warehouse) -> tuple[str, datetime]:
    """The rule that the rows were labelled by, as JSON, and until when (UTC) what was stored is in their labels."""
    found = warehouse.query("SELECT labels, corrected_until FROM churn_training_state").to_pylist()
    # A training set of an earlier version has rows and no state.
    return (found[0]["labels"], found[0]["corrected_until"]) if found else (Labels().model_dump_json(), _EVER)


def _set_state(tx: Transaction, now: datetime) -> None:
    tx.execute("DELETE FROM churn_training_state")
    tx.execute(
        "INSERT INTO churn_training_state (labels, corrected_until) VALUES (?, ?)",
        [rules().labels.model_dump_json(), now],
    )


def _is_clock(node: exp.Expr) -> bool:
    """Whether a node is what dbt's macro as_of_day compiles to, on Snowflake or the lake, without the cast to a date."""
    if isinstance(node, exp.ConvertTimezone):
        return isinstance(node.args["timestamp"], exp.CurrentTimestamp)
    return node.name.lower() == "getvariable" and [arg.name for arg in node.expressions] == ["as_of_day"]
