"""Dynamic tables on a DuckLake: a query is declared with a target lag, `refresh` brings its table up to date.

Here belong definitions, positions in the lake's history, refreshes and their log. The module knows DuckDB and one attached
DuckLake; it knows nothing of banks, dbt or Dagster, and it never decides *when* to refresh.

A definition is a row of `dynamic_tables` (see `schema.sql`), written by whoever declares it, and a table of the same name
with the query's columns. A query that moves with the calendar reads the day from `getvariable('as_of_day')`, which the
engine sets; it must not look at the clock itself.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from graphlib import TopologicalSorter
from importlib.resources import files
from time import perf_counter
from typing import Any, Literal, Protocol

RefreshAction = Literal["INITIAL", "NO_DATA", "FULL"]

MINIMUM_TARGET_LAG = timedelta(seconds=60)  # as on Snowflake
_LAG_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class DynamicTableError(Exception):
    """A definition that cannot be refreshed; the message names the table and the fault."""


class LakeTransaction(Protocol):
    """An open transaction on the lake, which is the current database."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        ...

    def table_names(self, query: str) -> set[str]:
        """Names of the tables that a query reads, unqualified."""
        ...


@dataclass(frozen=True)
class DynamicTable:
    """One dynamic table at one moment. All times are UTC.

    `lag_seconds` is the age of the oldest change in a base table that the rows do not show yet, 0 when they show all.
    """

    name: str
    sources: frozenset[str]
    target_lag_seconds: int
    lag_seconds: float
    refreshed_at: datetime | None
    refresh_action: str | None


@dataclass(frozen=True)
class Refresh:
    """What one refresh did. Times are UTC, durations seconds; `position` is the lake's snapshot that was read."""

    name: str
    action: RefreshAction
    reason: str
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    lag_seconds_before: float
    target_lag_seconds: int
    duration_seconds: float
    position: int


@dataclass(frozen=True)
class _Definition:
    name: str
    query: str
    refresh_key: tuple[str, ...]
    row_timestamp: str | None
    target_lag_seconds: int
    declared_at: datetime
    position: int | None
    base_position: int | None
    as_of_day: date | None
    refreshed_at: datetime | None
    refresh_action: str | None
    sources: frozenset[str]

    @property
    def moves_with_the_day(self) -> bool:
        return "as_of_day" in self.query


def schema_script() -> str:
    """The SQL script that creates the engine's own tables where they are missing."""
    return files("churn_assets.dynamic_tables").joinpath("schema.sql").read_text()


def parse_target_lag(text: str) -> int:
    """Seconds of a target lag such as `5 minutes`; `ValueError` where it is not one or is under a minute."""
    match = re.fullmatch(r"\s*(\d+)\s+(second|minute|hour|day)s?\s*", text)
    if match is None:
        raise ValueError(f"target_lag {text!r} is not a number and a unit, such as '5 minutes'")
    seconds = int(match[1]) * _LAG_UNITS[match[2]]
    if seconds < MINIMUM_TARGET_LAG.total_seconds():
        raise ValueError(f"target_lag {text!r} is under the least, 60 seconds")
    return seconds


def dynamic_tables(tx: LakeTransaction, now: datetime) -> list[DynamicTable]:
    """Every declared table, sources before readers, with its lag at `now` (UTC)."""
    definitions = _definitions(tx)
    order = TopologicalSorter(
        {name: definition.sources & definitions.keys() for name, definition in definitions.items()}
    )
    return [
        DynamicTable(
            name=name,
            sources=definitions[name].sources,
            target_lag_seconds=definitions[name].target_lag_seconds,
            lag_seconds=_lag_seconds(tx, definitions, name, now),
            refreshed_at=definitions[name].refreshed_at,
            refresh_action=definitions[name].refresh_action,
        )
        for name in order.static_order()
    ]


def refresh(tx: LakeTransaction, name: str, now: datetime) -> Refresh:
    """Bring `name` up to date within the transaction `tx`: rows that differ, position and history line together.

    `now` (UTC) dates the history line, and its day is the last day of the windows. Two refreshes of one table at the same
    time conflict, because both update the definition's row; the loser has to run again.
    """
    started = perf_counter()
    definitions = _definitions(tx)
    if name not in definitions:
        raise DynamicTableError(f"{name} is not declared; run `churn deploy`")
    definition = definitions[name]
    position = _current_snapshot(tx)
    upstream = [definitions[source].base_position for source in definition.sources & definitions.keys()]
    if any(base is None for base in upstream):
        raise DynamicTableError(f"{name} reads a dynamic table that was never refreshed; refresh that one first")
    base_position = min([position, *(base for base in upstream if base is not None)])
    as_of_day = min([now.date(), *_days_beneath(definitions, name)])
    lag_before = _lag_seconds(tx, definitions, name, now)

    action, reason = _next_action(tx, definition, now)
    inserted = updated = deleted = 0
    if action != "NO_DATA":
        inserted, updated, deleted = _write_difference(tx, definition, now)
    duration = perf_counter() - started
    tx.execute(
        "UPDATE dynamic_tables SET position = ?, base_position = ?, as_of_day = ?, refreshed_at = ?, refresh_action = ?"
        " WHERE name = ?",
        [position, base_position, as_of_day, now, action, name],
    )
    tx.execute(
        "INSERT INTO dynamic_table_refresh_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            name,
            action,
            reason,
            now,
            duration,
            inserted,
            updated,
            deleted,
            lag_before,
            position,
            base_position,
            as_of_day,
        ],
    )
    return Refresh(
        name, action, reason, inserted, updated, deleted, lag_before, definition.target_lag_seconds, duration, position
    )


