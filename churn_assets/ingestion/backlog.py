"""How far the warehouse is behind Kafka: which messages wait, which are missing, and how a backlog is ingested.

The sensor, the ingest asset, the demo and `churn status` all use `lags`. Reading is in `kafka`, storing in `commit`.
"""

import ctypes
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion import commit, schema_registry
from churn_assets.ingestion.commit import Stored, committed_offsets, not_yet_committed
from churn_assets.ingestion.decoding import Decoded
from churn_assets.ingestion.isolation import Decode, IsolatedDecoder, decode_here
from churn_assets.ingestion.kafka import (
    Chunk,
    Cluster,
    KafkaUnavailableError,
    OffsetRange,
    OffsetsGoneError,
    Partition,
    Watermarks,
    connect,
)
from churn_assets.ingestion.mapping.compiling import Mappings, load_mappings
from churn_assets.ingestion.schema_registry import Registry
from churn_assets.settings import OnGap, Settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.setbacks import note_setback

T = TypeVar("T")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@dataclass(frozen=True)
class PartitionLag:
    """How far the warehouse is behind one partition. `committed` is None if nothing of the partition was ever read.

    `predecessor` is the committed offset of the same partition before its topic was deleted and created again.
    """

    partition: Partition
    watermarks: Watermarks
    committed: int | None
    predecessor: int | None

    @property
    def waiting(self) -> OffsetRange:
        """The offsets to read next: from the committed offset, or the oldest kept message, to the high watermark."""
        start = self.watermarks.low if self.committed is None else self.committed
        return OffsetRange(self.partition, start, max(start, self.watermarks.high))

    @property
    def gone(self) -> OffsetRange:
        """Messages that were never stored and are no longer on the cluster: retention has deleted them."""
        start = self.waiting.start
        return OffsetRange(self.partition, start, max(start, self.watermarks.low))

    @property
    def gap(self) -> str | None:
        """A description, with offsets, of the messages missing between the warehouse and the cluster, or None."""
        if len(self.gone):
            return f"{self.gone} were deleted by the topic's retention before they were stored"
        if self.waiting.start > self.watermarks.high:
            return (
                f"{self.partition} ends at {self.watermarks.high}, but the messages before {self.waiting.start} are stored:"
                " the cluster has lost messages (an unclean leader election, a restored backup); delete the topic and"
                " create it again before anything new is sent"
            )
        if self.committed is None and self.predecessor is not None:
            return (
                f"{self.partition} was deleted and created again; messages of the old topic from {self.predecessor} on,"
                " if there were any, were never stored"
            )
        return None

    def is_blocked(self, on_gap: OnGap) -> bool:
        """Whether nothing more may be read of the partition: it has a gap that is not allowed or cannot be skipped."""
        return self.gap is not None and (on_gap == "fail" or self.waiting.start > self.watermarks.high)


def lags(warehouse: Warehouse, cluster: Cluster, topics: Iterable[str]) -> list[PartitionLag]:
    """How far the warehouse is behind each partition of the topics, new partitions included."""
    return _lags(cluster, topics, committed_offsets(warehouse))


def _lags(cluster: Cluster, topics: Iterable[str], committed: Mapping[Partition, int]) -> list[PartitionLag]:
    return [
        PartitionLag(partition, watermarks, committed.get(partition), _predecessor(partition, cluster, committed))
        for topic in topics
        for partition, watermarks in cluster.partitions(topic).items()
    ]


def _predecessor(partition: Partition, cluster: Cluster, committed: Mapping[Partition, int]) -> int | None:
    of_topic = [known for known in committed if known.topic == partition.topic]
    if cluster.is_embedded or any(known.epoch == partition.epoch for known in of_topic):
        return None
    return max(
        (
            committed[known]
            for known in of_topic
            if known.number == partition.number and known.epoch.startswith(f"{cluster.id}/")
        ),
        default=None,
    )


