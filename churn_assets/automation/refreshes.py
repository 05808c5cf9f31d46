"""When dynamic tables are refreshed, and how refreshes outside of runs are recorded in Dagster."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from churn_assets.assets.dynamic_tables import REFRESHED_AT, numbers_of, timestamp_of
from churn_assets.assets.interventions import ALERTS
from churn_assets.automation.gates import blocked, not_now, under_way
from churn_assets.automation.jobs import refresh_job, stream_job
from churn_assets.automation.watching import TICK_SECONDS
from churn_assets.clock import Clock
from churn_assets.dynamic_tables.tables import DynamicTable
from churn_assets.retention.queue import ALERT_STREAM, STREAM
from churn_assets.rules import HISTORY_SECONDS, REFRESH_ALLOWANCE_SECONDS
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse


def refresh_sensors(clock: Clock) -> list[dg.SensorDefinition]:
    """The sensor that requests refreshes, and the one that records those that no run has recorded."""

    @dg.sensor(
        job=refresh_job,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Requests one run for all dynamic tables that are due: early enough for each to stay below its target lag"
            " (CHURN_REFRESH=eager: as soon as something changed). Tables without changes are recorded as NO_DATA"
            " without a run."
        ),
    )
    def refresh_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
        """Look at the lags once."""
        return _refresh(context, warehouse, settings, clock.now())

    @dg.sensor(
        target=refresh_job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Records refreshes that no run has recorded: those of a deployment or a command, and all on Snowflake, where"
            " the tables refresh themselves. It requests no run."
        ),
    )
    def refresh_history_sensor(
        context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.SensorResult | dg.SkipReason:
        """Look at the history of refreshes once."""
        return _record_past(context, warehouse, clock.now())

    return [refresh_sensor, refresh_history_sensor]


def is_due(table: DynamicTable, *, eager: bool) -> bool:
    """Whether a refresh must be requested now to finish before the lag reaches its target. `eager`: whether it lags at all."""
    if table.keeps_itself_fresh:
        return False
    if eager or table.is_to_be_initialized:
        return table.lag_seconds > 0
    return table.lag_seconds + REFRESH_ALLOWANCE_SECONDS >= table.target_lag_seconds


def with_late_sources(tables: list[DynamicTable], due: list[str]) -> list[str]:
    """The tables that are due, and their sources that lag; `tables` lists sources before their readers."""
    wanted = set(due)
    for reader in reversed(tables):
        if reader.name in wanted:
            wanted |= {table.name for table in tables if table.name in reader.sources and table.lag_seconds > 0}
    return [table.name for table in tables if table.name in wanted]


def _refresh(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, settings: Settings, now: datetime
) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    if skip := not_now(context.instance, now, refresh_job.name, stream_job.name) or blocked(context.instance):
        return skip
    tables = warehouse.dynamic_tables(now)
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
        if table.lag_seconds == 0
        and not table.keeps_itself_fresh
        and _materialization_is_old(context.instance, now, table)
    ]
    return dg.SensorResult(
        skip_reason="every dynamic table is within its target lag",
        asset_events=[
            dg.AssetMaterialization(
                table.name,
                description="no changes",
                metadata={
                    "refresh_action": "NO_DATA",
                    "lag_seconds": 0.0,
                    **({REFRESHED_AT: timestamp_of(table.refreshed_at)} if table.refreshed_at else {}),
                },
            )
            for table in idle
        ],
    )


def _materialization_is_old(instance: dg.DagsterInstance, now: datetime, table: DynamicTable) -> bool:
    """Whether the freshness policy, which sees only materializations, would soon report the idle table as late."""
    event = instance.get_latest_materialization_event(dg.AssetKey(table.name))
    return event is None or now - _utc(event.timestamp) > timedelta(seconds=table.target_lag_seconds / 2)


def _record_past(
    context: dg.SensorEvaluationContext, warehouse: Warehouse, now: datetime
) -> dg.SensorResult | dg.SkipReason:
    if skip := under_way(context.instance, refresh_job.name, stream_job.name):
        return skip  # a run records its own refreshes
    tables = warehouse.dynamic_tables(now)
    if any(table.keeps_itself_fresh for table in tables):
        # Reading this history wakes the account's virtual warehouse, which costs credits.
        asked_at = float(context.cursor or 0)
        if 0 <= now.timestamp() - asked_at < HISTORY_SECONDS:
            return dg.SkipReason(f"the history was read less than {HISTORY_SECONDS / 60:g} minutes ago")
        context.update_cursor(str(now.timestamp()))
    recorded = {table.name: _recorded_until(context.instance, table.name) for table in tables}
    past = warehouse.past_refreshes(max(min(recorded.values(), default=now), now - timedelta(days=1)))
    missing = [refresh for refresh in past if refresh.started_at > recorded.get(refresh.name, now)]
    return dg.SensorResult(
        skip_reason=None if missing else "every refresh is recorded",
        asset_events=[
            dg.AssetMaterialization(
                refresh.name, description=f"refreshed outside of a run ({refresh.action})", metadata=numbers_of(refresh)
            )
            for refresh in missing
        ],
    )


def _recorded_until(instance: dg.DagsterInstance, name: str) -> datetime:
    """The start (UTC) of the refresh that the asset's latest materialization records; in 1970 if there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    materialization = event.asset_materialization if event else None
    value = materialization.metadata.get(REFRESHED_AT) if materialization else None
    if not isinstance(value, dg.TimestampMetadataValue):
        return _utc(0)
    # The metadata holds float seconds, which are not exact to the microsecond.
    return _utc(value.value) + timedelta(milliseconds=1)


def _utc(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None)
