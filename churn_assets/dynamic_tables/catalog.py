"""Reads the lake's catalog: its tables, its snapshots, and which snapshot wrote which table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

_WRITTEN = re.compile(r"(?:inserted_into_table|deleted_from_table|inlined_insert|inlined_delete):(\d+)")
_CREATED = re.compile(r'created_table:"(?:[^"]|"")*"\."((?:[^"]|"")*)"')


class LakeTransaction(Protocol):
    """An open transaction on the lake, which is the current database."""

    lake: "Lake | None"  # as this transaction last read it, and what it has written to dynamic tables

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        ...


@dataclass(frozen=True)
class Table:
    """A table in the lake's catalog."""

    table_id: int
    made_at: int  # snapshot
    columns: dict[str, str]  # name: type, as the catalog writes it


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: its time (UTC), the ids of the tables whose rows it wrote, and the names of the tables it created.

    Compaction rewrites files but no rows, so it counts as no write. Flushing inlined deletions does count, because the lake
    records it like a deletion; it costs one refresh that finds nothing to write.
    """

    number: int
    time: datetime
    written: frozenset[int]
    created: frozenset[str]


@dataclass(frozen=True)
class Lake:
    """The lake at one moment: its tables, its snapshots after `after`, and what the transaction wrote to dynamic tables."""

    after: int
    snapshot: int
    oldest_kept: int
    tables: dict[str, Table]
    latest: list[Snapshot]  # in order
    written: set[str]

    @staticmethod
    def since(tx: LakeTransaction, position: int) -> "Lake":
        """The lake, with the snapshots after `position` at least. A transaction sees one state, so it reads it once."""
        if tx.lake is None or tx.lake.after > position:
            tx.lake = Lake._read(tx, position, tx.lake.written if tx.lake else set())
        return tx.lake

    @staticmethod
    def _read(tx: LakeTransaction, position: int, written: set[str]) -> "Lake":
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
        return Lake(
            after=position,
            snapshot=current_snapshot(tx),
            oldest_kept=oldest_kept,
            tables={name: Table(table_id, made_at, columns) for name, table_id, made_at, columns in tables},
            latest=[
                Snapshot(
                    number, time, frozenset(map(int, _WRITTEN.findall(changes))), frozenset(_CREATED.findall(changes))
                )
                for number, time, changes in latest
            ],
            written=written,
        )

    def oldest_change(self, tables: Iterable[str], after: int) -> datetime | None:
        """The time (UTC) of the first snapshot after `after` that wrote or created one of `tables`, or None."""
        names = set(tables)
        ids = {self.tables[name].table_id for name in names & self.tables.keys()}
        times = (s.time for s in self.latest if s.number > after and (s.written & ids or s.created & names))
        return next(times, None)


def current_snapshot(tx: LakeTransaction) -> int:
    """The number of the lake's latest snapshot that the transaction sees."""
    return tx.rows("FROM ducklake_current_snapshot('lake')")[0][0]


def columns_of(tx: LakeTransaction, query: str) -> list[tuple[Any, ...]]:
    """The columns of a query's result: (name, type)."""
    # DESCRIBE of the query itself shows today's columns, whatever version the query asks for.
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE columns_of AS {query} LIMIT 0")
    return [row[:2] for row in tx.rows("DESCRIBE columns_of")]
