"""The Kafka client: which cluster, the offsets of its partitions, and the messages of an offset range.

This module holds the client and its settings. What messages mean is in `decoding`, what is stored in `commit`.
"""

import atexit
import json
import os
import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import pyarrow as pa
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec  # pyright: ignore[reportPrivateImportUsage]
from pydantic import SecretStr

from churn_assets.errors import ChurnError
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA
from churn_assets.rules import INGEST_CHUNK_BYTES, INGEST_CHUNK_MESSAGES
from churn_assets.settings import Settings

TIMEOUT_SECONDS = 5.0  # for one request to the cluster
STALL_SECONDS = 30.0  # without a message before reading a range fails
# How long librdkafka waits before it fetches more when its queue is full; the default of 1,000 halves the speed.
_QUEUE_BACKOFF_MS = 5
_QUEUE_KILOBYTES = 32 * 1024  # that the client reads ahead, over all partitions
_QUEUE_MESSAGES = 10_000  # that it reads ahead of each partition, whatever their size
_BATCH_MESSAGES = 500  # per call to the client; larger calls are slower
_ARROW_MESSAGES = 25_000  # per Arrow batch
# A topic that was just created, or whose broker has just gone, soon has a leader of whom all brokers know.
_WITHOUT_A_LEADER = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError._NOENT,  # librdkafka's "no leaders found", where that holds for all that it was asked
}
# So is a group, after its broker has started or gone.
_WITHOUT_A_COORDINATOR = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}
# Its leader does not answer, or cannot say yet what its followers have.
_SILENT = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
}
_FAILOVER_SECONDS = 10.0  # for which others ask the same again; Kafka needs nine to notice that a broker is dead
_ELECTION_SECONDS = 1.0  # for which a partition without a leader is waited for before it is left aside
_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0  # without a message before what was read is handed over
# The client recovers from these on its own; if it does not, STALL_SECONDS ends the read.
_PASSING_ERRORS = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}


class KafkaUnavailableError(ChurnError):
    """The cluster does not answer, or there is none; the message says which address was tried and what to do."""


class OffsetsGoneError(ChurnError):
    """Requested messages are not on the cluster; the error names the missing range."""


class TruncatedError(ChurnError):
    """The log of a partition is no longer the one that was read. Both are the same up to the offset `agrees_to`, if known."""

    def __init__(self, said: str, topic: str, number: int, agrees_to: int | None) -> None:
        super().__init__(f"{topic}[{number}]: {said}")
        self.place = topic, number
        self.agrees_to = agrees_to


class Partition(NamedTuple):
    """One partition in one epoch of its topic: the same offsets in another epoch mean other messages."""

    epoch: str
    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True, order=True)
class OffsetRange:
    """The messages `[start, end)` of one partition."""

    partition: Partition
    start: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.start)

    def __str__(self) -> str:
        return f"{self.partition} {self.start} to {self.end}"


