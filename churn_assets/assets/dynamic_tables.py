"""Stage 2 and 3: the dynamic tables, as dbt declares them. An asset refreshes its table and runs the model's dbt tests.

Specs, columns, tests and target lags come from the dbt manifest; the warehouse does the refresh. Tests run as their compiled SQL,
so that no refresh pays for starting dbt.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, build_dbt_asset_specs

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import within
from churn_assets.assets.pictures.charts import line_charts
from churn_assets.assets.readable import FAILING_ROWS, failing, rounded
from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.tables import DynamicTable, Refresh, target_lag_seconds
from churn_assets.operations.column_lineage import Lineage
from churn_assets.warehouse.protocol import Transaction, Warehouse, row_count

_SLICE = timedelta(minutes=15)
_SLICES = timedelta(days=1) // _SLICE
LAG_CHECK = "lag_stayed_under_target"
# In the metadata of every materialization, to find the latest one in the warehouse's history.
REFRESHED_AT = "refreshed_at"


class ChurnDbtTranslator(DagsterDbtTranslator):
    """How a dbt node becomes an asset: keys are bare table names, so that sources are the ledgers."""

    def __init__(self, lineage: Lineage) -> None:
        super().__init__()
        self._lineage = lineage

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """The table's name."""
        return dg.AssetKey(dbt_resource_props["name"])

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The description in schema.yml alone. The query is in the metadata, so that it does not push down the columns."""
        return dbt_resource_props["description"]

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """The dbt group."""
        return dbt_resource_props["config"].get("group")

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        """The team that owns features and predictions."""
        is_prediction = dbt_resource_props["config"].get("group") == "predictions"
        return [groups.DATA_SCIENCE if is_prediction else groups.DATA_ENGINEERING]

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: Any) -> dg.AssetSpec:
        """dagster-dbt's spec with query, column lineage and a freshness policy: materialized at least once in each target lag."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        target_lag = _target_lag_seconds(manifest, unique_id)
        if target_lag is None:
            return spec
        node = manifest["nodes"][unique_id]
        lineage = self._lineage.get(node["name"], {})
        return spec.replace_attributes(
            kinds={"ducklake", "dbt", "dynamic_table"},
            freshness_policy=within(target_lag),
            metadata={
                **spec.metadata,
                "dagster/column_schema": _schema(node["columns"], lineage),
                "dagster/column_lineage": dg.TableColumnLineage(
                    {
                        column: [dg.TableColumnDep(dg.AssetKey(table), name) for table, name in sources]
                        for column, sources in lineage.items()
                    }
                ),
                "query": dg.MetadataValue.md(f"```sql\n{node['compiled_code'].strip()}\n```"),
                "model": node["original_file_path"],
            },
        )


def _schema(columns: Mapping[str, Mapping[str, Any]], lineage: Mapping[str, list[tuple[str, str]]]) -> dg.TableSchema:
    """The columns with their descriptions in schema.yml and their sources in words, because the UI does not show lineage."""

    def described(name: str) -> str:
        read = groupby(lineage.get(name, []), key=itemgetter(0))
        sources = ", ".join(f"{table} ({', '.join(column for _, column in pairs)})" for table, pairs in read)
        return f"{columns[name]['description']} From {sources}." if sources else columns[name]["description"]

    return dg.TableSchema([dg.TableColumn(name, description=described(name)) for name in columns])


def _target_lag_seconds(manifest: Mapping[str, Any], unique_id: str) -> int | None:
    """The target lag of a dynamic table; None for every other node."""
    tables = {key: node for key, node in manifest["nodes"].items() if _is_dynamic_table(node)}
    if unique_id not in tables:
        return None
    return target_lag_seconds(
        tables[unique_id]["name"],
        {node["name"]: node["config"]["target_lag"] for node in tables.values()},
        {node["name"]: _dynamic_sources(manifest, key) for key, node in tables.items()},
    )


def _is_dynamic_table(node: Mapping[str, Any]) -> bool:
    return node["config"].get("materialized") == "dynamic_table"


