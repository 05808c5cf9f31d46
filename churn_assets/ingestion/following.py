"""Ingestion in a process that lives on: what arrives is stored batch by batch, with the same transactions as a range.

Here belongs when a process that follows its topics may go on reading, and when it has to look again at how the warehouse and
Kafka stand. That look, gaps and whatever else is out of the ordinary are `backlog`'s.
"""

import math
from collections.abc import Callable
from datetime import datetime
from time import monotonic, sleep

from churn_assets.ingestion import commit, schema_registry
from churn_assets.ingestion.backlog import (
    PartitionLag,
    decoded,
    epochs_of_leaders,
    ingest,
    lags,
    refuse_another_epoch,
    tell_group,
)
from churn_assets.ingestion.commit import OvertakenError, Stored
from churn_assets.ingestion.isolation import decode_here
from churn_assets.ingestion.kafka import (
    Cluster,
    KafkaUnavailableError,
    OffsetRange,
    OffsetsGoneError,
    Partition,
    TruncatedError,
)
from churn_assets.ingestion.mapping.compiling import load_mappings
from churn_assets.ingestion.tail import Tail, Taken
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

LOOK_SECONDS = 10.0  # between two looks at how the warehouse and Kafka stand; new partitions wait for one


class Following:
    """Stores the messages of the settings' topics as they arrive. Close it at the end.

    `clock` gives the time (UTC); `report` gets a line where something is out of the ordinary. `isolated`: decode what waits at
    the beginning in a child process, as `backlog.ingest` does after a run that did not end well. A message on which that run
    died is among it.
    """

    def __init__(
        self,
        settings: Settings,
        warehouse: Warehouse,
        cluster: Cluster,
        clock: Callable[[], datetime],
        report: Callable[[str], None],
        *,
        isolated: bool = False,
    ) -> None:
        self._settings, self._warehouse, self._cluster = settings, warehouse, cluster
        self._clock, self._report, self._isolated = clock, report, isolated
        self._mappings = load_mappings(settings.mapping_file)
        self._registry = schema_registry.connect(settings)
        self._tail: Tail | None = None
        self._leader_epochs: dict[Partition, int] = {}
        self._looked_at = -math.inf
        self._untold: set[Partition] = set()
        self.standing: list[PartitionLag] = []  # of the last look

    def close(self) -> None:
        """Read no more, and tell Kafka's group how far it came."""
        self._look_again()
        self._tell_group()

    def next_batch(self, seconds: float) -> Stored:
        """Store what waits or, if nothing does, what comes within `seconds`; empty if nothing came.

        Raises what `ingest` raises; what was stored before stays stored.
        """
        if monotonic() >= self._looked_at + LOOK_SECONDS and (caught_up := self._look()):
            return caught_up
        if self._tail is None:  # no partition can be read yet
            self._looked_at = -math.inf
            sleep(seconds)
            return Stored()
        stored = Stored()
        try:
            for one in self._tail.take(seconds):
                try:
                    stored.add(self._store(one))
                except Exception as error:
                    error.add_note(f"while storing {', '.join(map(str, one.chunk.ranges))}")
                    raise
        except (OvertakenError, TruncatedError, OffsetsGoneError, KafkaUnavailableError) as error:
            self._report(f"looking again at Kafka: {str(error) or 'another run stores the same messages'}")
            self._look_again()
        return stored

    def _store(self, taken: Taken) -> Stored:
        refuse_another_epoch(self._cluster, taken.chunk)
        chunk, rows = decoded(taken.chunk, decode_here, self._clock(), self._mappings, self._registry)
        self._leader_epochs |= taken.leader_epochs
        stored = commit.store(self._warehouse, chunk, rows, self._clock(), self._leader_epochs)
        self._untold |= {each.partition for each in chunk.ranges}
        return stored

    def _look(self) -> Stored | None:
        """Compare Kafka with the warehouse. Where reading on would not be right, store what waits and begin a new tail."""
        self._tell_group()
        self.standing = lags(self._warehouse, self._cluster, self._settings.topics)
        self._looked_at = monotonic()
        if self._tail is not None and self._tail.offsets == _readable(self.standing):
            return None
        self._look_again()
        caught_up = self._catch_up()
        self.standing = lags(self._warehouse, self._cluster, self._settings.topics)
        self._looked_at = monotonic()
        if offsets := _readable(self.standing):
            read_under = {lag.partition: lag.leader_epoch for lag in self.standing if lag.leader_epoch is not None}
            self._tail = Tail(self._cluster, offsets, read_under)
            self._leader_epochs = epochs_of_leaders(self.standing)
        return caught_up

    def _catch_up(self) -> Stored | None:
        waiting: list[OffsetRange] = [lag.waiting for lag in self.standing]
        if not any(waiting) and not any(lag.gap for lag in self.standing):
            return None
        stored = ingest(
            self._warehouse,
            self._cluster,
            waiting,
            on_gap=self._settings.on_gap,
            group=self._settings.kafka_group,
            clock=self._clock,
            report=self._report,
            isolated=self._isolated,
            mappings=self._mappings,
            registry=self._registry,
        )
        self._isolated = False
        return stored

    def _look_again(self) -> None:
        if self._tail is not None:
            self._tail.close()
        self._tail, self._looked_at = None, -math.inf

    def _tell_group(self) -> None:
        if self._untold:
            tell_group(self._warehouse, self._cluster, self._settings.kafka_group, self._untold, self._report)
            self._untold = set()


def _readable(standing: list[PartitionLag]) -> dict[Partition, int]:
    """Where to go on in each partition that nothing stands against."""
    return {lag.partition: lag.waiting.start for lag in standing if lag.watermarks is not None and lag.gap is None}
