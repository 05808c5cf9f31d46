"""Stores rows, rejects and offsets in one transaction: exactly once, whatever crashes and when.

This module holds the committed offsets and the statements that store a chunk of messages. Reading Kafka is in `kafka`,
checking messages in `decoding`; `backlog.ingest` combines the three.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.dynamic_tables.intervals import day_intervals
from churn_assets.errors import ChurnError
from churn_assets.ingestion.decoding import Decoded
from churn_assets.ingestion.events import EXTRA_FIELDS, LEDGERS, EventType
from churn_assets.ingestion.isolation import FATAL_REASONS
from churn_assets.ingestion.kafka import Chunk, OffsetRange, Partition
from churn_assets.rules import CLOCK_SKEW_SECONDS
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import as_table, flat


class OffsetGapError(ChurnError):
    """A range starts after the committed offset; storing it would lose the messages in between."""


class OvertakenError(Exception):
    """Another run has committed part of the range since it was read; nothing was stored."""


@dataclass
class Stored:
    """What became of messages: each is stored, a duplicate, rejected, a delete, or left out by a mapping.

    `rows`, `duplicates` and `deletes` (of keys, stored or not) count by ledger, `rejected` by reason. Where mappings make
    several rows of one message, `further` counts those beyond the first. `ranges` are the committed offsets; `skipped` are
    offsets that were passed over because their messages are gone.
    """

    ranges: list[OffsetRange] = field(default_factory=list[OffsetRange])
    skipped: list[OffsetRange] = field(default_factory=list[OffsetRange])
    rows: Counter[str] = field(default_factory=Counter[str])
    duplicates: Counter[str] = field(default_factory=Counter[str])
    rejected: Counter[str] = field(default_factory=Counter[str])
    deletes: Counter[str] = field(default_factory=Counter[str])
    left_out: int = 0
    further: int = 0
    messages: int = 0
    bytes: int = 0
    newest_event_time: datetime | None = None

    @property
    def accounted(self) -> int:
        """How many messages have an outcome: all of them, or messages were lost."""
        outcomes = self.rows.total() + self.duplicates.total() + self.rejected.total()
        return outcomes + self.deletes.total() + self.left_out - self.further

    def add(self, other: "Stored") -> None:
        """Add what became of further messages."""
        self.ranges += other.ranges
        self.skipped += other.skipped
        self.rows.update(other.rows)
        self.duplicates.update(other.duplicates)
        self.rejected.update(other.rejected)
        self.deletes.update(other.deletes)
        self.left_out += other.left_out
        self.further += other.further
        self.messages += other.messages
        self.bytes += other.bytes
        self.newest_event_time = max(
            (time for time in (self.newest_event_time, other.newest_event_time) if time is not None), default=None
        )


def committed_offsets(warehouse: Warehouse) -> dict[Partition, int]:
    """The next offset to read of each partition that has ever been read, in this epoch or an earlier one."""
    rows = warehouse.query("SELECT epoch, topic, kafka_partition, committed_offset FROM kafka_offsets").to_pylist()
    return {Partition(r["epoch"], r["topic"], r["kafka_partition"]): r["committed_offset"] for r in rows}


def furthest_offsets(warehouse: Warehouse) -> dict[Partition, int]:
    """How far each partition has ever been stored: further than its committed offset where it is read again (`go_back`)."""
    rows = warehouse.query(
        "SELECT epoch, topic, kafka_partition, max(end_offset) AS end_offset FROM ingest_ranges"
        " GROUP BY epoch, topic, kafka_partition"
    ).to_pylist()
    return {Partition(r["epoch"], r["topic"], r["kafka_partition"]): r["end_offset"] for r in rows}


def broken_ranges(warehouse: Warehouse) -> list[str]:
    """Where the logged ranges of a partition leave a gap, overlap, or do not end at its committed offset."""
    rows = warehouse.query(
        "SELECT logged.epoch, logged.topic, logged.kafka_partition, logged.end_offset, coalesce(lead(logged.start_offset)"
        " OVER (PARTITION BY logged.epoch, logged.topic, logged.kafka_partition ORDER BY logged.start_offset),"
        " committed.newest_offset) AS next_offset FROM ingest_ranges AS logged LEFT JOIN ("
        "SELECT epoch, topic, kafka_partition, max(committed_offset) AS newest_offset FROM kafka_offsets"
        " GROUP BY epoch, topic, kafka_partition) AS committed ON logged.epoch = committed.epoch"
        " AND logged.topic = committed.topic AND logged.kafka_partition = committed.kafka_partition"
        " WHERE logged.outcome <> 'LOST'"
        " QUALIFY next_offset IS DISTINCT FROM logged.end_offset"
    ).to_pylist()
    return [
        f"{row['topic']}[{row['kafka_partition']}] of {row['epoch']}: {row['end_offset']} is followed by {row['next_offset']}"
        for row in rows
    ]


def not_yet_committed(ranges: Iterable[OffsetRange], committed: Mapping[Partition, int]) -> list[OffsetRange]:
    """What is left of the ranges; `OffsetGapError` if one starts after the committed offset."""
    left: list[OffsetRange] = []
    for asked in ranges:
        start = committed.get(asked.partition, asked.start)
        if start < asked.start:
            raise OffsetGapError(
                f"{asked.partition}: the range starts at {asked.start}, but only the messages before {start}"
                " are stored; run the earlier range first"
            )
        if start < asked.end:
            left.append(OffsetRange(asked.partition, start, asked.end))
    return left


def store(
    warehouse: Warehouse,
    chunk: Chunk,
    decoded: Decoded,
    now: datetime,
    leader_epochs: Mapping[Partition, int],
) -> Stored:
    """Store a chunk in one transaction, or raise `OvertakenError`.

    `decoded` holds the rows and rejects of the chunk's messages. `now` (UTC) becomes `ingested_at`. `leader_epochs`: under
    which leader the messages were read, as far as it is known.
    """

    def take(tx: Transaction) -> None:
        _take_offsets(tx, chunk.ranges, now, outcome="STORED", sent=_sent(chunk.messages), epochs=leader_epochs)
        if decoded.rejects.num_rows:
            store_rejects(tx, chunk.ranges[0].partition.epoch, chunk.topic, now)

    stored = store_decoded(warehouse, chunk.messages, decoded, chunk.topic, now, first=take)
    stored.ranges += chunk.ranges
    return stored


def merge_old_ranges(tx: Transaction, before: datetime) -> int:
    """Join the logged ranges from before a time (UTC) that follow one another; returns how many lines are gone.

    Each batch logs a line for each partition. Once nobody asks how long a batch took, one line says as much as thousands,
    and what reads the log costs no more with every month.
    """
    of_partition = "PARTITION BY epoch, topic, kafka_partition ORDER BY start_offset"
    old = "outcome = 'STORED' AND stored_at < CAST(? AS TIMESTAMP)"
    found = tx.rows(
        "SELECT epoch, topic, kafka_partition, MIN(start_offset), MAX(end_offset), 'STORED', MAX(stored_at),"
        " MIN(oldest_message_at), MAX(newest_message_at), COUNT(*) FROM (SELECT marked.*, SUM(marked.begins) OVER"
        f" ({of_partition} ROWS UNBOUNDED PRECEDING) AS stretch FROM (SELECT logged.*, CASE WHEN LAG(logged.end_offset) OVER"
        f" ({of_partition}) = logged.start_offset THEN 0 ELSE 1 END AS begins FROM ingest_ranges AS logged WHERE {old})"
        " AS marked) AS joined GROUP BY epoch, topic, kafka_partition, stretch",
        [before],
    )
    gone = sum(lines for *_, lines in found) - len(found)
    if gone:
        tx.execute(f"DELETE FROM ingest_ranges WHERE {old}", [before])
        rows = [list(row) for *row, _ in found]
        names = ", ".join(_LOGGED)
        tx.execute(
            f"INSERT INTO ingest_ranges ({names}) SELECT {names} FROM {as_table(rows, _LOGGED)} AS joined", flat(rows)
        )
    return gone


def begin(warehouse: Warehouse, starts: Mapping[Partition, int], now: datetime) -> None:
    """Note where the first look at a topic found the beginning of its partitions, unless something was read of them."""
    rows = [[*partition, start, now] for partition, start in starts.items()]
    known = {name: type_ for name, type_ in _TAKEN.items() if name not in ("end_offset", "leader_epoch")}
    if rows:
        warehouse.transact(
            lambda tx: tx.execute(
                f"MERGE INTO kafka_offsets USING {as_table(rows, known)} AS first ON kafka_offsets.epoch = first.epoch"
                " AND kafka_offsets.topic = first.topic AND kafka_offsets.kafka_partition = first.kafka_partition"
                " WHEN NOT MATCHED THEN INSERT (epoch, topic, kafka_partition, committed_offset, updated_at)"
                " VALUES (first.epoch, first.topic, first.kafka_partition, first.start_offset, first.taken_at)",
                flat(rows),
            )
        )


def skip(tx: Transaction, gone: OffsetRange, now: datetime) -> None:
    """Pass over messages that the cluster no longer holds. `ingest_ranges` records that they were never stored."""
    [(committed,)] = tx.rows(
        "SELECT max(committed_offset) FROM kafka_offsets WHERE epoch = ? AND topic = ? AND kafka_partition = ?",
        gone.partition,
    )
    if left := OffsetRange(gone.partition, gone.start if committed is None else committed, gone.end):
        _take_offsets(tx, [left], now, outcome="SKIPPED", sent={}, epochs={})


def go_back(tx: Transaction, lost: OffsetRange) -> None:
    """Let the offsets of messages be read anew that were stored, and that the cluster has lost since.

    Their rows are kept without their place in Kafka, where another message stands now.
    """
    tx.execute(
        "UPDATE kafka_offsets SET committed_offset = ?, leader_epoch = NULL WHERE epoch = ? AND topic = ?"
        " AND kafka_partition = ? AND committed_offset > ?",
        [lost.start, *lost.partition, lost.start],
    )
    of_partition = "epoch = ? AND topic = ? AND kafka_partition = ? AND outcome <> 'LOST'"
    tx.execute(
        f"INSERT INTO ingest_ranges ({', '.join(_LOGGED)}) SELECT epoch, topic, kafka_partition, start_offset,"
        " CAST(? AS BIGINT), outcome, stored_at, oldest_message_at, newest_message_at FROM ingest_ranges"
        f" WHERE {of_partition} AND start_offset < ? AND end_offset > ?",
        [lost.start, *lost.partition, lost.start, lost.start],
    )
    tx.execute(
        "UPDATE ingest_ranges SET outcome = 'LOST',"
        " start_offset = CASE WHEN start_offset < ? THEN CAST(? AS BIGINT) ELSE start_offset END"
        f" WHERE {of_partition} AND end_offset > ?",
        [lost.start, lost.start, *lost.partition, lost.start],
    )
    for ledger in LEDGERS:
        tx.execute(
            f"UPDATE {ledger} SET kafka_partition = NULL, kafka_offset = NULL WHERE kafka_topic = ?"
            " AND kafka_partition = ? AND kafka_offset >= ?",
            [lost.partition.topic, lost.partition.number, lost.start],
        )


def store_decoded(
    warehouse: Warehouse,
    messages: pa.Table,
    decoded: Decoded,
    topic: str | None,
    now: datetime,
    *,
    first: Callable[[Transaction], None],
    staged: Mapping[str, pa.Table] | None = None,
) -> Stored:
    """Store the rows of events from any source in one transaction that begins with `first`.

    In the transaction the rejects are readable as `staged_rejects`, next to the `staged` tables. Without a `topic`, the
    rows come from a file and are stored without Kafka coordinates.
    """

    def work(tx: Transaction) -> dict[str, int]:
        first(tx)
        for ledger in decoded.voids:
            _delete_void(tx, LEDGERS[ledger], topic)
        return {
            ledger: _store_rows(tx, LEDGERS[ledger], rows, topic, now, with_voids=ledger in decoded.voids)
            for ledger, rows in holding.items()
        }

    holding = {ledger: _still_holding(rows, ledger, decoded) for ledger, rows in decoded.rows.items()}
    rows = {f"staged_{ledger}": rows for ledger, rows in holding.items()}
    voids = {f"staged_voids_{ledger}": voids for ledger, voids in decoded.voids.items()}
    stored = warehouse.transact(work, rows | voids | {"staged_rejects": decoded.rejects} | dict(staged or {}))
    newest = [pc.max(rows[LEDGERS[ledger].event_time]).as_py() for ledger, rows in decoded.rows.items()]
    return Stored(
        rows=+Counter(stored),
        duplicates=+Counter({ledger: rows.num_rows - stored[ledger] for ledger, rows in decoded.rows.items()}),
        rejected=Counter(decoded.rejects["reason"].to_pylist()),
        deletes=+Counter({ledger: pc.sum(voids["is_delete"]).as_py() for ledger, voids in decoded.voids.items()}),
        left_out=decoded.left_out,
        further=decoded.further,
        messages=messages.num_rows,
        bytes=pc.sum(pc.binary_length(messages["value"])).as_py() or 0,
        newest_event_time=max(newest, default=None),
    )


def store_rejects(tx: Transaction, epoch: str, source: str, now: datetime, *, unless_known: bool = False) -> None:
    """Store the staged rejects of a topic or file; with `unless_known`, leave out those already stored from it."""
    known = (
        " WHERE NOT EXISTS (SELECT 1 FROM event_rejects AS known WHERE known.epoch = ? AND known.kafka_topic = ?"
        " AND known.kafka_offset = staged.kafka_offset AND known.original = staged.original)"
    )
    tx.execute(
        "INSERT INTO event_rejects (epoch, kafka_topic, kafka_partition, kafka_offset, kafka_time, reason, original,"
        " rejected_at) SELECT CAST(? AS VARCHAR), CAST(? AS VARCHAR), staged.kafka_partition, staged.kafka_offset,"
        " staged.kafka_time, staged.reason, staged.original, CAST(? AS TIMESTAMP)"
        f" FROM staged_rejects AS staged{known if unless_known else ''}",
        [epoch, source, now, *([epoch, source] if unless_known else [])],
    )


def fatal_rejects(warehouse: Warehouse, since: datetime) -> list[dict[str, Any]]:
    """The rejects since then (UTC) on which the decoder died, failed or hung, unless they were stored since."""
    return warehouse.query(
        "SELECT kafka_topic, kafka_partition, kafka_offset, reason, rejected_at FROM event_rejects"
        f" WHERE reason IN ({', '.join('?' * len(FATAL_REASONS))}) AND replayed_at IS NULL AND rejected_at >= ?"
        " ORDER BY rejected_at, kafka_topic, kafka_partition, kafka_offset",
        [*FATAL_REASONS, since],
    ).to_pylist()


_TAKEN = {
    "epoch": "VARCHAR",
    "topic": "VARCHAR",
    "kafka_partition": "INTEGER",
    "start_offset": "BIGINT",
    "end_offset": "BIGINT",
    "taken_at": "TIMESTAMP",
    "leader_epoch": "INTEGER",
}
_LOGGED = {
    **{name: _TAKEN[name] for name in ("epoch", "topic", "kafka_partition", "start_offset", "end_offset")},
    "outcome": "VARCHAR",
    "stored_at": "TIMESTAMP",
    "oldest_message_at": "TIMESTAMP",
    "newest_message_at": "TIMESTAMP",
}


_Sent = Mapping[int, tuple[datetime | None, datetime | None]]


def _sent(messages: pa.Table) -> _Sent:
    """The first and last Kafka timestamp of the messages, by partition."""
    found = messages.group_by("kafka_partition").aggregate([("kafka_time", "min"), ("kafka_time", "max")])
    return {row["kafka_partition"]: (row["kafka_time_min"], row["kafka_time_max"]) for row in found.to_pylist()}


def _take_offsets(
    tx: Transaction,
    ranges: Sequence[OffsetRange],
    now: datetime,
    *,
    outcome: str,
    sent: _Sent,
    epochs: Mapping[Partition, int],
) -> None:
    """Move the committed offsets from the ranges' starts to their ends, unless another run has moved them."""
    taken = [[*r.partition, r.start, r.end, now, epochs.get(r.partition)] for r in ranges]
    moved = tx.execute(
        f"MERGE INTO kafka_offsets USING {as_table(taken, _TAKEN)} AS taken"
        " ON kafka_offsets.epoch = taken.epoch AND kafka_offsets.topic = taken.topic"
        " AND kafka_offsets.kafka_partition = taken.kafka_partition"
        " WHEN MATCHED AND kafka_offsets.committed_offset = taken.start_offset"
        " THEN UPDATE SET committed_offset = taken.end_offset, updated_at = taken.taken_at,"
        " leader_epoch = taken.leader_epoch"
        " WHEN NOT MATCHED THEN INSERT (epoch, topic, kafka_partition, committed_offset, updated_at, leader_epoch)"
        " VALUES (taken.epoch, taken.topic, taken.kafka_partition, taken.end_offset, taken.taken_at, taken.leader_epoch)",
        flat(taken),
    )
    if moved < len(ranges):
        raise OvertakenError
    log = [[*r.partition, r.start, r.end, outcome, now, *sent.get(r.partition.number, (None, None))] for r in ranges]
    names = ", ".join(_LOGGED)
    tx.execute(f"INSERT INTO ingest_ranges ({names}) SELECT {names} FROM {as_table(log, _LOGGED)} AS logged", flat(log))


