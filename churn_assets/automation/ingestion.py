"""When events are ingested: Kafka's high watermarks are compared with the warehouse's committed offsets."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from churn_assets.assets.ledgers import COMPLETE_CHECK, ingest_config
from churn_assets.automation.gates import blocked, ended_well, has_failed, just_failed, under_way
from churn_assets.automation.jobs import ingest_job, refresh_job, stream_job
from churn_assets.automation.watching import WATCHING_TICK_SECONDS, watched
from churn_assets.clock import Clock
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Partition
from churn_assets.rules import INGEST_MESSAGES, INGEST_SECONDS
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse


def ingestion_sensor(clock: Clock) -> dg.SensorDefinition:
    """The sensor that requests ingestions."""

    @dg.sensor(
        jobs=[ingest_job, stream_job],
        minimum_interval_seconds=WATCHING_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Requests a run when {INGEST_MESSAGES} messages wait in Kafka, or one has waited {INGEST_SECONDS:g} s"
            " (CHURN_REFRESH=eager: for any message at once a run that goes on as long as messages come). It compares"
            " high watermarks with the offsets committed in the warehouse and never reads a message."
        ),
    )
    def kafka_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SkipReason:
        """Look at the watermarks; with CHURN_REFRESH=eager, watch them."""
        return _Ingestion(context, warehouse, settings, clock).requested()

    return kafka_sensor


@dataclass(frozen=True)
class _Ingestion:
    """One tick."""

    context: dg.SensorEvaluationContext
    warehouse: Warehouse
    settings: Settings
    clock: Clock

    def requested(self) -> dg.RunRequest | dg.SkipReason:
        """The request for the waiting messages; with CHURN_REFRESH=eager, also for those that arrive within the tick."""
        seen: dict[Partition, int] = {}
        try:
            cluster = kafka.connect(self.settings)
            if self.settings.refresh != "eager":
                return self._look(cluster, seen)
            if skip := under_way(self.context.instance, stream_job.name):
                return skip  # it takes what comes, so there is nothing to watch for
            # While a run is active, or there is no topic yet, `seen` is empty and only another look can tell.
            return watched(
                lambda: self._look(cluster, seen),
                lambda: not seen or cluster.high_watermarks(seen) != seen,
                self.clock,
            )
        except kafka.KafkaUnavailableError as error:
            return dg.SkipReason(str(error))

    def _look(self, cluster: Cluster, seen: dict[Partition, int]) -> dg.RunRequest | dg.SkipReason:
        """Compare Kafka with the warehouse once, and note the high watermarks in `seen`."""
        instance = self.context.instance
        seen.clear()
        if skip := under_way(instance, ingest_job.name, stream_job.name) or just_failed(
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
            return self._stream() if self._may_stream() else self._run(ranges)
        # The cursor holds only the time since when messages have been waiting; losing it delays them by one tick.
        now = self.clock.now()
        since = min(now, datetime.fromisoformat(self.context.cursor)) if self.context.cursor else now
        if waiting < INGEST_MESSAGES and now - since < timedelta(seconds=INGEST_SECONDS * 0.9):
            self.context.update_cursor(since.isoformat())
            return dg.SkipReason(f"{waiting} messages wait, for less than {INGEST_SECONDS:g} s")
        self.context.update_cursor("")
        return self._run(ranges)

    def _may_stream(self) -> bool:
        """Whether a run may go on from the ledgers to the scores. If not, one only ingests, so nothing downstream delays it."""
        instance, now = self.context.instance, self.clock.now()
        return (
            self.settings.driver == "dagster"
            and not under_way(instance, refresh_job.name)
            and not just_failed(instance, now, stream_job.name)
            and not blocked(instance)
            and not any(table.keeps_itself_fresh for table in self.warehouse.dynamic_tables(now))
        )

    def _run(self, ranges: list[OffsetRange]) -> dg.RunRequest:
        """A run for the ranges."""
        config = ingest_config(ranges, isolated=self._is_isolated())
        return dg.RunRequest(job_name=ingest_job.name, run_config=dg.RunConfig(ops={"ingest": config}))

    def _stream(self) -> dg.RunRequest:
        """A run for all that comes."""
        config = {"isolated": self._is_isolated()}
        return dg.RunRequest(job_name=stream_job.name, run_config={"ops": {"stream": {"config": config}}})

    def _is_isolated(self) -> bool:
        """After a run that did not end well, the next one looks for a message on which the decoder died."""
        return not ended_well(self.context.instance, ingest_job.name, stream_job.name)
