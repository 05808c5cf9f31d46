"""Rows, rejects and offsets into the warehouse, in one transaction: exactly once, whatever dies and when.

Here belong the offsets that the warehouse has committed and the statements that store a batch. Reading Kafka is `kafka`,
checking messages is `decoding`; `ingest` puts the three together.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.errors import ChurnError
from churn_assets.ingestion import kafka
from churn_assets.ingestion.decoding import Decoded, decode
from churn_assets.ingestion.events import LEDGERS, EventType
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Watermarks
from churn_assets.settings import INGEST_RUN_MESSAGES
from churn_assets.warehouse.protocol import Transaction, Warehouse


class OffsetGapError(ChurnError):
    """A range starts beyond what is committed: storing it would lose the messages between."""


class _OvertakenError(Exception):
    """Another run has committed a part of the range since it was read."""


@dataclass(frozen=True)
class Ingested:
    """What became of the messages of an ingest run. Each message is stored, a duplicate or rejected.

    `stored` and `duplicates` count rows by ledger, `rejected` messages by reason; `ranges` are the offsets that this run
    committed, which is less than it was asked for where another run had been there before.
    """

    ranges: list[OffsetRange]
    stored: dict[str, int]
    duplicates: dict[str, int]
    rejected: dict[str, int]
    bytes: int = 0
    newest_event_time: datetime | None = None
    messages: int = 0


def committed_offsets(warehouse: Warehouse, epoch: str) -> dict[tuple[str, int], int]:
    """The next offset to read of each (topic, partition) that has been read in this epoch."""
    rows = warehouse.query(
        "SELECT topic, kafka_partition, committed_offset FROM kafka_offsets WHERE epoch = ?", [epoch]
    ).to_pylist()
    return {(row["topic"], row["kafka_partition"]): row["committed_offset"] for row in rows}


def broken_ranges(warehouse: Warehouse) -> list[str]:
    """Where the stored ranges of a partition leave a gap, overlap, or do not end at its committed offset."""
    rows = warehouse.query(
        "SELECT epoch, topic, kafka_partition, end_offset, coalesce("
        " lead(start_offset) OVER (PARTITION BY epoch, topic, kafka_partition ORDER BY start_offset),"
        " (SELECT max(committed_offset) FROM kafka_offsets AS committed WHERE committed.epoch = stored.epoch"
        " AND committed.topic = stored.topic AND committed.kafka_partition = stored.kafka_partition)) AS next_offset"
        " FROM ingest_ranges AS stored QUALIFY next_offset IS DISTINCT FROM end_offset"
    ).to_pylist()
    return [
        f"{row['topic']}[{row['kafka_partition']}] of {row['epoch']}: {row['end_offset']} is followed by {row['next_offset']}"
        for row in rows
    ]


def waiting_ranges(
    topic: str, marks: dict[int, Watermarks], committed: dict[tuple[str, int], int]
) -> list[OffsetRange]:
    """What waits in a topic: per partition from the committed offset (or the oldest kept) to the high watermark.

    Together at most `INGEST_RUN_MESSAGES`, taken evenly from the partitions.
    """
    share = max(1, INGEST_RUN_MESSAGES // max(1, len(marks)))
    ranges: list[OffsetRange] = []
    for partition, mark in marks.items():
        start = committed.get((topic, partition), mark.low)
        if start < mark.high:
            ranges.append(OffsetRange(topic, partition, start, min(mark.high, start + share)))
    return ranges


def ingest(
    warehouse: Warehouse, cluster: Cluster, epoch: str, ranges: Sequence[OffsetRange], now: datetime
) -> Ingested:
    """Read the ranges and store them. What is committed already is left out, so any range may be run again.

    `epoch` is the one that the ranges' offsets belong to; `now` (UTC) becomes `ingested_at`. Raises `OffsetGapError`,
    `kafka.OffsetsGoneError` and `kafka.KafkaUnavailableError`.
    """
    while True:
        wanted = _not_yet_committed(ranges, committed_offsets(warehouse, epoch))
        if not wanted:
            return Ingested([], {}, {}, {})
        if epoch != cluster.epoch:
            raise kafka.OffsetsGoneError(
                f"offsets of epoch {epoch} were asked for, but the cluster has begun the epoch {cluster.epoch}: the"
                " embedded broker was restarted, or KAFKA_BOOTSTRAP_SERVERS names another cluster"
            )
        messages = kafka.consume(cluster, wanted)
        try:
            return _store(warehouse, cluster.epoch, wanted, messages, now)
        except _OvertakenError:
            continue  # what the other run committed is left out of the next round


def _not_yet_committed(ranges: Iterable[OffsetRange], committed: dict[tuple[str, int], int]) -> list[OffsetRange]:
    wanted: list[OffsetRange] = []
    for asked in ranges:
        start = committed.get((asked.topic, asked.partition), asked.start)
        if start < asked.start:
            raise OffsetGapError(
                f"{asked.topic}[{asked.partition}]: the range starts at {asked.start}, but only the messages before {start}"
                " are stored; run the earlier range first"
            )
        if start < asked.end:
            wanted.append(OffsetRange(asked.topic, asked.partition, start, asked.end))
    return wanted


def _store(
    warehouse: Warehouse, epoch: str, ranges: Sequence[OffsetRange], messages: pa.Table, now: datetime
) -> Ingested:
    decoded = decode(messages, now)
    staged = {f"staged_{ledger}": rows for ledger, rows in decoded.rows.items() if rows.num_rows}
    staged["staged_rejects"] = decoded.rejects

    def work(tx: Transaction) -> dict[str, int]:
        _take_offsets(tx, epoch, ranges, now)
        stored = {ledger: _store_rows(tx, LEDGERS[ledger], decoded, now) for ledger in decoded.rows}
        if decoded.rejects.num_rows:
            tx.execute(
                "INSERT INTO event_rejects SELECT ?, kafka_topic, kafka_partition, kafka_offset, kafka_time, reason, original, ?"
                " FROM staged_rejects",
                [epoch, now],
            )
        return stored

    stored = warehouse.transact(work, staged)
    times = [
        newest
        for ledger, rows in decoded.rows.items()
        if (newest := _newest(rows, LEDGERS[ledger].event_time)) is not None
    ]
    return Ingested(
        ranges=list(ranges),
        stored=stored,
        duplicates={ledger: decoded.rows[ledger].num_rows - stored[ledger] for ledger in stored},
        rejected=dict(Counter(decoded.rejects["reason"].to_pylist())),
        bytes=messages["value"].nbytes,
        newest_event_time=max(times, default=None),
        messages=messages.num_rows,
    )


def _take_offsets(tx: Transaction, epoch: str, ranges: Sequence[OffsetRange], now: datetime) -> None:
    """Move the committed offsets from the ranges' starts to their ends, unless another run has moved them."""
    # This row makes any two ingest transactions conflict; inserting the first offsets of a partition alone would not.
    tx.execute("UPDATE ingest_commits SET commits = commits + 1")
    committed = {
        (topic, partition): offset
        for topic, partition, offset in tx.rows(
            "SELECT topic, kafka_partition, committed_offset FROM kafka_offsets WHERE epoch = ?", [epoch]
        )
    }
    for taken in ranges:
        before = committed.get((taken.topic, taken.partition))
        if before is None:
            tx.execute(
                "INSERT INTO kafka_offsets VALUES (?, ?, ?, ?, ?)",
                [epoch, taken.topic, taken.partition, taken.end, now],
            )
        elif before == taken.start:
            tx.execute(
                "UPDATE kafka_offsets SET committed_offset = ?, updated_at = ?"
                " WHERE epoch = ? AND topic = ? AND kafka_partition = ?",
                [taken.end, now, epoch, taken.topic, taken.partition],
            )
        else:
            raise _OvertakenError
        tx.execute(
            "INSERT INTO ingest_ranges VALUES (?, ?, ?, ?, ?, ?)",
            [epoch, taken.topic, taken.partition, taken.start, taken.end, now],
        )


