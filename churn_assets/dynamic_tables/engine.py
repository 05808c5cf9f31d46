"""Dynamic tables on a DuckLake: a query is declared with a target lag, `refresh` brings its table up to date.

Here belong definitions, positions in the lake's history, refreshes and their log. The module knows DuckDB and one attached
DuckLake; it knows nothing of banks, dbt or Dagster, and it never decides *when* to refresh.

A definition is a row of `dynamic_tables` (see `schema.sql`), written by whoever declares it, and a table of the same name
with the query's columns. A query must not look at the clock itself: one that moves with the calendar reads the day from
`getvariable('as_of_day')`, one that moves with the clock the time from `getvariable('as_of_time')` (both UTC), which the
engine sets. The latter says for how long a row may move its result (`clock_window`): so long it is refreshed without
further changes, and then no more.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from graphlib import TopologicalSorter
from importlib.resources import files
from itertools import chain
from time import perf_counter
from typing import Any, Literal

from churn_assets.dynamic_tables.difference import (
    Changes,
    DynamicTableError,
    LakeTransaction,
    Target,
    write_all,
    write_touched,
)
from churn_assets.dynamic_tables.incremental import NotIncrementalError, Plan, analyse, sources_of

RefreshAction = Literal["INITIAL", "NO_DATA", "INCREMENTAL", "FULL"]
RefreshMode = Literal["AUTO", "INCREMENTAL", "FULL"]

MINIMUM_TARGET_LAG = timedelta(seconds=60)  # as on Snowflake
DOWNSTREAM = "DOWNSTREAM"
_LAG_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True)
class DynamicTable:
    """One dynamic table at one moment. All times are UTC.

    `target_lag_seconds` of a table that is DOWNSTREAM is the least of those that read it. `is_to_be_initialized`: it was
    never refreshed, and its definition asks for that at once. `lag_seconds` is the age of the oldest change in a base table
    that the rows do not show yet, 0 when they show all. `keeps_itself_fresh`: nobody has to ask for its refreshes.
    """

    name: str
    sources: frozenset[str]
    target_lag_seconds: int
    is_to_be_initialized: bool
    lag_seconds: float
    refreshed_at: datetime | None
    refresh_action: str | None
    keeps_itself_fresh: bool = False


@dataclass(frozen=True)
class Refresh:
    """What one refresh did. Times are UTC, durations seconds; `position` is the lake's snapshot that was read."""

    name: str
    action: RefreshAction
    reason: str
    started_at: datetime
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
    refresh_mode: RefreshMode
    changed_keys: dict[str, str]
    target_lag_seconds: int | None  # None: DOWNSTREAM
    initialize: Literal["ON_CREATE", "ON_SCHEDULE"]
    clock_window: timedelta | None
    declared_at: datetime
    position: int | None
    base_position: int | None
    as_of_day: date | None
    moving_until: datetime | None
    refreshed_at: datetime | None
    refresh_action: str | None
    sources: frozenset[str]

    @property
    def moves_with_the_clock(self) -> bool:
        return "as_of_time" in self.query

    @property
    def is_moving(self) -> bool:
        """Whether time alone may change the result after the last refresh."""
        return self.refreshed_at is not None and self.moving_until is not None and self.refreshed_at < self.moving_until

    @property
    def moves_with_the_day(self) -> bool:
        return "as_of_day" in self.query


def schema_script() -> str:
    """The SQL script that creates the engine's own tables where they are missing."""
    return files("churn_assets.dynamic_tables").joinpath("schema.sql").read_text()


def parse_lag(text: str) -> int:
    """Seconds of a length of time such as `5 minutes`; `ValueError` where it is not one."""
    match = re.fullmatch(r"\s*(\d+)\s+(second|minute|hour|day)s?\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number and a unit, such as '5 minutes'")
    return int(match[1]) * _LAG_UNITS[match[2]]


def parse_target_lag(text: str) -> int:
    """Seconds of a target lag such as `5 minutes`; `ValueError` where it is not one or is under a minute."""
    seconds = parse_lag(text)
    if seconds < MINIMUM_TARGET_LAG.total_seconds():
        raise ValueError(f"target_lag {text!r} is under the least, 60 seconds")
    return seconds


def dynamic_tables(tx: LakeTransaction, now: datetime) -> list[DynamicTable]:
    """Every declared table, sources before readers, with its lag at `now` (UTC)."""
    definitions = _definitions(tx)
    lake = _Lake.of(tx, definitions.values())
    return [
        DynamicTable(
            name=name,
            sources=definitions[name].sources,
            target_lag_seconds=_target_lag(definitions, name),
            is_to_be_initialized=definitions[name].position is None and definitions[name].initialize == "ON_CREATE",
            lag_seconds=_lag_seconds(lake, definitions, name, now),
            refreshed_at=definitions[name].refreshed_at,
            refresh_action=definitions[name].refresh_action,
        )
        for name in _in_order(definitions)
    ]