def _still_holding(rows: pa.Table, ledger: str, decoded: Decoded) -> pa.Table:
    """The rows without those that a later message of the same chunk makes void."""
    voids = decoded.voids.get(ledger)
    if voids is None:
        return rows
    last = voids.group_by(["key", "kafka_partition"]).aggregate([("kafka_offset", "max")])
    last = last.rename_columns({"key": LEDGERS[ledger].key, "kafka_offset_max": "void_offset"})
    joined = rows.join(last, [LEDGERS[ledger].key, "kafka_partition"], join_type="left outer")
    holds = pc.or_kleene(
        pc.is_null(joined["void_offset"]), pc.greater_equal(joined["kafka_offset"], joined["void_offset"])
    )
    return joined.filter(holds).select(rows.column_names)


def _delete_void(tx: Transaction, event_type: EventType, topic: str | None) -> None:
    """Delete the stored rows that no longer hold, but not what came later from the same partition."""
    ledger = event_type.ledger
    is_later = (
        f"coalesce({ledger}.kafka_topic = CAST(? AS VARCHAR) AND {ledger}.kafka_partition = void.kafka_partition"
        f" AND {ledger}.kafka_offset >= void.kafka_offset, FALSE)"
    )
    tx.execute(
        f"DELETE FROM {ledger} USING staged_voids_{ledger} AS void WHERE {ledger}.{event_type.key} = void.key"
        f" AND NOT {is_later}",
        [topic],
    )


