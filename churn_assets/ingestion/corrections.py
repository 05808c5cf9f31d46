"""Corrections of stored rows by a file: rows that replace what is stored under their key, or keys whose rows are deleted.

A file of history never changes a stored row on purpose: the first row of a fact counts, and the latest state in a dimension.
Here belongs the one way to overrule that. The file is read and checked as by `history`; dynamic tables see a correction in their
next refresh, like any other change.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion.commit import store_rejects
from churn_assets.ingestion.decoding import Decoded
from churn_assets.ingestion.events import EXTRA_FIELDS, LEDGERS, EventType
from churn_assets.ingestion.history import (
    CORRECTION_EPOCH,
    as_messages,
    decode_rows,
    faulty_rows,
    open_files,
    rows_as_events,
)
from churn_assets.ingestion.isolation import IsolatedDecoder
from churn_assets.table_files.source import FileError, printable
from churn_assets.table_files.tables import FAULT, TableFile
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import one_row

NOTHING_TO_CORRECT = "nothing to correct: no row with this key is stored"
KEY_TWICE = "the file has this key more than once"


@dataclass
class Corrected:
    """What became of the rows of files: replaced, deleted, equal to what is stored, or rejected (by reason)."""

    messages: int = 0
    replaced: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejected: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: "Corrected") -> None:
        """Add what became of the rows of another file."""
        self.messages += other.messages
        self.replaced += other.replaced
        self.deleted += other.deleted
        self.unchanged += other.unchanged
        self.rejected.update(other.rejected)


def correct(
    warehouse: Warehouse, ledger: str, files: Sequence[Path], by: str, clock: Callable[[], datetime]
) -> Corrected:
    """Replace the stored rows of a ledger that have the keys of the rows in `files`, whatever the times of both.

    A file is one transaction, with a line in `corrections`; repeating it changes nothing. A row keeps its Kafka coordinates, so
    that the same message read again does not undo the correction. A file without the column of a dimension's time leaves the
    stored times. A row that cannot be one, whose key is not stored, or stands in the file twice, is a reject. `clock` gives
    UTC; `by` says who corrects. Raises `FileError`.
    """
    tables = open_files(ledger, files)
    event_type, total = LEDGERS[ledger], Corrected()
    for table in tables:
        now, there = clock(), {name.lower() for name in table.names}
        with closing(IsolatedDecoder()) as decoder:
            messages, decoded = decode_rows(_rows(table, event_type), decoder.decode, now)
        rows = decoded.rows.get(ledger)
        names = [one.name for one in event_type.fields if one.required or one.name in there] + [EXTRA_FIELDS]
        work = _Correction(event_type, table, by, now, [name for name in names if name != event_type.key])
        staged = rows if rows is not None else _no_rows(event_type)
        total.add(_run(warehouse, work, messages, staged, decoded, _replace))
    return total


def delete(
    warehouse: Warehouse, ledger: str, files: Sequence[Path], by: str, clock: Callable[[], datetime]
) -> Corrected:
    """Delete the stored rows of a ledger that have the keys in `files`, which need no other column; otherwise as `correct`."""
    tables = open_files(ledger, files, [LEDGERS[ledger].key] if ledger in LEDGERS else None)
    event_type, total = LEDGERS[ledger], Corrected()
    for table in tables:
        now, found = clock(), _rows(table, event_type)
        messages = as_messages(found, now)
        faulty = faulty_rows(found, messages)
        with duckdb.connect(":memory:") as connection:
            connection.register("messages", messages.filter(pc.is_null(found[FAULT])))
            staged = connection.execute(
                f"SELECT trim(json_extract_string(decode(value), '$.payload.{event_type.key}')) AS {event_type.key},"
                " kafka_partition, kafka_offset, kafka_time, value AS original FROM messages"
            ).to_arrow_table()
            connection.register("keys", staged)
            without_key = connection.execute(
                f"SELECT kafka_partition, kafka_offset, kafka_time, 'missing {event_type.key}' AS reason, original FROM keys"
                f" WHERE coalesce({event_type.key}, '') = ''"
            ).to_arrow_table()
            keys = connection.execute(f"FROM keys WHERE {event_type.key} <> ''").to_arrow_table()
        rejects = pa.concat_tables([without_key, faulty.cast(without_key.schema)])
        work = _Correction(event_type, table, by, now, [])
        total.add(_run(warehouse, work, messages, keys, Decoded({}, rejects), _delete))
    return total


@dataclass(frozen=True)
class _Correction:
    event_type: EventType
    table: TableFile
    by: str
    now: datetime
    names: Sequence[str]  # the columns that are replaced


def _rows(table: TableFile, event_type: EventType) -> pa.Table:
    """All rows of a file: a correction is one transaction."""
    chunks = list(rows_as_events(table, event_type))
    if not chunks:
        raise FileError(f"{table.name} has no rows")
    return pa.concat_tables(chunks)


def _no_rows(event_type: EventType) -> pa.Table:
    names = [*(one.name for one in event_type.fields), EXTRA_FIELDS, "kafka_offset"]
    return pa.table({name: pa.array([], pa.string()) for name in names})


def _run(
    warehouse: Warehouse,
    work: _Correction,
    messages: pa.Table,
    rows: pa.Table,
    decoded: Decoded,
    change: Callable[[Transaction, _Correction], Corrected],
) -> Corrected:
    """Change the stored rows of the staged keys, and store as rejects what cannot change any, in one transaction."""
    key, ledger = work.event_type.key, work.event_type.ledger

    def rejected(tx: Transaction) -> Counter[str]:
        file = printable(work.table.source.path.absolute())
        store_rejects(tx, CORRECTION_EPOCH, file, work.now, unless_known=True)
        reasons: Counter[str] = Counter(decoded.rejects["reason"].to_pylist())
        stored = f"SELECT DISTINCT {key} FROM {ledger} WHERE {key} IN (SELECT {key} FROM staged_rows)"
        repeated = f"SELECT {key} FROM staged_rows GROUP BY {key} HAVING COUNT(*) > 1"
        for reason, condition in (
            (KEY_TWICE, f"staged.{key} IN ({repeated})"),
            (NOTHING_TO_CORRECT, f"staged.{key} NOT IN ({stored}) AND staged.{key} NOT IN ({repeated})"),
        ):
            found = tx.rows(f"SELECT COUNT(*) FROM staged_rows AS staged WHERE {condition}")[0][0]
            if found:
                reasons[reason] = found
                tx.execute(
                    "INSERT INTO event_rejects (epoch, kafka_topic, kafka_partition, kafka_offset, kafka_time, reason,"
                    " original, rejected_at) SELECT CAST(? AS VARCHAR), CAST(? AS VARCHAR), said.kafka_partition,"
                    " said.kafka_offset, said.kafka_time, CAST(? AS VARCHAR), said.value, CAST(? AS TIMESTAMP)"
                    " FROM staged_messages AS said INNER JOIN staged_rows AS staged"
                    f" ON said.kafka_offset = staged.kafka_offset WHERE {condition}"
                    " AND NOT EXISTS (SELECT 1 FROM event_rejects AS known WHERE known.epoch = ? AND known.kafka_topic = ?"
                    " AND known.kafka_offset = said.kafka_offset AND known.original = said.value)",
                    [CORRECTION_EPOCH, file, reason, work.now, CORRECTION_EPOCH, file],
                )
        return reasons

    def in_transaction(tx: Transaction) -> Corrected:
        before = tx.rows(f"SELECT COUNT(*) FROM {ledger}")[0][0]
        reasons = rejected(tx)
        done = change(tx, work)
        if done.replaced or done.deleted:
            after = tx.rows(f"SELECT COUNT(*) FROM {ledger}")[0][0]
            tx.execute(
                "INSERT INTO corrections (corrected_at, corrected_by, ledger, file, rows_replaced, rows_deleted, rows_before,"
                " rows_after) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    work.now,
                    work.by,
                    ledger,
                    printable(work.table.source.path.absolute()),
                    done.replaced,
                    done.deleted,
                    before,
                    after,
                ],
            )
        done.messages, done.rejected = messages.num_rows, reasons
        done.unchanged = max(0, done.messages - reasons.total() - done.replaced) if change is _replace else 0
        return done

    staged = {"staged_rows": rows, "staged_messages": messages, "staged_rejects": decoded.rejects}
    return warehouse.transact(in_transaction, staged)


def _once(key: str) -> str:
    """A query of the staged keys that stand there once."""
    return f"SELECT {key} FROM staged_rows GROUP BY {key} HAVING COUNT(*) = 1"


def _replace(tx: Transaction, work: _Correction) -> Corrected:
    key, ledger = work.event_type.key, work.event_type.ledger
    # A key that is stored twice becomes one row, without coordinates: nobody knows which message was right.
    twice = [
        one
        for (one,) in tx.rows(
            f"SELECT {key} FROM {ledger} WHERE {key} IN ({_once(key)}) GROUP BY {key} HAVING COUNT(*) > 1"
        )
    ]
    if twice:
        columns = ", ".join([key, *(one.name for one in work.event_type.fields if one.name != key), EXTRA_FIELDS])
        tx.execute(f"DELETE FROM {ledger} WHERE {key} IN ({one_row(twice)})", twice)
        tx.execute(
            f"INSERT INTO {ledger} ({columns}, ingested_at) SELECT {columns}, CAST(? AS TIMESTAMP) FROM staged_rows"
            f" WHERE {key} IN ({one_row(twice)})",
            [work.now, *twice],
        )
    assigned = ", ".join(f"{name} = staged.{name}" for name in work.names)
    differs = " OR ".join(f"{ledger}.{name} IS DISTINCT FROM staged.{name}" for name in work.names)
    replaced = tx.execute(
        f"UPDATE {ledger} SET {assigned}, ingested_at = CAST(? AS TIMESTAMP) FROM staged_rows AS staged"
        f" WHERE {ledger}.{key} = staged.{key} AND staged.{key} IN ({_once(key)}) AND ({differs})",
        [work.now],
    )
    return Corrected(replaced=replaced + len(twice))


def _delete(tx: Transaction, work: _Correction) -> Corrected:
    key, ledger = work.event_type.key, work.event_type.ledger
    return Corrected(deleted=tx.execute(f"DELETE FROM {ledger} WHERE {key} IN ({_once(key)})"))
