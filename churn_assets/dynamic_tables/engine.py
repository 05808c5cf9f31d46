"""Dynamic tables on a DuckLake: a query is declared with a target lag, and `refresh` brings its table up to date.

This module holds refreshes, the positions in the lake's history that they move, and their log. Declarations are in
`definitions`, what the lake's snapshots wrote is in `catalog`, how rows are computed and written in `incremental` and
`difference`. The package knows
DuckDB and one attached DuckLake; it knows nothing of banks, dbt or Dagster, and it never decides *when* to refresh.

A definition is a row of `dynamic_tables` (see `schema.sql`), written by whoever declares it, and a table of the same name
with the query's columns. A query must not read the clock itself. A query that depends on the day reads
`getvariable('as_of_day')`; one that depends on the time reads `getvariable('as_of_time')`. Both are UTC, and the engine
sets them. A query that reads the time declares for how long a row may move its result (`clock_window`): the table is
refreshed for that long without further changes, and no longer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from time import perf_counter
from typing import Any

from churn_assets.dynamic_tables.catalog import Lake, LakeTransaction, current_snapshot
from churn_assets.dynamic_tables.definitions import (
    Definition,
    base_tables,
    days_beneath,
    in_order,
    read_definitions,
    target_lag,
)
from churn_assets.dynamic_tables.difference import Changes, Target, write_all, write_touched
from churn_assets.dynamic_tables.incremental import NotIncrementalError, Plan, analyse
from churn_assets.dynamic_tables.tables import DynamicTable, DynamicTableError, Refresh, RefreshAction


def dynamic_tables(tx: LakeTransaction, now: datetime) -> list[DynamicTable]:
    """Every declared table, sources before readers, with its lag at `now` (UTC)."""
    definitions = read_definitions(tx)
    lake = _lake_of(tx, definitions.values())
    return [
        DynamicTable(
            name=name,
            sources=definitions[name].sources,
            target_lag_seconds=target_lag(definitions, name),
            is_to_be_initialized=definitions[name].position is None and definitions[name].initialize == "ON_CREATE",
            lag_seconds=_lag_seconds(lake, definitions, name, now),
            refreshed_at=definitions[name].refreshed_at,
            refresh_action=definitions[name].refresh_action,
        )
        for name in in_order(definitions)
    ]


def refresh(tx: LakeTransaction, names: Iterable[str], now: datetime) -> list[Refresh]:
    """Bring the tables `names` up to date within the transaction `tx`, sources before readers.

    Their rows, positions and history lines become visible together, so a reader never sees one without the others.
    `now` (UTC) dates the history lines, and its day is the last day of the windows. Two refreshes of one table at the same
    time conflict, because both update the definition's row; the loser has to run again.

    The positions of other tables that have nothing to read move on, too: an idle table must not hold snapshots forever.
    """
    wanted = set(names)
    definitions = read_definitions(tx)
    if unknown := wanted - definitions.keys():
        raise DynamicTableError(f"{', '.join(sorted(unknown))} is not declared; run `churn deploy`")
    lake = _lake_of(tx, definitions.values())
    tx.execute(f"SET VARIABLE as_of_day = DATE '{now.date()}'")
    tx.execute(f"SET VARIABLE as_of_time = TIMESTAMP '{now.isoformat(sep=' ')}'")
    results: list[Refresh] = []
    for name in in_order(definitions):
        if name in wanted:
            lag_before = _lag_seconds(lake, definitions, name, now)
            result, definitions[name] = _refreshed(tx, lake, definitions, name, lag_before, now)
            results.append(result)
    idle = [
        _moved_on(lake, definitions, name) for name in definitions.keys() - wanted if _is_idle(lake, definitions[name])
    ]
    _note(tx, [definitions[result.name] for result in results], results, idle)
    return results


def rebuild(tx: LakeTransaction, names: Iterable[str], now: datetime) -> list[Refresh]:
    """Empty tables without reading their files, which may be damaged, and compute them and all that reads them anew.

    Not if a stream reads one: that compares with the rows of before. `now` as in `refresh`.
    """
    definitions, wanted = read_definitions(tx), set(names)
    if unknown := wanted - definitions.keys():
        raise DynamicTableError(
            f"{', '.join(sorted(unknown))} is no dynamic table; there are {', '.join(in_order(definitions))}"
        )
    for stream, table in tx.rows("SELECT name, table_name FROM streams ORDER BY name"):
        if table in wanted:
            raise DynamicTableError(
                f"{stream} reads {table} and compares it with its rows of before, so it cannot be computed anew; restore a"
                " backup"
            )
    affected = set(wanted)
    for name in in_order(definitions):
        if name in wanted:
            tx.execute(f"DELETE FROM {name}")
        if definitions[name].sources & affected:
            affected.add(name)
    places = ", ".join("?" * len(affected))
    tx.execute(
        f"UPDATE dynamic_tables SET position = NULL, base_position = NULL WHERE name IN ({places})", sorted(affected)
    )
    return refresh(tx, affected, now)


def _refreshed(
    tx: LakeTransaction,
    lake: Lake,
    definitions: Mapping[str, Definition],
    name: str,
    lag_before: float,
    now: datetime,
) -> tuple[Refresh, Definition]:
    """Write the rows of one table; returns what was done, and the definition afterwards."""
    started = perf_counter()
    definition = definitions[name]
    if any(definitions[source].base_position is None for source in definition.sources & definitions.keys()):
        raise DynamicTableError(f"{name} reads a dynamic table that was never refreshed; refresh that one first")
    action, reason, changes = _next_action(lake, definition, now)
    written = None
    if changes is not None:
        try:
            written = write_touched(tx, changes.target, changes.plan, changes.sources, now)
        except NotIncrementalError as error:
            action, reason = "FULL", str(error)
    if action in ("INITIAL", "FULL"):
        written = write_all(tx, _target(definition, lake), definition.query, now)
    inserted, updated, deleted = written or (0, 0, 0)
    if inserted or updated or deleted:
        lake.written.add(name)
    after = replace(
        _moved_on(lake, definitions, name),
        as_of_day=min([now.date(), *days_beneath(definitions, name)]),
        moving_until=_moving_until(lake, definition, now),
        refreshed_at=now,
        refresh_action=action,
    )
    result = Refresh(
        name=name,
        action=action,
        reason=reason,
        started_at=now,
        duration_seconds=perf_counter() - started,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_deleted=deleted,
        lag_seconds_before=lag_before,
        position=lake.snapshot + 1,
    )
    return result, after


def _lake_of(tx: LakeTransaction, definitions: Iterable[Definition]) -> Lake:
    """The lake, with the snapshots that at least one of the definitions has not read."""
    known = list(definitions)
    positions = [p for d in known for p in (d.position, d.base_position) if p is not None]
    if any(d.moves_with_the_clock and d.position is None for d in known):
        positions.append(-1)  # the rows that already exist also move its first result
    return Lake.since(tx, min(positions, default=current_snapshot(tx)))


def _is_idle(lake: Lake, definition: Definition) -> bool:
    """Whether nothing that the table reads was written since its last refresh."""
    if definition.position is None or definition.sources & lake.written:
        return False
    return lake.oldest_change(definition.sources, definition.position) is None


def _moved_on(lake: Lake, definitions: Mapping[str, Definition], name: str) -> Definition:
    """The definition of a table that shows all changes of its sources, at the snapshot that this transaction creates.

    That snapshot has the next number: a transaction that another one has overtaken is not committed.
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
    definitions: list[Definition],
    results: list[Refresh],
    idle: list[Definition],
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
            result.position,
            definition.base_position,
            definition.as_of_day,
        ]
        for result, definition in zip(results, definitions, strict=True)
    ]
    if not lines:
        return
    tx.execute(
        "INSERT INTO dynamic_table_refresh_history (name, refresh_action, reason, started_at, duration_seconds, rows_inserted,"
        " rows_updated, rows_deleted, lag_seconds_before, position, base_position, as_of_day)"
        f" VALUES {_tuples(lines)}",
        list(chain.from_iterable(lines)),
    )


