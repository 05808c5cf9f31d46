"""How far the warehouse is behind Kafka: which messages wait, which are missing, and how a backlog is ingested.

The sensor, the ingest asset, the demo and `churn status` all use `lags`. Reading is in `kafka`, storing in `commit`.
"""

import ctypes
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion import commit, gaps, schema_registry
from churn_assets.ingestion.commit import Stored, committed_offsets, furthest_offsets, not_yet_committed
from churn_assets.ingestion.decoding import Decoded
from churn_assets.ingestion.gaps import Gap, Kind
from churn_assets.ingestion.isolation import Decode, IsolatedDecoder, decode_here
from churn_assets.ingestion.kafka import (
    Chunk,
    Cluster,
    KafkaUnavailableError,
    OffsetRange,
    OffsetsGoneError,
    Partition,
    TruncatedError,
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
    """How far the warehouse is behind one partition.

    `watermarks` is None while the partition has no leader. `committed` is None if nothing of the partition was ever read.
    `leader_epoch` tells the leader under which the messages before `committed` were read, None if that is not known. `gap`
    is open in the warehouse, or was found by this look.
    """

    partition: Partition
    watermarks: Watermarks | None
    committed: int | None
    leader_epoch: int | None
    gap: Gap | None

    @property
    def waiting(self) -> OffsetRange:
        """The offsets to read next: from the committed offset, or the oldest kept message, to the high watermark."""
        low, high = (self.watermarks.low, self.watermarks.high) if self.watermarks else (0, 0)
        start = low if self.committed is None else self.committed
        return OffsetRange(self.partition, start, max(start, high))

    @property
    def problem(self) -> str | None:
        """Why the partition is not read to its end, in words; None if it is."""
        if self.gap is not None:
            return str(self.gap)
        if self.watermarks is None:
            return f"{self.partition} has no leader that answers; its messages wait until it has one"
        return None

    def is_blocked(self, on_gap: OnGap) -> bool:
        """Whether nothing may be read of the partition: it has a gap that is not allowed or cannot be skipped."""
        return self.gap is not None and (on_gap == "fail" or not self.gap.can_be_skipped)


@dataclass(frozen=True)
class _Standing:
    """What the warehouse knows of partitions: how far they are stored, and their gaps that matter still."""

    committed: dict[Partition, int]
    leader_epochs: dict[Partition, int]
    open_gaps: dict[Partition, Gap]
    begun_anew: set[Partition]


def lags(warehouse: Warehouse, cluster: Cluster, topics: Iterable[str]) -> list[PartitionLag]:
    """How far the warehouse is behind each partition of the topics, new partitions included."""
    return _lags(cluster, topics, _standing(warehouse))


def _standing(warehouse: Warehouse) -> _Standing:
    rows = warehouse.query(
        "SELECT epoch, topic, kafka_partition, NULL AS kind, committed_offset AS start_offset, NULL AS end_offset,"
        " leader_epoch, NULL AS resolved_at FROM kafka_offsets UNION ALL"
        " SELECT epoch, topic, kafka_partition, kind, start_offset, end_offset, NULL AS leader_epoch, resolved_at"
        f" FROM kafka_gaps WHERE resolved_at IS NULL OR kind = '{Kind.CREATED_AGAIN}'"
    ).to_pylist()
    found = _Standing({}, {}, {}, set())
    for row in rows:
        partition = Partition(row["epoch"], row["topic"], row["kafka_partition"])
        if row["kind"] is None:
            found.committed[partition] = row["start_offset"]
            if row["leader_epoch"] is not None:
                found.leader_epochs[partition] = row["leader_epoch"]
        elif row["resolved_at"] is None:
            found.open_gaps[partition] = Gap(partition, Kind(row["kind"]), row["start_offset"], row["end_offset"])
        else:
            found.begun_anew.add(partition)
    return found


def _lags(cluster: Cluster, topics: Iterable[str], standing: _Standing) -> list[PartitionLag]:
    return [
        PartitionLag(
            partition,
            watermarks,
            standing.committed.get(partition),
            standing.leader_epochs.get(partition),
            standing.open_gaps.get(partition)
            or (_gap(partition, watermarks, cluster, standing) if watermarks else None),
        )
        for topic in topics
        for partition, watermarks in cluster.partitions(topic).items()
    ]


def _gap(partition: Partition, watermarks: Watermarks, cluster: Cluster, standing: _Standing) -> Gap | None:
    """What a look at the offsets alone can tell. That a log was cut and has grown again since, only reading it tells."""
    committed = standing.committed.get(partition)
    if committed is None:
        of_topic = {known: offset for known, offset in standing.committed.items() if known.topic == partition.topic}
        predecessor = _predecessor(partition, cluster, of_topic)
        if predecessor is not None and partition not in standing.begun_anew:
            return Gap(partition, Kind.CREATED_AGAIN, predecessor, None)
        is_followed = predecessor is not None or any(known.epoch == partition.epoch for known in of_topic)
        committed = 0 if is_followed else watermarks.low
    if committed < watermarks.low:
        return Gap(partition, Kind.DELETED, committed, watermarks.low)
    if committed > watermarks.high:
        return Gap(partition, Kind.TRUNCATED, watermarks.low, committed)
    return None


def _predecessor(partition: Partition, cluster: Cluster, of_topic: Mapping[Partition, int]) -> int | None:
    """The committed offset of the same partition before its topic was deleted and created again; None if it was not."""
    if cluster.is_embedded or any(known.epoch == partition.epoch for known in of_topic):
        return None
    return max(
        (
            offset
            for known, offset in of_topic.items()
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

    A gap of these topics is kept in the warehouse. Its partition is not read, unless `on_gap` is "skip" and the gap can be
    skipped; nor is one without a leader. At the end the committed offsets are also committed to the Kafka group `group`.
    `clock` gives the time (UTC); `report` gets one line per chunk. `isolated`: decode in a child process, which takes half a
    second to start. After a run that did not end well, it finds the message on which that run's decoder died, if there is
    one. `mappings` read the topics that they name, `registry` has the schemas of those that need one. Raises
    `OffsetGapError`, `OffsetsGoneError`, `TruncatedError`, `KafkaUnavailableError`, `RegistryUnavailableError` and
    `DecoderError`; what was stored before stays stored.
    """
    _return_freed_memory()
    _notice_if_it_went_back(warehouse, cluster, group, ranges, clock, report)
    total = Stored()
    asked = sum(map(len, ranges))
    while (plan := _plan(warehouse, cluster, ranges, on_gap, clock, total, report)).ranges:
        decoder = IsolatedDecoder() if isolated else None
        decode = decoder.decode if decoder else decode_here
        try:
            with (
                closing(
                    _decoded(cluster, plan, decode, clock, mappings or Mappings(None), registry or Registry())
                ) as chunks,
                closing(_ahead(chunks)) as ahead,
                closing(decoder) if decoder else nullcontext(),  # first, so that nothing waits for what it decodes
            ):
                for chunk, rows in ahead:
                    refuse_another_epoch(cluster, chunk)
                    if chunk.ranges:
                        total.add(commit.store(warehouse, chunk, rows, clock(), plan.leader_epochs))
                        done = sum(map(len, total.ranges))
                        report(f"{done:,} of {asked:,} offsets stored ({total.messages:,} messages)")
        except commit.OvertakenError:
            continue  # what the other run committed is left out of the next round
        except TruncatedError as error:
            _keep_truncation(warehouse, plan, error, clock())
    tell_group(warehouse, cluster, group, {r.partition for r in ranges}, report)
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
    if ahead:  # also where a resolved gap lets a partition be read again
        been = furthest_offsets(warehouse)
        ahead = [(partition, offset) for partition, offset in ahead if offset > been.get(partition, 0)]
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


@dataclass(frozen=True)
class _Plan:
    """What is read in one round: the ranges, and the leader epochs that go with them.

    `read_under` is that of the messages before each range. `leader_epochs` are those of the leaders that said, before the
    round, how far their logs reach: if one loses messages before they are read, the next round notices it.
    """

    ranges: list[OffsetRange]
    read_under: dict[Partition, int]
    leader_epochs: dict[Partition, int]


def _plan(
    warehouse: Warehouse,
    cluster: Cluster,
    ranges: Sequence[OffsetRange],
    on_gap: OnGap,
    clock: Callable[[], datetime],
    total: Stored,
    report: Callable[[str], None],
) -> _Plan:
    """The parts of the ranges that can be read now. Gaps are kept, and skipped where that is allowed."""
    standing, found = _found(warehouse, cluster, {r.partition.topic for r in ranges}, on_gap, clock, total)
    readable: list[OffsetRange] = []
    for asked in not_yet_committed(ranges, standing.committed):
        lag = found.get(asked.partition)
        if lag is None:
            raise OffsetsGoneError(
                f"{asked} were asked for, but the cluster at {cluster.bootstrap_servers} has no such partition in epoch"
                f" {asked.partition.epoch}: the embedded broker was restarted, the topic was created again, or"
                " KAFKA_BOOTSTRAP_SERVERS names another cluster"
            )
        if lag.watermarks is None or lag.gap is not None:
            report(f"left aside: {lag.problem}")
        elif asked.end > lag.watermarks.high:
            raise OffsetsGoneError(f"{asked} were asked for, the cluster holds up to {lag.watermarks.high}")
        else:
            readable.append(asked)
    return _Plan(
        readable,
        standing.leader_epochs,
        epochs_of_leaders(found.values()),
    )


def epochs_of_leaders(found: Iterable[PartitionLag]) -> dict[Partition, int]:
    """Under which leader each partition stands now, as far as that is known."""
    return {
        lag.partition: lag.watermarks.leader_epoch
        for lag in found
        if lag.watermarks is not None and lag.watermarks.leader_epoch is not None
    }


def _found(
    warehouse: Warehouse,
    cluster: Cluster,
    topics: set[str],
    on_gap: OnGap,
    clock: Callable[[], datetime],
    total: Stored,
) -> tuple[_Standing, dict[Partition, PartitionLag]]:
    """How the partitions of the topics stand, once their gaps are kept and those that may be skipped are."""
    standing = _standing(warehouse)
    found = _lags(cluster, topics, standing)
    _keep_beginnings(warehouse, found, clock())
    new = [_precise(lag, cluster) for lag in found if lag.gap is not None and lag.partition not in standing.open_gaps]
    gaps.keep(warehouse, new, clock())
    skipped = [lag.gap for lag in found if lag.gap is not None and not lag.is_blocked(on_gap)]
    for gap in skipped:
        gaps.resolve(warehouse, gap, clock(), "CHURN_ON_GAP=skip", None)
        if gap.end is not None:
            total.skipped.append(OffsetRange(gap.partition, gap.start, gap.end))
    if skipped:
        return _found(warehouse, cluster, topics, on_gap, clock, total)
    return standing, {lag.partition: lag for lag in found}


def _keep_beginnings(warehouse: Warehouse, found: Sequence[PartitionLag], now: datetime) -> None:
    """At the first look at a topic, note where its partitions begin: from then on, a head that is lost is a gap."""
    for _, of_topic in groupby(found, key=lambda lag: lag.partition.topic):
        looked_at = list(of_topic)
        if all(lag.committed is None and lag.gap is None for lag in looked_at):
            commit.begin(
                warehouse,
                {lag.partition: lag.watermarks.low for lag in looked_at if lag.watermarks and lag.watermarks.low},
                now,
            )


def _precise(lag: PartitionLag, cluster: Cluster) -> Gap:
    """The gap with the offset at which the log was cut: it may have grown since, so its end does not tell."""
    assert lag.gap is not None
    if lag.gap.kind != Kind.TRUNCATED or lag.committed is None or lag.leader_epoch is None:
        return lag.gap
    start = cluster.agrees_to(lag.partition, lag.committed, lag.leader_epoch)
    return lag.gap if start is None else replace(lag.gap, start=start)


def _keep_truncation(warehouse: Warehouse, plan: _Plan, error: TruncatedError, now: datetime) -> None:
    """Keep the gap that reading has found. Raise the error again if the lost messages were never stored."""
    (partition,) = {r.partition for r in plan.ranges if (r.partition.topic, r.partition.number) == error.place}
    committed = committed_offsets(warehouse).get(partition, 0)
    start = error.agrees_to or 0
    if start >= committed:
        raise error
    gaps.keep(warehouse, [Gap(partition, Kind.TRUNCATED, start, committed)], now)


def _return_freed_memory() -> None:
    """Keep memory flat during a long backlog: by default, glibc keeps more and more of the memory of freed buffers."""
    with suppress(AttributeError, OSError):  # another C library
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, 128 << 10)


def _decoded(
    cluster: Cluster,
    plan: _Plan,
    decode: Decode,
    clock: Callable[[], datetime],
    mappings: Mappings,
    registry: Registry,
) -> Generator[tuple[Chunk, Decoded]]:
    with closing(cluster.read(plan.ranges, plan.read_under)) as chunks:
        for chunk in chunks:
            yield decoded(chunk, decode, clock(), mappings, registry)


def decoded(
    chunk: Chunk, decode: Decode, now: datetime, mappings: Mappings, registry: Registry
) -> tuple[Chunk, Decoded]:
    """A chunk with the time stamps that count at `now` (UTC), and the rows and rejects of its messages."""
    source = mappings.of_topic(chunk.topic)
    if source is not None:
        source = registry.with_schemas(source, chunk.messages)
    chunk = replace(chunk, messages=_without_future(chunk.messages, now))
    return chunk, decode(chunk.messages, now, source)


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


def refuse_another_epoch(cluster: Cluster, chunk: Chunk) -> None:
    """Raise if the topic was created again while it was read: its offsets then mean other messages."""
    epoch = cluster.epoch(chunk.topic)
    if any(r.partition.epoch != epoch for r in chunk.ranges):
        raise OffsetsGoneError(f"the topic {chunk.topic} was deleted or created again while it was read")


def tell_group(
    warehouse: Warehouse, cluster: Cluster, group: str, partitions: Iterable[Partition], report: Callable[[str], None]
) -> None:
    """Commit to Kafka's group how far the partitions are stored, so that tools can show the lag."""
    committed = committed_offsets(warehouse)
    offsets = {partition: committed[partition] for partition in partitions if partition in committed}
    if not offsets:
        return
    try:
        cluster.commit_group(group, offsets, warehouse.identity())
    except KafkaUnavailableError as error:
        report(f"the messages are stored, but their offsets could not be committed to the group {group}: {error}")
