"""What starts runs: jobs and the sensors that request them. Nothing here does the work.

Every sensor compares states (high watermark and committed offset, change and refresh, queue and log) that are kept in
the warehouse; none rests on a cursor or a run key. So a failed or lost run is taken up by a later tick, an update
cannot fall between two ticks, and an idle system starts no run. A sensor requests nothing while a run of its job is
queued or started.

With CHURN_REFRESH=eager events go from Kafka to the retention queue in one run, and the sensors on this way do not look
once a tick but watch during it (`_watched`), so that the five seconds between two ticks are not felt.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from churn_assets.assets.driver import DRIVER_CHECK, driver_found
from churn_assets.assets.dynamic_tables import REFRESHED_AT, numbers_of, timestamp_of
from churn_assets.assets.interventions import ALERTS, EMAIL_CHECKS
from churn_assets.assets.ledger_checks import BLOCKING_LEDGER_CHECKS
from churn_assets.assets.ledgers import COMPLETE_CHECK, INGEST_CHECKS, REJECTS, ingest_config
from churn_assets.assets.model_drift import DRIFT_CHECKS
from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.engine import DynamicTable
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import PartitionLag, lags
from churn_assets.ingestion.events import LEDGERS
from churn_assets.ingestion.kafka import OffsetRange, Partition
from churn_assets.model.challenge import is_training_due
from churn_assets.model.registry import serving_since
from churn_assets.retention.claims import latest_text
from churn_assets.retention.emails import next_day
from churn_assets.retention.outbox import approval
from churn_assets.retention.outbox.quiet_hours import quiet_hours
from churn_assets.retention.queue import ALERT_STREAM, STREAM
from churn_assets.retention.statuses import Status
from churn_assets.rules import (
    COST_SECONDS,
    DRIFT_SECONDS,
    EFFECT_SECONDS,
    HISTORY_SECONDS,
    INGEST_MESSAGES,
    INGEST_SECONDS,
    LEDGER_CHECK_SECONDS,
    MAINTENANCE_SECONDS,
    REFRESH_ALLOWANCE_SECONDS,
    RETRY_AFTER_FAILURE_SECONDS,
    SEARCH_POSITION_SECONDS,
    SEARCH_SECONDS,
    TRAINING_SET_SECONDS,
    TREND_SECONDS,
)
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.wiring import limits_of, open_log_index

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_OUTCOMES = {AssetCheckExecutionRecordStatus.SUCCEEDED: True, AssetCheckExecutionRecordStatus.FAILED: False}
BLOCKING_CHECKS = (*INGEST_CHECKS, *BLOCKING_LEDGER_CHECKS)
_TICK_SECONDS = 5  # the daemon's own loop is no faster
# Less than the loop's: a tick that is a moment early would else be left out.
_WATCHING_TICK_SECONDS = 1
_LOOK_SECONDS = 0.2  # between two looks of a tick that watches
# When a tick watches, in seconds after its start. It must have ended when the next loop begins, which passes over a sensor
# whose tick still runs. Two sensors watch Kafka in turn: one that has requested a run sees nothing until the next loop.
_FIRST_HALF, _SECOND_HALF, _WHOLE = (0.0, 2.2), (2.2, 4.4), (0.0, 4.4)
_REQUEST_SECONDS = 2.0  # for a run that a sensor requests to be seen by the other one
# What an event waits for goes before what is only due, as everything is after a start.
_FIRST = {"dagster/priority": "1"}

ingest_job = dg.define_asset_job(
    "ingest_events",
    dg.AssetSelection.assets(*LEDGERS, REJECTS).without_checks() | dg.AssetSelection.checks(*INGEST_CHECKS),
    description="Store an offset range of Kafka messages in the ledgers.",
    tags=_FIRST,
)
refresh_job = dg.define_asset_job(
    "refresh_dynamic_tables",
    dg.AssetSelection.groups("features", "predictions") | dg.AssetSelection.assets(STREAM, ALERTS),
    description="Refresh features and predictions, then move who came into HIGH or CRITICAL to the retention queue.",
    tags=_FIRST,
)
score_job = dg.define_asset_job(
    "score_events",
    ingest_job.selection | refresh_job.selection,
    description="Store an offset range of Kafka messages, refresh what they change and fill the retention queue, in one run.",
    tags=_FIRST,
)
emails_job = dg.define_asset_job(
    "write_retention_emails",
    dg.AssetSelection.assets("retention_emails"),
    description="Write the emails of one day.",
    tags=_FIRST,
)
outbox_job = dg.define_asset_job(
    "send_emails", dg.AssetSelection.assets("email_outbox"), description="Approve and send what the settings allow."
)
ledger_checks_job = dg.define_asset_job(
    "check_ledgers",
    dg.AssetSelection.checks_for_assets(*LEDGERS),
    description="Check keys over whole ledgers.",
)
training_set_job = dg.define_asset_job(
    "extend_training_set",
    dg.AssetSelection.assets("churn_training_set"),
    description="Add the cut-offs whose label is known by now.",
)
training_job = dg.define_asset_job(
    "train_churn_model",
    dg.AssetSelection.assets("churn_model", "churn_champion"),
    description="Train a challenger, judge it, and let it serve if it passes.",
)
drift_job = dg.define_asset_job(
    "measure_drift",
    dg.AssetSelection.assets("model_drift"),
    description="Compare the champion with the customers of now and with who left since.",
)
effect_job = dg.define_asset_job(
    "measure_effect",
    dg.AssetSelection.assets("intervention_effect"),
    description="Compare who got an email with who did not.",
)
cost_job = dg.define_asset_job(
    "count_cost", dg.AssetSelection.assets("daily_cost"), description="Count tokens and credits by day."
)
search_job = dg.define_asset_job(
    "index_log_search",
    dg.AssetSelection.assets("log_search_index"),
    description="Add to the search index what has changed in the ledgers.",
)
trend_job = dg.define_asset_job(
    "count_risk",
    dg.AssetSelection.assets("risk_by_segment", "event_latency"),
    description="Write down how many customers are at risk, and how long events took.",
)
maintenance_job = dg.define_asset_job(
    "maintain_tables", dg.AssetSelection.assets("table_maintenance"), description="Merge small files, expire snapshots."
)


@dg.sensor(
    jobs=[ingest_job, score_job],
    minimum_interval_seconds=_WATCHING_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        f"Requests a run for what waits in Kafka: {INGEST_MESSAGES} messages, or any that has waited {INGEST_SECONDS:g} s"
        " (CHURN_REFRESH=eager: any at once, and the run goes on to the scores). It compares high watermarks with the offsets"
        " committed in the warehouse and never reads a message."
    ),
)
def kafka_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """A look at the watermarks, or a watch over them."""
    return _ingestion(context, warehouse, settings, _FIRST_HALF)


@dg.sensor(
    jobs=[ingest_job, score_job],
    minimum_interval_seconds=_WATCHING_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="With CHURN_REFRESH=eager: watches Kafka while kafka_sensor rests, and does the same.",
)
def kafka_relief_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """A watch over the watermarks."""
    if settings.refresh != "eager":
        return dg.SkipReason("kafka_sensor looks often enough for CHURN_REFRESH=lag")
    return _ingestion(context, warehouse, settings, _SECOND_HALF)


class _Turn:
    """One of the sensors that watch Kafka looks at a time, and none just after a request: their ticks may overlap."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requested_at = -math.inf  # of the monotonic clock