def _dynamic_sources(manifest: Mapping[str, Any], unique_id: str) -> set[str]:
    """The dynamic tables that a model reads, directly or through models that dbt writes into its query."""
    found: set[str] = set()
    for parent in manifest["parent_map"][unique_id]:
        node = manifest["nodes"].get(parent)
        if node is not None:  # otherwise a source
            found |= {node["name"]} if _is_dynamic_table(node) else _dynamic_sources(manifest, parent)
    return found


@dataclass(frozen=True)
class DataTest:
    """A dbt test of one model: its SQL returns the rows that break it."""

    name: str
    sql: str
    description: str


def dynamic_table_assets(manifest_path: Path, lineage: Lineage) -> dg.AssetsDefinition:
    """One asset for each dynamic table in the dbt manifest. Those that a run selects are refreshed in one transaction."""
    manifest = json.loads(manifest_path.read_text())
    specs = {
        spec.key: spec
        for spec in build_dbt_asset_specs(
            manifest=manifest,
            dagster_dbt_translator=ChurnDbtTranslator(lineage),
            select="config.materialized:dynamic_table",
        )
    }
    tests = {key: data_tests(manifest, key.path[-1]) for key in specs}

    @dg.multi_asset(
        name="refresh",
        specs=list(specs.values()),
        check_specs=[check for key in specs for check in _check_specs(key, tests[key])],
        can_subset=True,
        pool=pools.REFRESH,
    )
    def refresh(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Bring the selected tables up to date and check their rows."""
        results = warehouse.refresh([key.path[-1] for key in context.selected_asset_keys], utc_now())
        now = utc_now()
        tables = {table.name: table for table in warehouse.dynamic_tables(now)}
        past = warehouse.past_refreshes(now - timedelta(days=1))
        for result in results:
            key = dg.AssetKey(result.name)
            yield dg.MaterializeResult(
                asset_key=key,
                metadata={
                    **refresh_metadata(warehouse, specs[key], result, tables[result.name].lag_seconds),
                    "last_day": last_day((each for each in past if each.name == result.name), now),
                },
                check_results=[*run_tests(warehouse, key, tests[key]), lag_check(key, result, tables[result.name])],
            )

    return refresh


def _check_specs(key: dg.AssetKey, tests: list[DataTest]) -> list[dg.AssetCheckSpec]:
    return [
        *(dg.AssetCheckSpec(test.name, asset=key, blocking=True, description=test.description) for test in tests),
        dg.AssetCheckSpec(
            LAG_CHECK,
            asset=key,
            description="The oldest change waiting for this refresh was younger than the target lag.",
        ),
    ]


def data_tests(manifest: Mapping[str, Any], model: str) -> list[DataTest]:
    """The dbt tests of a model in dbt's manifest."""
    return [
        DataTest(node["name"], node["compiled_code"], _in_words(node))
        for node in manifest["nodes"].values()
        if node["resource_type"] == "test" and (node.get("attached_node") or "").endswith(f".{model}")
    ]


def _in_words(test: Mapping[str, Any]) -> str:
    """What a dbt test checks: its description in schema.yml, otherwise what its kind means."""
    if test["description"]:
        return test["description"]
    column, details = test["column_name"], test["test_metadata"]["kwargs"] if test.get("test_metadata") else {}
    match test.get("test_metadata", {}).get("name"):
        case "not_null":
            return f"{column} is never empty."
        case "unique":
            return f"No {column} occurs twice."
        case "accepted_values":
            *most, last = map(str, details["values"])
            return f"{column} is {', '.join(most)} or {last}." if most else f"{column} is {last}."
        case "relationships":
            parent = details["to"].split("'")[1]  # of ref('parent')
            return f"Every {column} is a {details['field']} of {parent}."
        case _:
            return f"{test['name'].replace('_', ' ').capitalize()}."


def refresh_metadata(warehouse: Warehouse, spec: dg.AssetSpec, result: Refresh, lag_seconds: float) -> dict[str, Any]:
    """The metadata of one refresh. The UI plots its numbers over time. `lag_seconds` is the lag after the refresh."""
    described = spec.metadata.get("dagster/column_schema")
    descriptions = {column.name: column.description for column in described.columns} if described else {}
    return {
        **numbers_of(result),
        **rounded({"lag_seconds": lag_seconds}),
        "dagster/row_count": row_count(warehouse, result.name),
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(column.name, column.type, descriptions.get(column.name))
                for column in warehouse.columns(result.name)
            ]
        ),
    }