def _store_rows(tx: Transaction, event_type: EventType, decoded: Decoded, now: datetime) -> int:
    rows = decoded.rows[event_type.ledger]
    if not rows.num_rows:
        return 0
    key, ledger, time = event_type.key, event_type.ledger, event_type.event_time
    columns = [*(f.name for f in event_type.fields), "kafka_topic", "kafka_partition", "kafka_offset"]
    # Within a batch a fact's first message counts, a dimension's latest state.
    direction = "DESC" if event_type.is_dimension else "ASC"
    batch = (
        f"SELECT * EXCLUDE (place) FROM (SELECT *, row_number() OVER (PARTITION BY {key}"
        f" ORDER BY {time} {direction}, kafka_offset {direction}, kafka_partition) AS place"
        f" FROM staged_{ledger}) WHERE place = 1"
    )
    names = ", ".join(columns)
    if event_type.is_dimension:
        updates = ", ".join(f"{name} = batch.{name}" for name in columns if name != key)
        values = ", ".join(f"batch.{name}" for name in columns)
        return tx.execute(
            f"MERGE INTO {ledger} AS ledger USING ({batch}) AS batch ON ledger.{key} = batch.{key}"
            f" WHEN MATCHED AND (batch.{time}, batch.kafka_offset) > (ledger.{time}, coalesce(ledger.kafka_offset, -1))"
            f" THEN UPDATE SET {updates}, ingested_at = ?"
            f" WHEN NOT MATCHED THEN INSERT ({names}, ingested_at) VALUES ({values}, ?)",
            [now, now],
        )
    # The bounds are literals, so that the look-up for duplicates opens only the files of the batch's days.
    first, last = tx.rows(f"SELECT min({time}), max({time}) FROM staged_{ledger}")[0]
    return tx.execute(
        f"INSERT INTO {ledger} ({names}, ingested_at) SELECT {names}, ? FROM ({batch}) AS batch"
        f" WHERE NOT EXISTS (SELECT 1 FROM {ledger} AS ledger WHERE ledger.{key} = batch.{key}"
        f" AND ledger.{time} BETWEEN TIMESTAMP '{first}' AND TIMESTAMP '{last}')",
        [now],
    )


def _newest(rows: pa.Table, column: str) -> datetime | None:
    return pc.max(rows[column]).as_py() if rows.num_rows else None