_turn = _Turn()


def _ingestion(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings, watch: tuple[float, float]
) -> dg.RunRequest | dg.SkipReason:
    """What is to be ingested now; with CHURN_REFRESH=eager, as soon as it is there within the watch."""
    seen: dict[Partition, int] | None = None
    try:
        cluster = kafka.connect(settings)

        def look() -> dg.RunRequest | dg.SkipReason:
            nonlocal seen
            seen = None
            with _turn.lock:
                if time.monotonic() < _turn.requested_at + _REQUEST_SECONDS:
                    return dg.SkipReason("a run was requested a moment ago")
                if skip := _under_way(context, ingest_job.name, score_job.name) or _just_failed(
                    context, ingest_job.name
                ):
                    return skip
                found = lags(warehouse, cluster, settings.topics)
                seen = {lag.partition: lag.watermarks.high for lag in found}
                request = _request_for(context, warehouse, settings, found)
                if settings.refresh == "eager" and isinstance(request, dg.RunRequest):
                    _turn.requested_at = time.monotonic()
                return request

        if settings.refresh == "eager":
            # Where a run is in the way, or there is no topic yet, only another look can tell.
            return _watched(look, lambda: not seen or cluster.high_watermarks(seen) != seen, watch)
        return look()
    except kafka.KafkaUnavailableError as error:
        return dg.SkipReason(str(error))


