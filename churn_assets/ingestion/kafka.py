"""What is read from Kafka: which cluster, how far its partitions reach, and the messages of an offset range.

Here belong the client and its settings. What the messages mean is `decoding`, what has been stored is `commit`.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from churn_assets.errors import ChurnError
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA
from churn_assets.settings import Settings

TIMEOUT_SECONDS = 5.0  # for one question to the cluster
STALL_SECONDS = 30.0  # without a message while reading a range
# librdkafka waits this long before it asks for more when its queue is full; the default of 1,000 halves the speed.
_QUEUE_BACKOFF_MS = 5


class KafkaUnavailableError(ChurnError):
    """The cluster does not answer, or there is none; the message says which address was tried and what to do."""


class OffsetsGoneError(ChurnError):
    """Messages that were asked for are not on the cluster; the message names the missing range."""


@dataclass(frozen=True)
class Cluster:
    """A reachable cluster. Offsets mean something only within one epoch: one life of one cluster."""

    bootstrap_servers: str
    epoch: str


@dataclass(frozen=True, order=True)
class OffsetRange:
    """The messages `[start, end)` of one partition."""

    topic: str
    partition: int
    start: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.start)


@dataclass(frozen=True)
class Watermarks:
    """The offsets that a partition holds: from `low` up to but not including `high`."""

    low: int
    high: int


def locate(settings: Settings) -> Cluster:
    """The cluster that the settings name, else the embedded broker that is running on this home.

    A real cluster's epoch is its cluster id: it survives restarts, so offsets that go back within it are a fault. The
    embedded broker forgets everything when it stops, so each start is an epoch of its own.
    """
    if settings.kafka_bootstrap_servers is None:
        if not settings.broker_file.exists() or not is_running(settings.broker_file):
            raise KafkaUnavailableError(
                "no broker: KAFKA_BOOTSTRAP_SERVERS is not set and the embedded broker is not running; run `churn broker`"
            )
        broker = json.loads(settings.broker_file.read_text())
        return Cluster(broker["bootstrap_servers"], broker["epoch"])
    servers = settings.kafka_bootstrap_servers
    consumer = _consumer(servers)
    try:
        return Cluster(servers, consumer.list_topics(timeout=TIMEOUT_SECONDS).cluster_id or servers)
    except KafkaException as error:
        raise _unavailable(servers, error) from error
    finally:
        consumer.close()


def is_running(broker_file: Path) -> bool:
    """Whether the process that wrote the broker's file is alive; one that was killed leaves its file behind."""
    try:
        os.kill(json.loads(broker_file.read_text())["pid"], 0)
    except ProcessLookupError:
        return False
    return True


def watermarks(cluster: Cluster, topic: str) -> dict[int, Watermarks]:
    """The offsets each partition of a topic holds; empty where the topic does not exist yet."""
    consumer = _consumer(cluster.bootstrap_servers)
    try:
        found = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return {}
        marks: dict[int, Watermarks] = {}
        for partition in sorted(found.partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
            marks[partition] = Watermarks(low, high)
        return marks
    except KafkaException as error:
        raise _unavailable(cluster.bootstrap_servers, error) from error
    finally:
        consumer.close()


def consume(cluster: Cluster, ranges: Sequence[OffsetRange]) -> pa.Table:
    """The messages of the ranges (`MESSAGE_SCHEMA`), by manual assignment: no group, no rebalance.

    Only committed messages are read. Offsets without a message (transaction markers, compaction) are passed over.
    """
    wanted = {(r.topic, r.partition): r for r in ranges if len(r)}
    _refuse_what_is_gone(cluster, wanted.values())
    consumer = _consumer(cluster.bootstrap_servers)
    messages: list[Message] = []
    try:
        consumer.assign([TopicPartition(r.topic, r.partition, r.start) for r in wanted.values()])
        unfinished = dict(wanted)
        last_progress = monotonic()
        while unfinished:
            batch = consumer.consume(500, timeout=0.1)
            messages += [message for message in batch if _take(message, unfinished)]
            if batch:
                last_progress = monotonic()
            elif monotonic() - last_progress > STALL_SECONDS:
                raise KafkaUnavailableError(f"{cluster.bootstrap_servers} sent nothing for {STALL_SECONDS:.0f} s")
    except KafkaException as error:
        raise _unavailable(cluster.bootstrap_servers, error) from error
    finally:
        consumer.close()
    return _to_arrow(messages)


def _refuse_what_is_gone(cluster: Cluster, ranges: Collection[OffsetRange]) -> None:
    held = {topic: watermarks(cluster, topic) for topic in {wanted.topic for wanted in ranges}}
    for wanted in ranges:
        marks = held[wanted.topic].get(wanted.partition, Watermarks(0, 0))
        if wanted.start < marks.low or wanted.end > marks.high:
            raise OffsetsGoneError(
                f"{wanted.topic}[{wanted.partition}]: offsets {wanted.start} to {wanted.end} were asked for, the cluster"
                f" holds {marks.low} to {marks.high}"
            )


def _take(message: Message, unfinished: dict[tuple[str, int], OffsetRange]) -> bool:
    """Whether the message belongs to an unfinished range; a range that it finishes is removed from `unfinished`."""
    error, topic, partition, offset = message.error(), message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise KafkaException(error)
    is_end_of_partition = error is not None and error.code() == KafkaError._PARTITION_EOF
    if error is not None and not is_end_of_partition:
        raise KafkaException(error)
    wanted = unfinished.get((topic, partition))
    if wanted is None:
        return False
    # The end of a partition also ends its range: what is left of it are markers without a message.
    if is_end_of_partition or offset >= wanted.end - 1:
        del unfinished[topic, partition]
    return not is_end_of_partition and offset < wanted.end


def _to_arrow(messages: list[Message]) -> pa.Table:
    return pa.table(
        [
            pa.array([message.topic() for message in messages], pa.string()),
            pa.array([message.partition() for message in messages], pa.int32()),
            pa.array([message.offset() for message in messages], pa.int64()),
            pa.array([message.timestamp()[1] for message in messages], pa.int64())
            .cast(pa.timestamp("ms"))
            .cast(pa.timestamp("us")),
            pa.array([message.value() for message in messages], pa.binary()),
        ],
        schema=MESSAGE_SCHEMA,
    )


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "churn_assets",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": _QUEUE_BACKOFF_MS,
            "fetch.wait.max.ms": 50,
            "log_level": 2,  # the caller hears of an unreachable broker by exception, not on stderr
        }
    )


def _unavailable(servers: str, error: KafkaException) -> KafkaUnavailableError:
    return KafkaUnavailableError(f"Kafka at {servers} does not answer: {error.args[0]}; is the broker running?")
