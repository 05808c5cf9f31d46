"""What the project asks of a warehouse. Two engines stand behind it: the lake (`lake`) and Snowflake.

Here belong the questions only; the code above this line never asks which engine answers.
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
    """A query would do more than read; the message says what is allowed."""


class WarehouseError(ChurnError):
    """The warehouse refused a statement; `number` and `query_id` are its own, where it gave them."""

    def __init__(self, message: str, number: int | None = None, query_id: str | None = None) -> None:
        super().__init__(message)
        self.number = number
        self.query_id = query_id


class QueryTimeoutError(WarehouseError):
    """A query took longer than it may; the message says how long that is."""


@dataclass(frozen=True)
class Column:
    """One column of a table as the warehouse knows it."""

    name: str
    type: str


@dataclass(frozen=True)
class Maintenance:
    """What a maintenance saved. Files are counted by table: (before, after); `bytes` are those of all data files."""

    files: dict[str, tuple[int, int]]
    bytes: tuple[int, int]
    snapshots_expired: int
    files_deleted: int


@dataclass(frozen=True)
class Credits:
    """What one service of the warehouse's provider billed for one day (UTC)."""

    day: date
    service: str
    credits: float


class Statements(Protocol):
    """Where statements can be run, with parameters bound to `?`."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        ...


class Transaction(Statements, Protocol):
    """Statements that take effect together or not at all."""

    def consume_stream(self, stream: str) -> str:
        """Read what changed in the stream's table since it was last read; the name of the table that holds it.

        That has the table's columns and `change_action`: DELETE for a row as it was, INSERT for a row as it is. It can be read
        in this transaction only, until the stream is consumed again. The stream's position moves with the transaction.
        """
        ...


class Queries(Protocol):
    """Where queries can be asked."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of one query."""
        ...


class Warehouse(Queries, Protocol):
    """Tables, transactions, dynamic tables and the files of models.

    A statement is written once, in what every warehouse takes with the same meaning, and sent as it is; which SQL that is,
    `churn_assets_tests/snowflake/one_sql.py` says and tests.
    """

    def deploy(self) -> None:
        """Create every table that is missing. Safe to repeat; never drops."""
        ...

    def version(self) -> object | None:
        """What is another one after each commit, so cheap that it may be asked several times a second.

        None where the warehouse does not say that for nothing, or was written to a moment ago and may yet commit it.
        """
        ...

    def columns(self, table: str) -> list[Column]:
        """The columns of a table in order."""
        ...

    def transact(self, work: Callable[[Transaction], T], staged: Mapping[str, pa.Table] | None = None) -> T:
        """Run `work` in one transaction, with the `staged` tables readable by name.

        What is written is as if transactions ran one after another: one that another writer has overtaken is rolled back
        and runs `work` again, also where both only inserted, so `work` must not have effects of its own.
        """
        ...

    def refresh(self, names: Iterable[str], now: datetime) -> list[Refresh]:
        """Bring dynamic tables up to date, sources before readers. `now` is UTC; its date is the last day of the windows."""
        ...

    def past_refreshes(self, after: datetime) -> list[Refresh]:
        """The refreshes that began after a time (UTC), whoever asked for them, in order."""
        ...

    def dynamic_tables(self, now: datetime) -> list[DynamicTable]:
        """Every declared dynamic table with its target lag and its lag at `now` (UTC), sources before readers."""
        ...

    def store_model(self, name: str, content: bytes) -> None:
        """Keep a model's file under a name, whole or not at all. The same name always comes with the same content.

        The functions that queries call, `predict_churn` and `churn_reasons`, find it there.
        """
        ...

    def read_model(self, name: str) -> bytes:
        """The content of a model's file, or `ModelFileError` where there is none that can be read."""
        ...

    def credits(self, since: date) -> list[Credits]:
        """What was billed for each day from `since` on, by service, in order; nothing where the warehouse is one's own."""
        ...

    def tasks(self) -> dict[str, bool]:
        """The warehouse's own tasks that move streams and write emails, by name: whether each is active. The lake has none."""
        ...

    def stream_has_data(self, stream: str) -> bool:
        """Whether a stream's table was written since the stream was last consumed."""
        ...

    def maintain(self, order: Mapping[str, str], now: datetime) -> Maintenance:
        """Keep reads fast and storage small after many small writes. `order` names the column a table is sorted by; a dynamic
        table with a date in its refresh key is sorted by that.

        Nothing that a dynamic table or a stream still has to read is given up. `now` is UTC.
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