def _request_for(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings, found: list[PartitionLag]
) -> dg.RunRequest | dg.SkipReason:
    gaps = [lag for lag in found if lag.is_blocked(settings.on_gap)]
    ranges = [lag.waiting for lag in found if lag.waiting and lag not in gaps]
    if gaps and not ranges:
        return _report_gaps(context, gaps)
    waiting = sum(map(len, ranges))
    if not waiting:
        context.update_cursor("")
        return dg.SkipReason("nothing waits")
    if settings.refresh == "eager":
        return _ingest_run(ranges, goes_on=_may_go_on(context, warehouse, settings))
    # The cursor only remembers since when something has been waiting; losing it costs one tick.
    now = utc_now()
    since = datetime.fromisoformat(context.cursor) if context.cursor else now
    if waiting < INGEST_MESSAGES and (now - since).total_seconds() < INGEST_SECONDS * 0.9:
        context.update_cursor(since.isoformat())
        return dg.SkipReason(f"{waiting} messages wait, for less than {INGEST_SECONDS:g} s")
    context.update_cursor("")
    return _ingest_run(ranges)


def _may_go_on(context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings) -> bool:
    """Whether a run may go from the ledgers to the scores: else it only ingests, which nothing downstream may hold up."""
    return (
        settings.driver == "dagster"
        and not _under_way(context, refresh_job.name)
        and not _just_failed(context, score_job.name)
        and not _blocked(context)
        and not any(table.keeps_itself_fresh for table in warehouse.dynamic_tables(utc_now()))
    )


def _report_gaps(context: dg.SensorEvaluationContext, gaps: list[PartitionLag]) -> dg.RunRequest | dg.SkipReason:
    """A run says by a failed check what is missing; that it still is need not be said again."""
    if _has_failed(context, COMPLETE_CHECK):
        return dg.SkipReason("; ".join(str(lag.gap) for lag in gaps))
    return _ingest_run([lag.waiting for lag in gaps])


def _ingest_run(ranges: list[OffsetRange], *, goes_on: bool = False) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=(score_job if goes_on else ingest_job).name,
        run_config=dg.RunConfig(ops={"ingest": ingest_config(ranges)}),
    )


@dg.sensor(
    job=refresh_job,
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests one run for all that is due: in time for every dynamic table to stay under its target lag"
        " (CHURN_REFRESH=eager: as soon as something changed). Tables with nothing to show are recorded as NO_DATA without a run."
    ),
)
def refresh_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    """One look at the lags."""
    if skip := _not_now(context, refresh_job.name, score_job.name) or _blocked(context):
        return skip
    tables = warehouse.dynamic_tables(utc_now())
    due = [table.name for table in tables if is_due(table, eager=settings.refresh == "eager")]
    drives = settings.driver == "dagster"
    if due or (drives and (warehouse.stream_has_data(STREAM) or warehouse.stream_has_data(ALERT_STREAM))):
        together = [*with_late_sources(tables, due), *([STREAM, ALERTS] if drives else [])]
        return dg.RunRequest(
            asset_selection=[dg.AssetKey(name) for name in together], tags={"churn/due": ", ".join(due) or "streams"}
        )
    idle = [
        table
        for table in tables
        if table.lag_seconds == 0 and not table.keeps_itself_fresh and _materialization_is_old(context, table)
    ]
    return dg.SensorResult(
        skip_reason="every dynamic table is within its target lag",
        asset_events=[
            dg.AssetMaterialization(
                table.name,
                description="nothing has changed",
                metadata={
                    "refresh_action": "NO_DATA",
                    "lag_seconds": 0.0,
                    **({REFRESHED_AT: timestamp_of(table.refreshed_at)} if table.refreshed_at else {}),
                },
            )
            for table in idle
        ],
    )


