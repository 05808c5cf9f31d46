"""The lake: DuckDB with a DuckLake attached (Parquet files, and a catalog in a database), behind the warehouse protocol.

This module holds connections, transactions with their retries, and the lake's own set-up. Callers decide what is written;
refreshes are in `churn_assets.dynamic_tables`.
"""

import math
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables import engine, streams
from churn_assets.dynamic_tables.catalog import Lake, LakeTransaction
from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.dynamic_tables.difference import FEW_ROWS
from churn_assets.dynamic_tables.tables import DynamicTable, DynamicTableError, Refresh
from churn_assets.errors import ChurnError
from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.rules import (
    ANALYST_ROLE,
    EVERY_SNAPSHOT_HOURS,
    FILE_BYTES,
    FILE_GRACE_HOURS,
    MANY_FILES,
    MANY_INLINED_ROWS,
    ORPHAN_HOURS,
    REFRESHES_DAYS,
    REWRITTEN_DELETE_SHARE,
    SMALL_FILE_BYTES,
    SNAPSHOT_RETENTION_HOURS,
)
from churn_assets.warehouse import lake_files
from churn_assets.warehouse.catalog_copy import copy_catalog
from churn_assets.warehouse.catalog_file import narrow_statistics
from churn_assets.warehouse.lake_files import LakeFile
from churn_assets.warehouse.lake_place import CONFIG, LakePlace
from churn_assets.warehouse.protocol import (
    Column,
    Credits,
    Damage,
    FileCheck,
    Maintenance,
    QueryTimeoutError,
    ReadOnlyError,
    T,
    Transaction,
    WarehouseError,
)
from churn_assets.warehouse.schema_version import (
    NOTE_VERSION,
    READ_VERSION,
    SCHEMA_VERSION,
    UNVERSIONED,
    refuse_another,
    refuse_newer,
)
from churn_assets.warehouse.values import literal

MAX_ATTEMPTS = 20
# A smaller insert stays in the catalog, so that a micro-batch does not leave a tiny Parquet file in each table.
_INLINE_ROWS = 500
_SPILL = "churn-spill-"  # what a process keeps in files because its memory is full
_FLUSH = "CALL ducklake_flush_inlined_data('lake', table_name => ?)"
_RELEASED = datetime.fromisoformat("2000-01-01")  # the files to be deleted have a time before it
_TIDY_SECONDS = 10.0  # between two looks at what there is to tidy up, in a process that refreshes again and again
_CONFLICT = re.compile(
    r"database is locked|Failed to commit DuckLake transaction|[Tt]ransaction conflict|database table is locked"
    r"|could not serialize access"
)
# Functions with which a SELECT can change a lake. On a read-only lake some of them crash DuckDB 1.5.5 instead of failing.
_MAINTENANCE = re.compile(
    r"\"?(ducklake_\w+|set_option|set_commit_message|expire_snapshots|merge_adjacent_files|cleanup_old_files"
    r"|delete_orphaned_files|rewrite_data_files|flush_inlined_data|add_data_files|query|query_table|postgres_\w+)\b",
    re.IGNORECASE,
)


# Registers functions on a connection; the second argument reads a model's file by its name.
Functions: TypeAlias = Callable[[duckdb.DuckDBPyConnection, Callable[[str], bytes]], None]


class LakeNotFoundError(ChurnError):
    """There is no lake in the given folder; the message says how to create one."""


class LakeDamagedError(ChurnError):
    """The lake's catalog is lost or cannot be opened; the message gives the reason."""


