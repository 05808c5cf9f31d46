"""When emails are written and sent, and whether Dagster or the warehouse's own tasks do it (the driver)."""

import json

import dagster as dg

from churn_assets.assets.driver import DRIVER_CHECK, driver_found
from churn_assets.assets.dynamic_tables import timestamp_of
from churn_assets.assets.interventions import ALERTS, EMAIL_CHECKS
from churn_assets.automation.gates import BLOCKING_CHECKS, blocked, last_outcome, not_now
from churn_assets.automation.jobs import emails_job, outbox_job
from churn_assets.automation.watching import WATCHING_TICK_SECONDS, watched
from churn_assets.clock import Clock
from churn_assets.retention.claims import latest_text
from churn_assets.retention.emails import next_day
from churn_assets.retention.outbox import approval
from churn_assets.retention.outbox.quiet_hours import quiet_hours
from churn_assets.retention.queue import STREAM
from churn_assets.retention.statuses import Status
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse, row_count
from churn_assets.warehouse.setbacks import why_held
from churn_assets.wiring import limits_of

_NOBODY = "no queued customer may get an email today"
# The tables that the warehouse's own tasks write: (asset, its table, the column with the time of writing).
_LEFT_BY_TASKS = (
    (STREAM, "retention_queue", "queued_at"),
    (ALERTS, "high_risk_history", "alerted_at"),
    ("retention_emails", "agent_intervention_log", "created_at"),
)


def intervention_sensors(clock: Clock) -> list[dg.SensorDefinition]:
    """The sensors that request the writing and sending of emails, and the one that reports the driver."""

    @dg.sensor(
        target=emails_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reports whether Dagster or the warehouse's own tasks move the streams and write the emails, as"
            " CHURN_DRIVER says, and what the tasks have done. It requests no run."
        ),
    )
    def driver_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.SensorResult | dg.SkipReason:
        """Look at the tasks once, and at their rows if they are the driver."""
        return _report_driver(context, warehouse, settings)

    @dg.sensor(
        job=emails_job,
        minimum_interval_seconds=WATCHING_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Requests a run of today's emails while queued customers may get one, and runs of unfinished days."
        ),
    )
    def emails_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SkipReason:
        """Look at the queue; with CHURN_REFRESH=eager, watch it."""
        if settings.refresh != "eager":
            return _write_emails(context, warehouse, settings, clock)
        version: object | None = None
        joined: int | None = None  # rows of the queue, if it was asked and nobody in it may get an email

        def look() -> dg.RunRequest | dg.SkipReason:
            nonlocal version, joined
            version = warehouse.version()
            rows = row_count(warehouse, "retention_queue")
            found = _write_emails(context, warehouse, settings, clock)
            joined = rows if isinstance(found, dg.SkipReason) and found.skip_message == _NOBODY else None
            return found

        def has_news() -> bool:
            nonlocal version
            now = warehouse.version()
            if now in (None, version):
                return False
            version = now
            return joined is None or row_count(warehouse, "retention_queue") != joined

        return watched(look, has_news, clock)

    @dg.sensor(
        job=outbox_job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Requests a run while emails wait for automatic approval, or for sending outside of the quiet hours."
        ),
    )
    def outbox_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SkipReason:
        """Look at the outbox once."""
        return _send_emails(context, warehouse, settings, clock)

    return [driver_sensor, emails_sensor, outbox_sensor]


def _report_driver(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings
) -> dg.SensorResult | dg.SkipReason:
    events: list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
    found = driver_found(settings, warehouse.tasks())
    if last_outcome(context.instance, DRIVER_CHECK) is not found["passed"]:
        events.append(dg.AssetCheckEvaluation(**found))
    if settings.driver == "native":
        seen = {
            asset: warehouse.query(f"SELECT count(*) AS all_rows, max({time}) AS newest FROM {table}").to_pylist()[0]
            for asset, table, time in _LEFT_BY_TASKS
        }
        if (cursor := json.dumps(seen, default=str)) != context.cursor:
            context.update_cursor(cursor)
            events += [
                dg.AssetObservation(
                    asset,
                    description="written by the warehouse's own task",
                    metadata={
                        "dagster/row_count": row["all_rows"],
                        **({"newest": timestamp_of(row["newest"])} if row["newest"] else {}),
                    },
                )
                for asset, row in seen.items()
            ]
    return dg.SensorResult(skip_reason=None if events else "nothing has changed", asset_events=events)


def _write_emails(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings, clock: Clock
) -> dg.RunRequest | dg.SkipReason:
    now = clock.now()
    if skip := not_now(context.instance, now, emails_job.name) or blocked(
        context.instance, (*BLOCKING_CHECKS, DRIVER_CHECK)
    ):
        return skip
    if settings.driver == "native":
        return _look_at_new_texts(context, warehouse)
    if why := why_held(warehouse, now):
        return dg.SkipReason(why)
    if day := next_day(warehouse, limits_of(settings), now):
        return dg.RunRequest(partition_key=day.isoformat())
    return dg.SkipReason(_NOBODY)


def _look_at_new_texts(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.RunRequest | dg.SkipReason:
    """Request a run that only checks the day of the latest text, if the warehouse's own tasks have written a new one."""
    latest = latest_text(warehouse)
    if latest is None or latest[0].isoformat() == context.cursor:
        return dg.SkipReason("the warehouse's own tasks write the emails; they wrote none since the last look")
    written_at, day = latest
    context.update_cursor(written_at.isoformat())
    return dg.RunRequest(partition_key=day.isoformat())


def _send_emails(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings, clock: Clock
) -> dg.RunRequest | dg.SkipReason:
    now = clock.now()
    if skip := not_now(context.instance, now, outbox_job.name) or blocked(context.instance, EMAIL_CHECKS):
        return skip
    if why := why_held(warehouse, now):
        return dg.SkipReason(why)
    quiet = quiet_hours(settings)
    may_send = settings.smtp_url is not None and not (quiet and quiet.until(now))
    statuses = list[Status]()
    if settings.approval == "auto":
        statuses.append("READY")
    if may_send:
        statuses.extend(("APPROVED", "SENDING"))
    if statuses and approval.waiting(warehouse, statuses):
        return dg.RunRequest()
    return dg.SkipReason("no email may be approved or sent now")
