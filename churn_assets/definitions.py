"""Assembly of the Dagster definitions, and nothing else."""

from functools import cache
from typing import Any

import dagster as dg

from churn_assets.assets.cost import daily_cost
from churn_assets.assets.dynamic_tables import dynamic_table_assets
from churn_assets.assets.effect import intervention_effect
from churn_assets.assets.interventions import high_risk_history, retention_emails, stream_high_risk_customers
from churn_assets.assets.latency import event_latency
from churn_assets.assets.ledger_checks import ledger_checks
from churn_assets.assets.ledgers import ledgers, topics
from churn_assets.assets.maintenance import table_maintenance
from churn_assets.assets.model import churn_champion, churn_model, training_set_asset
from churn_assets.assets.model_drift import model_drift
from churn_assets.assets.outbox import email_outbox
from churn_assets.assets.resources import connections, query_tag
from churn_assets.assets.risk_trend import risk_by_segment
from churn_assets.assets.serving import log_search_index
from churn_assets.automation.jobs import JOBS
from churn_assets.automation.sensors import all_sensors
from churn_assets.clock import Clock
from churn_assets.operations.dbt import manifest_path
from churn_assets.settings import Settings, load_settings
from churn_assets.wiring import Place, make_desk, open_warehouse, place_of


def build_defs(
    settings: Settings, resource_overrides: dict[str, Any] | None = None, clock: Clock | None = None
) -> dg.Definitions:
    """The whole graph for `settings`; tests replace resources (`settings`, `warehouse`, `desk`) by name.

    The sensors read the time from `clock`: the machine's, unless a test passes another.
    """
    place = place_of(settings)
    warehouse = open_warehouse(settings, tag=query_tag, connect=connections)
    assets = [
        *topics,
        ledgers,
        dynamic_table_assets(manifest_path(settings)),
        stream_high_risk_customers,
        high_risk_history,
        retention_emails,
        email_outbox,
        training_set_asset(manifest_path(settings)),
        churn_model,
        churn_champion,
        model_drift,
        intervention_effect,
        daily_cost,
        log_search_index,
        risk_by_segment,
        event_latency,
        table_maintenance,
    ]
    return dg.Definitions(
        assets=dg.map_asset_specs(lambda spec: _placed(spec, place), assets),
        asset_checks=ledger_checks(),
        jobs=JOBS,
        sensors=all_sensors(clock or Clock()),
        # A step of this graph takes less time than starting a process for it.
        executor=dg.in_process_executor,
        resources={
            "settings": settings,
            "warehouse": warehouse,
            # Made when a run needs it, so that a mistake in marketing's prompts stops nothing but emails.
            "desk": dg.ResourceDefinition(lambda _: make_desk(settings, warehouse)),
            **(resource_overrides or {}),
        },
    )


def _placed(spec: dg.AssetSpec, place: Place) -> dg.AssetSpec:
    """The asset with the kind and full table name of the warehouse in use; assets are declared with those of the lake."""
    if "ducklake" not in spec.kinds:
        return spec
    here = {"dagster/table_name": f"{place.schema}.{table}"} if (table := _table_of(spec)) else {}
    return spec.replace_attributes(
        kinds={place.kind if kind == "ducklake" else kind for kind in spec.kinds}, metadata={**spec.metadata, **here}
    )


def _table_of(spec: dg.AssetSpec) -> str | None:
    name = spec.metadata.get("dagster/table_name")
    return name.rpartition(".")[2] if name else None


@dg.definitions
@cache
def defs() -> dg.Definitions:
    """The graph for the settings in the environment. Dagster loads it several times in a process, so it is cached."""
    return build_defs(load_settings())
