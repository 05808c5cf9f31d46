"""The declared tables: the rows of `dynamic_tables`, and what follows from them without the lake's snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from graphlib import TopologicalSorter
from importlib.resources import files
from typing import Literal

from churn_assets.dynamic_tables.catalog import LakeTransaction
from churn_assets.dynamic_tables.incremental import Reads, reads_of
from churn_assets.dynamic_tables.tables import RefreshMode, parse_lag, target_lag_seconds


@dataclass(frozen=True)
class Definition:
    """A row of `dynamic_tables`, and what its query reads. Times are UTC, positions are numbers of the lake's snapshots."""

    name: str
    query: str
    refresh_key: tuple[str, ...]
    row_timestamp: str | None
    refresh_mode: RefreshMode
    changed_keys: dict[str, str]
    target_lag: str
    initialize: Literal["ON_CREATE", "ON_SCHEDULE"]
    clock_window: timedelta | None
    declared_at: datetime
    position: int | None
    base_position: int | None
    as_of_day: date | None
    moving_until: datetime | None
    refreshed_at: datetime | None
    refresh_action: str | None
    reads: Reads

    @property
    def sources(self) -> frozenset[str]:
        """The tables that the query reads."""
        return self.reads.tables

    @property
    def moves_with_the_clock(self) -> bool:
        """Whether the query reads the current time."""
        return "as_of_time" in self.reads.variables

    @property
    def is_moving(self) -> bool:
        """Whether time alone may change the result after the last refresh."""
        return self.refreshed_at is not None and self.moving_until is not None and self.refreshed_at < self.moving_until

    @property
    def moves_with_the_day(self) -> bool:
        """Whether the query reads the current day."""
        return "as_of_day" in self.reads.variables


def schema_script() -> str:
    """The SQL script that creates the engine's own tables where they are missing."""
    return files("churn_assets.dynamic_tables").joinpath("schema.sql").read_text()


def read_definitions(tx: LakeTransaction) -> dict[str, Definition]:
    """Every declared table by its name."""
    return {
        row[0]: Definition(
            name=row[0],
            query=row[1],
            refresh_key=tuple(row[2]),
            row_timestamp=row[3],
            refresh_mode=row[4],
            changed_keys=row[5] or {},
            target_lag=row[6],
            initialize=row[7],
            clock_window=None if row[8] is None else timedelta(seconds=parse_lag(row[8])),
            declared_at=row[9],
            position=row[10],
            base_position=row[11],
            as_of_day=row[12],
            moving_until=row[13],
            refreshed_at=row[14],
            refresh_action=row[15],
            reads=reads_of(row[1]),
        )
        for row in tx.rows(
            "SELECT name, query, refresh_key, row_timestamp, refresh_mode, changed_keys, target_lag, initialize,"
            " clock_window, declared_at, position, base_position, as_of_day, moving_until, refreshed_at, refresh_action"
            " FROM dynamic_tables"
        )
    }


def in_order(definitions: Mapping[str, Definition]) -> list[str]:
    """The tables, sources before readers."""
    return list(
        TopologicalSorter(
            {name: definition.sources & definitions.keys() for name, definition in definitions.items()}
        ).static_order()
    )


def base_tables(definitions: Mapping[str, Definition], name: str) -> set[str]:
    """The base tables that `name` reads, directly or through other dynamic tables."""
    bases: set[str] = set()
    for source in definitions[name].sources:
        bases |= base_tables(definitions, source) if source in definitions else {source}
    return bases


def days_beneath(definitions: Mapping[str, Definition], name: str) -> list[date]:
    """The `as_of_day` of every dynamic table beneath `name` that moves with the day."""
    days: list[date] = []
    for source in definitions[name].sources & definitions.keys():
        days += days_beneath(definitions, source)
        day = definitions[source].as_of_day
        if definitions[source].moves_with_the_day and day is not None:
            days.append(day)
    return days


def target_lag(definitions: Mapping[str, Definition], name: str) -> int:
    """The target lag in seconds, as `target_lag_seconds` defines it."""
    return target_lag_seconds(
        name,
        {each.name: each.target_lag for each in definitions.values()},
        {each.name: each.sources for each in definitions.values()},
    )
