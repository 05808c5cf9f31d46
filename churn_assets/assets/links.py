"""Links from an asset to its table in the warehouse, its code, and the dashboard that shows it."""

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import dagster as dg

from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.settings import Settings
from churn_assets.wiring import Place, place_of

Assets: TypeAlias = Sequence[dg.AssetsDefinition | dg.AssetSpec]

_ON_THE_DASHBOARD = {
    "dyn_customer_features",
    "dyn_churn_predictions",
    "churn_metrics_live",
    "high_risk_history",
    "retention_emails",
    "email_outbox",
    "intervention_effect",
    "log_search_index",
    "risk_by_segment",
}


def linked(assets: Assets, settings: Settings) -> Assets:
    """The assets with their links. A spec names its table as on the lake; here it gets the name in the warehouse."""
    place = place_of(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references are beta
        with_files = dg.map_asset_specs(
            lambda spec: _on_the_dashboard(_placed(_with_file(spec), place), settings), assets
        )
        return dg.with_source_code_references(with_files)  # type: ignore[return-value]  # it returns the types that it gets


def _placed(spec: dg.AssetSpec, place: Place) -> dg.AssetSpec:
    if "ducklake" not in spec.kinds:
        return spec
    table = _table_of(spec)
    here = {"dagster/table_name": f"{place.schema}.{table}"} if table else {}
    return spec.replace_attributes(
        kinds={place.kind if kind == "ducklake" else kind for kind in spec.kinds}, metadata={**spec.metadata, **here}
    )


def _on_the_dashboard(spec: dg.AssetSpec, settings: Settings) -> dg.AssetSpec:
    if settings.dashboard_url is None or spec.key.path[-1] not in _ON_THE_DASHBOARD:
        return spec
    return spec.merge_attributes(metadata={"dashboard": dg.MetadataValue.url(settings.dashboard_url)})


def _with_file(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset with the file that defines its table: the dbt model, or the statement in `sql/`."""
    if model := spec.metadata.get("model"):
        file, line = DBT_PROJECT / model, 1
    else:
        file, line = _definitions().get(_table_of(spec) or "", (None, 1))
    if file is None:
        return spec
    reference = dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=file.name)
    return spec.merge_attributes(
        metadata={"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}
    )


@cache
def _definitions() -> dict[str, tuple[Path, int]]:
    """Where each table of `sql/` is created."""
    begins = "CREATE TABLE IF NOT EXISTS "
    return {
        line.removeprefix(begins).split()[0]: (file, number)
        for file in files_in(PROJECT_FILES / "sql", "*.sql")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if line.startswith(begins)
    }


def _table_of(spec: dg.AssetSpec) -> str | None:
    name = spec.metadata.get("dagster/table_name")
    return name.rpartition(".")[2] if name else None