@dg.sensor(
    target=refresh_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Records refreshes that no run has recorded: those of a deployment or a command, and on Snowflake all, where the"
        " tables refresh themselves. It requests no run."
    ),
)
def refresh_history_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.SensorResult | dg.SkipReason:
    """One look at the history of refreshes."""
    if skip := _under_way(context, refresh_job.name, score_job.name):
        return skip  # it records its own
    now = utc_now()
    tables = warehouse.dynamic_tables(now)
    if any(table.keeps_itself_fresh for table in tables):
        # There the history is not had without a running warehouse.
        asked_at = float(context.cursor or 0)
        if now.timestamp() - asked_at < HISTORY_SECONDS:
            return dg.SkipReason(f"the history was read less than {HISTORY_SECONDS / 60:g} minutes ago")
        context.update_cursor(str(now.timestamp()))
    shown = {table.name: _shown_until(context, table.name) for table in tables}
    past = warehouse.past_refreshes(max(min(shown.values(), default=now), now - timedelta(days=1)))
    missing = [refresh for refresh in past if refresh.started_at > shown.get(refresh.name, now)]
    return dg.SensorResult(
        skip_reason=None if missing else "every refresh is recorded",
        asset_events=[
            dg.AssetMaterialization(
                refresh.name, description=f"refreshed outside of a run ({refresh.action})", metadata=numbers_of(refresh)
            )
            for refresh in missing
        ],
    )


@dg.sensor(
    target=emails_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reports whether Dagster or the warehouse's own tasks move the streams and write the emails, as CHURN_DRIVER says, and"
        " what the tasks have done. It requests no run."
    ),
)
def driver_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """One look at the tasks, and where they drive at what they have left."""
    events: list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
    found = driver_found(settings, warehouse.tasks())
    if _last_outcome(context, DRIVER_CHECK) is not found["passed"]:
        events.append(dg.AssetCheckEvaluation(**found))
    if settings.driver == "native":
        seen = {
            asset: warehouse.query(f"SELECT count(*) AS all_rows, max({time}) AS newest FROM {table}").to_pylist()[0]
            for asset, table, time in (
                (STREAM, "retention_queue", "queued_at"),
                (ALERTS, "high_risk_history", "alerted_at"),
                ("retention_emails", "agent_intervention_log", "created_at"),
            )
        }
        if (cursor := json.dumps(seen, default=str)) != context.cursor:
            context.update_cursor(cursor)
            events += [
                dg.AssetObservation(
                    asset,
                    description="what the warehouse's own task has left",
                    metadata={
                        "dagster/row_count": row["all_rows"],
                        **({"newest": timestamp_of(row["newest"])} if row["newest"] else {}),
                    },
                )
                for asset, row in seen.items()
            ]
    return dg.SensorResult(skip_reason=None if events else "as before", asset_events=events)


def _shown_until(context: dg.SensorEvaluationContext, name: str) -> datetime:
    """When the refresh began that the asset's latest materialization tells of (UTC)."""
    event = context.instance.get_latest_materialization_event(dg.AssetKey(name))
    materialization = event.asset_materialization if event else None
    value = materialization.metadata.get(REFRESHED_AT) if materialization else None
    if not isinstance(value, dg.TimestampMetadataValue):
        return datetime.fromtimestamp(0, UTC).replace(tzinfo=None)
    # A number of seconds is not exact to the microsecond.
    return datetime.fromtimestamp(value.value, UTC).replace(tzinfo=None) + timedelta(milliseconds=1)