def _tuples(rows: list[list[Any]]) -> str:
    return ", ".join(f"({', '.join('?' * len(row))})" for row in rows)


def day_keys(tx: LakeTransaction) -> dict[str, str]:
    """By table, the date column of its refresh key, if it has one; refreshes read such a table by days."""
    definitions = read_definitions(tx)
    lake = Lake.since(tx, current_snapshot(tx))
    targets = (_target(definition, lake) for definition in definitions.values())
    return {target.name: target.day_key for target in targets if target.day_key is not None}


def oldest_needed_snapshot(tx: LakeTransaction) -> int:
    """The oldest snapshot that a dynamic table or a stream still has to read from, otherwise the current one."""
    return tx.rows(
        "SELECT min(position) FROM (SELECT least(position, base_position) AS position FROM dynamic_tables"
        " UNION ALL SELECT position FROM streams UNION ALL SELECT ?)",
        [current_snapshot(tx)],
    )[0][0]


def _lag_seconds(lake: Lake, definitions: Mapping[str, Definition], name: str, now: datetime) -> float:
    definition = definitions[name]
    target = target_lag(definitions, name)
    if definition.base_position is None:
        return _waited(definition.declared_at, now, target)
    waiting = [lake.oldest_change(base_tables(definitions, name), definition.base_position)]
    moves_with_the_day = definition.moves_with_the_day or bool(days_beneath(definitions, name))
    if moves_with_the_day and definition.as_of_day is not None and definition.as_of_day != now.date():
        if definition.as_of_day > now.date():
            return float(target)  # a clock that was ahead: its window is that of a day to come
        waiting.append(datetime.combine(definition.as_of_day + timedelta(days=1), datetime.min.time()))
    if definition.is_moving and definition.refreshed_at is not None:
        # A table that moves with the clock is late only half a target lag after its refresh, or it would be refreshed nonstop.
        moved_for = (now - definition.refreshed_at).total_seconds()
        waiting += [definition.refreshed_at] if moved_for < 0 or moved_for >= target / 2 else []
    return max([0.0, *(_waited(oldest, now, target) for oldest in waiting if oldest is not None)])


