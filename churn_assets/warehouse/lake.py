"""The lake: DuckDB with a DuckLake attached (SQLite catalog, Parquet files), behind the warehouse protocol.

Here belong connections, transactions with their retries, and the lake's own set-up. What is written in them belongs to
the callers; refreshes belong to `churn_assets.dynamic_tables`.
"""

import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from churn_assets.dynamic_tables import engine, streams
from churn_assets.dynamic_tables.catalog import LakeTransaction
from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.dynamic_tables.tables import DynamicTable, Refresh
from churn_assets.errors import ChurnError, ModelFileError
from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.rules import (
    ANALYST_ROLE,
    FILE_BYTES,
    FILE_GRACE_HOURS,
    ORPHAN_HOURS,
    REWRITTEN_DELETE_SHARE,
    SNAPSHOT_RETENTION_HOURS,
)
from churn_assets.warehouse.protocol import (
    Column,
    Credits,
    Maintenance,
    QueryTimeoutError,
    ReadOnlyError,
    T,
    Transaction,
)
from churn_assets.warehouse.turns import turn
from churn_assets.warehouse.values import literal

BUSY_TIMEOUT_MS = 5000
MAX_ATTEMPTS = 20
# Nothing may be fetched while the project runs: the extensions come from wheels of the engine's own version.
# To verify a signature is to hash 70 MB, half a second each time a lake is opened; the wheels' own hashes are in uv.lock.
_EXTENSIONS = ("sqlite_scanner", "ducklake")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_unsigned_extensions": "true",
}
# Rows of a small insert stay in the catalog, so that a micro-batch does not leave a tiny Parquet file in each table.
_INLINE_ROWS = 500
_SETTLED_NS = 100_000_000  # after a write to the catalog, for its commit to have followed
_CONFLICT = re.compile(
    r"database is locked|Failed to commit DuckLake transaction|[Tt]ransaction conflict|database table is locked"
)
# What a SELECT can call to change a lake. On a read-only attachment some of these crash DuckDB 1.5.5 instead of failing.
_MAINTENANCE = re.compile(
    r"\"?(ducklake_\w+|set_option|set_commit_message|expire_snapshots|merge_adjacent_files|cleanup_old_files"
    r"|delete_orphaned_files|rewrite_data_files|flush_inlined_data|add_data_files|query|query_table)\b",
    re.IGNORECASE,
)


# Gives a connection functions; it is told how to read the content of a model's file.
Functions: TypeAlias = Callable[[duckdb.DuckDBPyConnection, Callable[[str], bytes]], None]


class LakeNotFoundError(ChurnError):
    """There is no lake at the given place; the message says how to make one."""


def load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    """Load the lake's extensions into a connection from their wheels, without installing anything for the user.

    They are set so that a transaction sees one state of the lake's catalog.
    """
    for name in _EXTENSIONS:
        folder = Path(str(files(f"duckdb_extension_{name}"))) / "extensions" / f"v{duckdb.__version__}"
        connection.load_extension(str(folder / f"{name}.duckdb_extension"))
    # Else each scan of an SQLite catalog is a connection and a transaction of its own, and rows that are flushed or merged
    # between two scans of one query are missed or counted twice.
    connection.execute("SET GLOBAL sqlite_disable_multithreaded_scans = true")


def _models(lake: Path) -> Path:
    return lake / "models"


def read_model(lake: Path, name: str) -> bytes:
    """The content of a model's file in the lake of a folder; `ModelFileError` where it cannot be read."""
    path = _models(lake) / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"the model's file {path} cannot be read ({error.strerror})") from error