class _LakeTransaction:
    """A transaction on one cursor; implements `Transaction` and the engine's `LakeTransaction`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self.lake: Lake | None = None

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
    """A lake in a folder of this machine, or where `place` says. Implements `Warehouse`; several threads may use one object.

    With `timeout_seconds`, a query that takes longer is stopped with `QueryTimeoutError`. What needs more memory than
    `memory_limit`, such as "4GB", is done with files; when None, half of what the machine or the container has. `functions`
    adds functions that its queries can call; `wiring.open_lake` passes those of the model. A lake whose tables are of another
    version is refused with `SchemaVersionError`, unless `any_version`: then `deploy` brings those of an earlier one to this.
    """

    def __init__(
        self,
        place: Path | LakePlace,
        *,
        read_only: bool = False,
        timeout_seconds: float | None = None,
        memory_limit: str | None = None,
        functions: Functions | None = None,
        any_version: bool = False,
    ) -> None:
        self.place = LakePlace.here(place) if isinstance(place, Path) else place
        self._read_only = read_only
        self._timeout_seconds = timeout_seconds
        self._memory_limit = memory_limit
        self._functions = functions
        self._any_version = any_version
        self._readers = deque[duckdb.DuckDBPyConnection]()
        self._tidied_at = -math.inf  # of the monotonic clock

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        place = self.place
        is_made, is_empty = place.is_made(), not place.catalog.exists()
        if is_empty and self._read_only and not is_made:
            raise LakeNotFoundError(_why_there_is_none(place))
        if is_empty and is_made:
            # A new catalog would take the files of the old one for orphans and delete them.
            raise LakeDamagedError(f"the lake in {place} has lost its catalog {place.catalog}; {place.catalog.way_out}")
        connection = duckdb.connect(":memory:", config=CONFIG)
        place.prepare(connection)
        self._limit_memory(connection)
        if self._functions is not None:
            self._functions(connection, place.read_model)
        if self._read_only or is_made:
            self._attach(connection)
        else:
            with self._turn_to_write():  # the first ATTACH creates the catalog, which two processes must not do at once
                self._attach(connection)
                place.note_made()
        if not self._any_version and (found := _schema_version(_LakeTransaction(connection))) is not None:
            refuse_another(found, f"the lake in {place}")
        return connection

    def _attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        options = {} if self._read_only else {"data_inlining_row_limit": _INLINE_ROWS}
        try:
            self.place.attach(connection, read_only=self._read_only, **options)
        except duckdb.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise LakeDamagedError(
                f"the lake in {self.place} cannot be opened: {reason}; {self.place.catalog.way_out}"
            ) from error

    def _limit_memory(self, connection: duckdb.DuckDBPyConnection) -> None:
        limit = self._memory_limit
        if limit is None:  # DuckDB takes 80 %
            [(of_duckdb,)] = connection.execute("SELECT current_setting('memory_limit')").fetchall()
            number, unit = of_duckdb.split()
            limit = f"{float(number) * 5 / 8} {unit}"
        connection.execute("SET memory_limit = ?", [limit])
        # Not where the command was started, as by default. A folder for each process: DuckDB's names are the same in all of them.
        folder = Path(tempfile.gettempdir()) if self._read_only else self.place.scratch
        connection.execute("SET temp_directory = ?", [str(folder / f"{_SPILL}{os.getpid()}")])

    @contextmanager
    def _cursor(self, staged: Mapping[str, pa.Table] | None = None) -> Generator[duckdb.DuckDBPyConnection]:
        with self._connection.cursor() as cursor:
            for name, table in (staged or {}).items():
                cursor.register(name, table)  # before USE; after it, each costs a look-up in the catalog
            cursor.execute("USE lake")
            yield cursor

    @contextmanager
    def _reader(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A cursor that only reads. Cursors are reused, because USE costs a look-up in the catalog."""
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
        # The catalog refuses to commit a transaction that another one has overtaken. So the writers take turns instead of
        # working in vain. Correctness does not depend on this: `transact` repeats what was refused.
        return self.place.turns.turn("writer.lock")

    def deploy(self) -> list[str]:
        scripts = [
            file.read_text().replace("{{ analyst_role }}", ANALYST_ROLE)
            for file in files_in(PROJECT_FILES / "sql", "*.sql")
        ]

        statements = [one for script in [schema_script(), *scripts] for one in duckdb.extract_statements(script)]

        def create(tx: LakeTransaction) -> list[str]:
            before = _schema_version(tx)
            refuse_newer(before or UNVERSIONED, f"the lake in {self.place}")
            done = _missing_columns(tx, statements)
            for addition in done:
                tx.execute(addition)
            for statement in statements:
                tx.execute(statement.query)
            tx.execute("CALL ducklake_set_option('lake', 'target_file_size', ?)", [f"{FILE_BYTES}B"])
            # Half the bytes of the default, at no more CPU.
            tx.execute("CALL ducklake_set_option('lake', 'parquet_compression', 'zstd')")
            for table in _not_inlined(tx):  # by an earlier version of this project
                tx.execute(
                    "CALL ducklake_set_option('lake', 'data_inlining_row_limit', ?, table_name => ?)",
                    [_INLINE_ROWS, table],
                )
            if before == SCHEMA_VERSION:
                return done
            tx.execute(NOTE_VERSION, [SCHEMA_VERSION, utc_now()])
            return done if before is None else [*done, f"version {before} is now version {SCHEMA_VERSION}"]

        return self.transact(create)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        if self._read_only:
            _refuse_writes(sql)
        with self._reader() as cursor, _stopped_after(self._timeout_seconds, cursor):
            return cursor.execute(sql, parameters).to_arrow_table()

    def identity(self) -> str:
        return self._identity

    @cached_property
    def _identity(self) -> str:
        rows = self.query(
            "SELECT schema_uuid::VARCHAR AS id FROM __ducklake_metadata_lake.ducklake_schema WHERE schema_name = 'main'"
        )
        return rows["id"][0].as_py()

    def version(self) -> object | None:
        return self.place.catalog.version()

    def columns(self, table: str) -> list[Column]:
        rows = self.query(f"DESCRIBE {table}").to_pylist()
        return [Column(row["column_name"], row["column_type"]) for row in rows]

    def transact(self, work: Callable[[_LakeTransaction], T], staged: Mapping[str, pa.Table] | None = None) -> T:
        if staged and sum(table.num_rows for table in staged.values()) <= FEW_ROWS:
            with self._one_thread():
                return self._in_one_turn(lambda: self._once(work, staged))
        return self._in_one_turn(lambda: self._once(work, staged))

    @contextmanager
    def _one_thread(self) -> Generator[None]:
        """Work begins with one thread, as few rows need it; a refresh that finds many takes the others back."""
        with self._connection.cursor() as cursor:
            cursor.execute("SET threads = 1")
            try:
                yield
            finally:
                cursor.execute("RESET threads")

    def _in_one_turn(self, act: Callable[[], T]) -> T:
        """Take a turn to write for one or several transactions; all of them are repeated after a conflict."""
        _ = self._connection  # opened before taking a turn, because it is slow
        attempt = 0
        while True:
            attempt += 1
            try:
                with self._turn_to_write():
                    return act()
            except duckdb.Error as error:
                if attempt >= MAX_ATTEMPTS or not _CONFLICT.search(str(error)):
                    raise
            time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))

    def _once(self, work: Callable[[_LakeTransaction], T], staged: Mapping[str, pa.Table] | None = None) -> T:
        with self._cursor(staged) as cursor:
            try:
                cursor.begin()
                result = work(_LakeTransaction(cursor))
                cursor.commit()
                return result
            except BaseException:
                _roll_back(cursor)
                raise

    def _compact(self, table: str, smaller_than: int) -> None:
        """Write the inlined rows of a table to a file, and merge its files that have less than so many bytes.

        In one turn: DuckLake 1.0 cannot take a file with floating-point numbers away from a table of which an SQLite catalog
        holds rows ("isnan(VARCHAR)"), and another writer could add some.
        """
        steps = (
            _FLUSH,
            f"CALL ducklake_rewrite_data_files('lake', ?, delete_threshold => {REWRITTEN_DELETE_SHARE})",
            f"CALL ducklake_merge_adjacent_files('lake', ?, max_file_size => {smaller_than})",
        )
        self._in_one_turn(lambda: [self._once(lambda tx, step=step: tx.rows(step, [table])) for step in steps])

    def refresh(self, names: Iterable[str], now: datetime) -> list[Refresh]:
        return self._refresh(list(names), now, lambda _, results: results)

    def refresh_and(self, names: Iterable[str], now: datetime, then: Callable[[Transaction, list[Refresh]], T]) -> T:
        wanted = list(names)
        try:
            return self._refresh(wanted, now, then)
        except (DynamicTableError, duckdb.Error):
            # Fresh rows do not wait for what follows from them, and a stream that is behind compares what is committed.
            results = self.refresh(wanted, now)
            return self.transact(lambda tx: then(tx, results))

    def _refresh(self, wanted: list[str], now: datetime, then: Callable[[Transaction, list[Refresh]], T]) -> T:
        if time.monotonic() >= self._tidied_at + _TIDY_SECONDS:
            self._tidied_at = time.monotonic()
            self._tidy(wanted)
        with self._one_thread():
            return self.transact(lambda tx: then(tx, engine.refresh(tx, wanted, now)))

    def rebuild(self, names: Iterable[str], now: datetime) -> list[Refresh]:
        """Compute dynamic tables, and what reads them, anew without reading the rows that they have. `now` is UTC.

        `DynamicTableError` if one is none, or if a stream reads it.
        """
        wanted = list(names)
        return self.transact(lambda tx: engine.rebuild(tx, wanted, now))

    def _tidy(self, often_written: Collection[str]) -> None:
        """Keep what frequent small writes leave behind from growing until the next maintenance.

        The catalog keeps inlined rows after they were replaced, and each scan reads them. Of a table with many small files, each
        refresh writes a file of deleted rows for nearly every one.
        """
        rows = self._inlined_rows()
        for table, (count, _) in self._files().items():
            if table in often_written and count > MANY_FILES:
                self._compact(table, SMALL_FILE_BYTES)
            elif rows.get(table, 0) > MANY_INLINED_ROWS:
                self.transact(lambda tx, table=table: tx.rows(_FLUSH, [table]))

    def _inlined_rows(self) -> dict[str, int]:
        """By table, the rows that the catalog holds, also those that were replaced."""
        of_tables = self.query(
            "SELECT named.table_name AS name, inlined.table_name AS inlined"
            " FROM __ducklake_metadata_lake.ducklake_inlined_data_tables AS inlined"
            " JOIN __ducklake_metadata_lake.ducklake_table AS named ON named.table_id = inlined.table_id"
            " AND named.end_snapshot IS NULL"
        )
        counts = " UNION ALL ".join(
            f"SELECT {literal(table)} AS name, count(*) AS rows FROM __ducklake_metadata_lake.{inlined}"
            for table, inlined in zip(*of_tables.to_pydict().values(), strict=True)
        )
        if not counts:
            return {}
        found = self.query(f"SELECT name, sum(rows)::BIGINT FROM ({counts}) GROUP BY name ORDER BY name")
        return dict(zip(*found.to_pydict().values(), strict=True))

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
        self.place.store_model(name, content)

    def read_model(self, name: str) -> bytes:
        return self.place.read_model(name)

    def credits(self, since: date) -> list[Credits]:
        return []

    def tasks(self) -> dict[str, bool]:
        return {}

    def stream_has_data(self, stream: str) -> bool:
        with self._one_snapshot() as tx:
            return streams.stream_has_data(tx, stream)

    def maintain(self, order: Mapping[str, str], now: datetime) -> Maintenance:
        before = self._files()
        # Each step takes its own turn to write, so that an ingestion waits for one table at most.
        self.transact(
            lambda tx: tx.execute(
                "DELETE FROM dynamic_table_refresh_history WHERE started_at < ?", [now - timedelta(days=REFRESHES_DAYS)]
            )
        )
        self.transact(lambda tx: _sort_by(tx, {**order, **engine.day_keys(tx)}))
        for table, sizes in self._file_sizes().items():
            self._compact(table, _merged_below(sizes))
        self.transact(
            lambda tx: engine.refresh(tx, [], now)
        )  # afterwards, tables that have nothing to read hold no old snapshot
        expired = self.transact(lambda tx: _expire(tx, now))
        given_up_before, written_before = now - timedelta(hours=FILE_GRACE_HOURS), now - timedelta(hours=ORPHAN_HOURS)
        self.transact(lambda tx: _release(tx, given_up_before))
        deleted = 0
        for step, bound in (("cleanup_old_files", _RELEASED), ("delete_orphaned_files", written_before)):
            call = f"CALL ducklake_{step}('lake', older_than => TIMESTAMPTZ '{bound.isoformat(sep=' ')}+00')"
            deleted += len(self.transact(lambda tx, call=call: tx.rows(call)))
        for left in self.place.scratch.glob(f"{_SPILL}*"):  # by a process that was killed
            if left.stat().st_mtime < (now - timedelta(hours=ORPHAN_HOURS)).replace(tzinfo=UTC).timestamp():
                shutil.rmtree(left, ignore_errors=True)
        after = self._files()
        return Maintenance(
            files={table: (files, after[table][0]) for table, (files, _) in before.items()},
            bytes=(sum(size for _, size in before.values()), sum(size for _, size in after.values())),
            snapshots_expired=expired,
            files_deleted=deleted,
        )

    @contextmanager
    def moving(self) -> Generator[Callable[[LakePlace], None]]:
        """Have the turn to write, and a function that copies the catalog to a place that has none.

        Rows that are in the catalog are written to files before, because no other catalog could take them.
        """
        _ = self._connection
        with self._turn_to_write():
            self._once(lambda tx: tx.rows("CALL ducklake_flush_inlined_data('lake')"))
            yield partial(copy_catalog, self.place)

    def damage(self) -> list[Damage]:
        return lake_files.known_damage(self.place, self._live_files)

    def check_files(self, share: float, now: datetime) -> FileCheck:
        return lake_files.check(self.place, self._live_files, share, now)

    def forget_history(self, catch_up: Callable[[], None]) -> str | None:
        # As in `maintain`, the larger steps take turns to write of their own.
        self.transact(lambda tx: tx.rows("CALL ducklake_flush_inlined_data('lake')"))
        step = "CALL ducklake_rewrite_data_files('lake', ?, delete_threshold => 0)"
        for table in self.transact(_tables_with_deleted_rows):
            self.transact(lambda tx, table=table: tx.rows(step, [table]))
        [(since,)] = self.transact(_snapshot)
        catch_up()  # now, because the snapshots from before need the files from before
        self.transact(lambda tx: _expire_all_before(tx, since))
        # A file of no snapshot is an unfinished one of a writer that was killed: who writes now would hold the turn.
        for left in ("cleanup_old_files", "delete_orphaned_files"):
            self.transact(lambda tx, left=left: tx.rows(f"CALL ducklake_{left}('lake', cleanup_all => true)"))
        self.transact(lambda tx: [narrow_statistics(tx, table) for table in self._files()])
        with self._turn_to_write():
            self.place.catalog.give_up_space()
        return None

    def _live_files(self) -> list[LakeFile]:
        try:
            with self._one_snapshot() as tx:
                oldest = engine.oldest_needed_snapshot(tx)
        except duckdb.Error:  # the positions are among what is damaged, or nothing is deployed yet
            oldest = -1
        rows = self.query(lake_files.FILES, [oldest]).to_pydict()
        return [LakeFile(*row) for row in zip(*rows.values(), strict=True)]

    def _files(self) -> dict[str, tuple[int, int]]:
        """By table, the number of files, including those of deletions, and their size in bytes."""
        # DuckLake's `ducklake_table_info` also counts the files of earlier snapshots.
        rows = self.query(
            "SELECT table_name, count(size), coalesce(sum(size), 0)::BIGINT FROM __ducklake_metadata_lake.ducklake_table AS named"
            " LEFT JOIN (SELECT table_id, file_size_bytes AS size FROM __ducklake_metadata_lake.ducklake_data_file"
            " WHERE end_snapshot IS NULL UNION ALL"
            " SELECT table_id, file_size_bytes FROM __ducklake_metadata_lake.ducklake_delete_file WHERE end_snapshot IS NULL"
            " AND data_file_id IN (SELECT data_file_id FROM __ducklake_metadata_lake.ducklake_data_file"
            " WHERE end_snapshot IS NULL)) AS files ON files.table_id = named.table_id"
            " WHERE named.end_snapshot IS NULL GROUP BY table_name ORDER BY table_name"
        )
        return {name: (files, size) for name, files, size in zip(*rows.to_pydict().values(), strict=True)}

    def _file_sizes(self) -> dict[str, list[int]]:
        """By table, the bytes of each of its data files."""
        rows = self.query(
            "SELECT table_name, list(file_size_bytes) FILTER (WHERE file_size_bytes IS NOT NULL)"
            " FROM __ducklake_metadata_lake.ducklake_table AS named LEFT JOIN __ducklake_metadata_lake.ducklake_data_file AS file"
            " ON file.table_id = named.table_id AND file.end_snapshot IS NULL"
            " WHERE named.end_snapshot IS NULL GROUP BY table_name ORDER BY table_name"
        )
        return {name: sizes or [] for name, sizes in zip(*rows.to_pydict().values(), strict=True)}

    @contextmanager
    def _one_snapshot(self) -> Generator[_LakeTransaction]:
        with self._cursor() as cursor:
            cursor.begin()
            try:
                yield _LakeTransaction(cursor)
            finally:
                cursor.rollback()


