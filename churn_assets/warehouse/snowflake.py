"""Snowflake behind the warehouse protocol.

This module holds sessions, transactions with their retries, and the protocol's methods in Snowflake's SQL. Callers decide
what is written in a transaction; deployment is in `churn_assets.operations.account`, sign-in in `snowflake_connection`.

It was written from the documentation and tested against an emulator, not against a live account. docs/snowflake.md says
how each object was verified.
"""

import re
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from graphlib import TopologicalSorter
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from snowflake.connector import SnowflakeConnection
from snowflake.connector.cursor import SnowflakeCursor
from snowflake.connector.errors import Error, InterfaceError, NotSupportedError, OperationalError

from churn_assets.dynamic_tables.tables import DynamicTable, Refresh, target_lag_seconds
from churn_assets.errors import ModelFileError
from churn_assets.rules import ORPHAN_HOURS
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import (
    Column,
    Credits,
    Damage,
    FileCheck,
    Maintenance,
    ReadOnlyError,
    T,
    Transaction,
)
from churn_assets.warehouse.schema_version import READ_VERSION, UNVERSIONED, refuse_another
from churn_assets.warehouse.snowflake_connection import (
    Connections,
    SnowflakeError,
    by_name,
    connections,
    opened,
    what_to_do,
)

MAX_ATTEMPTS = 5
# The columns of `Refresh`; the parameter is the time after which refreshes are listed. The lag before a refresh is the
# time since the DATA_TIMESTAMP of the refresh before it, the time up to which base tables are shown. Rows that were
# rewritten unchanged (numCopiedRows) do not count. https://docs.snowflake.com/en/sql-reference/functions/dynamic_table_refresh_history
PAST_REFRESHES = """
    SELECT
        LOWER(name) AS name,
        CASE refresh_action WHEN 'REINITIALIZE' THEN 'INITIAL' ELSE refresh_action END AS action,
        LOWER(refresh_trigger) AS reason,
        CONVERT_TIMEZONE('UTC', refresh_start_time)::TIMESTAMP_NTZ AS started_at,
        DATEDIFF('millisecond', refresh_start_time, refresh_end_time) / 1000 AS duration_seconds,
        COALESCE(statistics:numInsertedRows::INTEGER, 0) AS rows_inserted,
        0 AS rows_updated,
        COALESCE(statistics:numDeletedRows::INTEGER, 0) AS rows_deleted,
        LAG(data_timestamp) OVER (PARTITION BY name ORDER BY data_timestamp) AS shown_before,
        COALESCE(DATEDIFF('millisecond', shown_before, data_timestamp) / 1000, 0) AS lag_seconds_before,
        DATE_PART('epoch_millisecond', data_timestamp) AS position
    FROM TABLE(INFORMATION_SCHEMA.DYNAMIC_TABLE_REFRESH_HISTORY(RESULT_LIMIT => 10000))
    WHERE state = 'SUCCEEDED' AND schema_name = CURRENT_SCHEMA()
    QUALIFY started_at > ?
    ORDER BY started_at
"""

