"""Periodic jobs. To add one, add an entry to `UPKEEP`; its job and its sensor are made from the entry."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import dagster as dg

from churn_assets.assets.maintenance import FILES_CHECK
from churn_assets.assets.model_drift import DRIFT_CHECKS
from churn_assets.automation.gates import has_failed, not_now, ran_at
from churn_assets.automation.watching import TICK_SECONDS
from churn_assets.clock import Clock
from churn_assets.ingestion.events import LEDGERS
from churn_assets.model.challenge import is_training_due
from churn_assets.model.registry import serving_since
from churn_assets.model.training_set import due, first_event_day
from churn_assets.rules import (
    COST_SECONDS,
    DRIFT_SECONDS,
    EFFECT_SECONDS,
    FILE_CHECK_SECONDS,
    FILE_RECHECK_SECONDS,
    LEDGER_CHECK_SECONDS,
    MAINTENANCE_SECONDS,
    PURGE_SECONDS,
    RETRAINING_SECONDS,
    SEARCH_POSITION_SECONDS,
    SEARCH_SECONDS,
    TRAINING_SET_SECONDS,
    TREND_SECONDS,
)
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse, row_count
from churn_assets.wiring import open_log_index


@dataclass(frozen=True)
class Look:
    """What a sensor sees in one tick, at `now` (UTC)."""

    job: str
    instance: dg.DagsterInstance
    warehouse: Warehouse
    settings: Settings
    now: datetime
    assets: frozenset[dg.AssetKey]  # of the job

    def ran_within(self, seconds: float) -> bool:
        """Whether the last run of the job was requested less than `seconds` ago."""
        return ran_at(self.instance, self.job, self.now) + timedelta(seconds=seconds) > self.now

    def nothing_to_do(self, why: str, seconds: float) -> dg.SensorResult:
        """Skip, and record once in `seconds` that the assets are still up to date.

        A freshness policy reads materializations only, so without this an idle system would look overdue. The record repeats
        the last run's metadata, because the UI shows the latest materialization.
        """
        latest = (self.instance.get_latest_materialization_event(key) for key in sorted(self.assets))
        return dg.SensorResult(
            skip_reason=why,
            asset_events=[
                dg.AssetMaterialization(
                    known.asset_key, description=f"still up to date: {why}", metadata=known.metadata
                )
                for event in latest
                if event and (known := event.asset_materialization)
                if self.now.replace(tzinfo=UTC).timestamp() - event.timestamp > seconds
            ],
        )


When: TypeAlias = Callable[[Look], dg.RunRequest | dg.SensorResult | dg.SkipReason]


@dataclass(frozen=True)
class Upkeep:
    """A periodic job and the sensor that requests it."""

    job: str
    selection: dg.AssetSelection
    description: str  # of what the job does
    sensor: str
    requests: str  # the sensor's description: when it requests the job
    tick_seconds: int  # between two looks
    when: When


def every(seconds: float, sooner_after: datetime | None = None) -> When:
    """Request a run `seconds` after the last one, if something was written since.

    It is requested at once if `sooner_after` (UTC) is later than the last run.
    """

    def when(look: Look) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
        last = ran_at(look.instance, look.job, look.now)
        if sooner_after is not None and sooner_after > last:
            return dg.RunRequest()
        if look.ran_within(seconds):
            return dg.SkipReason(f"{look.job} ran a short while ago")
        stored = look.warehouse.query("SELECT max(stored_at) AS newest FROM ingest_ranges")["newest"][0].as_py()
        if (stored is None or stored < last) and all(
            refresh.action == "NO_DATA" for refresh in look.warehouse.past_refreshes(last)
        ):
            return look.nothing_to_do(f"nothing was written since the last run of {look.job}", seconds)
        return dg.RunRequest()

    return when


def _when_cut_offs_may_be_missing(look: Look) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    """Once a day while something is written; at once, if the first cut-offs have come since a run that found none.

    History is often loaded just before Dagster starts or while it runs. A run before its first refresh would find nothing and
    then keep the model waiting for a day.
    """
    if not look.ran_within(TRAINING_SET_SECONDS) and first_event_day(look.warehouse) is None:
        return dg.SkipReason("no event of a known customer is in customer_day yet")
    if look.ran_within(TRAINING_SET_SECONDS) and _was_left_empty(look) and due(look.warehouse, look.now):
        return dg.RunRequest()
    return every(TRAINING_SET_SECONDS)(look)


def _was_left_empty(look: Look) -> bool:
    """Whether the last run of the job found nothing to add to an empty table; asked of Dagster, which costs no query."""
    events = (look.instance.get_latest_materialization_event(key) for key in look.assets)
    known = [event.asset_materialization for event in events if event and event.asset_materialization]
    return any(one.metadata["dagster/row_count"].value == 0 for one in known)


def _when_there_is_something_to_learn(look: Look) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    if look.ran_within(TRAINING_SET_SECONDS):
        return dg.SkipReason("the last training is less than a day ago")
    drifted = [key.name for key in DRIFT_CHECKS if has_failed(look.instance, key)]
    is_due, why = is_training_due(look.warehouse, drifted, look.now)
    return dg.RunRequest(tags={"churn/why": why}) if is_due else look.nothing_to_do(why, RETRAINING_SECONDS)


def _when_a_model_serves(look: Look) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    since = serving_since(look.warehouse)
    return every(DRIFT_SECONDS, sooner_after=since)(look) if since else dg.SkipReason("no model serves yet")


def _when_somebody_was_written_to(look: Look) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    if not row_count(look.warehouse, "agent_intervention_log"):
        return dg.SkipReason("nobody has been written to yet")
    return every(EFFECT_SECONDS)(look)


def _when_the_index_is_behind(look: Look) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
    index = open_log_index(look.settings, look.warehouse)
    if index is None:
        return dg.SkipReason("the warehouse's own search service keeps itself up to date")
    if look.ran_within(SEARCH_SECONDS):
        return dg.SkipReason(f"{look.job} ran a short while ago")
    if index.is_behind():
        return dg.RunRequest()
    # The index keeps the snapshot of its last run alive. It must move on even while only other tables are written,
    # or old snapshots could never be deleted.
    return every(SEARCH_POSITION_SECONDS)(look)


def _when_files_wait_for_a_check(look: Look) -> dg.RunRequest | dg.SkipReason:
    """Daily, also while nothing is written, as files are damaged where they lie; at once if one is missing or cut.

    Often while damage is known: it stops refreshes and emails until a check passes.
    """
    damaged = has_failed(look.instance, FILES_CHECK)
    if not damaged and look.warehouse.damage():
        return dg.RunRequest()
    if look.ran_within(FILE_RECHECK_SECONDS if damaged else FILE_CHECK_SECONDS):
        return dg.SkipReason("the files were checked a short while ago")
    return dg.RunRequest()


UPKEEP = (
    Upkeep(
        job="check_ledgers",
        selection=dg.AssetSelection.checks_for_assets(*LEDGERS),
        description="Check keys over whole ledgers.",
        sensor="ledger_checks_sensor",
        requests=f"Checks the ledgers every {LEDGER_CHECK_SECONDS / 60:g} minutes while rows arrive.",
        tick_seconds=TICK_SECONDS,
        when=every(LEDGER_CHECK_SECONDS),
    ),
    Upkeep(
        job="extend_training_set",
        selection=dg.AssetSelection.assets("churn_training_set"),
        description="Add the cut-offs whose labels are known now.",
        sensor="training_set_sensor",
        requests="Adds to the training set once a day while something is written, and at once when history is there.",
        tick_seconds=60,
        when=_when_cut_offs_may_be_missing,
    ),
    Upkeep(
        job="train_churn_model",
        selection=dg.AssetSelection.assets("churn_model", "churn_champion"),
        description="Train and evaluate a challenger, and let it serve if it passes.",
        sensor="training_sensor",
        requests=(
            "Trains a challenger when the training set has a new cut-off: every week, or as soon as a check finds drift."
        ),
        tick_seconds=60,
        when=_when_there_is_something_to_learn,
    ),
    Upkeep(
        job="measure_drift",
        selection=dg.AssetSelection.assets("model_drift"),
        description="Compare the champion with today's customers and with the customers who have left since.",
        sensor="drift_sensor",
        requests="Once a champion serves: measures its drift at once, and once a day while something is written.",
        tick_seconds=60,
        when=_when_a_model_serves,
    ),
    Upkeep(
        job="measure_effect",
        selection=dg.AssetSelection.assets("intervention_effect"),
        description="Compare the customers who got an email with the control group.",
        sensor="effect_sensor",
        requests="Once somebody was written to: measures the emails' effect once a day while something is written.",
        tick_seconds=600,
        when=_when_somebody_was_written_to,
    ),
    Upkeep(
        job="count_cost",
        selection=dg.AssetSelection.assets("daily_cost"),
        description="Count tokens and credits by day.",
        sensor="cost_sensor",
        requests="Counts the cost of each day, once a day while something is written.",
        tick_seconds=600,
        when=every(COST_SECONDS),
    ),
    Upkeep(
        job="index_log_search",
        selection=dg.AssetSelection.assets("log_search_index"),
        description="Update the search index with the changes of the ledgers.",
        sensor="search_sensor",
        requests=(
            "Requests a run when the search index lacks errors, cases or customers, at most every"
            f" {SEARCH_SECONDS:g} s; and when there is no index."
        ),
        tick_seconds=TICK_SECONDS,
        when=_when_the_index_is_behind,
    ),
    Upkeep(
        job="count_risk",
        selection=dg.AssetSelection.assets("risk_by_segment", "event_latency"),
        description="Record how many customers are at risk, and how long events took.",
        sensor="trend_sensor",
        requests=f"Counts the customers at risk every {TREND_SECONDS / 60:g} minutes while something is written.",
        tick_seconds=30,
        when=every(TREND_SECONDS),
    ),
    Upkeep(
        job="maintain_tables",
        selection=dg.AssetSelection.assets("table_maintenance"),
        description="Merge small files, expire snapshots.",
        sensor="maintenance_sensor",
        requests=f"Maintains the tables every {MAINTENANCE_SECONDS / 60:g} minutes while something is written.",
        tick_seconds=60,
        when=every(MAINTENANCE_SECONDS),
    ),
    Upkeep(
        job="check_files",
        selection=dg.AssetSelection.checks(FILES_CHECK),
        description="Check that the files of tables and models are whole.",
        sensor="file_check_sensor",
        requests=(
            f"Checks a part of the files every {FILE_CHECK_SECONDS / 3600:g} hours; every {FILE_RECHECK_SECONDS / 60:g} minutes"
            " while damage is known."
        ),
        tick_seconds=60,
        when=_when_files_wait_for_a_check,
    ),
    Upkeep(
        job="purge_runs",
        selection=dg.AssetSelection.assets("run_history"),
        description="Delete old runs and what they recorded.",
        sensor="purge_sensor",
        requests=f"Purges Dagster's own storage every {PURGE_SECONDS / 60:g} minutes while something is written.",
        tick_seconds=60,
        when=every(PURGE_SECONDS),
    ),
)


def upkeep_sensors(clock: Clock) -> list[dg.SensorDefinition]:
    """A sensor for every periodic job."""
    return [_sensor_of(upkeep, clock) for upkeep in UPKEEP]


def _sensor_of(upkeep: Upkeep, clock: Clock) -> dg.SensorDefinition:
    @dg.sensor(
        name=upkeep.sensor,
        job_name=upkeep.job,
        minimum_interval_seconds=upkeep.tick_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=upkeep.requests,
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.RunRequest | dg.SensorResult | dg.SkipReason:
        """Decide once whether the job is due."""
        now = clock.now()
        if skip := not_now(context.instance, now, upkeep.job):
            return skip
        assert context.repository_def is not None  # the daemon and the tests provide it
        assets = frozenset(upkeep.selection.resolve(context.repository_def.asset_graph))
        return upkeep.when(Look(upkeep.job, context.instance, warehouse, settings, now, assets))

    return sensor
