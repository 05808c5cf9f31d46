"""The interface of a warehouse. Two engines implement it: the lake (`lake`) and Snowflake (`snowflake`).

Code that uses this interface never asks which engine it is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from churn_assets.dynamic_tables.tables import DynamicTable, Refresh
from churn_assets.errors import ChurnError

T = TypeVar("T")


class ReadOnlyError(ChurnError):
    """A query does more than read; the message says what is allowed."""


class WarehouseError(ChurnError):
    """The warehouse refused a statement; `number` and `query_id` are its own, where it gave them."""

    def __init__(self, message: str, number: int | None = None, query_id: str | None = None) -> None:
        super().__init__(message)
        self.number = number
        self.query_id = query_id


class QueryTimeoutError(WarehouseError):
    """A query took longer than allowed; the message says the limit."""


@dataclass(frozen=True)
class Column:
    """One column of a table as the warehouse knows it."""

    name: str
    type: str


@dataclass(frozen=True)
class Maintenance:
    """What maintenance did. `files` counts files by table, `bytes` the size of all data files, each (before, after)."""

    files: dict[str, tuple[int, int]]
    bytes: tuple[int, int]
    snapshots_expired: int
    files_deleted: int


@dataclass(frozen=True)
class Damage:
    """A file of the warehouse that is not as it was written. `table` is empty for a file that belongs to no table."""

    file: str
    table: str
    problem: str


@dataclass(frozen=True)
class FileCheck:
    """What a check of the warehouse's files read, and all damage that is known after it. `new`: read for the first time."""

    files: int
    read: int
    new: int
    bytes_read: int
    damage: list[Damage]


@dataclass(frozen=True)
class Credits:
    """What one service of the warehouse's provider billed for one day (UTC)."""

    day: date
    service: str
    credits: float


class Statements(Protocol):
    """Runs statements, with parameters bound to `?`."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the number of rows it changed."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        ...


class Transaction(Statements, Protocol):
    """Statements that take effect together or not at all."""

    def consume_stream(self, stream: str) -> str:
        """Read what changed in the stream's table since the stream was last read; returns the name of a table with the changes.

        That table has the columns of the stream's table and `change_action`: DELETE for a row as it was, INSERT for a row as
        it is. It is readable in this transaction only, until the stream is consumed again. The stream's position moves when
        the transaction commits.
        """
        ...


class Queries(Protocol):
    """Answers queries."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of one query."""
        ...


class Warehouse(Queries, Protocol):
    """Tables, transactions, dynamic tables and the files of models.

    A statement is written once, in SQL that means the same in every warehouse, and is sent unchanged.
    `churn_assets_tests/snowflake/one_sql.py` defines and tests that SQL.
    """

    def deploy(self) -> Sequence[str]:
        """Create every missing table and column, all or none; returns what an earlier version's tables got. Idempotent.

        Nothing is ever dropped. `SchemaVersionError` if the tables are of a newer version than this code.
        """
        ...

    def identity(self) -> str:
        """What tells this warehouse from every other one, and stays the same when it is moved or restored."""
        ...

    def version(self) -> object | None:
        """A value that changes with each commit, cheap enough to ask for several times a second.

        None if the warehouse cannot tell for free, or if a write of the last moment may not be committed yet.
        """
        ...

    def columns(self, table: str) -> list[Column]:
        """The columns of a table in order."""
        ...

    def transact(self, work: Callable[[Transaction], T], staged: Mapping[str, pa.Table] | None = None) -> T:
        """Run `work` in one transaction, with the `staged` tables readable by name.

        Transactions are serializable: one that another writer has overtaken is rolled back and runs `work` again, even if
        both only inserted. So `work` must have no other effects.
        """
        ...

    def refresh(self, names: Iterable[str], now: datetime) -> list[Refresh]:
        """Bring dynamic tables up to date, sources before readers. `now` is UTC; its date is the last day of the windows."""
        ...

    def refresh_and(self, names: Iterable[str], now: datetime, then: Callable[[Transaction, list[Refresh]], T]) -> T:
        """Bring dynamic tables up to date and do what follows from it; returns what `then` returns.

        Where the warehouse can, all of it is one transaction. If `then` raises, the tables are up to date nevertheless.
        `then` may be called again, as the work of `transact` may.
        """
        ...

    def past_refreshes(self, after: datetime) -> list[Refresh]:
        """All refreshes that began after a time (UTC), whoever asked for them, in order."""
        ...

    def dynamic_tables(self, now: datetime) -> list[DynamicTable]:
        """Every declared dynamic table with its target lag and its lag at `now` (UTC), sources before readers."""
        ...

    def store_model(self, name: str, content: bytes) -> None:
        """Keep a model's file under a name, whole or not at all. The same name always means the same content.

        The functions that queries call, `predict_churn` and `churn_reasons`, find it there.
        """
        ...

    def read_model(self, name: str) -> bytes:
        """The content of a model's file; `ModelFileError` if it cannot be read."""
        ...

    def credits(self, since: date) -> list[Credits]:
        """What was billed for each day from `since` on, by service, in order; empty if nobody bills for the warehouse."""
        ...

    def tasks(self) -> dict[str, bool]:
        """By name, whether each of the warehouse's own tasks (for streams and emails) is active. The lake has none."""
        ...

    def stream_has_data(self, stream: str) -> bool:
        """Whether a stream's table was written since the stream was last consumed."""
        ...

    def maintain(self, order: Mapping[str, str], now: datetime) -> Maintenance:
        """Keep reads fast and storage small after many small writes.

        `order` names the column that each table is sorted by; a dynamic table with a date in its refresh key is sorted by
        that date. What a dynamic table or a stream still has to read is kept. `now` is UTC.
        """
        ...

    def damage(self) -> list[Damage]:
        """Files that are missing or have another size than was written, and what the last `check_files` found.

        It reads no file, so it may be asked for each page that a person opens. Empty where others keep the files.
        """
        ...

    def check_files(self, share: float, now: datetime) -> FileCheck:
        """Compare the contents of a `share` (0 to 1) of the files with what they were, those first that waited the longest.

        A file that no check has seen yet is remembered as it is. `now` is UTC.
        """
        ...

    def forget_history(self, catch_up: Callable[[], None]) -> str | None:
        """Give up every state before the current one, and every file that holds rows which are no longer there.

        Dynamic tables must show the current rows. `catch_up` must let each of them, and each stream, read all that was written;
        it is called when the files are rewritten. A query of another process that reads an old state fails. Returns in words
        what still holds deleted rows, or None. `WarehouseError` if something still has to read an old state; calling it again
        goes on where it stopped.
        """
        ...


def row_count(warehouse: Warehouse, table: str) -> int:
    """The number of rows of a table now."""
    return row_counts(warehouse, [table])[table]


def row_counts(warehouse: Warehouse, tables: Iterable[str]) -> dict[str, int]:
    """The number of rows of each table now, by one query."""
    counts = [f"SELECT '{table}' AS name, count(*) AS row_count FROM {table}" for table in tables]
    if not counts:
        return {}
    return {row["name"]: row["row_count"] for row in warehouse.query(" UNION ALL ".join(counts)).to_pylist()}