@dataclass(frozen=True)
class Watermarks:
    """The offsets that a partition holds: from `low` up to, but not including, `high`, the end of its committed messages.

    `leader_epoch` counts the elections up to the leader that said so; None from a broker that does not count them.
    """

    low: int
    high: int
    leader_epoch: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Messages (`MESSAGE_SCHEMA`) of one topic, and the offset ranges that they fill."""

    topic: str
    ranges: list[OffsetRange]
    messages: pa.Table


class Cluster:
    """A cluster that answered when this object was made.

    `security` holds librdkafka's sasl, ssl and security properties. `embedded_id` is set for the embedded broker: it
    forgets its messages when it stops, and its next start is another cluster with another id.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        security: Mapping[str, SecretStr] | None = None,
        embedded_id: str | None = None,
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.is_embedded = embedded_id is not None
        self._security = dict(security or {})
        self.id: str = embedded_id or self._metadata().cluster_id or bootstrap_servers

    def __repr__(self) -> str:
        return f"Cluster({self.bootstrap_servers})"

    def partitions(self, topic: str) -> dict[Partition, Watermarks | None]:
        """The partitions of a topic and the offsets that each holds; empty if the topic does not exist yet.

        None stands for a partition that has no leader at present, or whose leader does not answer.
        """
        found = self._metadata().topics.get(topic)
        if found is None or found.error is not None:
            return {}
        epoch = self.epoch(topic)
        if epoch is None:
            return {}
        places = [(topic, number) for number in sorted(found.partitions)]
        high = self._offsets(places, OffsetSpec.latest())
        low = self._offsets(high, OffsetSpec.earliest())
        return {
            Partition(epoch, *place): (
                Watermarks(low[place].offset, high[place].offset, known_epoch(high[place].leader_epoch))
                if place in low
                else None
            )
            for place in places
        }

    def high_watermarks(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after the last message of each partition, in one request, for callers that poll several times a second.

        A partition without a leader is left out.
        """
        asked = {(partition.topic, partition.number): partition for partition in partitions}
        return {asked[place]: found.offset for place, found in self._offsets(asked, OffsetSpec.latest()).items()}

    def epoch(self, topic: str) -> str | None:
        """The current epoch of a topic, made of the cluster's id and the topic's; None if the topic does not exist.

        A topic that is deleted and created again gets a new epoch; offsets of the old one do not apply to it.
        """
        if self.is_embedded:
            return self.id  # it has no topic ids, and topics are never deleted
        end = monotonic() + _FAILOVER_SECONDS
        while True:
            try:
                answer = self._admin.describe_topics(TopicCollection([topic]), request_timeout=TIMEOUT_SECONDS)
                return f"{self.id}/{answer[topic].result().topic_id}"
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    return None  # deleted since the metadata were read
                # The client asks the broker that last was the controller, which may be the one that has just died.
                if error.args[0].code() not in _SILENT or monotonic() > end:
                    raise self.unavailable(error) from error
                self._begin_anew()

    def read(self, ranges: Iterable[OffsetRange], leader_epochs: Mapping[Partition, int]) -> Generator[Chunk]:
        """The messages of the ranges in chunks of bounded size, by manual assignment: no group, no rebalance.

        Only committed messages are read. Offsets without a message (transaction markers, compaction) are passed over.
        A chunk ends at `INGEST_CHUNK_MESSAGES` or `INGEST_CHUNK_BYTES`, or where nothing more comes for a while.

        `leader_epochs`: under which leader the messages before a range were read. If the log before a range is no longer that
        leader's, `TruncatedError` is raised: messages were lost, and what stands at their offsets now was never read
        (KIP-320).
        """
        wanted = sorted(r for r in ranges if len(r))
        for topic, of_topic in groupby(wanted, key=lambda r: r.partition.topic):
            yield from self._read_topic(topic, list(of_topic), leader_epochs)

    def agrees_to(self, partition: Partition, offset: int, leader_epoch: int) -> int | None:
        """Up to which offset the log is the one of which the messages before `offset` were read under `leader_epoch`.

        None if that is `offset` itself, or the cluster does not say.
        """
        consumer = self.consumer()
        end = monotonic() + TIMEOUT_SECONDS
        try:
            consumer.assign([position(partition, offset, leader_epoch)])
            while monotonic() < end:
                message = consumer.poll(_POLL_SECONDS)
                if message is not None and (message.error() is None or self.is_end(message)):
                    return None
        except TruncatedError as error:
            return error.agrees_to
        except OffsetsGoneError:
            return None
        except KafkaException as error:
            raise self.unavailable(error) from error
        finally:
            consumer.close()
        return None

    def commit_group(self, group: str, offsets: Mapping[Partition, int], warehouse_id: str) -> None:
        """Commit a group's offsets to Kafka, so that tools can show its lag. Only the warehouse decides what is read.

        They also say how far the warehouse has been (`group_offsets`).
        """
        consumer = Consumer(self._config() | {"group.id": group, "enable.auto.commit": False})
        try:
            positions = [
                TopicPartition(p.topic, p.number, offset, f"{warehouse_id} {p.epoch}") for p, offset in offsets.items()
            ]
            for committed in consumer.commit(offsets=positions, asynchronous=False) or []:
                if committed.error is not None:
                    raise KafkaException(committed.error)
        except KafkaException as error:
            raise self.unavailable(error) from error
        finally:
            consumer.close()

    def group_offsets(self, group: str, topics: Iterable[str], warehouse_id: str) -> dict[Partition, int]:
        """The offsets that this warehouse has committed to a group; those of another one, or of another program, are left out."""
        known = self._metadata().topics
        asked = [
            TopicPartition(topic, number) for topic in topics if topic in known for number in known[topic].partitions
        ]
        if not asked:
            return {}
        offsets: dict[Partition, int] = {}
        for one in self._committed(group, asked):
            of_warehouse, _, epoch = (one.metadata or "").partition(" ")
            if of_warehouse == warehouse_id:
                offsets[Partition(epoch, one.topic, one.partition)] = one.offset
        return offsets

    def _committed(self, group: str, asked: list[TopicPartition]) -> list[TopicPartition]:
        # By a consumer: the same question of an admin client may end the process where no coordinator answers.
        consumer = Consumer(self._config() | {"group.id": group, "enable.auto.commit": False})
        end = monotonic() + TIMEOUT_SECONDS
        try:
            while True:
                try:
                    found = consumer.committed(asked, timeout=TIMEOUT_SECONDS)
                    for error in filter(None, (one.error for one in found)):
                        raise KafkaException(error)
                    return found
                except KafkaException as error:
                    if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                        return []  # so nothing was ever committed to it
                    if error.args[0].code() not in _WITHOUT_A_COORDINATOR or monotonic() > end:
                        raise self.unavailable(error) from error
                sleep(_POLL_SECONDS)
        finally:
            consumer.close()

    def producer(self, **properties: str | float | bool) -> Producer:
        """A client that writes to this cluster; `properties` are librdkafka's, with _ for each dot."""
        return Producer(self._config() | {name.replace("_", "."): value for name, value in properties.items()})

    @cached_property
    def _admin(self) -> Any:  # its types are incomplete
        try:
            return AdminClient(self._config())
        except KafkaException as error:
            raise KafkaUnavailableError(f"wrong Kafka setting: {self._without_secrets(error)}") from error

    def _begin_anew(self) -> None:
        """Ask with a new client from now on.

        An answer that comes after its request has timed out may end the process (confluentinc/librdkafka#4605); the old client,
        which would get it, is closed.
        """
        self.__dict__.pop("_admin", None)

    def _metadata(self) -> Any:
        try:
            return self._admin.list_topics(timeout=TIMEOUT_SECONDS)
        except KafkaException as error:
            raise self.unavailable(error) from error

    def _offsets(self, places: Iterable[tuple[str, int]], spec: Any) -> dict[tuple[str, int], ListOffsetsResultInfo]:
        """What the leader of each place says; places whose leader is away are left out."""
        found: dict[tuple[str, int], ListOffsetsResultInfo] = {}
        left: list[TopicPartition] = [TopicPartition(topic, number) for topic, number in places]
        end = monotonic() + _ELECTION_SECONDS
        while left:
            answer = self._admin.list_offsets(
                dict.fromkeys(left, spec),
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=TIMEOUT_SECONDS,
            )
            left, is_silent = [], False
            for place, future in answer.items():
                try:
                    found[place.topic, place.partition] = future.result()
                except KafkaException as error:
                    if error.args[0].code() in _WITHOUT_A_LEADER:
                        left.append(place)
                    elif error.args[0].code() in _SILENT:
                        is_silent = True
                    else:
                        raise self.unavailable(error) from error
            if is_silent:
                self._begin_anew()
            if not left or monotonic() > end:
                break
            sleep(_POLL_SECONDS)
        return found

    def _read_topic(
        self, topic: str, ranges: list[OffsetRange], leader_epochs: Mapping[Partition, int]
    ) -> Generator[Chunk]:
        consumer = self.consumer()
        try:
            consumer.assign([position(r.partition, r.start, leader_epochs.get(r.partition)) for r in ranges])
            unfinished = {r.partition.number: r for r in ranges}
            while unfinished:
                yield self._read_chunk(consumer, topic, unfinished)
        except KafkaException as error:
            raise self.unavailable(error) from error
        finally:
            consumer.close()

    def _read_chunk(self, consumer: Consumer, topic: str, unfinished: dict[int, OffsetRange]) -> Chunk:
        """Read the next chunk; `unfinished` holds the rest of each range, by partition."""
        starts = dict(unfinished)
        columns = Columns()
        batches: list[pa.RecordBatch] = []
        count = size = 0
        last_progress = monotonic()
        while unfinished and count < INGEST_CHUNK_MESSAGES and size < INGEST_CHUNK_BYTES:
            received = consumer.consume(min(_BATCH_MESSAGES, INGEST_CHUNK_MESSAGES - count), timeout=0.1)
            if received:
                last_progress = monotonic()
            elif count and monotonic() - last_progress > _QUIET_SECONDS:
                break  # the leader of what is left may be gone; what has come need not wait for it
            elif monotonic() - last_progress > STALL_SECONDS:
                left = ", ".join(map(str, unfinished.values()))
                raise KafkaUnavailableError(
                    f"{self.bootstrap_servers} sent nothing of {left} for {STALL_SECONDS:.0f} s"
                )
            messages = self._wanted(received, consumer, topic, unfinished)
            count += len(messages)
            size += columns.add(messages)
            if len(columns.values) >= _ARROW_MESSAGES:
                batches.append(columns.to_arrow())
                columns = Columns()
        batches.append(columns.to_arrow())
        ranges = [
            OffsetRange(r.partition, r.start, unfinished[number].start if number in unfinished else r.end)
            for number, r in starts.items()
        ]
        return Chunk(topic, [r for r in ranges if len(r)], pa.Table.from_batches(batches))

    def _wanted(
        self, received: list[Message], consumer: Consumer, topic: str, unfinished: dict[int, OffsetRange]
    ) -> list[Message]:
        """The received messages that lie in their partition's range; shortens the ranges in `unfinished` accordingly."""
        # These calls go over the batch in C; a Python loop over messages would be the slowest part of ingestion.
        if any(map(Message.error, received)):
            ended = {m.partition(): m.offset() for m in received if m.error() is not None and self.is_end(m)}
            received = [m for m in received if m.error() is None]
        else:
            ended = {}
        last = dict(zip(map(Message.partition, received), map(Message.offset, received), strict=True))
        for number, offset in last.items():
            asked = unfinished.get(number)  # type: ignore[arg-type]  # a message without error has a partition
            if asked is None or offset >= asked.end:  # type: ignore[operator]
                received = [m for m in received if m.partition() != number or (asked and m.offset() < asked.end)]  # type: ignore[operator]
            if asked is not None:
                unfinished[asked.partition.number] = OffsetRange(asked.partition, offset + 1, asked.end)  # type: ignore[operator]
        # The end of a partition can lie after its last message: transaction markers take offsets, too.
        for number in [n for n, rest in unfinished.items() if not len(rest) or ended.get(n, -1) >= rest.end]:  # type: ignore[operator]
            del unfinished[number]
            consumer.pause([TopicPartition(topic, number)])
        return received

    def is_end(self, message: Message) -> bool:
        """Whether an error event marks the end of its partition. False for a passing error; raises for any other."""
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            if "truncation" in error.str():
                agrees_to = re.search(r"broker end offset is (\d+)", error.str())
                topic, number = message.topic(), message.partition()
                assert topic is not None  # an error of a partition names it
                assert number is not None
                raise TruncatedError(error.str(), topic, number, int(agrees_to[1]) if agrees_to else None)
            raise OffsetsGoneError(
                f"{message.topic()}[{message.partition()}]: the cluster no longer holds what was asked for; {error.str()}"
            )
        if error.retriable() or error.code() in _PASSING_ERRORS:
            return False
        raise KafkaException(error)

    def consumer(self, *, wait_ms: int = 50) -> Consumer:
        """A client that reads committed messages of the partitions that it is assigned, and says where each ends.

        A broker without news answers after `wait_ms`.
        """
        return Consumer(
            self._config()
            | {
                "group.id": "unused",  # the client requires one; nothing is ever committed to it
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": _QUEUE_BACKOFF_MS,
                "queued.max.messages.kbytes": _QUEUE_KILOBYTES,
                "queued.min.messages": _QUEUE_MESSAGES,
                "fetch.wait.max.ms": wait_ms,
            }
        )

    def _config(self) -> dict[str, str | int | float | bool]:
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "log_level": 2,  # an unreachable broker is reported by an exception, not on stderr
            **{name: secret.get_secret_value() for name, secret in self._security.items()},
        }

    def unavailable(self, error: KafkaException) -> KafkaUnavailableError:
        """An error of the client as one that says what to do."""
        return KafkaUnavailableError(
            f"Kafka at {self.bootstrap_servers} does not answer: {self._without_secrets(error)}; is the broker running,"
            " and are the KAFKA_ settings right?"
        )

    def _without_secrets(self, error: KafkaException) -> str:
        text = str(error.args[0])
        for secret in self._security.values():
            text = text.replace(secret.get_secret_value(), "***")
        return text