def consume_stream(tx: LakeTransaction, stream: str, into: str) -> None:
    """Move the net change of the stream's table since its position into the temporary table `into`.

    The rows have the table's columns and `change_action`: DELETE for a row as it was, INSERT for a row as it is. They come
    from comparing two snapshots, not from the change feed, whose labels vary between reads. A stream that was never read,
    or whose table has other columns since, returns the whole table as INSERT.
    """
    found = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])
    if not found:
        raise DynamicTableError(f"stream {stream} does not exist; run `churn deploy`")
    table, position = found[0]
    now = f"SELECT * FROM {table}"
    before = f"SELECT * FROM {table} AT (VERSION => {position})"
    if position is None or _columns(tx, before) != _columns(tx, now):
        before = f"{now} WHERE false"
    tx.execute(
        f"CREATE OR REPLACE TEMPORARY TABLE {into} AS"
        f" SELECT *, 'DELETE' AS change_action FROM ({before} EXCEPT ALL {now})"
        f" UNION ALL SELECT *, 'INSERT' AS change_action FROM ({now} EXCEPT ALL {before})"
    )
    tx.execute("UPDATE streams SET position = ? WHERE name = ?", [_current_snapshot(tx), stream])


def stream_has_data(tx: LakeTransaction, stream: str) -> bool:
    """Whether the stream's table was written since the stream was last read. May be true without a net change."""
    table, position = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])[0]
    return position is None or _oldest_change(tx, [table], position) is not None


def oldest_needed_snapshot(tx: LakeTransaction) -> int:
    """The oldest snapshot that a dynamic table or a stream has yet to read from; the current one if there is none."""
    return tx.rows(
        "SELECT min(position) FROM (SELECT least(position, base_position) AS position FROM dynamic_tables"
        " UNION ALL SELECT position FROM streams UNION ALL SELECT ?)",
        [_current_snapshot(tx)],
    )[0][0]


def _definitions(tx: LakeTransaction) -> dict[str, _Definition]:
    return {
        row[0]: _Definition(
            name=row[0],
            query=row[1],
            refresh_key=tuple(row[2]),
            row_timestamp=row[3],
            target_lag_seconds=parse_target_lag(row[4]),
            declared_at=row[5],
            position=row[6],
            base_position=row[7],
            as_of_day=row[8],
            refreshed_at=row[9],
            refresh_action=row[10],
            sources=frozenset(tx.table_names(row[1])),
        )
        for row in tx.rows(
            "SELECT name, query, refresh_key, row_timestamp, target_lag, declared_at, position, base_position, as_of_day,"
            " refreshed_at, refresh_action FROM dynamic_tables"
        )
    }


def _columns(tx: LakeTransaction, query: str) -> list[tuple[Any, ...]]:
    # DESCRIBE alone shows today's columns, whatever version the query asks for.
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE columns_of AS {query} LIMIT 0")
    return [row[:2] for row in tx.rows("DESCRIBE columns_of")]


def _current_snapshot(tx: LakeTransaction) -> int:
    return tx.rows("SELECT max(snapshot_id) FROM __ducklake_metadata_lake.ducklake_snapshot")[0][0]


def _oldest_change(tx: LakeTransaction, tables: Iterable[str], after: int) -> datetime | None:
    """When the first snapshot after `after` was made that wrote rows of one of `tables` (UTC), if there is one.

    A table that was created anew counts. Compaction, which rewrites files and not rows, does not; flushing inlined
    deletions does, because the lake records it like a deletion: it costs one refresh that finds nothing to write.
    """
    names = list(tables)
    known = tx.rows(
        f"SELECT table_id FROM __ducklake_metadata_lake.ducklake_table"
        f" WHERE end_snapshot IS NULL AND table_name IN ({', '.join('?' * len(names))})",
        names,
    )
    ids = "|".join(str(row[0]) for row in known)
    if not ids:
        return None
    anew = "|".join(re.escape(name) for name in names)
    written = (
        rf"(inserted_into_table|deleted_from_table|inlined_insert|inlined_delete):({ids})(,|$)"
        rf'|created_table:"[^"]*"\."({anew})"'
    )
    return tx.rows(
        "SELECT min(make_timestamp(epoch_us(CAST(snapshot.snapshot_time AS TIMESTAMPTZ))))"
        " FROM __ducklake_metadata_lake.ducklake_snapshot_changes AS change"
        " JOIN __ducklake_metadata_lake.ducklake_snapshot AS snapshot USING (snapshot_id)"
        " WHERE snapshot_id > ? AND regexp_matches(change.changes_made, ?)",
        [after, written],
    )[0][0]


