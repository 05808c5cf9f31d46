"""What the Kafka sensors request, and what an ingestion says of it."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from churn_assets.automation.gates import BLOCKING_CHECKS, blocked
from churn_assets.clock import utc_now
from churn_assets.ingestion.commit import committed_offsets
from churn_assets.ingestion.isolation import DIED
from churn_assets.ingestion.kafka import Cluster
from churn_assets.ingestion.publisher import Publisher
from churn_assets.rules import EVENTS_TOPIC, INGEST_SECONDS, LONGEST_RETRY_SECONDS
from churn_assets_tests.assets.conftest import Graph, skip_reason, the_request
from churn_assets_tests.ingestion.deadly_decoder import deadly, deadly_decoder
from churn_assets_tests.ingestion.messages import message

__all__ = ["deadly_decoder"]

LONG_AGO = "2026-01-01T00:00:00"


def publish(broker: Cluster, *messages: bytes, key: bytes | None = b"C1") -> None:
    publisher = Publisher(broker, EVENTS_TOPIC)
    for each in messages:
        publisher.send(key, each)
    publisher.flush()


def test_eager_events_are_ingested_alone_where_the_refresh_has_failed_or_is_blocked(eager_graph: Graph, live_bank):
    graph, check = eager_graph, BLOCKING_CHECKS[0]

    def evaluate(*, passed: bool) -> None:
        graph.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=check.asset_key, check_name=check.name, passed=passed)
        )

    evaluate(passed=False)
    assert the_request(graph.tick("kafka_sensor")).job_name == "ingest_events"
    evaluate(passed=True)
    assert the_request(graph.tick("kafka_sensor")).job_name == "stream_events"
    for _ in range(6):  # so that the pause is long
        graph.instance.create_run_for_job(
            graph.definitions.resolve_job_def("stream_events"), status=dg.DagsterRunStatus.FAILURE
        )
    assert the_request(graph.tick("kafka_sensor")).job_name == "ingest_events"


def test_after_a_run_that_did_not_end_well_the_next_decodes_in_a_child(graph: Graph, broker: Cluster):
    publish(broker, message("TXN"))
    graph.clock.forward(LONGEST_RETRY_SECONDS)
    for ends, isolated in (
        ({}, False),
        ({"stream_events": "SUCCESS"}, False),
        ({"stream_events": "FAILURE"}, True),
        ({"ingest_events": "CANCELED"}, True),
        ({"ingest_events": "SUCCESS", "stream_events": "FAILURE"}, True),
        ({"stream_events": "FAILURE", "ingest_events": "SUCCESS"}, False),
    ):
        with dg.DagsterInstance.ephemeral() as instance:
            for job, status in ends.items():
                instance.create_run_for_job(graph.definitions.resolve_job_def(job), status=dg.DagsterRunStatus(status))

            request = the_request(replace(graph, instance=instance).tick("kafka_sensor", cursor=LONG_AGO))

        assert request.run_config["ops"]["ingest"]["config"]["isolated"] is isolated, ends


def test_a_message_on_which_the_decoder_died_fails_a_check_that_names_it_and_stops_nothing(
    graph: Graph, broker: Cluster, deadly_decoder: None
):
    publish(broker, message("TXN"), deadly("SIGSEGV"), message("LOG"))
    died = graph.instance.create_run_for_job(graph.definitions.resolve_job_def("ingest_events"))
    graph.instance.report_run_failed(died)
    graph.clock.forward(LONGEST_RETRY_SECONDS)

    result = graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))

    assert result.success
    assert graph.lake.query("SELECT count(*) AS n FROM event_rejects").to_pylist() == [{"n": 1}]
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "no_message_stopped_the_decoder"]
    (named,) = rows_of(check, "failing_rows")
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert (named["kafka_topic"], named["kafka_offset"], named["reason"]) == (EVENTS_TOPIC, 1, DIED)
    assert not blocked(graph.instance)

    publish(broker, message("TXN", transaction_ref="T2"))
    later = graph.run("ingest_events").get_asset_check_evaluations()
    assert all(evaluation.passed for evaluation in later)


def test_a_tick_that_watches_requests_what_arrives_during_it(eager_graph: Graph, broker: Cluster):
    eager_graph.clock.plan(1.0, lambda: publish(broker, message("LOG"), key=None))

    assert the_request(eager_graph.tick("kafka_sensor")).job_name == "stream_events"
    assert eager_graph.clock.ahead == pytest.approx(1.0)


def test_few_messages_wait_until_the_oldest_has_waited_long_enough(graph: Graph, broker: Cluster):
    publish(broker, b"one message")

    first = graph.tick("kafka_sensor")
    assert "1 messages wait" in skip_reason(first)
    graph.clock.forward(INGEST_SECONDS)
    assert graph.tick("kafka_sensor", first.cursor).run_requests


def test_without_a_broker_the_kafka_sensor_skips_with_the_reason_and_goes_on_when_there_is_one(graph: Graph, request):
    assert "run `churn broker`" in skip_reason(graph.tick("kafka_sensor"))

    request.getfixturevalue("live_bank")
    assert graph.tick("kafka_sensor").run_requests


def test_a_gap_fails_a_blocking_check_that_names_it_and_everything_else_goes_on(graph_with_lost_messages: Graph):
    graph = graph_with_lost_messages

    result = graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))

    assert not result.success
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "no_messages_are_missing"]
    assert not check.passed
    assert check.blocking
    assert "bank_transactions[0] 0 to 10 were deleted" in str(check.description)
    assert {p.number for p, offset in committed_offsets(graph.lake).items() if offset} == {1, 2, 3}
    assert "no_messages_are_missing" in skip_reason(graph.tick("refresh_sensor"))
    # Nothing else waits, and the gap was reported: no further run.
    graph.clock.forward(LONGEST_RETRY_SECONDS)
    assert "bank_transactions[0] 0 to 10 were deleted" in skip_reason(graph.tick("kafka_sensor"))


def test_a_gap_that_may_be_skipped_is_passed_over_and_the_check_passes(graph_with_lost_messages: Graph):
    graph = graph_with_lost_messages
    graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))
    graph.clock.forward(LONGEST_RETRY_SECONDS)
    graph.set(on_gap="skip")

    result = graph.run("ingest_events", the_request(graph.tick("kafka_sensor", cursor=LONG_AGO)))

    assert result.success
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "no_messages_are_missing"]
    assert check.passed
    assert check.metadata["skipped"].value == ["bank_transactions[0] 0 to 10"]
    assert skip_reason(graph.tick("kafka_sensor")) == "no messages wait"


def test_events_of_unknown_customers_are_kept_counted_and_whole_once_the_customer_arrives(
    graph: Graph, broker: Cluster
):
    publish(broker, message("TXN", posting_date=utc_now().isoformat(), amount=12.5))
    assert graph.run("ingest_events").success
    checks = {e.check_name: e for e in graph.run("check_ledgers").get_asset_check_evaluations()}
    assert not checks["account_id_resolves"].passed
    assert checks["account_id_resolves"].metadata["orphans"].value == 1
    assert graph.run("refresh_dynamic_tables").success
    assert graph.lake.query("SELECT * FROM dyn_customer_features").num_rows == 0

    publish(broker, message("ACCOUNT"), message("USER"))
    assert graph.run("ingest_events").success
    assert graph.run("refresh_dynamic_tables").success

    features = graph.lake.query("SELECT customer_id, total_spend_30d FROM dyn_customer_features").to_pylist()
    assert features == [{"customer_id": "C1", "total_spend_30d": 12.5}]


def test_a_run_that_finds_only_duplicates_still_says_what_it_read(graph: Graph, broker: Cluster):
    def publish_and_ingest() -> dg.ExecuteInProcessResult:
        publish(broker, message("TXN"))
        return graph.run("ingest_events")

    publish_and_ingest()
    result = publish_and_ingest()

    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "every_message_is_accounted_for"]
    assert not [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey("event_rejects")]
    assert rows_of(check, "duplicates_dropped") == [{"ledger": "fact_transaction_ledger", "messages": 1}]
    (read,) = rows_of(check, "ranges")
    assert (read["topic"], read["from"], read["to"], read["messages"]) == (EVENTS_TOPIC, 1, 2, 1)


def rows_of(check: Any, name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in check.metadata[name].value.records]