def known_epoch(leader_epoch: int | None) -> int | None:
    """A leader epoch as the client gives it; None for that of a broker that does not count elections."""
    return leader_epoch if leader_epoch is not None and leader_epoch >= 0 else None


def position(partition: Partition, offset: int, leader_epoch: int | None) -> TopicPartition:
    """Where a consumer goes on; `leader_epoch`: under which leader the messages before it were read, if that is known."""
    if leader_epoch is None:
        return TopicPartition(partition.topic, partition.number, offset)
    return TopicPartition(partition.topic, partition.number, offset, leader_epoch=leader_epoch)


def connect(settings: Settings) -> Cluster:
    """The cluster that the settings name, otherwise the embedded broker that runs in this home.

    The connection is cached for the next call in this process: a sensor asks every few seconds.
    """
    if settings.kafka_bootstrap_servers is not None:
        return _connection(settings.kafka_bootstrap_servers, tuple(settings.kafka_security.items()), None)
    if not is_running(settings.broker_file):
        raise KafkaUnavailableError(
            "no broker: KAFKA_BOOTSTRAP_SERVERS is not set and the embedded broker is not running; run `churn broker`"
        )
    broker = json.loads(settings.broker_file.read_text())
    return _connection(broker["bootstrap_servers"], (), broker["id"])


