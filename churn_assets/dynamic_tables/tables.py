"""What every warehouse shares: what a dynamic table is, what a refresh did, and how long a target lag is.

Nothing here needs SQL. How the lake refreshes its tables is in `engine`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

RefreshAction = Literal["INITIAL", "NO_DATA", "INCREMENTAL", "FULL"]
RefreshMode = Literal["AUTO", "INCREMENTAL", "FULL"]

MINIMUM_TARGET_LAG = timedelta(seconds=60)  # as on Snowflake
DOWNSTREAM = "DOWNSTREAM"
_LAG_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


class DynamicTableError(Exception):
    """A definition that cannot be refreshed; the message names the table and the fault."""


@dataclass(frozen=True)
class DynamicTable:
    """One dynamic table at one moment. All times are UTC.

    `target_lag_seconds` of a DOWNSTREAM table is the shortest of the tables that read it. `is_to_be_initialized`: it was
    never refreshed, and its definition asks for a refresh at once. `lag_seconds` is the age of the oldest change in a base
    table that the rows do not show yet, 0 if they show all. `keeps_itself_fresh`: the warehouse refreshes it on its own.
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
    """A successful refresh. Times are UTC, durations are in seconds.

    `position` says what was read: on the lake its snapshot; on Snowflake the time up to which base tables are shown, in
    milliseconds since 1970.
    """

    name: str
    action: RefreshAction
    reason: str
    started_at: datetime
    duration_seconds: float
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    lag_seconds_before: float
    position: int


def parse_lag(text: str) -> int:
    """The seconds in a duration such as `5 minutes`; `ValueError` if the text is not a duration."""
    match = re.fullmatch(r"\s*(\d+)\s+(second|minute|hour|day)s?\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number and a unit, such as '5 minutes'")
    return int(match[1]) * _LAG_UNITS[match[2]]


def parse_target_lag(text: str) -> int:
    """The seconds in a target lag such as `5 minutes`; `ValueError` if it is not one or is under a minute."""
    seconds = parse_lag(text)
    if seconds < MINIMUM_TARGET_LAG.total_seconds():
        raise ValueError(f"target_lag {text!r} is below the minimum of 60 seconds")
    return seconds


def is_downstream(target_lag: str) -> bool:
    """Whether a declared target lag is DOWNSTREAM, that is, as short as the readers of the table need."""
    return target_lag.upper() == DOWNSTREAM


def target_lag_seconds(name: str, declared: Mapping[str, str], sources: Mapping[str, Collection[str]]) -> int:
    """The target lag of one table in seconds; for a DOWNSTREAM table, the shortest of the tables that read it.

    `declared` has the target lag of every dynamic table as it is written, `sources` the tables that each of them reads.
    `DynamicTableError` if no dynamic table reads a DOWNSTREAM one, `ValueError` if a text is not a target lag.
    """
    if not is_downstream(declared[name]):
        return parse_target_lag(declared[name])
    readers = [reader for reader in declared if name in sources[reader]]
    if not readers:
        raise DynamicTableError(
            f"{name} has target_lag DOWNSTREAM, but no dynamic table reads it, so it would never be refreshed; give it a time"
        )
    return min(target_lag_seconds(reader, declared, sources) for reader in readers)
