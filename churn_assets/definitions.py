"""Assembly of the Dagster definitions, and nothing else."""

from functools import cache
from typing import Any

import dagster as dg

from churn_assets.assets.cost import daily_cost
from churn_assets.assets.dynamic_tables import dynamic_table_assets
from churn_assets.assets.effect import intervention_effect
from churn_assets.assets.interventions import high_risk_history, retention_emails_asset, stream_high_risk_customers
from churn_assets.assets.latency import event_latency
from churn_assets.assets.ledger_checks import ledger_checks
from churn_assets.assets.ledgers import ledgers, topics
from churn_assets.assets.links import linked
from churn_assets.assets.maintenance import files_are_whole, run_history, table_maintenance
from churn_assets.assets.model import churn_champion, churn_model, training_set_asset
from churn_assets.assets.model_drift import model_drift
from churn_assets.assets.outbox import email_outbox
from churn_assets.assets.resources import resources_of
from churn_assets.assets.risk_trend import risk_by_segment
from churn_assets.assets.serving import log_search_index_asset
from churn_assets.automation.jobs import JOBS
from churn_assets.automation.sensors import all_sensors
from churn_assets.clock import Clock
from churn_assets.operations.column_lineage import read_lineage
from churn_assets.operations.dbt import manifest_path
from churn_assets.operations.first_day import first_day
from churn_assets.settings import Settings, load_settings


def build_defs(
    settings: Settings, resource_overrides: dict[str, Any] | None = None, clock: Clock | None = None
) -> dg.Definitions:
    """The whole graph for `settings`; tests replace resources (`settings`, `warehouse`, `email_run`) by name.

    The sensors read the time from `clock`: the machine's, unless a test passes another.
    """
    assets = [
        *topics,
        ledgers,
        dynamic_table_assets(manifest_path(settings), read_lineage(settings)),
        stream_high_risk_customers,
        high_risk_history,
        retention_emails_asset(first_day(settings)),
        email_outbox,
        training_set_asset(manifest_path(settings)),
        churn_model,
        churn_champion,
        model_drift,
        intervention_effect,
        daily_cost,
        log_search_index_asset(settings),
        risk_by_segment,
        event_latency,
        table_maintenance,
        run_history,
    ]
    return dg.Definitions(
        assets=linked(assets, settings),
        asset_checks=[*ledger_checks(), files_are_whole],
        jobs=JOBS,
        sensors=all_sensors(clock or Clock()),
        # A step of this graph takes less time than starting a process for it.
        executor=dg.in_process_executor,
        resources={**resources_of(settings), **(resource_overrides or {})},
    )


@dg.definitions
@cache
def defs() -> dg.Definitions:
    """The graph for the settings in the environment. Dagster loads it several times in a process, so it is cached."""
    return build_defs(load_settings())
