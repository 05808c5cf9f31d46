"""Dynamic tables: kept as tables of the engine's, which a refresh makes what their query gives now.

Nothing refreshes them by itself: `ALTER DYNAMIC TABLE ... REFRESH` does, and their creation. Only the difference is written, so
that a stream shows no more than that. What a refresh is called follows from the mode and from whether a source was written
since the last one; AUTO is INCREMENTAL where no rule of `incremental_form` is broken, else FULL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlglot import exp, parse_one

from churn_assets_tests.snowflake.emulator import changes
from churn_assets_tests.snowflake.emulator.errors import (
    StatementError,
    missing_property,
    refusal,
    syntax_error,
    unsupported,
)
from churn_assets_tests.snowflake.emulator.names import NAME, Name, blanked, in_sql, parts, shown
from churn_assets_tests.snowflake.incremental_form import broken_rules

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.account import Account
    from churn_assets_tests.snowflake.emulator.objects import Create
    from churn_assets_tests.snowflake.emulator.session import Session

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_CLOCK = (exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.CurrentDatetime)


@dataclass
class DynamicTable:
    name: Name
    query: str
    text: str
    target_lag: str
    warehouse: str
    refresh_mode: str  # FULL or INCREMENTAL
    owner: str
    sources: list[Name]
    data_timestamp: datetime | None = None  # None as long as it was never filled
    scheduling_state: str = "ACTIVE"
    refresh_mode_reason: str | None = None
    # How often each source had been written at the last refresh.
    seen: Mapping[Name, int] = field(default_factory=dict[Name, int])
    created_on: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class PastRefresh:
    name: Name
    state: str
    message: str | None
    data_timestamp: datetime
    started_at: datetime
    ended_at: datetime
    action: str | None
    trigger: str
    inserted: int
    deleted: int
    target_lag: str
    query_id: str


def create(session: "Session", create: "Create") -> str:
    account = session.account
    found = re.search(r"\bAS\s+(?=SELECT\b|WITH\b|\()", blanked(create.rest), re.IGNORECASE)
    if not found:
        raise syntax_error("unexpected '<EOF>', a query after AS is missing")
    query = _bare(create.rest[found.end() :].strip())
    options = _options(create.rest[: found.start()])
    if create.name not in account.dynamic_tables and account.is_there(create.name):
        raise StatementError(
            2002, "42710", f"SQL compilation error:\nObject '{shown(create.name)}' already exists as another type."
        )
    lag = _target_lag(options["TARGET_LAG"])
    mode, reason = _refresh_mode(options.get("REFRESH_MODE", "AUTO").upper(), query)
    (warehouse,) = parts(options["WAREHOUSE"])
    account.definition("WAREHOUSE", (warehouse,))
    expression = parse_one(query, read="snowflake")
    if session.streams_in(expression):
        raise unsupported("a dynamic table over a stream")
    sources = session.names_in(expression)
    if mode == "INCREMENTAL":
        for source in sources:
            if source in account.dynamic_tables and account.dynamic_tables[source].refresh_mode == "FULL":
                raise StatementError(
                    2,
                    "0A000",
                    f"Dynamic table {shown(create.name)} cannot be INCREMENTAL: {shown(source)} refreshes in full",
                )
    table = DynamicTable(
        create.name, query, create.text, lag, warehouse, mode, session.role, sources, refresh_mode_reason=reason
    )
    with_sources = [one for source in sources if source in account.dynamic_tables for one in [source]]
    fills = options.get("INITIALIZE", "ON_CREATE").upper()
    if fills not in {"ON_CREATE", "ON_SCHEDULE"}:
        raise syntax_error(f"unexpected '{fills}'")
    if fills == "ON_CREATE":
        for source in with_sources:
            _refresh_all(session, source, "CREATION")
    worker = _worker(session, table)
    try:
        account.before_change([create.name])
        engine_sql = worker.engine_sql(query)
        worker.duck.execute(f"CREATE OR REPLACE TABLE {in_sql(create.name)} AS SELECT * FROM ({engine_sql}) LIMIT 0")
    finally:
        _dismiss(account, worker)
    account.dynamic_tables[create.name] = table
    account.replaced(create.name)
    if fills == "ON_CREATE":
        try:
            _refresh(session, table, "CREATION")
        except StatementError:
            del account.dynamic_tables[create.name]
            account.duck.execute(f"DROP TABLE {in_sql(create.name)}")
            raise
    return f"Dynamic table {create.name[-1]} successfully created."


def _bare(query: str) -> str:
    """A query without the parentheses around it, which dbt writes."""
    while isinstance(parse_one(query, read="snowflake"), exp.Subquery):
        query = query.strip()[1:-1]
    return query


def alter(session: "Session", name: Name, what: str) -> str:
    table = session.account.dynamic_tables[name]
    words = what.upper().split()
    if words[:1] == ["REFRESH"]:
        if words[1:]:
            raise unsupported(f"ALTER DYNAMIC TABLE ... {what}")
        _refresh_all(session, name, "MANUAL")
    elif words[:1] in (["SUSPEND"], ["RESUME"]):
        table.scheduling_state = "SUSPENDED" if words[0] == "SUSPEND" else "ACTIVE"
    elif words[:1] == ["SET"]:
        options = _given(what[3:])
        if unknown := set(options) - {"TARGET_LAG", "WAREHOUSE", "COMMENT"}:
            raise unsupported(f"ALTER DYNAMIC TABLE ... SET {sorted(unknown)}")
        if "TARGET_LAG" in options:
            table.target_lag = _target_lag(options["TARGET_LAG"])
        if "WAREHOUSE" in options:
            (table.warehouse,) = parts(options["WAREHOUSE"])
            session.account.definition("WAREHOUSE", (table.warehouse,))
    else:
        raise unsupported(f"ALTER DYNAMIC TABLE ... {what[:60]}")
    return "Statement executed successfully."


def lag_in_seconds(lag: str) -> int | None:
    if lag == "DOWNSTREAM":
        return None
    number, unit = lag.split()
    return int(number) * _UNITS[unit.rstrip("s")]


def _options(header: str) -> dict[str, str]:
    options = _given(header)
    known = {
        "TARGET_LAG",
        "WAREHOUSE",
        "REFRESH_MODE",
        "INITIALIZE",
        "COMMENT",
        "SCHEDULER",
        "DATA_RETENTION_TIME_IN_DAYS",
    }
    if unknown := set(options) - known:
        raise unsupported(f"the options {sorted(unknown)} of a dynamic table")
    for name in ("TARGET_LAG", "WAREHOUSE"):
        if name not in options:
            raise missing_property("DYNAMIC TABLE", name)
    rest = re.sub(r"[A-Z_]+\s*=\s*('(?:[^']|'')*'|[^\s]+)|COPY\s+GRANTS", "", header, flags=re.IGNORECASE).strip(" ,\n")
    if rest:
        raise unsupported(f"{rest!r} of a dynamic table")
    return options


def _given(text: str) -> dict[str, str]:
    pairs = re.findall(rf"([A-Z_]+)\s*=\s*('(?:[^']|'')*'|{NAME})", text, re.IGNORECASE)
    return {name.upper(): value for name, value in pairs}


def _target_lag(written: str) -> str:
    lag = " ".join(written.strip("'").lower().split())
    if lag.upper() == "DOWNSTREAM":
        return "DOWNSTREAM"
    if not re.fullmatch(r"\d+ (?:second|minute|hour|day)s?", lag):
        raise StatementError(
            1008, "22023", f"SQL compilation error:\ninvalid value [{written}] for parameter 'TARGET_LAG'"
        )
    if (lag_in_seconds(lag) or 0) < 60:
        raise StatementError(
            1008, "22023", f"SQL compilation error:\nTARGET_LAG {written} is under the least, 60 seconds"
        )
    return lag


def _refresh_mode(asked: str, query: str) -> tuple[str, str | None]:
    broken = broken_rules(query)
    match asked:
        case "FULL":
            return "FULL", None
        case "INCREMENTAL":
            if broken:
                raise StatementError(2, "0A000", f"Change tracking is not supported on this query: {'; '.join(broken)}")
            return "INCREMENTAL", None
        case "AUTO":
            return ("FULL", "; ".join(broken)) if broken else ("INCREMENTAL", None)
        case _:
            raise unsupported(f"REFRESH_MODE = {asked}")


# ---- the refresh


def _refresh_all(session: "Session", name: Name, trigger: str) -> None:
    """Refresh a dynamic table after the dynamic tables that it reads."""
    table = session.account.dynamic_tables[name]
    for source in table.sources:
        if source in session.account.dynamic_tables:
            _refresh_all(session, source, trigger)
    _refresh(session, table, trigger)


def _refresh(session: "Session", table: DynamicTable, trigger: str) -> None:
    account = session.account
    started = datetime.now(UTC)
    now = {source: account.versions[source] for source in table.sources}
    is_first = table.data_timestamp is None
    reads_clock = parse_one(table.query, read="snowflake").find(*_CLOCK) is not None
    inserted = deleted = 0
    error: Exception | None = None
    action: str | None = None
    if not is_first and now == table.seen and not reads_clock:
        action = "NO_DATA"
    else:
        try:
            inserted, deleted = _write(session, table)
            is_empty = not (inserted or deleted) and now == table.seen
            action = "REINITIALIZE" if is_first else "NO_DATA" if is_empty else table.refresh_mode
        except Exception as failed:  # noqa: BLE001  # it is raised once it stands in the history
            error = refusal(failed)
    if error is None:
        table.data_timestamp, table.seen = started, now
    account.refreshes.append(
        PastRefresh(
            table.name,
            "FAILED" if error else "SUCCEEDED",
            str(error) if error else None,
            started,
            started,
            datetime.now(UTC),
            action,
            trigger,
            inserted,
            deleted,
            table.target_lag,
            session.last_query,
        )
    )
    if error is not None:
        raise error


def _write(session: "Session", table: DynamicTable) -> tuple[int, int]:
    """Make the table what its query gives; how many rows came and went."""
    account = session.account
    worker = _worker(session, table)
    try:
        engine_sql = worker.engine_sql(table.query)
        account.before_change([table.name])
        duck, name = worker.duck, in_sql(table.name)
        duck.execute("BEGIN")
        try:
            duck.execute(f"CREATE TEMP TABLE _now AS SELECT * FROM {name} LIMIT 0")
            duck.execute(f"INSERT INTO temp.main._now {engine_sql}")
            change = changes.between(duck, name, "temp.main._now")
            changes.apply(duck, name, change)
            duck.execute("DROP TABLE temp.main._now")
        except BaseException:
            duck.execute("ROLLBACK")
            raise
        duck.execute("COMMIT")
        if change.gone.num_rows or change.came.num_rows:
            account.changed([table.name])
        return change.came.num_rows, change.gone.num_rows
    finally:
        _dismiss(account, worker)


def _worker(session: "Session", table: DynamicTable) -> "Session":
    """A session in which the table's query means what it meant where the table was created."""
    worker = type(session)(session.account, parameters={})
    worker.role, worker.warehouse = table.owner, table.warehouse
    worker.use(table.name[0], table.name[1])
    return worker


def _dismiss(account: "Account", worker: "Session") -> None:
    del account
    worker.close()