def is_due(table: DynamicTable, *, eager: bool) -> bool:
    """Whether a refresh has to be requested now for its rows to be there before the lag reaches the target."""
    if table.keeps_itself_fresh:
        return False
    if eager or table.is_to_be_initialized:
        return table.lag_seconds > 0
    return table.lag_seconds + REFRESH_ALLOWANCE_SECONDS >= table.target_lag_seconds


def with_late_sources(tables: list[DynamicTable], due: list[str]) -> list[str]:
    """The tables that are due and those beneath them that do not show every change yet; `tables` has sources first."""
    wanted = set(due)
    for reader in reversed(tables):
        if reader.name in wanted:
            wanted |= {table.name for table in tables if table.name in reader.sources and table.lag_seconds > 0}
    return [table.name for table in tables if table.name in wanted]


@dg.sensor(
    job=emails_job,
    minimum_interval_seconds=_WATCHING_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run of today's emails while customers wait who may be written to, and of days left unfinished.",
)
def emails_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """A look at the queue, or a watch over it."""

    def look() -> dg.RunRequest | dg.SkipReason:
        nonlocal version
        version = warehouse.version()
        if skip := _not_now(context, emails_job.name) or _blocked(context, (*BLOCKING_CHECKS, DRIVER_CHECK)):
            return skip
        if settings.driver == "native":
            return _look_at_new_texts(context, warehouse)
        if day := next_day(warehouse, limits_of(settings), utc_now()):
            return dg.RunRequest(partition_key=day.isoformat())
        return dg.SkipReason("nobody waits who may be written to today")

    version: object | None = None
    if settings.refresh == "eager":
        return _watched(look, lambda: warehouse.version() not in (None, version), _WHOLE)
    return look()


def _look_at_new_texts(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.RunRequest | dg.SkipReason:
    """A run that only checks the day of the latest text of the warehouse's own tasks, once for each look that finds a new one."""
    latest = latest_text(warehouse)
    if latest is None or latest[0].isoformat() == context.cursor:
        return dg.SkipReason("the warehouse's own tasks write the emails, and have written none since the last look")
    written_at, day = latest
    context.update_cursor(written_at.isoformat())
    return dg.RunRequest(partition_key=day.isoformat())


@dg.sensor(
    job=outbox_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run while emails wait that may be approved automatically, or sent outside of the quiet hours.",
)
def outbox_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """One look at the outbox."""
    if skip := _not_now(context, outbox_job.name) or _blocked(context, EMAIL_CHECKS):
        return skip
    quiet = quiet_hours(settings)
    may_send = settings.smtp_url is not None and not (quiet and quiet.until(utc_now()))
    statuses = list[Status]()
    if settings.approval == "auto":
        statuses.append("READY")
    if may_send:
        statuses.extend(("APPROVED", "SENDING"))
    if statuses and approval.waiting(warehouse, statuses):
        return dg.RunRequest()
    return dg.SkipReason("nothing may leave now")


@dg.sensor(
    job=ledger_checks_job,
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Checks the ledgers every {LEDGER_CHECK_SECONDS / 60:g} minutes while rows arrive.",
)
def ledger_checks_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether anything was stored since the last check."""
    return _again_after(context, warehouse, ledger_checks_job.name, LEDGER_CHECK_SECONDS)


@dg.sensor(
    job=training_set_job,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds to the training set once a day while something is written.",
)
def training_set_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether a day has passed since the last addition."""
    return _again_after(context, warehouse, training_set_job.name, TRAINING_SET_SECONDS)


@dg.sensor(
    job=training_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Trains a challenger when a cut-off has come in since the last training: every week, or as soon as a check says that"
        " the customers have drifted."
    ),
)
def training_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether there is something new to learn, and enough of it."""
    if skip := _not_now(context, training_job.name):
        return skip
    if _ran_at(context, training_job.name) + timedelta(seconds=TRAINING_SET_SECONDS) > utc_now():
        return dg.SkipReason("the last training is less than a day ago")
    drifted = [key.name for key in DRIFT_CHECKS if _has_failed(context, key)]
    is_due, why = is_training_due(warehouse, drifted, utc_now())
    return dg.RunRequest(tags={"churn/why": why}) if is_due else dg.SkipReason(why)


@dg.sensor(
    job=drift_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Measures the champion's drift once a day while something is written, and when another one serves.",
)
def drift_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether a day has passed since the last measurement, or another champion serves since."""
    return _again_after(context, warehouse, drift_job.name, DRIFT_SECONDS, sooner_after=serving_since)