def refresh(tx: LakeTransaction, names: Iterable[str], now: datetime) -> list[Refresh]:
    """Bring the tables `names` up to date within the transaction `tx`, sources before readers.

    Their rows, positions and history lines become visible together, so that a reader never sees one of them without the
    other. `now` (UTC) dates the lines, and its day is the last day of the windows. Two refreshes of one table at the same
    time conflict, because both update the definition's row; the loser has to run again.

    The positions of other tables that have nothing to read move on too: one that sleeps must not hold snapshots for ever.
    """
    wanted = set(names)
    definitions = _definitions(tx)
    if unknown := wanted - definitions.keys():
        raise DynamicTableError(f"{', '.join(sorted(unknown))} is not declared; run `churn deploy`")
    lake = _Lake.of(tx, definitions.values())
    tx.execute(f"SET VARIABLE as_of_day = DATE '{now.date()}'")
    tx.execute(f"SET VARIABLE as_of_time = TIMESTAMP '{now.isoformat(sep=' ')}'")
    results: list[Refresh] = []
    for name in _in_order(definitions):
        if name in wanted:
            lag_before = _lag_seconds(lake, definitions, name, now)
            result, definitions[name] = _refreshed(tx, lake, definitions, name, lag_before, now)
            results.append(result)
    idle = [
        _moved_on(lake, definitions, name) for name in definitions.keys() - wanted if _is_idle(lake, definitions[name])
    ]
    _note(tx, [definitions[result.name] for result in results], results, idle)
    return results


def _refreshed(
    tx: LakeTransaction,
    lake: "_Lake",
    definitions: Mapping[str, "_Definition"],
    name: str,
    lag_before: float,
    now: datetime,
) -> tuple[Refresh, "_Definition"]:
    """Write the rows of one table; what was done, and the definition as it is then."""
    started = perf_counter()
    definition = definitions[name]
    if any(definitions[source].base_position is None for source in definition.sources & definitions.keys()):
        raise DynamicTableError(f"{name} reads a dynamic table that was never refreshed; refresh that one first")
    action, reason, changes = _next_action(lake, definition, now)
    written = None
    if changes is not None:
        written = write_touched(tx, changes.target, changes.plan, changes.sources, now)
        if written is None:
            action, reason = "FULL", "a changed row has NULL in what becomes the refresh key"
    if action in ("INITIAL", "FULL"):
        written = write_all(tx, _target(definition, lake), definition.query, now)
    inserted, updated, deleted = written or (0, 0, 0)
    if inserted or updated or deleted:
        lake.written.add(name)
    after = replace(
        _moved_on(lake, definitions, name),
        as_of_day=min([now.date(), *_days_beneath(definitions, name)]),
        moving_until=_moving_until(lake, definition, now),
        refreshed_at=now,
        refresh_action=action,
    )
    duration = perf_counter() - started
    return (
        Refresh(
            name,
            action,
            reason,
            now,
            inserted,
            updated,
            deleted,
            lag_before,
            _target_lag(definitions, name),
            duration,
            lake.snapshot + 1,
        ),
        after,
    )


def _is_idle(lake: "_Lake", definition: "_Definition") -> bool:
    """Whether nothing that the table reads was written since it was last refreshed."""
    if definition.position is None or definition.sources & lake.written:
        return False
    return lake.oldest_change(definition.sources, definition.position) is None


def _moved_on(lake: "_Lake", definitions: Mapping[str, "_Definition"], name: str) -> "_Definition":
    """The definition of a table that shows all of its sources, at the transaction's own snapshot.

    That snapshot comes next: a transaction that any other one has overtaken is not committed.
    """
    bases = [definitions[source].base_position for source in definitions[name].sources & definitions.keys()]
    position = lake.snapshot + 1
    return replace(
        definitions[name],
        position=position,
        base_position=min([position, *(base for base in bases if base is not None)]),
    )