def _base_tables(definitions: dict[str, _Definition], name: str) -> set[str]:
    """The tables at the bottom: what `name` reads, through all dynamic tables between."""
    bases: set[str] = set()
    for source in definitions[name].sources:
        bases |= _base_tables(definitions, source) if source in definitions else {source}
    return bases


def _days_beneath(definitions: dict[str, _Definition], name: str) -> list[date]:
    """The days that the dynamic tables beneath `name` show, of those that move with the day."""
    days: list[date] = []
    for source in definitions[name].sources & definitions.keys():
        days += _days_beneath(definitions, source)
        day = definitions[source].as_of_day
        if definitions[source].moves_with_the_day and day is not None:
            days.append(day)
    return days


def _lag_seconds(tx: LakeTransaction, definitions: dict[str, _Definition], name: str, now: datetime) -> float:
    definition = definitions[name]
    if definition.base_position is None:
        return max(0.0, (now - definition.declared_at).total_seconds())
    waiting = [_oldest_change(tx, _base_tables(definitions, name), definition.base_position)]
    moves_with_the_day = definition.moves_with_the_day or bool(_days_beneath(definitions, name))
    if moves_with_the_day and definition.as_of_day is not None and definition.as_of_day < now.date():
        waiting.append(datetime.combine(definition.as_of_day + timedelta(days=1), datetime.min.time()))
    return max([0.0, *((now - oldest).total_seconds() for oldest in waiting if oldest is not None)])


def _next_action(tx: LakeTransaction, definition: _Definition, now: datetime) -> tuple[RefreshAction, str]:
    if definition.position is None:
        return "INITIAL", "first refresh of this definition"
    if definition.moves_with_the_day and definition.as_of_day != now.date():
        return "FULL", "the day changed"
    if _oldest_change(tx, definition.sources, definition.position) is not None:
        return "FULL", "a source changed"
    return "NO_DATA", "no source changed"


def _write_difference(tx: LakeTransaction, definition: _Definition, now: datetime) -> tuple[int, int, int]:
    """Recompute the query and write the rows that differ; the numbers of rows inserted, updated and deleted."""
    name, key_columns = _quoted(definition.name), [_quoted(column) for column in definition.refresh_key]
    key = ", ".join(key_columns)
    tx.execute(f"SET VARIABLE as_of_day = DATE '{now.date()}'")
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE refresh_next AS {definition.query}")
    columns = ", ".join(_quoted(row[0]) for row in tx.rows("DESCRIBE refresh_next"))

    absent = " OR ".join(f"{column} IS NULL" for column in key_columns)
    rows, keys, missing = tx.rows(
        f"SELECT count(*), count(DISTINCT ({key})), count(*) FILTER (WHERE {absent}) FROM refresh_next"
    )[0]
    if rows != keys or missing:
        raise DynamicTableError(
            f"{definition.name}: its refresh key ({', '.join(definition.refresh_key)}) is not unique or is NULL in the"
            f" query's result ({rows} rows, {keys} keys, {missing} with NULL); mend the model"
        )

    tx.execute(
        "CREATE OR REPLACE TEMPORARY TABLE refresh_fresh AS"
        f" SELECT {columns} FROM refresh_next EXCEPT SELECT {columns} FROM {name}"
    )
    tx.execute(
        "CREATE OR REPLACE TEMPORARY TABLE refresh_stale AS"
        f" SELECT {key} FROM (SELECT {columns} FROM {name} EXCEPT SELECT {columns} FROM refresh_next)"
    )
    fresh = tx.rows("SELECT count(*) FROM refresh_fresh")[0][0]
    stale = tx.rows("SELECT count(*) FROM refresh_stale")[0][0]
    updated = tx.rows(f"SELECT count(*) FROM refresh_fresh JOIN refresh_stale USING ({key})")[0][0]
    if stale:
        tx.execute(f"DELETE FROM {name} WHERE ({key}) IN (SELECT ({key}) FROM refresh_stale)")
    if fresh:
        stamp = f", {_quoted(definition.row_timestamp)}" if definition.row_timestamp else ""
        value = f", TIMESTAMP '{now.isoformat(sep=' ')}'" if definition.row_timestamp else ""
        tx.execute(f"INSERT INTO {name} ({columns}{stamp}) SELECT {columns}{value} FROM refresh_fresh")
    return fresh - updated, updated, stale - updated


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