def _waited(since: datetime, now: datetime, target: int) -> float:
    """For how many seconds something waits.

    A time that is ahead by more than the target lag was said by a clock that was wrong. Nobody knows for how long it really
    waits, so it counts as late: otherwise nothing would be refreshed until the time has come.
    """
    seconds = (now - since).total_seconds()
    return max(0.0, seconds) if seconds > -target else float(target)


@dataclass(frozen=True)
class _Work:
    """The input of an incremental refresh."""

    target: Target
    plan: Plan
    sources: list[Changes]


def _target(definition: Definition, lake: Lake) -> Target:
    columns = lake.tables[definition.name].columns
    days = [column for column in definition.refresh_key if columns.get(column) == "date"]
    return Target(
        name=definition.name,
        columns=tuple(column for column in columns if column != definition.row_timestamp),
        key=definition.refresh_key,
        day_key=days[0] if days else None,
        row_timestamp=definition.row_timestamp,
    )


def _next_action(lake: Lake, definition: Definition, now: datetime) -> tuple[RefreshAction, str, _Work | None]:
    """What the next refresh does, why, and the input of an incremental one."""
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


def _plan(lake: Lake, definition: Definition, target: Target, changed: list[Changes]) -> Plan:
    """How to refresh incrementally, or `NotIncrementalError` with the reason why it is impossible, or is so this time."""
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


def _moving_until(lake: Lake, definition: Definition, now: datetime) -> datetime | None:
    """When the newest row of the sources stops moving the result, or None."""
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