def _note(
    tx: LakeTransaction,
    definitions: list["_Definition"],
    results: list[Refresh],
    idle: list["_Definition"],
) -> None:
    """Write new positions, and a history line for each refresh."""
    places = [
        [d.name, d.position, d.base_position, d.as_of_day, d.moving_until, d.refreshed_at, d.refresh_action]
        for d in [*definitions, *idle]
    ]
    if not places:
        return
    tx.execute(
        "UPDATE dynamic_tables SET position = place.position, base_position = place.base_position,"
        " as_of_day = place.as_of_day, moving_until = place.moving_until, refreshed_at = place.refreshed_at,"
        " refresh_action = place.refresh_action"
        f" FROM (VALUES {_tuples(places)})"
        " AS place (name, position, base_position, as_of_day, moving_until, refreshed_at, refresh_action)"
        " WHERE dynamic_tables.name = place.name",
        list(chain.from_iterable(places)),
    )
    lines = [
        [
            result.name,
            result.action,
            result.reason,
            result.started_at,
            result.duration_seconds,
            result.rows_inserted,
            result.rows_updated,
            result.rows_deleted,
            result.lag_seconds_before,
            definition.position,
            definition.base_position,
            definition.as_of_day,
        ]
        for result, definition in zip(results, definitions, strict=True)
    ]
    if not lines:
        return
    tx.execute(f"INSERT INTO dynamic_table_refresh_history VALUES {_tuples(lines)}", list(chain.from_iterable(lines)))


def _tuples(rows: list[list[Any]]) -> str:
    return ", ".join(f"({', '.join('?' * len(row))})" for row in rows)


def day_keys(tx: LakeTransaction) -> dict[str, str]:
    """By table: the date in its refresh key, where there is one; refreshes read such a table by days."""
    definitions = _definitions(tx)
    lake = _Lake.since(tx, _current_snapshot(tx))
    targets = (_target(definition, lake) for definition in definitions.values())
    return {target.name: target.day_key for target in targets if target.day_key is not None}


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
    if not _written_since(tx, table, position):  # most streams most times: without a comparison
        changes = f"SELECT *, '' AS change_action FROM {table} WHERE false"
    else:
        before = f"SELECT * FROM {table} AT (VERSION => {position})"
        if position is None or _columns(tx, before) != _columns(tx, now):
            before = f"{now} WHERE false"
        changes = (
            f"SELECT *, 'DELETE' AS change_action FROM ({before} EXCEPT ALL {now})"
            f" UNION ALL SELECT *, 'INSERT' AS change_action FROM ({now} EXCEPT ALL {before})"
        )
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE {into} AS {changes}")
    tx.execute("UPDATE streams SET position = ? WHERE name = ?", [_current_snapshot(tx), stream])


def stream_has_data(tx: LakeTransaction, stream: str) -> bool:
    """Whether the stream's table was written since the stream was last read. May be true without a net change."""
    table, position = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])[0]
    return _written_since(tx, table, position)


def _written_since(tx: LakeTransaction, table: str, position: int | None) -> bool:
    return position is None or _Lake.since(tx, position).oldest_change([table], position) is not None


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
            refresh_mode=row[4],
            changed_keys=row[5] or {},
            target_lag_seconds=None if row[6] == DOWNSTREAM else parse_target_lag(row[6]),
            initialize=row[7],
            clock_window=None if row[8] is None else timedelta(seconds=parse_lag(row[8])),
            declared_at=row[9],
            position=row[10],
            base_position=row[11],
            as_of_day=row[12],
            moving_until=row[13],
            refreshed_at=row[14],
            refresh_action=row[15],
            sources=sources_of(row[1]),
        )
        for row in tx.rows(
            "SELECT name, query, refresh_key, row_timestamp, refresh_mode, changed_keys, target_lag, initialize,"
            " clock_window, declared_at, position, base_position, as_of_day, moving_until, refreshed_at, refresh_action"
            " FROM dynamic_tables"
        )
    }


def _columns(tx: LakeTransaction, query: str) -> list[tuple[Any, ...]]:
    # DESCRIBE alone shows today's columns, whatever version the query asks for.
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE columns_of AS {query} LIMIT 0")
    return [row[:2] for row in tx.rows("DESCRIBE columns_of")]


def _current_snapshot(tx: LakeTransaction) -> int:
    return tx.rows("FROM ducklake_current_snapshot('lake')")[0][0]


_WRITTEN = re.compile(r"(?:inserted_into_table|deleted_from_table|inlined_insert|inlined_delete):(\d+)")
_CREATED = re.compile(r'created_table:"(?:[^"]|"")*"\."((?:[^"]|"")*)"')


@dataclass(frozen=True)
class _Table:
    """A table as the lake's catalog has it."""

    table_id: int
    made_at: int  # snapshot
    columns: dict[str, str]  # name: type, as the catalog writes it


@dataclass(frozen=True)
class _Snapshot:
    """One snapshot: its time (UTC), the ids of the tables that it wrote rows of and the names of those it created.

    Compaction, which rewrites files and not rows, writes none; flushing inlined deletions does, because the lake records it
    like a deletion: it costs one refresh that finds nothing to write.
    """

    number: int
    time: datetime
    written: frozenset[int]
    created: frozenset[str]


