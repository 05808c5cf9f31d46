from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from churn_assets import automation
from churn_assets.assets.interventions import ALERTS
from churn_assets.assets.ledgers import ingest_config
from churn_assets.automation import BLOCKING_CHECKS, is_due, with_late_sources
from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.dynamic_tables.engine import DynamicTable
from churn_assets.ingestion import kafka
from churn_assets.ingestion.commit import committed_offsets
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Partition, Watermarks
from churn_assets.ingestion.publisher import Publisher
from churn_assets.retention import desk
from churn_assets.retention.queue import STREAM, fill_queue, raise_alerts
from churn_assets.retention.writing.prompts import PromptsError
from churn_assets.rules import EVENTS_TOPIC
from churn_assets_tests.assets.conftest import Graph
from churn_assets_tests.ingestion.messages import message

LONG_AGO = "2026-01-01T00:00:00"
INGESTED = {"dim_customers", "dim_accounts", "fact_transaction_ledger", "app_activity_logs", "support_cases"}


def skip_reason(data: SensorExecutionData) -> str:
    assert not data.run_requests
    return data.skip_message or ""


def the_request(data: SensorExecutionData) -> dg.RunRequest:
    assert data.run_requests
    return data.run_requests[0]


def eager(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set CHURN_REFRESH=eager, with ticks that look once and do not watch."""
    graph.settings = graph.settings.model_copy(update={"refresh": "eager"})
    for watch in ("_FIRST_HALF", "_SECOND_HALF", "_WHOLE"):
        monkeypatch.setattr(automation, watch, (0.0, 0.0))
    monkeypatch.setattr(automation, "_REQUEST_SECONDS", 0.0)


def test_sensor_by_sensor_waiting_events_become_an_email(graph: Graph, live_bank, monkeypatch):
    requested = the_request(graph.tick("kafka_sensor"))
    assert requested.job_name == "ingest_events"
    ranges = requested.run_config["ops"]["ingest"]["config"]["ranges"]
    assert sum(r["end"] - r["start"] for r in ranges) == 600
    ingested = graph.run("ingest_events", requested)
    assert ingested.success
    assert {e.asset_key.path[-1] for e in ingested.get_asset_materialization_events() if e.asset_key} <= INGESTED
    assert skip_reason(graph.tick("kafka_sensor")) == "nothing waits"

    eager(graph, monkeypatch)
    assert graph.tick("refresh_sensor").run_requests
    assert graph.run("refresh_dynamic_tables").success
    assert skip_reason(graph.tick("refresh_sensor")) == "every dynamic table is within its target lag"

    requested = graph.tick("emails_sensor").run_requests
    assert requested
    assert requested[0].partition_key == utc_now().date().isoformat()
    assert graph.run("write_retention_emails", requested[0]).success
    assert skip_reason(graph.tick("emails_sensor")) == "nobody waits who may be written to today"
    assert graph.lake.query("SELECT 1 FROM agent_intervention_log WHERE status = 'READY'").num_rows > 0


def test_eager_events_come_to_the_queue_in_one_run(graph: Graph, live_bank, monkeypatch):
    eager(graph, monkeypatch)
    requested = the_request(graph.tick("kafka_sensor"))
    assert requested.job_name == "score_events"
    # Some ledgers get no row of these events; what reads them is refreshed all the same.
    result = graph.run("score_events", requested)
    assert result.success
    materialized = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    assert materialized >= {"dyn_churn_predictions", STREAM, ALERTS}
    assert skip_reason(graph.tick("kafka_sensor")) == "nothing waits"
    assert skip_reason(graph.tick("refresh_sensor")) == "every dynamic table is within its target lag"
    assert graph.tick("emails_sensor").run_requests


@pytest.mark.parametrize("sensor", ["kafka_sensor", "kafka_relief_sensor"])
def test_eager_events_are_ingested_alone_where_the_refresh_has_failed_or_is_blocked(
    graph: Graph, live_bank, monkeypatch, sensor
):
    eager(graph, monkeypatch)
    graph.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=BLOCKING_CHECKS[0].asset_key, check_name=BLOCKING_CHECKS[0].name, passed=False
        )
    )
    assert the_request(graph.tick(sensor)).job_name == "ingest_events"
    graph.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=BLOCKING_CHECKS[0].asset_key, check_name=BLOCKING_CHECKS[0].name, passed=True)
    )
    assert the_request(graph.tick(sensor)).job_name == "score_events"
    graph.instance.create_run_for_job(
        graph.definitions.resolve_job_def("score_events"), status=dg.DagsterRunStatus.FAILURE
    )
    assert the_request(graph.tick(sensor)).job_name == "ingest_events"


def test_a_tick_that_watches_requests_what_arrives_during_it(graph: Graph, broker, monkeypatch):
    eager(graph, monkeypatch)
    monkeypatch.setattr(automation, "_FIRST_HALF", (0.0, 60.0))
    looks: list[float] = []

    def arrive(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            publisher = Publisher(broker, EVENTS_TOPIC)
            publisher.send(None, message("LOG"))
            publisher.flush()

    monkeypatch.setattr(automation.time, "sleep", arrive)
    assert the_request(graph.tick("kafka_sensor")).job_name == "score_events"
    monkeypatch.setattr(automation, "_REQUEST_SECONDS", 60.0)
    assert skip_reason(graph.tick("kafka_relief_sensor")) == "a run was requested a moment ago"


def test_a_refresh_outside_of_a_run_is_recorded_once_and_one_of_a_run_not_again(graph: Graph, live_bank):
    graph.lake.refresh(["customer_day", "dyn_customer_features"], utc_now())

    recorded = graph.tick("refresh_history_sensor").asset_events
    for event in recorded:
        graph.instance.report_runless_asset_event(event)

    assert {event.asset_key.path[-1] for event in recorded} >= {"customer_day", "dyn_customer_features"}
    assert all(event.metadata["refreshed_at"] and event.metadata["duration_seconds"] for event in recorded)
    assert skip_reason(graph.tick("refresh_history_sensor")) == "every refresh is recorded"
    assert graph.run("refresh_dynamic_tables").success
    assert skip_reason(graph.tick("refresh_history_sensor")) == "every refresh is recorded"


def test_an_idle_system_requests_no_run(graph: Graph, broker):
    for job in ("refresh_dynamic_tables", "check_ledgers", "maintain_tables"):
        assert graph.run(job).success

    for sensor in ("kafka_sensor", "refresh_sensor", "emails_sensor", "ledger_checks_sensor", "maintenance_sensor"):
        assert skip_reason(graph.tick(sensor))


def test_few_messages_wait_until_the_oldest_has_waited_long_enough(graph: Graph, broker):
    publisher = Publisher(broker, EVENTS_TOPIC)
    publisher.send(b"key", b"one message")
    publisher.flush()

    first = graph.tick("kafka_sensor")
    assert "1 messages wait" in skip_reason(first)
    long_ago = (utc_now() - timedelta(seconds=6)).isoformat()
    assert graph.tick("kafka_sensor", cursor=long_ago).run_requests


def test_without_a_broker_the_kafka_sensor_skips_with_the_reason_and_goes_on_when_there_is_one(graph: Graph, request):
    assert "run `churn broker`" in skip_reason(graph.tick("kafka_sensor"))

    request.getfixturevalue("live_bank")
    assert graph.tick("kafka_sensor").run_requests


@pytest.mark.parametrize(
    ("sensor", "job"),
    [
        ("kafka_sensor", "ingest_events"),
        ("refresh_sensor", "refresh_dynamic_tables"),
        ("emails_sensor", "write_retention_emails"),
        ("ledger_checks_sensor", "check_ledgers"),
        ("maintenance_sensor", "maintain_tables"),
    ],
)
def test_nothing_is_requested_while_a_run_is_queued_or_has_just_failed(graph: Graph, live_bank, sensor, job):
    run = graph.instance.create_run_for_job(
        graph.definitions.resolve_job_def(job),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "2026-01-01"},
    )
    assert skip_reason(graph.tick(sensor)) == f"a run of {job} is queued or started"

    graph.instance.report_run_failed(run)
    assert "the last run failed; trying again in" in skip_reason(graph.tick(sensor))


def test_a_failed_run_is_taken_up_again_by_a_later_tick(graph: Graph, live_bank, monkeypatch):
    monkeypatch.setattr(automation, "RETRY_AFTER_FAILURE_SECONDS", 0)
    wrong = ingest_config([OffsetRange(Partition("another epoch", EVENTS_TOPIC, 0), 0, 5)])

    failed = graph.run("ingest_events", dg.RunRequest(run_config=dg.RunConfig(ops={"ingest": wrong}).to_config_dict()))

    assert not failed.success
    assert graph.tick("kafka_sensor").run_requests


def test_a_failed_blocking_check_stops_refreshes_and_emails_until_it_passes(graph: Graph, live_bank):
    graph.settings = graph.settings.model_copy(update={"refresh": "eager"})
    graph.lake.transact(
        lambda tx: tx.execute("INSERT INTO fact_transaction_ledger SELECT * FROM fact_transaction_ledger LIMIT 1")
    )
    assert not graph.run("check_ledgers").success
    assert "primary_key_is_unique of fact_transaction_ledger" in skip_reason(graph.tick("refresh_sensor"))
    assert "primary_key_is_unique of fact_transaction_ledger" in skip_reason(graph.tick("emails_sensor"))

    graph.lake.transact(
        lambda tx: tx.execute(
            "DELETE FROM fact_transaction_ledger WHERE transaction_ref IN"
            " (SELECT transaction_ref FROM fact_transaction_ledger GROUP BY 1 HAVING count(*) > 1)"
        )
    )
    graph.run("check_ledgers")
    assert graph.tick("refresh_sensor").run_requests


def lose_messages(graph: Graph, monkeypatch) -> None:
    """As if retention had deleted the first ten messages of partition 0 before they were stored."""
    original = Cluster.partitions

    def partitions(self: Cluster, topic: str):
        marks = original(self, topic)
        return {p: Watermarks(10, m.high) if p.number == 0 else m for p, m in marks.items()}

    monkeypatch.setattr(Cluster, "partitions", partitions)
    graph.lake.transact(
        lambda tx: [
            tx.execute("INSERT INTO kafka_offsets VALUES (?, ?, ?, 0, ?)", [*p, utc_now()])
            for p in original(kafka.connect(graph.settings), EVENTS_TOPIC)
        ]
    )


def test_a_gap_fails_a_blocking_check_that_names_it_and_everything_else_goes_on(graph: Graph, live_bank, monkeypatch):
    lose_messages(graph, monkeypatch)

    result = graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))

    assert not result.success
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "no_messages_are_missing"]
    assert not check.passed
    assert check.blocking
    assert "bank_transactions[0] 0 to 10 were deleted" in str(check.description)
    assert {p.number for p, offset in committed_offsets(graph.lake).items() if offset} == {1, 2, 3}
    assert "no_messages_are_missing" in skip_reason(graph.tick("refresh_sensor"))
    # Nothing else waits, and the gap was reported: no further run.
    monkeypatch.setattr(automation, "RETRY_AFTER_FAILURE_SECONDS", 0)
    assert "bank_transactions[0] 0 to 10 were deleted" in skip_reason(graph.tick("kafka_sensor"))


def test_a_gap_that_may_be_skipped_is_passed_over_and_the_check_passes(graph: Graph, live_bank, monkeypatch):
    lose_messages(graph, monkeypatch)
    graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))
    monkeypatch.setattr(automation, "RETRY_AFTER_FAILURE_SECONDS", 0)
    graph.allow_gaps()

    result = graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))

    assert result.success
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "no_messages_are_missing"]
    assert check.passed
    assert check.metadata["skipped"].value == ["bank_transactions[0] 0 to 10"]
    assert skip_reason(graph.tick("kafka_sensor")) == "nothing waits"


def test_events_of_unknown_customers_are_kept_counted_and_whole_once_the_customer_arrives(graph: Graph, broker):
    publisher = Publisher(broker, EVENTS_TOPIC)
    now = utc_now()
    publisher.send(b"C1", message("TXN", posting_date=now.isoformat(), amount=12.5))
    publisher.flush()
    assert graph.run("ingest_events").success
    checks = {e.check_name: e for e in graph.run("check_ledgers").get_asset_check_evaluations()}
    assert not checks["account_id_resolves"].passed
    assert checks["account_id_resolves"].metadata["orphans"].value == 1
    assert graph.run("refresh_dynamic_tables").success
    assert graph.lake.query("SELECT * FROM dyn_customer_features").num_rows == 0

    for event in ("ACCOUNT", "USER"):
        publisher.send(b"C1", message(event))
    publisher.flush()
    assert graph.run("ingest_events").success
    assert graph.run("refresh_dynamic_tables").success

    features = graph.lake.query("SELECT customer_id, total_spend_30d FROM dyn_customer_features").to_pylist()
    assert features == [{"customer_id": "C1", "total_spend_30d": 12.5}]


def test_a_run_that_finds_only_duplicates_still_says_what_it_read(graph: Graph, broker):
    def send_and_ingest() -> dg.ExecuteInProcessResult:
        publisher = Publisher(broker, EVENTS_TOPIC)
        publisher.send(b"C1", message("TXN"))
        publisher.flush()
        return graph.run("ingest_events")

    send_and_ingest()
    result = send_and_ingest()

    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "every_message_is_accounted_for"]
    assert not [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey("event_rejects")]
    assert check.metadata["duplicates_dropped"].value == {"fact_transaction_ledger": 1}
    ranges: Any = check.metadata["ranges"].value
    assert [(topic, start, end) for _, topic, _, start, end in ranges] == [(EVENTS_TOPIC, 1, 2)]


def test_maintenance_runs_only_where_something_was_written(graph: Graph, live_bank, monkeypatch):
    graph.run("ingest_events")
    assert graph.tick("maintenance_sensor").run_requests
    monkeypatch.setattr(automation, "MAINTENANCE_SECONDS", 0)
    result = graph.run("maintain_tables")
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    assert {"files_before", "files_after", "bytes_after", "snapshots_expired", "files_deleted"} <= metadata.keys()
    assert "nothing was written since" in skip_reason(graph.tick("maintenance_sensor"))


def test_the_blocking_checks_exist(graph: Graph):
    assert set(BLOCKING_CHECKS) <= set(graph.definitions.resolve_asset_graph().asset_check_keys)


def table(lag_seconds: float) -> DynamicTable:
    return DynamicTable("t", frozenset(), 300, False, lag_seconds, datetime(2026, 1, 1), "FULL")


def test_a_refresh_is_requested_in_time_for_the_lag_to_stay_under_its_target():
    assert not is_due(table(200), eager=False)
    assert is_due(table(271), eager=False)
    assert is_due(table(1), eager=True)
    assert not is_due(table(0), eager=True)


def test_a_table_that_keeps_itself_fresh_is_never_due():
    late = replace(table(10_000), keeps_itself_fresh=True)
    assert not is_due(late, eager=False)
    assert not is_due(late, eager=True)
    assert not is_due(replace(late, is_to_be_initialized=True), eager=False)


def test_where_tables_keep_themselves_fresh_a_run_only_reads_their_streams(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    found = [replace(each, keeps_itself_fresh=True) for each in graph.lake.dynamic_tables(utc_now())]
    monkeypatch.setattr(graph.lake, "dynamic_tables", lambda now: found)

    assert the_request(graph.tick("refresh_sensor")).asset_selection == [dg.AssetKey(STREAM), dg.AssetKey(ALERTS)]

    graph.lake.transact(lambda tx: (fill_queue(tx, utc_now()), raise_alerts(tx, utc_now())))
    tick = graph.tick("refresh_sensor")
    assert not tick.run_requests
    assert not tick.asset_events, "the warehouse's own history tells of them"


def test_tables_that_are_due_are_refreshed_with_the_late_ones_beneath_them():
    def table(name: str, lag_seconds: float, *sources: str) -> DynamicTable:
        return DynamicTable(name, frozenset(sources), 300, False, lag_seconds, None, None)

    tables = [
        table("a", 9, "ledger"),
        table("b", 0, "ledger"),
        table("c", 9, "a", "b"),
        table("d", 9, "c"),
        table("e", 9),
    ]
    assert with_late_sources(tables, ["d"]) == ["a", "c", "d"]
    assert with_late_sources(tables, ["e", "a"]) == ["a", "e"]
    assert with_late_sources(tables, []) == []


def test_an_idle_table_is_recorded_as_fresh_without_a_run(graph: Graph):
    graph.lake.transact(lambda tx: (fill_queue(tx, utc_now()), raise_alerts(tx, utc_now())))
    tick = graph.tick("refresh_sensor")
    recorded = {event.asset_key.path[-1] for event in tick.asset_events}

    assert recorded == {"customer_day", "dyn_customer_features", "dyn_churn_predictions", "churn_metrics_live"}


@pytest.fixture
def graph_with_a_ready_email(graph: Graph, live_bank) -> Graph:
    """The first emails are written, and nobody has approved them."""
    assert graph.run("ingest_events").success
    assert graph.run("refresh_dynamic_tables").success
    request = dg.RunRequest(partition_key=utc_now().date().isoformat())
    assert graph.run("write_retention_emails", request).success
    assert graph.lake.query("SELECT 1 FROM agent_intervention_log WHERE status = 'READY'").num_rows
    return graph


def test_no_email_leaves_by_itself_unless_it_is_set(graph_with_a_ready_email: Graph):
    graph = graph_with_a_ready_email

    assert skip_reason(graph.tick("outbox_sensor")) == "nothing may leave now"

    graph.settings = graph.settings.model_copy(update={"approval": "auto"})
    graph.definitions = build_defs(graph.settings)
    assert graph.tick("outbox_sensor").run_requests
    assert graph.run("send_emails").success
    statuses = graph.lake.query("SELECT DISTINCT status FROM agent_intervention_log WHERE status <> 'CONTROL'")
    assert statuses["status"].to_pylist() == ["APPROVED"], "approved, but no mail server is set"
    assert skip_reason(graph.tick("outbox_sensor")) == "nothing may leave now"


def test_nothing_leaves_while_a_text_does_not_pass(graph_with_a_ready_email: Graph):
    graph = graph_with_a_ready_email
    graph.settings = graph.settings.model_copy(update={"approval": "auto"})
    graph.lake.transact(
        lambda tx: tx.execute("UPDATE agent_intervention_log SET generated_email = 'Hi' WHERE status = 'READY'")
    )

    request = dg.RunRequest(partition_key=utc_now().date().isoformat())
    result = graph.run("write_retention_emails", request)

    [check] = [e for e in result.get_asset_check_evaluations() if e.check_name == "every_text_passes_the_checks"]
    assert not check.passed
    assert check.blocking
    assert "every_text_passes_the_checks" in skip_reason(graph.tick("outbox_sensor"))


def test_a_slip_in_what_marketing_wrote_stops_the_emails_and_nothing_else(
    graph: Graph, live_bank, monkeypatch: pytest.MonkeyPatch
):
    def load() -> None:
        raise PromptsError("marketing/retention_email.yaml: closing: add it")

    monkeypatch.setattr(desk, "load_prompts", load)
    graph.definitions = build_defs(graph.settings)

    assert graph.run("ingest_events").success
    assert graph.run("refresh_dynamic_tables").success
    assert graph.tick("emails_sensor").run_requests
    request = dg.RunRequest(partition_key=utc_now().date().isoformat())
    assert not graph.run("write_retention_emails", request).success
    assert graph.lake.query("SELECT 1 FROM agent_intervention_log").num_rows == 0


def test_the_search_index_is_asked_for_when_the_ledgers_have_what_it_has_not_and_follows_them(
    graph: Graph, live_bank, monkeypatch: pytest.MonkeyPatch
):
    assert graph.tick("search_sensor").run_requests  # there is none yet
    built = graph.run("index_log_search")
    (event,) = built.asset_materializations_for_node("log_search_index")
    assert event.metadata["action"].value == "FULL"
    assert event.metadata["reason"].value == "there was no index"
    assert "a short while ago" in skip_reason(graph.tick("search_sensor"))
    monkeypatch.setattr(automation, "SEARCH_SECONDS", 0.0)
    assert skip_reason(graph.tick("search_sensor"))
    assert graph.run("ingest_events", the_request(graph.tick("kafka_sensor"))).success
    assert graph.tick("search_sensor").run_requests
    assert graph.run("index_log_search").success  # also where none of them is an error
    assert skip_reason(graph.tick("search_sensor"))
    graph.lake.transact(
        lambda tx: tx.execute("UPDATE app_activity_logs SET error_code = 'ERR_NEW' WHERE error_code = 'ERR_NETWORK'")
    )
    assert graph.tick("search_sensor").run_requests
    (event,) = graph.run("index_log_search").asset_materializations_for_node("log_search_index")
    assert event.metadata["action"].value == "INCREMENTAL"
    assert event.metadata["documents_added"].value


def test_on_snowflake_the_search_refreshes_itself(graph: Graph):
    graph.settings = graph.settings.model_copy(update={"target": "snowflake"})

    assert skip_reason(graph.tick("search_sensor")) == "the warehouse's own search service keeps itself up to date"
