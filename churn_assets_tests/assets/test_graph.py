"""What a person sees of the graph in the UI, before anything has run."""

import base64
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import dagster as dg
import pytest

from churn_assets.assets import resources
from churn_assets.assets.interventions import ALERTS
from churn_assets.assets.ledger_checks import UNIQUE_CHECK
from churn_assets.assets.resources import query_tag
from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS, STORED_COLUMNS
from churn_assets.retention.queue import STREAM
from churn_assets_tests.assets.conftest import Graph, graph_over


class Refreshed(NamedTuple):
    """A graph, and what a run of `refresh_dynamic_tables` gave."""

    graph: Graph
    result: dg.ExecuteInProcessResult

    def metadata(self, asset: str) -> Mapping[str, Any]:
        """What the run showed of an asset."""
        found = self.result.get_asset_materialization_events()
        (event,) = [each for each in found if each.asset_key == dg.AssetKey(asset)]
        return event.step_materialization_data.materialization.metadata


@pytest.fixture(scope="module")
def seen(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A graph for tests that only look at it."""
    home = tmp_path_factory.mktemp("seen") / "home"
    shutil.copytree(deployed_home, home)
    with graph_over(home) as graph:
        yield graph


@pytest.fixture(scope="module")
def refreshed(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refreshed]:
    """A graph over a seeded bank, two refreshes of earlier today, and a refresh of now. It may be looked at, or copied."""
    home = tmp_path_factory.mktemp("refreshed") / "home"
    shutil.copytree(seeded_home, home)
    with graph_over(home) as graph:
        graph.lake.transact(
            lambda tx: [
                tx.execute(
                    "INSERT INTO dynamic_table_refresh_history"
                    " VALUES ('customer_day', 'FULL', '', ?, ?, 0, 0, 0, 7.125, 1, 1, current_date)",
                    [utc_now() - timedelta(hours=hours), duration],
                )
                for hours, duration in ((20, 1.5), (2, 40.25))
            ]
        )
        result = graph.run("refresh_dynamic_tables")
        assert result.success
        yield Refreshed(graph, result)


def specs(graph: Graph) -> list[dg.AssetSpec]:
    return list(graph.definitions.resolve_all_asset_specs())


# Reports and jobs that keep no table of their own.
WITHOUT_A_TABLE = {
    "event_latency",
    "daily_cost",
    "intervention_effect",
    "model_drift",
    "log_search_index",
    "table_maintenance",
    "run_history",
}
# What waits for events is not overdue while none arrive.
WAITS_FOR_EVENTS = {
    "bank_transactions",
    "churn_scores",
    *LEDGERS,
    "event_rejects",
    STREAM,
    ALERTS,
    "retention_emails",
    "email_outbox",
}


def test_every_asset_has_description_owner_group_kinds_and_code(seen: Graph):
    for spec in specs(seen):
        assert spec.description, spec.key
        assert "select" not in spec.description.lower(), spec.key
        assert spec.owners, spec.key
        assert spec.group_name not in (None, "default"), spec.key
        assert spec.kinds, spec.key
        if "kafka" not in spec.kinds:
            references = spec.metadata["dagster/code_references"].code_references
            assert references, spec.key
            for reference in references:
                assert len(Path(reference.file_path).read_text().splitlines()) >= reference.line_number, spec.key


def test_every_asset_with_a_table_describes_the_columns_that_the_table_has(seen: Graph):
    for spec in specs(seen):
        name = spec.key.path[-1]
        if name in WITHOUT_A_TABLE:
            continue
        columns = spec.metadata["dagster/column_schema"].columns
        assert all(column.description for column in columns), name
        if "kafka" not in spec.kinds:
            there = seen.lake.columns(spec.metadata["dagster/table_name"].rpartition(".")[2])
            assert [column.name for column in columns] == [column.name for column in there], name
            if "dbt" not in spec.kinds:  # dbt's manifest has no types
                assert [column.type for column in columns] == [column.type for column in there], name


def test_what_has_a_target_lag_or_a_schedule_has_a_freshness_policy_and_what_waits_for_events_has_none(seen: Graph):
    assert {spec.key.path[-1] for spec in specs(seen) if spec.freshness_policy is None} == WAITS_FOR_EVENTS


def test_the_checks_say_in_words_what_they_check(seen: Graph):
    asset_graph = seen.definitions.resolve_asset_graph()
    said = {key.name: asset_graph.get_check_spec(key).description for key in asset_graph.asset_check_keys}

    assert all(text and text.count(" ") > 2 and text.endswith(".") for text in said.values()), said
    assert said["unique_dyn_customer_features_customer_id"] == "No customer_id occurs twice."
    assert said["not_null_customer_day_customer_id"] == "customer_id is never empty."


def test_columns_of_dynamic_tables_say_what_they_are_made_of(seen: Graph):
    (spec,) = [spec for spec in specs(seen) if spec.key.path[-1] == "dyn_customer_features"]

    lineage = spec.metadata["dagster/column_lineage"].deps_by_column
    assert [(dep.asset_key.path[-1], dep.column_name) for dep in lineage["avg_sentiment"]] == [
        ("customer_day", "rated_case_count"),
        ("customer_day", "sentiment_sum"),
    ]
    described = {column.name: column.description for column in spec.metadata["dagster/column_schema"].columns}
    assert described["wire_out_30d"].endswith("From customer_day (wire_out).")


def test_assets_that_the_dashboard_shows_link_to_it_where_it_is_known(seen: Graph):
    assert not [spec for spec in specs(seen) if "dashboard" in spec.metadata]

    there = seen.settings.model_copy(update={"dashboard_url": "http://127.0.0.1:8501"})
    linked = {s.key.path[-1]: s.metadata.get("dashboard") for s in build_defs(there).resolve_all_asset_specs()}

    assert (
        linked["dyn_churn_predictions"] == linked["retention_emails"] == dg.MetadataValue.url("http://127.0.0.1:8501")
    )
    assert linked["table_maintenance"] is None


def test_the_days_of_emails_begin_with_the_deployment(seen: Graph):
    days = seen.definitions.resolve_asset_graph().get(dg.AssetKey("retention_emails")).partitions_def
    assert days is not None
    keys = days.get_partition_keys()

    assert keys[-1] == utc_now().date().isoformat()
    assert len(keys) <= 2  # or midnight has passed since


def test_an_ingest_run_observes_how_far_each_topic_is_stored(graph: Graph, live_bank):
    result = graph.run("ingest_events")

    (event,) = [e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    observation = event.asset_observation_data.asset_observation
    shown: Mapping[str, Any] = observation.metadata
    assert observation.asset_key == dg.AssetKey("bank_transactions")
    assert (shown["lag_messages"].value, shown["messages_stored"].value) == (0, 600)
    assert shown["messages_per_second"].value > 0
    partitions = [record.data for record in shown["partitions"].value.records]
    assert sum(partition["stored_up_to"] for partition in partitions) == 600
    assert {partition["lag_messages"] for partition in partitions} == {0}


def test_a_failed_check_shows_its_failing_rows(graph: Graph, live_bank):
    graph.lake.transact(
        lambda tx: tx.execute("INSERT INTO dim_accounts SELECT * FROM dim_accounts ORDER BY account_id LIMIT 12")
    )

    checks = graph.run("check_ledgers").get_asset_check_evaluations()

    (check,) = [each for each in checks if (each.check_name, each.asset_key.path[-1]) == (UNIQUE_CHECK, "dim_accounts")]
    assert not check.passed
    rows = check.metadata["failing_rows"].value.records
    assert len(rows) == 10
    assert all(row.data["row_count"] == 2 for row in rows)


def test_on_snowflake_the_assets_are_the_same_and_named_as_they_are_there(seen: Graph, monkeypatch: pytest.MonkeyPatch):
    there = seen.settings.model_copy(
        update={"target": "snowflake", "snowflake_database": "retail", "snowflake_schema": "MAIN"}
    )
    monkeypatch.setattr(resources, "open_warehouse", lambda settings, **_: seen.lake)

    here = {spec.key: spec for spec in specs(seen)}
    for spec in build_defs(there).resolve_all_asset_specs():
        name, on_the_lake = spec.metadata.get("dagster/table_name"), here[spec.key]
        assert on_the_lake.metadata.get("dagster/table_name") == (name and name.replace("RETAIL.MAIN.", "lake.main."))
        assert spec.kinds == {"snowflake" if kind == "ducklake" else kind for kind in on_the_lake.kinds}
        assert (spec.description, spec.deps, spec.tags.keys() - on_the_lake.tags.keys()) == (
            on_the_lake.description,
            on_the_lake.deps,
            {"dagster/kind/snowflake"} & spec.tags.keys(),
        )
    assert sum("ducklake" in spec.kinds for spec in here.values()) > len(EVENT_TYPES)


def test_a_statement_is_tagged_with_the_run_and_what_it_makes():
    tags = list[str]()

    @dg.multi_asset(specs=[dg.AssetSpec("one"), dg.AssetSpec("other")])
    def both():
        tags.append(query_tag())
        yield dg.MaterializeResult(asset_key="one")
        yield dg.MaterializeResult(asset_key="other")

    @dg.asset_check(asset="one")
    def is_there():
        tags.append(query_tag())
        return dg.AssetCheckResult(passed=True)

    run = dg.materialize([both, is_there])

    assert [json.loads(tag) for tag in tags] == [
        {"app": "churn_assets", "run_id": run.run_id, "assets": ["one", "other"]},
        {"app": "churn_assets", "run_id": run.run_id, "checks": ["one: is_there"]},
    ]
    assert json.loads(query_tag()) == {"app": "churn_assets"}


def test_the_graph_leads_from_the_topics_to_the_emails(seen: Graph):
    asset_graph = seen.definitions.resolve_asset_graph()
    reached = {dg.AssetKey("bank_transactions"), dg.AssetKey("churn_scores")}
    for key in asset_graph.toposorted_asset_keys:
        if asset_graph.get(key).parent_keys & reached:
            reached.add(key)

    assert reached == {spec.key for spec in specs(seen)}
    assert dg.AssetKey("retention_emails") in reached


def test_the_freshness_policy_of_a_dynamic_table_is_its_target_lag(seen: Graph):
    targets = {table.name: table.target_lag_seconds for table in seen.lake.dynamic_tables(utc_now())}
    policies = {spec.key.path[-1]: spec.freshness_policy for spec in specs(seen) if spec.key.path[-1] in targets}

    assert {name: policy.fail_window.to_timedelta().total_seconds() for name, policy in policies.items()} == targets


def test_dbt_tests_are_blocking_asset_checks_and_fail_on_bad_rows(refreshed: Refreshed, graph: Graph):
    shutil.rmtree(graph.settings.home)
    shutil.copytree(refreshed.graph.settings.home, graph.settings.home)
    graph.lake.transact(
        lambda tx: tx.execute("UPDATE dyn_churn_predictions SET risk_class = 'LOW', churn_score = 2, model_score = 2")
    )
    # The rows of a table whose sources did not change are left alone, so the damage is still there to be seen.
    evaluations = {e.check_name: e for e in graph.run("refresh_dynamic_tables").get_asset_check_evaluations()}

    for name in (
        "churn_score_is_within_0_and_1",
        "model_score_is_within_0_and_1",
        "every_customer_is_scored_by_the_champion",
        "risk_class_matches_risk_score",
    ):
        assert not evaluations[name].passed
        assert evaluations[name].blocking
        assert 0 < len(evaluations[name].metadata["failing_rows"].value.records) <= 10
    assert evaluations["unique_dyn_churn_predictions_customer_id"].passed


def test_a_refreshed_table_shows_its_rows_columns_and_what_the_refresh_did(refreshed: Refreshed):
    metadata = refreshed.metadata("dyn_churn_predictions")
    predictions = refreshed.graph.lake.query("SELECT * FROM dyn_churn_predictions")

    assert metadata["dagster/row_count"].value == predictions.num_rows > 0
    assert [column.name for column in metadata["dagster/column_schema"].value.columns] == predictions.column_names
    assert all(column.description for column in metadata["dagster/column_schema"].value.columns)
    assert metadata["refresh_action"].value == "INCREMENTAL"
    assert metadata["rows_inserted"].value == predictions.num_rows


def test_the_way_of_events_is_a_table_and_a_histogram_of_each_hop(graph: Graph, live_bank):
    for job in ("ingest_events", "refresh_dynamic_tables"):
        assert graph.run(job).success
    result = graph.run("count_risk")
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey("event_latency")]
    metadata = event.step_materialization_data.materialization.metadata
    rows = {record.data["hop"]: record.data for record in metadata["hops"].value.records}
    assert rows["message to score"]["events"] == rows["message to ledger"]["events"] == 600
    assert 0 < rows["message to ledger"]["p50_s"] < rows["message to score"]["p50_s"] < 600
    assert rows["score to email"]["events"] == 0
    svg = ElementTree.fromstring(base64.b64decode(re.search(r"base64,([^)]*)", metadata["histogram"].value)[1]))
    assert {"message to ledger", "score to email", "0.5 s", "more", "600"} <= {
        t.text for t in svg.findall(".//{*}text")
    }
    p50, p95 = (metadata[f"message_to_score_{share}_seconds"].value for share in ("p50", "p95"))
    assert isinstance(p50, float)
    assert isinstance(p95, float)
    assert 0 < p50 <= p95


def test_a_refreshed_table_shows_a_chart_of_the_last_day_that_stays_small(refreshed: Refreshed):
    markdown = refreshed.metadata("customer_day")["last_day"].value
    assert len(markdown) < 3000
    svg = ElementTree.fromstring(base64.b64decode(re.findall(r"base64,([^)]*)", markdown)[0]))
    texts = [text.text for text in svg.findall(".//{*}text")]
    assert {"40.2", "duration, s", "lag before refreshes, s"} <= set(texts)
    assert texts.index("duration, s") < texts.index("40.2")
    strokes = svg.findall("{*}path[@stroke-width]")
    assert [path.get("d", "").count("M") for path in strokes] == [3, 3]  # two of long ago and that of now


def test_a_ledger_shows_its_columns_with_their_meaning(seen: Graph):
    schemas = {spec.key.path[-1]: spec.metadata.get("dagster/column_schema") for spec in specs(seen)}

    for event_type in EVENT_TYPES:
        described = {f.name: f.description for f in event_type.fields} | STORED_COLUMNS
        columns = schemas[event_type.ledger].columns
        assert {column.name: column.description for column in columns} == described, event_type.name