def ingest(
    warehouse: Warehouse,
    cluster: Cluster,
    ranges: Sequence[OffsetRange],
    *,
    on_gap: OnGap,
    group: str,
    clock: Callable[[], datetime],
    report: Callable[[str], None],
    isolated: bool = False,
    mappings: Mappings | None = None,
    registry: Registry | None = None,
) -> Stored:
    """Read the ranges and store them chunk by chunk. Committed offsets are left out, so any range may be run again.

    A partition with a gap is not read, unless `on_gap` is "skip" and the gap can be skipped. At the end the committed
    offsets are also committed to the Kafka group `group`. `clock` gives the time (UTC); `report` gets one line per chunk.
    `isolated`: decode in a child process, which takes half a second to start. After a run that did not end well, it finds
    the message on which that run's decoder died, if there is one. `mappings` read the topics that they name,
    `registry` has the schemas of those that need one. Raises `OffsetGapError`, `OffsetsGoneError`, `KafkaUnavailableError`,
    `RegistryUnavailableError` and `DecoderError`; what was stored before stays stored.
    """
    _return_freed_memory()
    _notice_if_it_went_back(warehouse, cluster, group, ranges, clock, report)
    total = Stored()
    asked = sum(map(len, ranges))
    while wanted := _readable(warehouse, cluster, ranges, on_gap, clock, total):
        decoder = IsolatedDecoder() if isolated else None
        decode = decoder.decode if decoder else decode_here
        try:
            with (
                closing(
                    _decoded(cluster, wanted, decode, clock, mappings or Mappings(None), registry or Registry())
                ) as chunks,
                closing(_ahead(chunks)) as ahead,
                closing(decoder) if decoder else nullcontext(),  # first, so that nothing waits for what it decodes
            ):
                for chunk, decoded in ahead:
                    _refuse_another_epoch(cluster, chunk)
                    if chunk.ranges:
                        total.add(commit.store(warehouse, chunk, decoded, clock()))
                        done = sum(map(len, total.ranges))
                        report(f"{done:,} of {asked:,} offsets stored ({total.messages:,} messages)")
        except commit.OvertakenError:
            continue  # what the other run committed is left out of the next round
    _tell_group(warehouse, cluster, group, ranges, report)
    return total


def ingest_waiting(
    settings: Settings,
    warehouse: Warehouse,
    *,
    on_gap: OnGap,
    clock: Callable[[], datetime],
    report: Callable[[str], None],
) -> Stored:
    """Store what waits in the topics of the settings, as `ingest` does, for a command that nobody would repeat."""
    cluster = connect(settings)
    return ingest(
        warehouse,
        cluster,
        [lag.waiting for lag in lags(warehouse, cluster, settings.topics)],
        on_gap=on_gap,
        group=settings.kafka_group,
        clock=clock,
        report=report,
        isolated=True,
        mappings=load_mappings(settings.mapping_file),
        registry=schema_registry.connect(settings),
    )


def went_back(warehouse: Warehouse, cluster: Cluster, topics: Iterable[str], group: str) -> str | None:
    """What shows that the warehouse was further than it is: its group in Kafka, which follows it, is ahead. None otherwise."""
    told = cluster.group_offsets(group, topics, warehouse.identity())
    stored = committed_offsets(warehouse) if told else {}  # read afterwards, because another run may move both
    ahead = [(partition, offset) for partition, offset in told.items() if offset > stored.get(partition, 0)]
    if not ahead:
        return None
    partition, offset = ahead[0]
    return (
        f"they had stored {partition} up to offset {offset:,}, as Kafka's group {group} says, and now have it up to"
        f" {stored.get(partition, 0):,}"
    )


def _notice_if_it_went_back(
    warehouse: Warehouse,
    cluster: Cluster,
    group: str,
    ranges: Iterable[OffsetRange],
    clock: Callable[[], datetime],
    report: Callable[[str], None],
) -> None:
    """Record it before the ranges are stored: afterwards the warehouse has caught up, and nothing shows it any more."""
    try:
        evidence = went_back(warehouse, cluster, {r.partition.topic for r in ranges}, group)
    except KafkaUnavailableError as error:  # the group's broker may be away alone
        report(f"the group {group} could not be asked how far this warehouse has been: {error}")
        return
    if evidence:
        note_setback(warehouse, evidence, clock())


def rewind_group(warehouse: Warehouse, cluster: Cluster, topics: Iterable[str], group: str) -> None:
    """Let the group in Kafka follow a warehouse that went back."""
    warehouse_id = warehouse.identity()
    told, stored = cluster.group_offsets(group, topics, warehouse_id), committed_offsets(warehouse)
    if told:
        cluster.commit_group(group, {partition: stored.get(partition, 0) for partition in told}, warehouse_id)