class _LakeTransaction:
    """A transaction on one cursor; implements `Transaction` and the engine's `LakeTransaction`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        rows = self.rows(sql, parameters)
        return rows[0][0] if rows and rows[0] and isinstance(rows[0][0], int) else 0

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        result = self._cursor.execute(sql, parameters)
        return result.fetchall() if result.description else []

    def consume_stream(self, stream: str) -> str:
        changes = f"changes_of_{stream}"
        streams.consume_stream(self, stream, changes)
        return changes


class LakeWarehouse:
    """The lake in folder `path`. Implements `Warehouse`; one object may be used from several threads.

    With `timeout_seconds` a query that takes longer is stopped: `QueryTimeoutError`. `functions` are what its queries may
    call beside DuckDB's own; `wiring.open_lake` gives the model's.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        timeout_seconds: float | None = None,
        functions: Functions | None = None,
    ) -> None:
        self._path = path
        self._read_only = read_only
        self._timeout_seconds = timeout_seconds
        self._functions = functions
        self._readers = deque[duckdb.DuckDBPyConnection]()

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        catalog = self._path / "catalog.sqlite"
        if self._read_only and not catalog.exists():
            raise LakeNotFoundError(f"there is no lake in {self._path}; run `churn deploy` first")
        connection = duckdb.connect(":memory:", config=_CONFIG)
        load_extensions(connection)
        if self._functions is not None:
            self._functions(connection, partial(read_model, self._path))
        # The path is given at each attachment, so that a home may be moved or copied: files are found relative to it.
        options = [
            f"DATA_PATH {literal(str(self._path / 'data'))}",
            "OVERRIDE_DATA_PATH true",
            f"META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS}",
        ]
        if self._read_only:
            options += ["READ_ONLY"]
        else:
            options += ["META_JOURNAL_MODE 'WAL'", f"DATA_INLINING_ROW_LIMIT {_INLINE_ROWS}"]
        attach = f"ATTACH {literal(f'ducklake:sqlite:{catalog}')} AS lake ({', '.join(options)})"
        is_made = self._path / "is_made"
        if self._read_only or is_made.exists():
            connection.execute(attach)
        else:
            with self._turn_to_write():  # the first attachment makes the catalog, and no two may make it at once
                connection.execute(attach)
                is_made.touch()
        return connection

    @contextmanager
    def _cursor(self, staged: Mapping[str, pa.Table] | None = None) -> Generator[duckdb.DuckDBPyConnection]:
        with self._connection.cursor() as cursor:
            for name, table in (staged or {}).items():
                cursor.register(name, table)  # before USE, after which each costs a look into the catalog
            cursor.execute("USE lake")
            yield cursor

    @contextmanager
    def _reader(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A cursor that only reads. It is used again, as USE costs a look into the catalog."""
        try:
            cursor = self._readers.pop()
        except IndexError:
            cursor = self._connection.cursor().execute("USE lake")
        try:
            yield cursor
        except BaseException:
            cursor.close()
            raise
        self._readers.append(cursor)

    def _turn_to_write(self) -> AbstractContextManager[None]:
        # SQLite refuses the commit of a transaction that any other one has overtaken, so writers of one machine take turns
        # instead of running in vain; the kernel ends a dead writer's turn. Correctness does not rest on this: a writer
        # from elsewhere is met by the retry in `transact`.
        return turn(self._path / "writer.lock")

    def deploy(self) -> None:
        scripts = [
            file.read_text().replace("{{ analyst_role }}", ANALYST_ROLE)
            for file in files_in(PROJECT_FILES / "sql", "*.sql")
        ]

        def create(tx: Transaction) -> None:
            for script in [schema_script(), *scripts]:
                for statement in duckdb.extract_statements(script):
                    tx.execute(statement.query)
            tx.execute("CALL ducklake_set_option('lake', 'target_file_size', ?)", [f"{FILE_BYTES}B"])

        self.transact(create)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        if self._read_only:
            _refuse_writes(sql)
        with self._reader() as cursor, _stopped_after(self._timeout_seconds, cursor):
            return cursor.execute(sql, parameters).to_arrow_table()

    def version(self) -> object | None:
        # Every commit writes to the catalog's log, or to the catalog itself. Only the files' states are asked for: opening
        # them a second time in one process would break SQLite's locks. What was just written may not be committed yet.
        files = (self._path / "catalog.sqlite-wal", self._path / "catalog.sqlite")
        states = [(found.st_mtime_ns, found.st_size) for file in files if (found := _stat(file))]
        return None if any(time.time_ns() - written < _SETTLED_NS for written, _ in states) else states

    def columns(self, table: str) -> list[Column]:
        rows = self.query(f"DESCRIBE {table}").to_pylist()
        return [Column(row["column_name"], row["column_type"]) for row in rows]

    def transact(self, work: Callable[[Transaction], T], staged: Mapping[str, pa.Table] | None = None) -> T:
        _ = self._connection  # opened before the turn is taken: it takes time
        attempt = 0
        while True:
            attempt += 1
            with self._turn_to_write(), self._cursor(staged) as cursor:
                try:
                    cursor.begin()
                    result = work(_LakeTransaction(cursor))
                    cursor.commit()
                    return result
                except BaseException as error:
                    _roll_back(cursor)
                    if attempt >= MAX_ATTEMPTS or not (
                        isinstance(error, duckdb.Error) and _CONFLICT.search(str(error))
                    ):
                        raise
            time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))

    def refresh(self, names: Iterable[str], now: datetime) -> list[Refresh]:
        wanted = list(names)
        return self.transact(lambda tx: engine.refresh(tx, wanted, now))

    def past_refreshes(self, after: datetime) -> list[Refresh]:
        rows = self.query(
            "SELECT name, refresh_action AS action, reason, started_at, duration_seconds, rows_inserted, rows_updated,"
            " rows_deleted, lag_seconds_before, position FROM dynamic_table_refresh_history WHERE started_at > ?"
            " ORDER BY started_at",
            [after],
        )
        return [Refresh(**row) for row in rows.to_pylist()]

    def dynamic_tables(self, now: datetime) -> list[DynamicTable]:
        with self._one_snapshot() as tx:
            return engine.dynamic_tables(tx, now)

    def store_model(self, name: str, content: bytes) -> None:
        folder = _models(self._path)
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / f"{name}.partial"
        written.write_bytes(content)
        written.replace(folder / name)

    def read_model(self, name: str) -> bytes:
        return read_model(self._path, name)

    def credits(self, since: date) -> list[Credits]:
        return []

    def tasks(self) -> dict[str, bool]:
        return {}

    def stream_has_data(self, stream: str) -> bool:
        with self._one_snapshot() as tx:
            return streams.stream_has_data(tx, stream)

    def maintain(self, order: Mapping[str, str], now: datetime) -> Maintenance:
        before = self._files()
        # Each step has a turn to write of its own, so that an ingestion waits for one table at most.
        self.transact(lambda tx: _sort_by(tx, {**order, **engine.day_keys(tx)}))
        for table in before:
            for step in (
                "ducklake_flush_inlined_data('lake', table_name => ?)",
                f"ducklake_rewrite_data_files('lake', ?, delete_threshold => {REWRITTEN_DELETE_SHARE})",
                f"ducklake_merge_adjacent_files('lake', ?, max_file_size => {FILE_BYTES // 2})",
            ):
                self.transact(lambda tx, step=step, table=table: tx.rows(f"CALL {step}", [table]))
        self.transact(lambda tx: engine.refresh(tx, [], now))  # those that have nothing to read hold no snapshot
        expired = self.transact(lambda tx: _expire(tx, now - timedelta(hours=SNAPSHOT_RETENTION_HOURS)))
        deleted = 0
        # Compared as text on an SQLite catalog, every file that was given up on the same day as this bound counts as
        # older; a day is added so that the grace is never less than FILE_GRACE_HOURS.
        given_up_before = now - timedelta(days=1, hours=FILE_GRACE_HOURS)
        written_before = now - timedelta(hours=ORPHAN_HOURS)
        for step, bound in (("cleanup_old_files", given_up_before), ("delete_orphaned_files", written_before)):
            call = f"CALL ducklake_{step}('lake', older_than => TIMESTAMPTZ '{bound.isoformat(sep=' ')}+00')"
            deleted += len(self.transact(lambda tx, call=call: tx.rows(call)))
        after = self._files()
        return Maintenance(
            files={table: (files, after[table][0]) for table, (files, _) in before.items()},
            bytes=(sum(size for _, size in before.values()), sum(size for _, size in after.values())),
            snapshots_expired=expired,
            files_deleted=deleted,
        )

    def _files(self) -> dict[str, tuple[int, int]]:
        """The number of files, those of deletions among them, and their bytes, by table."""
        rows = self.query(
            "SELECT table_name, file_count + delete_file_count, file_size_bytes + delete_file_size_bytes"
            " FROM ducklake_table_info('lake') ORDER BY table_name"
        )
        return {name: (files, size) for name, files, size in zip(*rows.to_pydict().values(), strict=True)}

    @contextmanager
    def _one_snapshot(self) -> Generator[_LakeTransaction]:
        with self._cursor() as cursor:
            cursor.begin()
            try:
                yield _LakeTransaction(cursor)
            finally:
                cursor.rollback()


@contextmanager
def _stopped_after(seconds: float | None, cursor: duckdb.DuckDBPyConnection) -> Generator[None]:
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise QueryTimeoutError(
            f"the query was stopped after {seconds:g} seconds; ask for fewer rows or fewer joins"
        ) from error
    finally:
        timer.cancel()
        timer.join()  # else it could interrupt a cursor that is closed


def _sort_by(tx: Transaction, order: Mapping[str, str]) -> None:
    known = dict(
        tx.rows(
            "SELECT table_name, expression FROM __ducklake_metadata_lake.ducklake_sort_info AS info"
            " JOIN __ducklake_metadata_lake.ducklake_sort_expression USING (sort_id)"
            " JOIN __ducklake_metadata_lake.ducklake_table AS named ON named.table_id = info.table_id"
            " AND named.end_snapshot IS NULL WHERE info.end_snapshot IS NULL"
        )
    )
    for table, column in order.items():
        if known.get(table) != column:
            tx.execute(f"ALTER TABLE {table} SET SORTED BY ({column} ASC)")


def _expire(tx: LakeTransaction, older_than: datetime) -> int:
    """Give up snapshots that are older, and that no dynamic table or stream has yet to read; how many there were."""
    # By their numbers: `older_than` compares times as text on an SQLite catalog, and takes all of the same day as older.
    versions = tx.rows(
        "SELECT snapshot_id FROM __ducklake_metadata_lake.ducklake_snapshot"
        " WHERE make_timestamp(epoch_us(snapshot_time::TIMESTAMPTZ)) < ? AND snapshot_id < ?",
        [older_than, engine.oldest_needed_snapshot(tx)],
    )
    if versions:
        tx.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{', '.join(str(v) for (v,) in versions)}])")
    return len(versions)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    with suppress(duckdb.TransactionException):  # a failed commit has ended the transaction already
        cursor.rollback()


def _refuse_writes(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise ReadOnlyError(str(error).splitlines()[0]) from error
    allowed = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
    if len(statements) != 1 or statements[0].type not in allowed:
        raise ReadOnlyError("only one statement that reads is allowed: SELECT, FROM, WITH, DESCRIBE, SHOW or EXPLAIN")
    words = _words(sql)
    if statements[0].type == duckdb.StatementType.EXPLAIN and re.match(r"ANALY[SZ]E|\(", words[1], re.IGNORECASE):
        raise ReadOnlyError("EXPLAIN ANALYZE runs its statement and is not allowed; use EXPLAIN")
    for word, following in pairwise(words):
        if following.startswith("(") and (found := _MAINTENANCE.match(word)):
            raise ReadOnlyError(f"{found[1]}() is not allowed in a query that only reads")


def _words(sql: str) -> list[str]:
    """The statement from each token to the next; a comment follows the token before it."""
    text = sql.encode()  # the tokenizer counts bytes
    starts = [start for start, _ in duckdb.tokenize(sql)]
    return [text[start:end].decode() for start, end in pairwise([*starts, len(text)])]