@dg.sensor(
    job=effect_job,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Measures the emails' effect once a day while something is written.",
)
def effect_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether a day has passed since the last measurement."""
    return _again_after(context, warehouse, effect_job.name, EFFECT_SECONDS)


@dg.sensor(
    job=cost_job,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Counts what the days cost once a day while something is written.",
)
def cost_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether a day has passed since the last count."""
    return _again_after(context, warehouse, cost_job.name, COST_SECONDS)


@dg.sensor(
    job=search_job,
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests a run when errors, cases or customers were written that the search index does not have, at most every"
        f" {SEARCH_SECONDS:g} s; and when there is no index."
    ),
)
def search_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether the index is behind."""
    if skip := _not_now(context, search_job.name):
        return skip
    index = open_log_index(settings, warehouse)
    if index is None:
        return dg.SkipReason("the warehouse's own search service keeps itself up to date")
    if _ran_at(context, search_job.name) + timedelta(seconds=SEARCH_SECONDS) > utc_now():
        return dg.SkipReason(f"{search_job.name} ran a short while ago")
    if index.is_behind():
        return dg.RunRequest()
    # Its position keeps snapshots from being given up, also while only other tables are written.
    return _again_after(context, warehouse, search_job.name, SEARCH_POSITION_SECONDS)


@dg.sensor(
    job=trend_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Counts the customers at risk every {TREND_SECONDS / 60:g} minutes while something is written.",
)
def trend_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether anything was written since the last count."""
    return _again_after(context, warehouse, trend_job.name, TREND_SECONDS)