def _store_rows(
    tx: Transaction, event_type: EventType, rows: pa.Table, topic: str | None, now: datetime, *, with_voids: bool
) -> int:
    """Store the staged rows of one ledger; returns how many rows were new, or newer in a dimension.

    `with_voids`: some keys are in the staged voids. Of these the last message counts, whatever its time.
    """
    if not rows.num_rows:
        return 0
    names = [*(f.name for f in event_type.fields), EXTRA_FIELDS]
    columns = [*names, "kafka_topic", "kafka_partition", "kafka_offset", "ingested_at"]
    key, ledger, time = event_type.key, event_type.ledger, event_type.event_time
    coordinates = ("staged.kafka_partition", "staged.kafka_offset") if topic else ("NULL", "NULL")
    # Within a batch, the first message of a fact counts, and the latest state in a dimension.
    direction = "DESC NULLS LAST" if event_type.is_dimension else "ASC"
    one_of_each = (
        f" QUALIFY row_number() OVER (PARTITION BY staged.{key} ORDER BY staged.{time} {direction},"
        f" staged.kafka_offset {direction}, staged.kafka_partition {direction}) = 1"
    )
    keys = pc.count_distinct(rows[key]).as_py()
    batch = (
        f"(SELECT {', '.join(f'staged.{name}' for name in names)}, CAST(? AS VARCHAR) AS kafka_topic,"
        f" CAST({coordinates[0]} AS INTEGER) AS kafka_partition, CAST({coordinates[1]} AS BIGINT) AS kafka_offset,"
        f" CAST(? AS TIMESTAMP) AS ingested_at FROM staged_{ledger} AS staged"
        f"{one_of_each if keys < rows.num_rows else ''}) AS batch"
    )
    origin = [topic, now]
    listed = ", ".join(columns)
    of_batch = ", ".join(f"batch.{name}" for name in columns)
    assigned = ", ".join(f"{name} = batch.{name}" for name in columns if name != key)
    if event_type.is_dimension:
        # A row of a file that does not say since when it is true is as new as its load. Loaded again it says nothing new.
        differs = " OR ".join(f"batch.{name} IS DISTINCT FROM {ledger}.{name}" for name in names if name != time)
        is_news = "" if topic else f" AND (batch.{time} <> batch.ingested_at OR {differs})"
        # What is stored since later than now was stored while this clock was wrong. It must not hide what comes.
        latest = (now + timedelta(seconds=CLOCK_SKEW_SECONDS)).isoformat(sep=" ")
        is_due = f"({_is_later('batch', ledger, time)} OR {ledger}.{time} > CAST('{latest}' AS TIMESTAMP))"
        return tx.execute(
            f"MERGE INTO {ledger} USING {batch} ON {ledger}.{key} = batch.{key}"
            f" WHEN MATCHED AND {is_due}{is_news} THEN UPDATE SET {assigned}"
            f" WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({of_batch})",
            origin,
        )
    days: list[date] = pc.unique(rows[time].cast(pa.date32())).to_pylist()
    # The bounds are literals and each scan has one range, so that it opens only the files of these days.
    known = " UNION ALL ".join(
        f"SELECT {key} FROM {ledger} WHERE {time} BETWEEN CAST('{first}' AS TIMESTAMP) AND CAST('{end}' AS TIMESTAMP)"
        for first, end in day_intervals(days)
    )
    stored = tx.execute(
        f"INSERT INTO {ledger} ({listed}) SELECT {of_batch} FROM {batch} LEFT JOIN ({known}) AS known"
        f" ON batch.{key} = known.{key} WHERE known.{key} IS NULL",
        origin,
    )
    if stored < keys:
        # Of two different facts with the same key the earlier one is kept, whichever was stored first, so that a ledger
        # does not depend on how the stream was cut into batches. A retry repeats the same fact. One that was sent before what
        # is stored takes its place: something else may have been sent between the two. Rows of a file have no such place.
        differs = " OR ".join(f"batch.{name} IS DISTINCT FROM {ledger}.{name}" for name in names)
        is_news = "" if topic else f" AND ({differs})"
        not_void = f" AND batch.{key} NOT IN (SELECT key FROM staged_voids_{ledger})" if with_voids else ""
        first, end = min(days), max(days) + timedelta(days=1)
        tx.execute(
            f"UPDATE {ledger} SET {assigned} FROM {batch} WHERE {ledger}.{key} = batch.{key}{is_news}{not_void}"
            f" AND {_is_later(ledger, 'batch', time)}"
            f" AND {ledger}.{time} BETWEEN CAST('{first}' AS TIMESTAMP) AND CAST('{end}' AS TIMESTAMP)",
            origin,
        )
    return stored


def _is_later(one: str, other: str, time: str) -> str:
    """SQL: whether the event of row `one` is later than that of row `other`, by its time, then its place in Kafka."""
    offsets, partitions = (
        [f"coalesce({row}.{column}, -1)" for row in (one, other)] for column in ("kafka_offset", "kafka_partition")
    )
    return (
        f"({one}.{time} > {other}.{time} OR ({one}.{time} = {other}.{time} AND ({offsets[0]} > {offsets[1]}"
        f" OR ({offsets[0]} = {offsets[1]} AND {partitions[0]} > {partitions[1]}))))"
    )
