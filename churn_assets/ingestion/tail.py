"""Messages as they arrive: one consumer that stays at the end of the partitions, for a process that lives on.

Here belongs reading. What is stored, and from which offset on, is decided in `following`; a range that is known beforehand is
read by `kafka.Cluster.read`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from time import monotonic
from typing import Any, NamedTuple

import pyarrow as pa
from confluent_kafka import KafkaException

from churn_assets.ingestion.kafka import Chunk, Cluster, Columns, OffsetRange, Partition, known_epoch, position
from churn_assets.rules import INGEST_CHUNK_BYTES, INGEST_CHUNK_MESSAGES

# For which a broker without news keeps a request; Kafka answers at once when there is some, the embedded broker does not.
_WAIT_MS, _EMBEDDED_WAIT_MS = 1000, 50
_LINGER_SECONDS = 0.01  # for what other partitions send at the same moment


class Taken(NamedTuple):
    """A chunk, and under which leader the last message of each partition was read, as far as the broker says so."""

    chunk: Chunk
    leader_epochs: dict[Partition, int]


class Tail:
    """Reads partitions from given offsets on; close it at the end.

    `leader_epochs`: under which leaders the messages before the offsets were read. Messages are taken once: whoever does not
    store them makes a new tail.
    """

    def __init__(
        self, cluster: Cluster, offsets: Mapping[Partition, int], leader_epochs: Mapping[Partition, int]
    ) -> None:
        self._cluster = cluster
        self._partitions = {(partition.topic, partition.number): partition for partition in offsets}
        self.offsets = dict(offsets)  # of the message after those that were taken
        self._consumer = cluster.consumer(wait_ms=_EMBEDDED_WAIT_MS if cluster.is_embedded else _WAIT_MS)
        self._consumer.assign([position(p, offset, leader_epochs.get(p)) for p, offset in offsets.items()])

    def close(self) -> None:
        """Read no more."""
        self._consumer.close()

    def take(self, seconds: float) -> list[Taken]:
        """What has come since, a chunk for each topic; waits up to `seconds` for the first message. Empty if none came.

        Raises `TruncatedError`, `OffsetsGoneError` and `KafkaUnavailableError`.
        """
        until = monotonic() + seconds
        received: list[Any] = []  # of the client's messages, whose types say that anything may be missing
        ends: dict[tuple[str, int], int] = {}
        size = 0
        try:
            while len(received) < INGEST_CHUNK_MESSAGES and size < INGEST_CHUNK_BYTES:
                # A call with more than one message waits for all of them.
                wait = _LINGER_SECONDS if received else max(0.0, until - monotonic())
                first = self._consumer.consume(1, timeout=wait)
                more = self._consumer.consume(INGEST_CHUNK_MESSAGES - len(received), timeout=0) if first else []
                if not first and (received or ends or monotonic() >= until):
                    break
                for message in (*first, *more):
                    if message.error() is None:
                        received.append(message)
                        size += len(message.value() or b"")
                    elif self._cluster.is_end(message):
                        self._note_end(message, ends)
        except KafkaException as error:
            raise self._cluster.unavailable(error) from error
        return self._chunks(received, ends)

    def _note_end(self, message: Any, ends: dict[tuple[str, int], int]) -> None:
        # It lies after the last message where markers of transactions take offsets, too.
        place = (message.topic(), message.partition())
        if message.offset() > self.offsets[self._partitions[place]]:
            ends[place] = message.offset()

    def _chunks(self, received: Sequence[Any], ends: Mapping[tuple[str, int], int]) -> list[Taken]:
        places = {(m.topic(), m.partition()): m for m in received}  # the last message of each
        found: list[Taken] = []
        for topic, of_topic in groupby(sorted({*places, *ends}), key=lambda place: place[0]):
            ranges: list[OffsetRange] = []
            epochs: dict[Partition, int] = {}
            for place in of_topic:
                partition = self._partitions[place]
                last = places.get(place)
                end = max(ends.get(place, 0), last.offset() + 1 if last else 0)
                ranges.append(OffsetRange(partition, self.offsets[partition], end))
                self.offsets[partition] = end
                epoch = known_epoch(last.leader_epoch()) if last else None
                if epoch is not None:
                    epochs[partition] = epoch
            columns = Columns()
            columns.add([m for m in received if m.topic() == topic])
            found.append(Taken(Chunk(topic, ranges, pa.Table.from_batches([columns.to_arrow()])), epochs))
        return found