def _merged_below(sizes: Iterable[int]) -> int:
    """The size below which files are merged: small ones, and a larger one when the smaller ones together have its size.

    So a row is written again a few times, and not at each maintenance for as long as its file can still grow.
    """
    bound, total = SMALL_FILE_BYTES, 0
    for size in sorted(size for size in sizes if size < FILE_BYTES // 2):
        if size <= total:
            bound = max(bound, size + 1)
        total += size
    return bound


def _why_there_is_none(place: LakePlace) -> str:
    if place.folder.is_local:
        path = Path(place.folder.absolute)
        there = next(found for found in path.parents if os.path.lexists(found))
        if not there.is_dir():
            return f"there is no lake in {place}, because {there} is a file; set CHURN_HOME to a folder"
    return f"there is no lake in {place}; run `churn deploy` first"


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
        timer.join()  # otherwise it could interrupt a closed cursor


def _schema_version(lake: LakeTransaction) -> int | None:
    """The version of the lake's tables; None if it has none yet."""
    tables = {name for (name,) in lake.rows("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'")}
    if "schema_version" in tables:
        return lake.rows(READ_VERSION.format(table="lake.schema_version"))[0][0] or UNVERSIONED
    return UNVERSIONED if "kafka_offsets" in tables else None  # which every version has


def _missing_columns(tx: LakeTransaction, statements: Iterable[duckdb.Statement]) -> list[str]:
    """The statements that add the columns which the tables of an earlier version lack. Columns are only added."""
    columns = "SELECT table_name, column_name, data_type, column_default FROM duckdb_columns() WHERE database_name = "
    with duckdb.connect(":memory:", config=CONFIG) as declared:
        for statement in statements:
            if statement.type == duckdb.StatementType.CREATE:
                declared.execute(statement.query)
        wanted = declared.execute(f"{columns}'memory' ORDER BY table_oid, column_index").fetchall()
    has = {(table, column) for table, column, *_ in tx.rows(f"{columns}'lake'")}
    tables = {table for table, _ in has}
    # NOT NULL cannot be said of a column that the same transaction adds.
    return [
        f"ALTER TABLE {table} ADD COLUMN {column} {type_}" + (f" DEFAULT {default}" if default else "")
        for table, column, type_, default in wanted
        if table in tables and (table, column) not in has
    ]


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


def _expire(tx: LakeTransaction, now: datetime) -> int:
    """Expire snapshots whose time is over and that no dynamic table or stream still has to read; returns their number.

    All of the last half hour stay, of the time before then the last one of each hour. So the many files of a time with many
    writes are not kept for as long as time travel reaches.
    """
    # By number, because `older_than` compares times as text on an SQLite catalog and takes the whole day as older.
    versions = tx.rows(
        "SELECT snapshot_id FROM (SELECT snapshot_id, made_at,"
        " lead(made_at) OVER (ORDER BY snapshot_id) AS next_made_at FROM (SELECT snapshot_id,"
        " make_timestamp(epoch_us(snapshot_time::TIMESTAMPTZ)) AS made_at FROM __ducklake_metadata_lake.ducklake_snapshot))"
        " WHERE snapshot_id < ? AND (made_at < ?"
        " OR next_made_at < ? AND date_trunc('hour', next_made_at) = date_trunc('hour', made_at))",
        [
            engine.oldest_needed_snapshot(tx),
            now - timedelta(hours=SNAPSHOT_RETENTION_HOURS),
            now - timedelta(hours=EVERY_SNAPSHOT_HOURS),
        ],
    )
    if versions:
        tx.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{', '.join(str(v) for (v,) in versions)}])")
    return len(versions)