def numbers_of(refresh: Refresh) -> dict[str, Any]:
    """The metadata of any refresh, even of one that no run made."""
    return {
        "refresh_action": refresh.action,
        REFRESHED_AT: timestamp_of(refresh.started_at),
        "rows_inserted": refresh.rows_inserted,
        "rows_updated": refresh.rows_updated,
        "rows_deleted": refresh.rows_deleted,
        **rounded({"lag_seconds_before": refresh.lag_seconds_before, "duration_seconds": refresh.duration_seconds}),
        "reason": refresh.reason,
        "source_snapshot": refresh.position,
    }


def timestamp_of(time: datetime) -> dg.TimestampMetadataValue:
    """A time (UTC) as the UI shows it."""
    return dg.MetadataValue.timestamp(time.replace(tzinfo=UTC))


def last_day(past: Iterable[Refresh], now: datetime) -> dg.MarkdownMetadataValue:
    """A chart of lags and durations of one table's refreshes in the 24 hours before `now` (UTC), the worst of each slice."""
    lags, durations = {}, {}
    for refresh in past:
        place = _SLICES - 1 - (now - refresh.started_at) // _SLICE
        lags[place] = max(lags.get(place, 0.0), refresh.lag_seconds_before)
        durations[place] = max(durations.get(place, 0.0), refresh.duration_seconds)
    return line_charts(
        {
            title: [worst.get(place) for place in range(_SLICES)]
            for title, worst in (("lag before refreshes, s", lags), ("duration, s", durations))
        },
        "the last 24 hours, the worst of each quarter of an hour",
    )


def run_tests(warehouse: Warehouse, key: dg.AssetKey, tests: list[DataTest]) -> list[dg.AssetCheckResult]:
    """What the tests of a table find now."""
    if not tests:
        return []
    return check_results(warehouse, key, tests, warehouse.query(_counting(tests)).to_pylist()[0].values())


def count_failing(tx: Transaction, tests: Sequence[DataTest]) -> list[int]:
    """For each test, the number of rows within a transaction that break it."""
    return list(tx.rows(_counting(tests))[0]) if tests else []


def _counting(tests: Sequence[DataTest]) -> str:
    counts = (
        f"(SELECT count(*) FROM ({test.sql}) AS failing_rows) AS test_{number}" for number, test in enumerate(tests)
    )
    return f"SELECT {', '.join(counts)}"


def check_results(
    warehouse: Warehouse, key: dg.AssetKey, tests: Iterable[DataTest], found: Iterable[int]
) -> list[dg.AssetCheckResult]:
    """The results of a table's tests that have found so many rows; some of these rows are read now."""
    return [
        dg.AssetCheckResult(
            asset_key=key,
            check_name=test.name,
            passed=rows == 0,
            metadata={"failing_row_count": rows, **(_failing_rows(warehouse, test) if rows else {})},
        )
        for test, rows in zip(tests, found, strict=True)
    ]


def _failing_rows(warehouse: Warehouse, test: DataTest) -> dict[str, dg.TableMetadataValue]:
    rows = warehouse.query(f"SELECT * FROM ({test.sql}) AS failing_rows LIMIT {FAILING_ROWS}")
    return failing(rows.to_pylist(), rows.column_names)


def lag_check(key: dg.AssetKey, result: Refresh, table: DynamicTable) -> dg.AssetCheckResult:
    """Whether a refresh came in time."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=LAG_CHECK,
        passed=result.action == "INITIAL" or result.lag_seconds_before <= table.target_lag_seconds,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=rounded(
            {"lag_seconds_before": result.lag_seconds_before, "target_lag_seconds": table.target_lag_seconds}
        ),
    )