# The columns of `Credits`; the parameter is the first day. Counted are the current warehouse (dynamic tables and tasks run
# in it), AI functions that the current role called, and search services of the current database. The views are up to three
# hours late; the role needs the database role SNOWFLAKE.USAGE_VIEWER.
# https://docs.snowflake.com/en/sql-reference/account-usage/warehouse_metering_history
# https://docs.snowflake.com/en/sql-reference/account-usage/cortex_ai_functions_usage_history
# https://docs.snowflake.com/en/sql-reference/account-usage/cortex_search_daily_usage_history
CREDITS = """
    SELECT usage_day AS "day", service AS "service", SUM(credits)::FLOAT AS "credits"
    FROM (
        SELECT CONVERT_TIMEZONE('UTC', start_time)::DATE AS usage_day, 'warehouse' AS service, credits_used AS credits
        FROM SNOWFLAKE.ACCOUNT_USAGE.WAREHOUSE_METERING_HISTORY
        WHERE warehouse_name = CURRENT_WAREHOUSE()
        UNION ALL
        SELECT CONVERT_TIMEZONE('UTC', start_time)::DATE AS usage_day, 'AI functions' AS service, credits
        FROM SNOWFLAKE.ACCOUNT_USAGE.CORTEX_AI_FUNCTIONS_USAGE_HISTORY
        WHERE ARRAY_CONTAINS(CURRENT_ROLE()::VARIANT, role_names)
        UNION ALL
        SELECT usage_date::DATE AS usage_day, 'search' AS service, credits
        FROM SNOWFLAKE.ACCOUNT_USAGE.CORTEX_SEARCH_DAILY_USAGE_HISTORY
        WHERE database_name = CURRENT_DATABASE()
    ) AS used
    WHERE usage_day >= ?
    GROUP BY usage_day, service
    ORDER BY usage_day, service
"""
STAGE, FILE_FORMAT, MODELS = "landing", "event_batches", "churn_models"
# All writers take turns, as on the lake. A statement in Snowflake reads what was committed when it began, so without turns
# two runs could find the same customer waiting and both write to her. The lock ends with the transaction.
_TAKE_TURN = "UPDATE write_turn SET taken_at = SYSDATE()"
# Another transaction holds a lock for too long, or the service had an internal error.
# https://docs.snowflake.com/en/sql-reference/transactions
_TRANSIENT = frozenset({603, 625, 300002, 300005})
_SESSION_IS_GONE = frozenset({250002, 390111, 390112, 390114, 390195})
_IS_NOT_THERE = 2003  # or the role may not see it
_HTTP_ERRORS = range(290500, 290600)
_DATA = re.compile(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_READS = re.compile(r"\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|LIST|LS)\b", re.IGNORECASE)
_COMMENT = re.compile(r"--[^\n]*|//[^\n]*|/\*.*?\*/", re.DOTALL)
# By Arrow type, the SQL types of staged columns.
_TYPES = {
    "bool": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "date32[day]": "DATE",
    "timestamp[us]": "TIMESTAMP_NTZ",
    "string": "VARCHAR",
    "binary": "BINARY",
}


class UnknownOutcomeError(SnowflakeError):
    """The connection was lost during a commit: the transaction may or may not have taken effect."""


class _Session:
    """One connection, which runs one statement at a time."""

    def __init__(self, opening: AbstractContextManager[SnowflakeConnection], tag: Callable[[], str]) -> None:
        self._opening = opening
        self._connection = opening.__enter__()
        self._tag = tag

    def close(self) -> None:
        """Close the connection, which may already be lost."""
        with suppress(Error):
            self._opening.__exit__(None, None, None)

    @contextmanager
    def run(self, sql: str, parameters: Sequence[Any] = (), **options: Any) -> Generator[SnowflakeCursor]:
        """A cursor with the result of one statement."""
        with self._connection.cursor() as cursor:
            tag = {"QUERY_TAG": self._tag()}
            cursor.execute(sql, list(parameters) or None, _statement_params=tag, **options)
            yield cursor

    def execute(self, sql: str, parameters: Sequence[Any] = (), **options: Any) -> int:
        """Run one statement; returns the number of rows it changed."""
        with self.run(sql, parameters, **options) as cursor:
            return cursor.rowcount or 0

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.run(sql, parameters) as cursor:
            return [tuple(map(_plain, row)) for row in cursor.fetchall()]

    def dicts(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of a query or a SHOW, as dicts with lower-case column names."""
        with self.run(sql, parameters) as cursor:
            return [{name: _plain(value) for name, value in row.items()} for row in by_name(cursor)]

    def arrow(self, sql: str, parameters: Sequence[Any] = (), **options: Any) -> pa.Table:
        """The result of a query; of a SHOW, with all values as text."""
        with self.run(sql, parameters, **options) as cursor:
            try:
                return _normal(cursor.fetch_arrow_all(force_return_table=True, force_microsecond_precision=True))
            except NotSupportedError:  # not in Arrow's format; only results of queries are
                names = [column.name.lower() for column in cursor.description]
                rows = [[None if value is None else str(value) for value in row] for row in cursor.fetchall()]
        return pa.table({name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(names)})


class _SnowflakeTransaction:
    """What runs between BEGIN and COMMIT; implements `Transaction`."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._session.execute(_refuse_ddl(sql), parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._session.rows(_refuse_ddl(sql), parameters)

    def consume_stream(self, stream: str) -> str:
        changes = f"changes_of_{stream}"
        columns = [name for name, *_ in self._session.rows(f"DESCRIBE TABLE {changes}") if name != "CHANGE_ACTION"]
        listed = ", ".join(columns)
        self.execute(f"DELETE FROM {changes}")
        # The whole stream is read: rows that a filter left out would be lost.
        self.execute(f"INSERT INTO {changes} ({listed}, change_action) SELECT {listed}, METADATA$ACTION FROM {stream}")
        return changes


class SnowflakeWarehouse:
    """The schema that `settings` name. Implements `Warehouse`; one object may be used from several threads.

    Sessions are reused, because a sign-in takes a second or more. With `timeout_seconds`, a query that takes longer is
    cancelled. `tag` says on whose behalf statements run; `connect` gives what opens a connection. Tables of another version are
    refused with `SchemaVersionError`, unless `any_version`: a role that only sees the views cannot ask for it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read_only: bool = False,
        timeout_seconds: float | None = None,
        tag: Callable[[], str] = lambda: "",
        connect: Callable[[Settings], Connections] = connections,
        any_version: bool = False,
    ) -> None:
        self._connect = connect(settings)
        self._settings = settings
        self._read_only = read_only
        self._timeout_seconds = timeout_seconds
        self._tag = tag
        self._is_checked = any_version
        self._idle: list[_Session] = []

    def deploy(self) -> list[str]:
        """See that the tables are there: only `churn deploy` makes and changes them."""
        return self._ask(lambda session: [])

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        if self._read_only:
            _refuse_writes(sql)
        timeout = {} if self._timeout_seconds is None else {"timeout": round(self._timeout_seconds)}
        return self._ask(lambda session: session.arrow(sql, parameters, **timeout))

    def identity(self) -> str:
        of = self._settings
        return f"{of.snowflake_account}.{of.snowflake_database}.{of.snowflake_schema}".upper()

    def version(self) -> object | None:
        return None

    def columns(self, table: str) -> list[Column]:
        rows = self._ask(lambda session: session.dicts(f"DESCRIBE TABLE {table}"))
        return [Column(row["name"].lower(), row["type"]) for row in rows]

    def transact(self, work: Callable[[Transaction], T], staged: Mapping[str, pa.Table] | None = None) -> T:
        return self._ask(lambda session: _transacted(session, work, staged or {}))

    def refresh(self, names: Iterable[str], now: datetime) -> list[Refresh]:
        # A manual refresh also refreshes the tables that a table reads, so refreshing those as well costs nothing.
        wanted = set(names)
        known = [table.name for table in self.dynamic_tables(now)]
        if unknown := wanted - set(known):
            raise SnowflakeError(
                f"{', '.join(sorted(unknown))} is not a dynamic table of this schema; run `churn deploy --target snowflake`"
            )
        results: list[Refresh] = []
        for name in (name for name in known if name in wanted):
            asked_at = self._now()
            self._ask(lambda session, name=name: session.execute(f"ALTER DYNAMIC TABLE {name} REFRESH"))
            done = [past for past in self.past_refreshes(asked_at - timedelta(seconds=1)) if past.name == name]
            if not done:
                raise SnowflakeError(f"{name} was refreshed, but its history does not show it; grant MONITOR on it")
            results.append(done[-1])
        return results

    def refresh_and(self, names: Iterable[str], now: datetime, then: Callable[[Transaction, list[Refresh]], T]) -> T:
        results = self.refresh(names, now)
        return self.transact(lambda tx: then(tx, results))

    def past_refreshes(self, after: datetime) -> list[Refresh]:
        rows = self._ask(lambda session: session.dicts(PAST_REFRESHES, [after]))
        return [Refresh(**{key: value for key, value in row.items() if key != "shown_before"}) for row in rows]

    def dynamic_tables(self, now: datetime) -> list[DynamicTable]:
        shown = self._ask(lambda session: session.dicts("SHOW DYNAMIC TABLES"))
        tables = {row["name"].lower(): row for row in shown}
        declared = {name: row["target_lag"] for name, row in tables.items()}
        sources = {name: _named(row["text"], tables.keys() - {name}) for name, row in tables.items()}
        return [
            DynamicTable(
                name=name,
                sources=sources[name],
                target_lag_seconds=target_lag_seconds(name, declared, sources),
                is_to_be_initialized=False,
                # The age of the data shown, even if nothing has changed since: Snowflake does not tell the two apart.
                lag_seconds=max(0.0, (now - _utc(tables[name]["data_timestamp"])).total_seconds()),
                refreshed_at=_utc(tables[name]["data_timestamp"]),
                refresh_action=None,
                keeps_itself_fresh=True,
            )
            for name in TopologicalSorter(sources).static_order()
        ]

    def tasks(self) -> dict[str, bool]:
        shown = self._ask(lambda session: session.dicts("SHOW TASKS"))
        return {row["name"].lower(): row["state"] == "started" for row in shown}

    def stream_has_data(self, stream: str) -> bool:
        # This needs no running warehouse.
        return self._ask(lambda session: session.rows(f"SELECT SYSTEM$STREAM_HAS_DATA('{stream}')"))[0][0]

    def credits(self, since: date) -> list[Credits]:
        return [Credits(**row) for row in self.query(CREDITS, [since]).to_pylist()]

    def maintain(self, order: Mapping[str, str], now: datetime) -> Maintenance:
        """Remove the files that killed writers left on the stage. Snowflake maintains its tables itself."""

        def clean(session: _Session) -> int:
            files = session.dicts(f"LIST @{STAGE}")
            old = [
                file["name"].partition("/")[2]
                for file in files
                if _utc(parsedate_to_datetime(file["last_modified"])) < now - timedelta(hours=ORPHAN_HOURS)
            ]
            for name in old:
                session.rows(f"REMOVE @{STAGE}/{name}")
            return len(old)

        size = sum(int(row["bytes"] or 0) for row in self._ask(lambda session: session.dicts("SHOW TABLES")))
        return Maintenance(files={}, bytes=(size, size), snapshots_expired=0, files_deleted=self._ask(clean))

    def damage(self) -> list[Damage]:
        return []  # Snowflake keeps the files, and their checksums

    def check_files(self, share: float, now: datetime) -> FileCheck:
        return FileCheck(0, 0, 0, 0, [])

    def forget_history(self, catch_up: Callable[[], None]) -> str | None:
        """Time Travel and Fail-safe cannot be emptied by a statement.

        https://docs.snowflake.com/en/user-guide/data-failsafe
        """
        catch_up()
        return (
            "Snowflake's Time Travel holds deleted rows for DATA_RETENTION_TIME_IN_DAYS (SHOW PARAMETERS LIKE"
            " 'DATA_RETENTION%' IN SCHEMA), and Fail-safe for 7 days more; ALTER SCHEMA ... SET DATA_RETENTION_TIME_IN_DAYS = 0"
            " ends the first, and streams then have to be read in time"
        )

    def store_model(self, name: str, content: bytes) -> None:
        def put(session: _Session) -> None:
            options = "AUTO_COMPRESS = FALSE OVERWRITE = TRUE"
            session.execute(f"PUT 'file://{name}' @{MODELS} {options}", file_stream=BytesIO(content))

        self._ask(put)

    def read_model(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="churn-model-") as folder:
            try:
                self._ask(lambda session: session.rows(f"GET @{MODELS}/{name} 'file://{folder}'"))
                return (Path(folder) / name).read_bytes()
            except (SnowflakeError, FileNotFoundError) as error:
                raise ModelFileError(
                    f"the model's file {name} cannot be read from the stage {MODELS} ({error})"
                ) from error

    def _now(self) -> datetime:
        """The time by Snowflake's clock (UTC)."""
        return self._ask(lambda session: session.rows("SELECT SYSDATE()"))[0][0]

    def _opened(self) -> _Session:
        session = _Session(opened(self._connect, self._settings), self._tag)
        if not self._is_checked:
            try:
                self._refuse_another_version(session)
            except BaseException:
                session.close()
                raise
            self._is_checked = True
        return session

    def _refuse_another_version(self, session: _Session) -> None:
        place = f"{self._settings.snowflake_database}.{self._settings.snowflake_schema}"
        try:
            found = session.rows(READ_VERSION.format(table="schema_version"))[0][0]
        except Error as error:
            if error.errno != _IS_NOT_THERE:
                raise
            raise SnowflakeError(
                f"{place} has no tables yet, or those of an older version of churn; run `churn deploy --target snowflake`"
            ) from error
        refuse_another(found or UNVERSIONED, place)

    def _ask(self, work: Callable[[_Session], T]) -> T:
        """Run `work` with a session that no other thread uses; retry if the session is lost or the error is transient."""
        attempt = 0
        while True:
            attempt += 1
            session = None
            try:
                session = self._idle.pop() if self._idle else self._opened()
                result = work(session)
            except Error as error:
                gone = _is_gone(error)
                if session and not gone:
                    self._idle.append(session)
                elif session:
                    session.close()
                if session and attempt < MAX_ATTEMPTS and (gone or error.errno in _TRANSIENT):
                    time.sleep(0.2 * 2**attempt)
                    continue
                raise SnowflakeError(what_to_do(error, self._settings), error.errno, error.sfqid) from error
            except BaseException:
                # An error of the caller: the session has rolled back and can be reused.
                if session:
                    self._idle.append(session)
                raise
            self._idle.append(session)
            return result


class SessionWarehouse(SnowflakeWarehouse):
    """The schema of an already open connection, such as a stored procedure's: one statement or transaction at a time.

    A stored procedure must not open another session or run two queries at once.
    https://docs.snowflake.com/en/developer-guide/stored-procedure/python/procedure-python-limitations
    """

    def __init__(self, connection: SnowflakeConnection, settings: Settings) -> None:
        # The procedure's code was deployed together with the tables.
        super().__init__(settings, connect=lambda _: lambda: nullcontext(connection), any_version=True)
        self._turn = Lock()

    def _ask(self, work: Callable[[_Session], T]) -> T:
        with self._turn:
            return super()._ask(work)


def _transacted(session: _Session, work: Callable[[Transaction], T], staged: Mapping[str, pa.Table]) -> T:
    """Run one transaction. Staging tables and files come before it, because their statements would commit it."""
    place = f"{STAGE}/{uuid.uuid4()}"
    full = [name for name, table in staged.items() if table.num_rows]
    try:
        for name, table in staged.items():
            types = ", ".join(f"{field.name} {_TYPES[str(field.type)]}" for field in table.schema)
            session.execute(f"CREATE OR REPLACE TEMPORARY TABLE {name} ({types})")
        for name in full:
            content = BytesIO()
            pq.write_table(staged[name], content, coerce_timestamps="us", compression="zstd")
            content.seek(0)
            put = f"PUT 'file://{name}.parquet' @{place} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE"
            session.execute(put, file_stream=content)
        session.execute("BEGIN")
        try:
            if session.execute(_TAKE_TURN) != 1:  # otherwise nothing is locked
                raise SnowflakeError(
                    "the table write_turn does not have its one row; run `churn deploy --target snowflake`"
                )
            for name in full:
                session.execute(
                    f"COPY INTO {name} FROM @{place}/{name}.parquet FILE_FORMAT = (FORMAT_NAME = '{FILE_FORMAT}')"
                    " MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT"
                )
            result = work(_SnowflakeTransaction(session))
        except BaseException:
            with suppress(Error):  # Snowflake rolls back the transaction of a lost session
                session.execute("ROLLBACK")
            raise
        _commit(session)
        return result
    finally:
        if full:
            with suppress(Error):  # `maintain` removes what stays behind
                session.rows(f"REMOVE @{place}")


def _commit(session: _Session) -> None:
    try:
        session.execute("COMMIT")
    except Error as error:
        if not _is_gone(error):
            raise
        raise UnknownOutcomeError(
            "the connection was lost during a commit; run it again: what was already stored is found and not stored twice"
        ) from error


def _is_gone(error: Error) -> bool:
    """Whether the session failed, not the statement."""
    return error.errno in _SESSION_IS_GONE or (
        isinstance(error, OperationalError | InterfaceError) and error.errno in _HTTP_ERRORS
    )


def _refuse_ddl(sql: str) -> str:
    if not _DATA.match(sql):
        raise AssertionError(
            f"a transaction may only read and write data; any other statement would commit it: {sql[:80]}"
        )
    return sql


def _refuse_writes(sql: str) -> None:
    text = _COMMENT.sub(" ", sql)
    if not _READS.match(text):
        raise ReadOnlyError("only one statement that reads is allowed: SELECT, WITH, SHOW, DESCRIBE, EXPLAIN or LIST")
    if "SYSTEM$" in text.upper():
        raise ReadOnlyError("SYSTEM$ functions can change things and are not allowed in a query that only reads")


def _named(text: str, names: Iterable[str]) -> frozenset[str]:
    words = set(re.findall(r"\w+", text.lower()))
    return frozenset(name for name in names if name in words)


def _utc(time_: datetime) -> datetime:
    return time_.astimezone(UTC).replace(tzinfo=None) if time_.tzinfo else time_


def _plain(value: Any) -> Any:
    """A value as the lake would return it: every number with a fraction is a float."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    return _utc(value) if isinstance(value, datetime) else value


def _normal(table: pa.Table) -> pa.Table:
    """A result as the lake would return it: names in lower case, and the usual types instead of the smallest that fit."""
    fields = [pa.field(field.name.lower(), _usual(field.type)) for field in table.schema]
    return table.rename_columns([field.name for field in fields]).cast(pa.schema(fields))


def _usual(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(type_):
        return pa.int64()
    if pa.types.is_decimal(type_):
        return pa.float64() if type_.scale else pa.int64()
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us")
    if pa.types.is_date(type_):  # the connector says date64 of a result without rows
        return pa.date32()
    return type_