def _release(tx: LakeTransaction, given_up_before: datetime) -> None:
    """Let the files that were given up before a time be deleted.

    Deleting compares times as text on an SQLite catalog, and takes all that was given up on the day of its bound as older. So
    the comparison is made here, and what is to go gets a day of its own.
    """
    tx.execute(
        "UPDATE __ducklake_metadata_lake.ducklake_files_scheduled_for_deletion SET schedule_start = ?"
        " WHERE make_timestamp(epoch_us(schedule_start::TIMESTAMPTZ)) < ?",
        [f"{_RELEASED - timedelta(days=1)}+00", given_up_before],
    )


def _not_inlined(tx: LakeTransaction) -> list[str]:
    rows = tx.rows(
        "SELECT table_name FROM __ducklake_metadata_lake.ducklake_metadata AS option"
        " JOIN __ducklake_metadata_lake.ducklake_table AS named ON named.table_id = option.scope_id"
        " WHERE option.scope = 'table' AND option.key = 'data_inlining_row_limit' AND option.value = '0'"
        " AND named.end_snapshot IS NULL ORDER BY table_name"
    )
    return [table for (table,) in rows]


def _tables_with_deleted_rows(tx: LakeTransaction) -> list[str]:
    rows = tx.rows("SELECT table_name FROM ducklake_table_info('lake') WHERE delete_file_count > 0 ORDER BY table_name")
    return [table for (table,) in rows]


