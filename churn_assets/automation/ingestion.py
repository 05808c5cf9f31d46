"""When events are ingested: Kafka's high watermarks are compared with the warehouse's committed offsets."""

import math
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from churn_assets.assets.ledgers import COMPLETE_CHECK, ingest_config
from churn_assets.automation.gates import blocked, ended_well, has_failed, just_failed, under_way
from churn_assets.automation.jobs import ingest_job, refresh_job, score_job
from churn_assets.automation.watching import FIRST_HALF, SECOND_HALF, WATCHING_TICK_SECONDS, Watch, watched
from churn_assets.clock import Clock
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Partition
from churn_assets.rules import INGEST_MESSAGES, INGEST_SECONDS
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

_REQUEST_SECONDS = 2.0  # until the other sensor sees a run that this one requests


def ingestion_sensors(clock: Clock) -> list[dg.SensorDefinition]:
    """The sensor that requests ingestions, and a second one that watches while the first waits for its next tick."""
    turn = _Turn()

    @dg.sensor(
        jobs=[ingest_job, score_job],
        minimum_interval_seconds=WATCHING_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Requests a run when {INGEST_MESSAGES} messages wait in Kafka, or one has waited {INGEST_SECONDS:g} s"
            " (CHURN_REFRESH=eager: for any message at once, and the run goes on to the scores). It compares high"
            " watermarks with the offsets committed in the warehouse and never reads a message."
        ),
    )
    def kafka_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SkipReason:
        """Look at the watermarks; with CHURN_REFRESH=eager, watch them."""
        return _Ingestion(context, warehouse, settings, clock, turn).requested(FIRST_HALF)

    @dg.sensor(
        jobs=[ingest_job, score_job],
        minimum_interval_seconds=WATCHING_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="With CHURN_REFRESH=eager: watches Kafka in the second half of each 5 s; kafka_sensor in the first half.",
    )
    def kafka_relief_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SkipReason:
        """Watch the watermarks."""
        if settings.refresh != "eager":
            return dg.SkipReason("not needed with CHURN_REFRESH=lag; kafka_sensor ticks often enough")
        return _Ingestion(context, warehouse, settings, clock, turn).requested(SECOND_HALF)

    return [kafka_sensor, kafka_relief_sensor]


class _Turn:
    """State that the two sensors share, as their ticks may overlap: one looks at a time, and none right after a request."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requested_at = -math.inf  # of the monotonic clock


@dataclass(frozen=True)
class _Ingestion:
    """One tick of one of the two sensors."""

    context: dg.SensorEvaluationContext
    warehouse: Warehouse
    settings: Settings
    clock: Clock
    turn: _Turn

    def requested(self, watch: Watch) -> dg.RunRequest | dg.SkipReason:
        """The request for the waiting messages; with CHURN_REFRESH=eager, also for those that arrive within the watch."""
        try:
            cluster = kafka.connect(self.settings)
            if self.settings.refresh == "eager":
                return self._watched(cluster, watch)
            with self.turn.lock:
                return self._look(cluster, seen={})
        except kafka.KafkaUnavailableError as error:
            return dg.SkipReason(str(error))

    def _watched(self, cluster: Cluster, watch: Watch) -> dg.RunRequest | dg.SkipReason:
        seen: dict[Partition, int] = {}

        def look() -> dg.RunRequest | dg.SkipReason:
            seen.clear()
            with self.turn.lock:
                if self.clock.monotonic() < self.turn.requested_at + _REQUEST_SECONDS:
                    return dg.SkipReason("a run was requested a moment ago")
                found = self._look(cluster, seen)
                if isinstance(found, dg.RunRequest):
                    self.turn.requested_at = self.clock.monotonic()
                return found

        # While a run is active, or there is no topic yet, `seen` is empty and only another look can tell.
        return watched(look, lambda: not seen or cluster.high_watermarks(seen) != seen, watch, self.clock)

    def _look(self, cluster: Cluster, seen: dict[Partition, int]) -> dg.RunRequest | dg.SkipReason:
        """Compare Kafka with the warehouse once, and note the high watermarks in `seen`."""
        instance = self.context.instance
        if skip := under_way(instance, ingest_job.name, score_job.name) or just_failed(
            instance, self.clock.now(), ingest_job.name
        ):
            return skip
        found = lags(self.warehouse, cluster, self.settings.topics)
        seen.update({lag.partition: lag.watermarks.high for lag in found if lag.watermarks})
        gaps = [lag for lag in found if lag.is_blocked(self.settings.on_gap)]
        ranges = [lag.waiting for lag in found if lag.waiting and lag.watermarks and lag not in gaps]
        if ranges:
            return self._request_for(ranges)
        self.context.update_cursor("")
        # A run is needed where its check does not say yet what this look has found: a gap, or that none is left.
        if bool(gaps) != has_failed(instance, COMPLETE_CHECK):
            return self._run([lag.waiting for lag in gaps])
        return dg.SkipReason("; ".join(lag.problem for lag in found if lag.problem) or "no messages wait")

    def _request_for(self, ranges: list[OffsetRange]) -> dg.RunRequest | dg.SkipReason:
        """A run for the waiting messages, if they are enough or have waited long enough."""
        waiting = sum(map(len, ranges))
        if self.settings.refresh == "eager":
            return self._run(ranges, goes_on=self._may_go_on())
        # The cursor holds only the time since when messages have been waiting; losing it delays them by one tick.
        now = self.clock.now()
        since = min(now, datetime.fromisoformat(self.context.cursor)) if self.context.cursor else now
        if waiting < INGEST_MESSAGES and now - since < timedelta(seconds=INGEST_SECONDS * 0.9):
            self.context.update_cursor(since.isoformat())
            return dg.SkipReason(f"{waiting} messages wait, for less than {INGEST_SECONDS:g} s")
        self.context.update_cursor("")
        return self._run(ranges)

    def _may_go_on(self) -> bool:
        """Whether the run may go on from the ledgers to the scores. If not, it only ingests, so nothing downstream delays it."""
        instance, now = self.context.instance, self.clock.now()
        return (
            self.settings.driver == "dagster"
            and not under_way(instance, refresh_job.name)
            and not just_failed(instance, now, score_job.name)
            and not blocked(instance)
            and not any(table.keeps_itself_fresh for table in self.warehouse.dynamic_tables(now))
        )

    def _run(self, ranges: list[OffsetRange], *, goes_on: bool = False) -> dg.RunRequest:
        """A run for the ranges. After one that did not end well, it looks for a message on which the decoder died."""
        isolated = not ended_well(self.context.instance, ingest_job.name, score_job.name)
        return dg.RunRequest(
            job_name=(score_job if goes_on else ingest_job).name,
            run_config=dg.RunConfig(ops={"ingest": ingest_config(ranges, isolated=isolated)}),
        )