def _readable(
    warehouse: Warehouse,
    cluster: Cluster,
    ranges: Sequence[OffsetRange],
    on_gap: OnGap,
    clock: Callable[[], datetime],
    total: Stored,
) -> list[OffsetRange]:
    """The parts of the ranges that can be read now. Allowed gaps are skipped on the way."""
    committed = committed_offsets(warehouse)
    wanted = not_yet_committed(ranges, committed)
    found = {lag.partition: lag for lag in _lags(cluster, {r.partition.topic for r in wanted}, committed)}
    readable: list[OffsetRange] = []
    for asked in wanted:
        lag = found.get(asked.partition)
        if lag is None:
            raise OffsetsGoneError(
                f"{asked} were asked for, but the cluster at {cluster.bootstrap_servers} has no such partition in epoch"
                f" {asked.partition.epoch}: the embedded broker was restarted, the topic was created again, or"
                " KAFKA_BOOTSTRAP_SERVERS names another cluster"
            )
        if lag.is_blocked(on_gap):
            continue
        if asked.end > lag.watermarks.high:
            raise OffsetsGoneError(f"{asked} were asked for, the cluster holds up to {lag.watermarks.high}")
        start = asked.start
        if gone := OffsetRange(asked.partition, start, min(lag.watermarks.low, asked.end)):
            total.add(commit.skip(warehouse, gone, clock()))
            start = gone.end
        if start < asked.end:
            readable.append(OffsetRange(asked.partition, start, asked.end))
    return readable


def _return_freed_memory() -> None:
    """Keep memory flat during a long backlog: by default, glibc keeps more and more of the memory of freed buffers."""
    with suppress(AttributeError, OSError):  # another C library
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, 128 << 10)


def _decoded(
    cluster: Cluster,
    ranges: list[OffsetRange],
    decode: Decode,
    clock: Callable[[], datetime],
    mappings: Mappings,
    registry: Registry,
) -> Generator[tuple[Chunk, Decoded]]:
    with closing(cluster.read(ranges)) as chunks:
        for chunk in chunks:
            source = mappings.of_topic(chunk.topic)
            if source is not None:
                source = registry.with_schemas(source, chunk.messages)
            now = clock()
            chunk = replace(chunk, messages=_without_future(chunk.messages, now))  # noqa: PLW2901
            yield chunk, decode(chunk.messages, now, source)


def _without_future(messages: pa.Table, now: datetime) -> pa.Table:
    """The messages (`MESSAGE_SCHEMA`), none with a time stamp later than `now` (UTC).

    A producer whose clock is ahead would otherwise hide all that comes after, where the latest state counts. The stamp of the
    message before it in the partition stands in, or of the next one: of equal times the higher offset is the later.
    """
    latest = pc.max(messages["kafka_time"]).as_py()
    if latest is None or latest <= now:
        return messages
    times = messages["kafka_time"].to_pandas()
    right = times.mask(times > now).groupby(messages["kafka_partition"].to_numpy())
    known = right.ffill().fillna(right.bfill()).fillna(now)
    place, kind = messages.schema.get_field_index("kafka_time"), messages.schema.field("kafka_time")
    return messages.set_column(place, kind, pa.array(known, kind.type))


def _ahead(items: Generator[T]) -> Generator[T]:
    """The items. While the caller works on one, the next is already being made."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, items, None)
        while (item := following.result()) is not None:
            following = reader.submit(next, items, None)
            yield item


def _refuse_another_epoch(cluster: Cluster, chunk: Chunk) -> None:
    """Raise if the topic was created again while it was read: its offsets then mean other messages."""
    epoch = cluster.epoch(chunk.topic)
    if any(r.partition.epoch != epoch for r in chunk.ranges):
        raise OffsetsGoneError(f"the topic {chunk.topic} was deleted or created again while it was read")


def _tell_group(
    warehouse: Warehouse, cluster: Cluster, group: str, ranges: Iterable[OffsetRange], report: Callable[[str], None]
) -> None:
    committed = committed_offsets(warehouse)
    offsets = {r.partition: committed[r.partition] for r in ranges if r.partition in committed}
    if not offsets:
        return
    try:
        cluster.commit_group(group, offsets, warehouse.identity())
    except KafkaUnavailableError as error:
        report(f"the messages are stored, but their offsets could not be committed to the group {group}: {error}")