@lru_cache(maxsize=1)
def _connection(
    bootstrap_servers: str, security: tuple[tuple[str, SecretStr], ...], embedded_id: str | None
) -> Cluster:
    # The client's threads need the interpreter to end. Without this, the two would wait for each other at exit.
    atexit.register(_connection.cache_clear)
    return Cluster(bootstrap_servers, dict(security), embedded_id)


def is_running(broker_file: Path) -> bool:
    """Whether there is a broker's file, and the process that wrote it is alive; a killed one leaves its file behind."""
    try:
        os.kill(json.loads(broker_file.read_text())["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


class Columns:
    """Messages split into columns at once: every garbage collection would walk a hundred thousand message objects."""

    def __init__(self) -> None:
        self.partitions: list[int | None] = []
        self.offsets: list[int | None] = []
        self.times: list[tuple[int, int]] = []
        self.values: list[bytes | None] = []

    def add(self, messages: list[Message]) -> int:
        """Add messages; returns the size of their values in bytes."""
        values = list(map(Message.value, messages))
        self.partitions += map(Message.partition, messages)
        self.offsets += map(Message.offset, messages)
        self.times += map(Message.timestamp, messages)
        self.values += values
        return sum(map(len, filter(None, values)))

    def to_arrow(self) -> pa.RecordBatch:
        """One batch of `MESSAGE_SCHEMA`."""
        times = pa.array([time for _, time in self.times], pa.int64())
        return pa.record_batch(
            [
                pa.array(self.partitions, pa.int32()),
                pa.array(self.offsets, pa.int64()),
                times.cast(pa.timestamp("ms")).cast(pa.timestamp("us")),
                pa.array(self.values, pa.binary()),
            ],
            schema=MESSAGE_SCHEMA,
        )
