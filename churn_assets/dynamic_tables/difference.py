"""Writes the result of a refresh: only the rows that differ, in the whole result or for the keys that changes touched.

This module holds the statements that compute and write rows. What a refresh does, positions and history are in `engine`;
how keys follow from changes is in `incremental`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from churn_assets.dynamic_tables.catalog import LakeTransaction
from churn_assets.dynamic_tables.incremental import TOUCHED_KEYS, NotIncrementalError, Plan, all_of, changes_of
from churn_assets.dynamic_tables.intervals import day_intervals
from churn_assets.dynamic_tables.tables import DynamicTableError


@dataclass(frozen=True)
class Target:
    """The table that a refresh writes. `row_timestamp` is the column that says when a row was last written."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    day_key: str | None
    row_timestamp: str | None


@dataclass(frozen=True)
class Changes:
    """Where the changes of a source after snapshot `since` are: in the lake's feed, in the current transaction, or both.

    `until` is the last snapshot of the feed.
    """

    source: str
    since: int
    until: int
    in_feed: bool
    in_transaction: bool


FEW_ROWS = 10_000  # a second thread costs more than it saves for them
# From this share of touched keys on, the whole query takes less time than the one over these keys. Measured with customer_day of
# two million rows: as long at 10 %, twice as long at 30 %.
FULL_SHARE = 0.1


def write_all(tx: LakeTransaction, target: Target, query: str, now: datetime) -> tuple[int, int, int]:
    """Compute the query and write the rows that differ; returns how many rows were inserted, updated and deleted."""
    tx.execute("RESET threads")
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE refresh_next AS {query}")
    return _write(tx, target, quoted(target.name), now)


def write_touched(
    tx: LakeTransaction, target: Target, plan: Plan, changed: Sequence[Changes], now: datetime
) -> tuple[int, int, int]:
    """Do the same for only the keys that changes of sources touch.

    Writes nothing and raises `NotIncrementalError` if a touched key is NULL, because only the whole query tells whether such a
    row is in the result, or if so many are touched that the whole query takes less time.
    """
    noted = sum(_note_changes(tx, changes, plan.columns[changes.source]) for changes in changed)
    tx.execute("SET threads = 1" if noted <= FEW_ROWS else "RESET threads")
    sources = [changes.source for changes in changed]
    relations = {
        all_of(source): f"(SELECT * FROM {quoted(source)})"
        if source not in sources
        else f"(SELECT {_listed(columns)} FROM {quoted(source)} UNION ALL SELECT * FROM {changes_of(source)})"
        for source, columns in plan.columns.items()
    }
    touched = [_with_relations(query, relations) for source in sources for query in plan.touched[source]]
    keys = tx.execute(
        f"CREATE OR REPLACE TEMPORARY TABLE {TOUCHED_KEYS} AS SELECT DISTINCT * FROM ({' UNION ALL '.join(touched)})"
    )
    if tx.rows(f"SELECT 1 FROM {TOUCHED_KEYS} WHERE {_absent(target.key)} LIMIT 1"):
        raise NotIncrementalError("a changed row has NULL in its refresh key")
    if keys > FEW_ROWS and keys > FULL_SHARE * (there := tx.rows(f"SELECT count(*) FROM {quoted(target.name)}")[0][0]):
        raise NotIncrementalError(f"{keys:,} keys changed, of {there:,} that are there")
    days = _days(tx, target.day_key, TOUCHED_KEYS)
    scans = {scan.placeholder: _scan(scan.table, scan.day_column, days) for scan in plan.scans}
    key = _listed(target.key)
    touched_only = f"WHERE ({key}) IN (SELECT ({key}) FROM {TOUCHED_KEYS})"
    tx.execute(
        "CREATE OR REPLACE TEMPORARY TABLE refresh_next AS"
        f" SELECT * FROM ({_with_relations(plan.narrowed, scans)}) {touched_only}"
    )
    return _write(tx, target, f"(SELECT * FROM {_scan(target.name, target.day_key, days)} {touched_only})", now)


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(quoted, columns))


def _absent(key: Sequence[str]) -> str:
    return " OR ".join(f"{quoted(column)} IS NULL" for column in key)


def _note_changes(tx: LakeTransaction, changes: Changes, columns: Sequence[str]) -> int:
    """Note the net change of a source in the columns that matter, as inserted and deleted rows; returns their number.

    The feed is reliable about insertions and deletions, but not about which of them are updates. So equal rows cancel out:
    those are rows that changed only in other columns.
    """
    listed = _listed(columns)
    feed = f"('lake', 'main', '{changes.source}', {changes.since + 1}, {changes.until})"
    came, went = (
        " UNION ALL ".join(
            [f"SELECT {listed} FROM ducklake_table_{kind}{feed}"] * changes.in_feed
            + [f"SELECT {listed} FROM {view}"] * changes.in_transaction
        )
        for kind, view in (("insertions", came_to(changes.source)), ("deletions", went_from(changes.source)))
    )
    return tx.execute(
        f"CREATE OR REPLACE TEMPORARY TABLE {changes_of(changes.source)} AS WITH came AS ({came}), went AS ({went})"
        " (FROM came EXCEPT ALL FROM went) UNION ALL (FROM went EXCEPT ALL FROM came)"
    )