@dataclass(frozen=True)
class _Lake:
    """The lake at one moment: its tables, its latest snapshots, and what the transaction under way has written since."""

    snapshot: int
    oldest_kept: int
    tables: dict[str, _Table]
    latest: list[_Snapshot]  # in order
    written: set[str]

    @staticmethod
    def of(tx: LakeTransaction, definitions: Iterable["_Definition"]) -> "_Lake":
        """The lake, with the snapshots that one of the definitions has not read."""
        known = list(definitions)
        positions = [p for d in known for p in (d.position, d.base_position) if p is not None]
        if any(d.moves_with_the_clock and d.position is None for d in known):
            positions.append(-1)  # for how long rows that are there already move its first result
        return _Lake.since(tx, min(positions, default=_current_snapshot(tx)))

    @staticmethod
    def since(tx: LakeTransaction, position: int) -> "_Lake":
        """The lake, with the snapshots after `position`."""
        oldest_kept = tx.rows(
            "SELECT min(snapshot_id) FROM __ducklake_metadata_lake.ducklake_snapshot WHERE snapshot_id >= ?", [position]
        )[0][0]
        latest = tx.rows(
            "SELECT snapshot_id, make_timestamp(epoch_us(CAST(snapshot_time AS TIMESTAMPTZ))), changes_made"
            " FROM __ducklake_metadata_lake.ducklake_snapshot_changes JOIN __ducklake_metadata_lake.ducklake_snapshot"
            " USING (snapshot_id) WHERE snapshot_id > ? ORDER BY snapshot_id",
            [position],
        )
        tables = tx.rows(
            "SELECT named.table_name, named.table_id, named.begin_snapshot,"
            " map(list(c.column_name ORDER BY c.column_order), list(c.column_type ORDER BY c.column_order))"
            " FROM __ducklake_metadata_lake.ducklake_table AS named"
            " JOIN __ducklake_metadata_lake.ducklake_column AS c ON c.table_id = named.table_id"
            " AND c.end_snapshot IS NULL AND c.parent_column IS NULL WHERE named.end_snapshot IS NULL GROUP BY ALL"
        )
        return _Lake(
            snapshot=_current_snapshot(tx),
            oldest_kept=oldest_kept,
            tables={name: _Table(table_id, made_at, columns) for name, table_id, made_at, columns in tables},
            latest=[
                _Snapshot(
                    number, time, frozenset(map(int, _WRITTEN.findall(changes))), frozenset(_CREATED.findall(changes))
                )
                for number, time, changes in latest
            ],
            written=set(),
        )

    def oldest_change(self, tables: Iterable[str], after: int) -> datetime | None:
        """When the first snapshot after `after` was made that wrote or created one of `tables` (UTC), if there is one."""
        names = set(tables)
        ids = {self.tables[name].table_id for name in names & self.tables.keys()}
        times = (s.time for s in self.latest if s.number > after and (s.written & ids or s.created & names))
        return next(times, None)


def _base_tables(definitions: Mapping[str, _Definition], name: str) -> set[str]:
    """The tables at the bottom: what `name` reads, through all dynamic tables between."""
    bases: set[str] = set()
    for source in definitions[name].sources:
        bases |= _base_tables(definitions, source) if source in definitions else {source}
    return bases


def _days_beneath(definitions: Mapping[str, _Definition], name: str) -> list[date]:
    """The days that the dynamic tables beneath `name` show, of those that move with the day."""
    days: list[date] = []
    for source in definitions[name].sources & definitions.keys():
        days += _days_beneath(definitions, source)
        day = definitions[source].as_of_day
        if definitions[source].moves_with_the_day and day is not None:
            days.append(day)
    return days


def _lag_seconds(lake: _Lake, definitions: Mapping[str, _Definition], name: str, now: datetime) -> float:
    definition = definitions[name]
    if definition.base_position is None:
        return max(0.0, (now - definition.declared_at).total_seconds())
    waiting = [lake.oldest_change(_base_tables(definitions, name), definition.base_position)]
    moves_with_the_day = definition.moves_with_the_day or bool(_days_beneath(definitions, name))
    if moves_with_the_day and definition.as_of_day is not None and definition.as_of_day < now.date():
        waiting.append(datetime.combine(definition.as_of_day + timedelta(days=1), datetime.min.time()))
    if definition.is_moving and definition.refreshed_at is not None:
        # Whoever refreshes at once what is late shall not do so without pause: what was just moved is late after a while.
        moved_for = now - definition.refreshed_at
        waiting += [definition.refreshed_at] if moved_for.total_seconds() >= _target_lag(definitions, name) / 2 else []
    return max([0.0, *((now - oldest).total_seconds() for oldest in waiting if oldest is not None)])