def _snapshot(tx: LakeTransaction) -> list[tuple[Any, ...]]:
    return tx.rows("FROM ducklake_current_snapshot('lake')")


def _expire_all_before(tx: LakeTransaction, since: int) -> None:
    """Expire every snapshot but those that a dynamic table or stream still has to read, which must be later than `since`."""
    [(late, position)] = tx.rows(
        "SELECT arg_min(name, position), min(position) FROM (SELECT name, least(position, base_position) AS position"
        " FROM dynamic_tables UNION ALL SELECT name, position FROM streams)"
    ) or [(None, None)]
    if position is not None and position < since:
        raise WarehouseError(f"{late} still has to read snapshot {position}; run Dagster until it has, then try again")
    [(current,)] = _snapshot(tx)
    bound = current if position is None else min(position, current)
    versions = tx.rows(
        "SELECT snapshot_id FROM __ducklake_metadata_lake.ducklake_snapshot WHERE snapshot_id < ?", [bound]
    )
    if versions:
        tx.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{', '.join(str(v) for (v,) in versions)}])")


def _roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    with suppress(duckdb.TransactionException):  # a failed commit has already ended the transaction
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
    """The statement's text, cut at the start of each token; a comment belongs to the token before it."""
    text = sql.encode()  # the tokenizer counts bytes
    starts = [start for start, _ in duckdb.tokenize(sql)]
    return [text[start:end].decode() for start, end in pairwise([*starts, len(text)])]