@dg.sensor(
    job=maintenance_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Maintains the tables every {MAINTENANCE_SECONDS / 60:g} minutes while something is written.",
)
def maintenance_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One look at whether anything was written since the last maintenance."""
    return _again_after(context, warehouse, maintenance_job.name, MAINTENANCE_SECONDS)


SENSORS = [
    kafka_sensor,
    kafka_relief_sensor,
    refresh_sensor,
    refresh_history_sensor,
    driver_sensor,
    emails_sensor,
    outbox_sensor,
    ledger_checks_sensor,
    training_set_sensor,
    training_sensor,
    drift_sensor,
    effect_sensor,
    cost_sensor,
    search_sensor,
    trend_sensor,
    maintenance_sensor,
]
JOBS = [
    ingest_job,
    refresh_job,
    score_job,
    emails_job,
    outbox_job,
    ledger_checks_job,
    training_set_job,
    training_job,
    drift_job,
    effect_job,
    cost_job,
    search_job,
    trend_job,
    maintenance_job,
]


def _again_after(
    context: dg.SensorEvaluationContext,
    warehouse: Warehouse,
    job: str,
    seconds: float,
    sooner_after: Callable[[Warehouse], datetime | None] = lambda _: None,
) -> dg.RunRequest | dg.SkipReason:
    """A run of `job` if the last one is `seconds` ago and something was written since.

    And one at once if what `sooner_after` gives the time of (UTC) has happened since the last one.
    """
    if skip := _not_now(context, job):
        return skip
    ran_at = _ran_at(context, job)
    happened_at = sooner_after(warehouse)
    if happened_at is not None and happened_at > ran_at:
        return dg.RunRequest()
    if ran_at + timedelta(seconds=seconds) > utc_now():
        return dg.SkipReason(f"{job} ran a short while ago")
    stored = warehouse.query("SELECT max(stored_at) AS newest FROM ingest_ranges")["newest"][0].as_py()
    if (stored is None or stored < ran_at) and all(r.action == "NO_DATA" for r in warehouse.past_refreshes(ran_at)):
        return dg.SkipReason(f"nothing was written since the last run of {job}")
    return dg.RunRequest()


def _ran_at(context: dg.SensorEvaluationContext, job: str) -> datetime:
    """When the last run of `job` was requested (UTC); in 1970 where there was none."""
    last = context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    return (last[0].create_timestamp if last else datetime.fromtimestamp(0, UTC)).astimezone(UTC).replace(tzinfo=None)


def _watched(
    look: Callable[[], dg.RunRequest | dg.SkipReason], has_news: Callable[[], bool], watch: tuple[float, float]
) -> dg.RunRequest | dg.SkipReason:
    """The first request that `look` makes within the watch, else its last word. It looks again only when there is news.

    `has_news` is asked several times a second, so it must cost next to nothing.
    """
    starts_at, ends_at = (time.monotonic() + seconds for seconds in watch)
    time.sleep(starts_at - time.monotonic() if starts_at > time.monotonic() else 0)
    found = look()
    while isinstance(found, dg.SkipReason) and time.monotonic() < ends_at:
        time.sleep(_LOOK_SECONDS)
        if has_news():
            found = look()
    return found


def _not_now(context: dg.SensorEvaluationContext, *jobs: str) -> dg.SkipReason | None:
    """Why no run of the jobs may be requested now: one is under way, or the last one failed a moment ago."""
    return _under_way(context, *jobs) or next(filter(None, (_just_failed(context, job) for job in jobs)), None)


def _under_way(context: dg.SensorEvaluationContext, *jobs: str) -> dg.SkipReason | None:
    for job in jobs:
        if context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1):
            return dg.SkipReason(f"a run of {job} is queued or started")
    return None


def _just_failed(context: dg.SensorEvaluationContext, job: str) -> dg.SkipReason | None:
    last = context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    if last and last[0].dagster_run.status == dg.DagsterRunStatus.FAILURE:
        failed_for = (datetime.now(UTC) - last[0].update_timestamp.astimezone(UTC)).total_seconds()
        if failed_for < RETRY_AFTER_FAILURE_SECONDS:
            return dg.SkipReason(
                f"the last run failed; trying again in {RETRY_AFTER_FAILURE_SECONDS - failed_for:.0f} s"
            )
    return None


def _blocked(
    context: dg.SensorEvaluationContext, checks: Iterable[dg.AssetCheckKey] = BLOCKING_CHECKS
) -> dg.SkipReason | None:
    """The failed check that stands between what the `checks` are of and what follows from it, if there is one.

    Dagster lets a blocking check gate what follows in its own run; here what follows are other runs.
    """
    for key in checks:
        if _has_failed(context, key):
            return dg.SkipReason(f"stopped by the failed check {key.name} of {key.asset_key.to_user_string()}")
    return None


def _has_failed(context: dg.SensorEvaluationContext, check: dg.AssetCheckKey) -> bool:
    return _last_outcome(context, check) is False


def _last_outcome(context: dg.SensorEvaluationContext, check: dg.AssetCheckKey) -> bool | None:
    """Whether a check passed the last time; None where it has not said yet."""
    record = context.instance.event_log_storage.get_latest_asset_check_execution_by_key([check]).get(check)
    return _OUTCOMES.get(record.status) if record else None


def _materialization_is_old(context: dg.SensorEvaluationContext, table: DynamicTable) -> bool:
    event = context.instance.get_latest_materialization_event(dg.AssetKey(table.name))
    if event is None:
        return True
    return datetime.now(UTC).timestamp() - event.timestamp > table.target_lag_seconds / 2