def came_to(table: str) -> str:
    """The view of the rows that a refresh in this transaction has written to a table, quoted, for the table's readers."""
    return quoted(f"refresh_came_{table}")


def went_from(table: str) -> str:
    """The view of the rows that it has deleted or replaced, quoted. They lack the row timestamp."""
    return quoted(f"refresh_went_{table}")


def _differing(table: str) -> str:
    """The table that holds both, side by side."""
    return quoted(f"refresh_differing_{table}")


def _with_relations(query: str, relations: Mapping[str, str]) -> str:
    for placeholder, relation in relations.items():
        query = query.replace(quoted(placeholder), relation)
    return query


def _days(tx: LakeTransaction, day_key: str | None, table: str) -> list[tuple[date, date]] | None:
    if day_key is None:
        return None
    return day_intervals(day for (day,) in tx.rows(f"SELECT DISTINCT {quoted(day_key)} FROM {table}"))


def _scan(table: str, day_column: str | None, days: list[tuple[date, date]] | None) -> str:
    """A relation of a table's rows; with `days`, only of those, in one scan per interval: an OR would open every file."""
    if days is None or day_column is None:
        return f"(SELECT * FROM {quoted(table)})"
    scans = [f"SELECT * FROM {quoted(table)} WHERE {_within(day_column, interval)}" for interval in days]
    return f"({' UNION ALL '.join(scans) or f'SELECT * FROM {quoted(table)} WHERE false'})"


def _within(day_column: str, interval: tuple[date, date]) -> str:
    return f"{quoted(day_column)} >= DATE '{interval[0]}' AND {quoted(day_column)} < DATE '{interval[1]}'"


def _write(tx: LakeTransaction, target: Target, now_there: str, now: datetime) -> tuple[int, int, int]:
    """Write the rows in which `refresh_next` differs from the current rows."""
    name, key = quoted(target.name), _listed(target.key)
    rows, keys, missing = tx.rows(
        f"SELECT coalesce(sum(n), 0), count(*), coalesce(sum(n) FILTER (WHERE {_absent(target.key)}), 0)"
        f" FROM (SELECT {key}, count(*) AS n FROM refresh_next GROUP BY {key})"
    )[0]
    if rows != keys or missing:
        raise DynamicTableError(
            f"{target.name}: its refresh key ({', '.join(target.key)}) is not unique or is NULL in the query's result"
            f" ({rows} rows, {keys} keys, {missing} with NULL); fix the model"
        )
    came, went, differing = came_to(target.name), went_from(target.name), _differing(target.name)
    # The current rows and the next ones, side by side where they differ. The key is unique on both sides, so this one hash
    # join finds inserted, updated and deleted rows.
    sides = ("next", "there")
    tx.execute(
        f"CREATE OR REPLACE TEMPORARY TABLE {differing} AS SELECT "
        + ", ".join(f"{side}.{quoted(c)} AS {quoted(f'{side} {c}')}" for side in sides for c in target.columns)
        + f" FROM refresh_next AS next FULL JOIN {now_there} AS there ON "
        + " AND ".join(f"next.{quoted(c)} = there.{quoted(c)}" for c in target.key)
        + " WHERE "
        + " OR ".join(f"next.{quoted(c)} IS DISTINCT FROM there.{quoted(c)}" for c in target.columns)
    )
    is_next, is_there = (f"{quoted(f'{side} {target.key[0]}')} IS NOT NULL" for side in sides)
    # A reader may read the timestamp, too; it changes wherever a row is written.
    stamp = [target.row_timestamp] if target.row_timestamp else []
    for side, where, view, time in (
        ("next", is_next, came, f"TIMESTAMP '{now.isoformat(sep=' ')}'"),
        ("there", is_there, went, "NULL::TIMESTAMP"),
    ):
        values = {c: quoted(f"{side} {c}") for c in target.columns} | dict.fromkeys(stamp, time)
        listed = ", ".join(f"{value} AS {quoted(c)}" for c, value in values.items())
        tx.execute(f"CREATE OR REPLACE TEMPORARY VIEW {view} AS SELECT {listed} FROM {differing} WHERE {where}")
    fresh, stale, updated = tx.rows(
        f"SELECT count(*) FILTER (WHERE {is_next}), count(*) FILTER (WHERE {is_there}),"
        f" count(*) FILTER (WHERE {is_next} AND {is_there}) FROM {differing}"
    )[0]
    if stale:
        days = _days(tx, target.day_key, went)
        places = [_within(target.day_key, interval) for interval in days] if target.day_key and days else ["true"]
        for place in places:
            tx.execute(f"DELETE FROM {name} WHERE {place} AND ({key}) IN (SELECT ({key}) FROM {went})")
    if fresh:
        # Sorted by day, so that a scan of some days opens few files.
        order = f" ORDER BY {quoted(target.day_key)}" if target.day_key else ""
        tx.execute(f"INSERT INTO {name} ({_listed([*target.columns, *stamp])}) SELECT * FROM {came}{order}")
    return fresh - updated, updated, stale - updated