@dataclass(frozen=True)
class _Work:
    """What an incremental refresh works on."""

    target: Target
    plan: Plan
    sources: list[Changes]


def _target(definition: _Definition, lake: _Lake) -> Target:
    columns = lake.tables[definition.name].columns
    days = [column for column in definition.refresh_key if columns.get(column) == "date"]
    return Target(
        name=definition.name,
        columns=tuple(column for column in columns if column != definition.row_timestamp),
        key=definition.refresh_key,
        day_key=days[0] if days else None,
        row_timestamp=definition.row_timestamp,
    )


def _next_action(lake: _Lake, definition: _Definition, now: datetime) -> tuple[RefreshAction, str, _Work | None]:
    """What the next refresh does and why, and for an incremental one, on what."""
    since = definition.position
    if since is None:
        return "INITIAL", "first refresh of this definition", None
    if definition.moves_with_the_day and definition.as_of_day != now.date():
        return "FULL", "the day changed", None
    changed = [
        Changes(
            source,
            since,
            lake.snapshot,
            in_feed=lake.oldest_change([source], since) is not None,
            in_transaction=source in lake.written,
        )
        for source in sorted(definition.sources)
    ]
    changed = [changes for changes in changed if changes.in_feed or changes.in_transaction]
    if definition.moves_with_the_clock and (changed or definition.is_moving):
        return "FULL", "the clock moved", None
    if not changed:
        return "NO_DATA", "no source changed", None
    try:
        target = _target(definition, lake)
        work = _Work(target, _plan(lake, definition, target, changed), changed)
    except NotIncrementalError as error:
        return "FULL", str(error), None
    return "INCREMENTAL", f"changes in {', '.join(changes.source for changes in changed)}", work


def _plan(lake: _Lake, definition: _Definition, target: Target, changed: list[Changes]) -> Plan:
    """How to refresh incrementally, or `NotIncrementalError` with the reason why not, or not this time."""
    if definition.refresh_mode == "FULL":
        raise NotIncrementalError("its refresh_mode is FULL")
    if anew := [c.source for c in changed if lake.tables[c.source].made_at > c.since]:
        raise NotIncrementalError(f"{', '.join(anew)} was created anew")
    if any(changes.since < lake.oldest_kept for changes in changed):
        raise NotIncrementalError(f"the lake no longer holds snapshot {changed[0].since}, which the last refresh read")
    try:
        return analyse(
            definition.query,
            definition.refresh_key,
            {source: lake.tables[source].columns for source in definition.sources},
            target.day_key,
            definition.changed_keys,
        )
    except NotIncrementalError as error:
        if definition.refresh_mode == "INCREMENTAL":
            raise DynamicTableError(f"{definition.name} has refresh_mode INCREMENTAL, but {error}") from error
        raise


def _target_lag(definitions: Mapping[str, _Definition], name: str) -> int:
    """Seconds; of a table that is DOWNSTREAM, the least of those that read it."""
    own = definitions[name].target_lag_seconds
    if own is not None:
        return own
    readers = [reader for reader, definition in definitions.items() if name in definition.sources]
    if not readers:
        raise DynamicTableError(
            f"{name} has target_lag DOWNSTREAM, but no dynamic table reads it, so it would never be refreshed; give it a time"
        )
    return min(_target_lag(definitions, reader) for reader in readers)


def _moving_until(lake: _Lake, definition: _Definition, now: datetime) -> datetime | None:
    """When the youngest row that the sources have now will no longer move the result."""
    if not definition.moves_with_the_clock:
        return None
    if definition.clock_window is None:
        raise DynamicTableError(
            f"{definition.name} reads as_of_time; declare its clock_window, such as '10 minutes': for how long a row may move"
            " its result"
        )
    ids = {lake.tables[source].table_id for source in definition.sources if source in lake.tables}
    after = -1 if definition.position is None else definition.position
    times = [s.time for s in lake.latest if s.number > after and s.written & ids]
    if definition.sources & lake.written:
        times.append(now)
    ends = [time + definition.clock_window for time in times]
    return max([*ends, *([definition.moving_until] if definition.moving_until else [])], default=None)


def _in_order(definitions: Mapping[str, _Definition]) -> list[str]:
    """The tables, sources before readers."""
    return list(
        TopologicalSorter(
            {name: definition.sources & definitions.keys() for name, definition in definitions.items()}
        ).static_order()
    )
