"""The run that lives on: what it takes while it lives, what it records, what stops it, and when it ends."""

import threading
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import RunOpConcurrency

from churn_assets.assets.pools import INGESTION
from churn_assets.automation import streaming
from churn_assets.automation.gates import blocked
from churn_assets.clock import utc_now
from churn_assets.ingestion import following
from churn_assets.ingestion.commit import committed_offsets
from churn_assets.ingestion.kafka import Cluster, Watermarks
from churn_assets.retention.queue import STREAM
from churn_assets.rules import LONGEST_RETRY_SECONDS
from churn_assets_tests.assets.conftest import Graph, skip_reason
from churn_assets_tests.automation.test_ingestion import publish
from churn_assets_tests.ingestion.messages import message


def lives(quiet_seconds: float, most_seconds: float = 60.0) -> dg.RunRequest:
    config = {"quiet_seconds": quiet_seconds, "most_seconds": most_seconds}
    return dg.RunRequest(run_config={"ops": {"stream": {"config": config}}})


class Meanwhile:
    """Does something after each of the first batches of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> None:
        self._left = list(acts)
        refresh = streaming._Run._refresh

        def refreshing(run: Any) -> None:
            refresh(run)
            if self._left:
                self._left.pop(0)()

        monkeypatch.setattr(streaming._Run, "_refresh", refreshing)


def materialized(result: dg.ExecuteInProcessResult, asset: str) -> list[dict[str, Any]]:
    return [
        {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset)
    ]


def failed_checks(graph: Graph, result: dg.ExecuteInProcessResult) -> list[Any]:
    """What failed in a run; the result of a run that failed does not have it."""
    events = [entry.dagster_event for entry in graph.instance.all_logs(result.run_id) if entry.dagster_event]
    found = [e.event_specific_data for e in events if e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    return [check for check in found if not check.passed]


def transaction(number: int) -> bytes:
    return message("TXN", transaction_ref=f"T{number}", posting_date=utc_now().isoformat(), amount=10.0)


def test_what_comes_while_a_run_lives_is_scored_by_it(graph: Graph, broker: Cluster, monkeypatch):
    publish(broker, message("USER"), message("ACCOUNT"), transaction(1))
    Meanwhile(monkeypatch, lambda: publish(broker, transaction(2)), lambda: publish(broker, transaction(3)))

    result = graph.run("stream_events", lives(0.5))

    assert result.success
    assert graph.lake.query("SELECT total_spend_30d FROM dyn_customer_features").to_pylist() == [
        {"total_spend_30d": 30.0}
    ]
    assert sum(event["rows_stored"] for event in materialized(result, "fact_transaction_ledger")) == 3
    assert sum(event["batches"] for event in materialized(result, "dyn_customer_features")) == 3
    assert materialized(result, STREAM)
    evaluated = {(str(e.asset_key.path[-1]), e.check_name): e.passed for e in result.get_asset_check_evaluations()}
    assert set(evaluated.values()) == {True}
    assert {"event_rejects", "dyn_churn_predictions"} <= {asset for asset, _ in evaluated}


def test_the_first_batch_is_reported_at_once_and_later_ones_as_a_sum(graph: Graph, broker: Cluster, monkeypatch):
    monkeypatch.setattr(streaming, "_REPORT_SECONDS", 60.0)
    publish(broker, transaction(1))
    Meanwhile(monkeypatch, *(lambda n=n: publish(broker, transaction(n)) for n in range(2, 6)))

    result = graph.run("stream_events", lives(0.5))

    first, later = materialized(result, "fact_transaction_ledger")
    assert first["rows_stored"] == first["dagster/row_count"] == first["messages"] == 1
    assert (later["rows_stored"], later["dagster/row_count"], later["messages"]) == (4, 5, 4)


def test_a_run_ends_after_its_time_and_where_another_run_waits_for_its_turn(graph: Graph, broker, monkeypatch):
    publish(broker, transaction(1))
    monkeypatch.setattr(streaming, "_LOOK_SECONDS", 0.0)
    assert "it has run for 0 s" in said_at_the_end(graph, lives(60.0, most_seconds=0.0))

    job = graph.definitions.resolve_job_def("ingest_events")
    run = graph.instance.create_run_for_job(job)._replace(
        run_op_concurrency=RunOpConcurrency(
            root_key_counts={INGESTION: 1}, has_unconstrained_root_nodes=False, all_pools={INGESTION}
        )
    )
    original = graph.instance.get_runs

    def runs(filters: Any = None, *arguments: Any, **keywords: Any) -> Any:
        return [run] if filters and filters.statuses == [dg.DagsterRunStatus.QUEUED] else original(filters, *arguments)

    monkeypatch.setattr(graph.instance, "get_runs", runs)
    assert "a run of ingest_events waits for its turn" in said_at_the_end(graph, lives(60.0))


def said_at_the_end(graph: Graph, request: dg.RunRequest) -> str:
    result = graph.run("stream_events", request)
    assert result.success
    said = [
        entry.user_message for entry in graph.instance.all_logs(result.run_id) if "the run ends" in entry.user_message
    ]
    return said[-1]


def test_a_failed_test_of_a_table_stops_the_way_to_the_queue_until_it_passes(
    graph: Graph, live_bank, broker, monkeypatch
):
    monkeypatch.setattr(streaming, "count_failing", lambda tx, tests: [1] * len(tests))

    result = graph.run("stream_events", lives(0.2))

    assert not result.success
    assert failed_checks(graph, result)
    latest = graph.instance.get_latest_materialization_event(dg.AssetKey("dyn_churn_predictions"))
    assert latest, "what was done is recorded all the same"
    assert not graph.lake.query("FROM retention_queue").num_rows

    publish(broker, message("LOG", customer_id="unknown"))  # which changes no prediction
    assert not graph.run("stream_events", lives(0.2)).success
    assert not graph.lake.query("FROM retention_queue").num_rows


def test_a_gap_that_opens_while_a_run_lives_ends_it_and_stops_what_follows(
    graph: Graph, live_bank, broker, monkeypatch
):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.0)
    original, has_lost = Cluster.partitions, threading.Event()

    def partitions(self: Cluster, topic: str):
        marks = original(self, topic)
        return {
            p: Watermarks(m.high + 10, m.high + 10) if p.number == 0 and has_lost.is_set() else m
            for p, m in marks.items()
        }

    monkeypatch.setattr(Cluster, "partitions", partitions)
    Meanwhile(monkeypatch, has_lost.set)

    result = graph.run("stream_events", lives(10.0))

    assert not result.success
    assert "no_messages_are_missing" in str(result.failure_data_for_node("stream").error)
    (check,) = failed_checks(graph, result)
    assert "were deleted by the topic's retention" in str(check.description)
    assert "no_messages_are_missing" in str(blocked(graph.instance).skip_message)
    graph.clock.forward(LONGEST_RETRY_SECONDS)
    assert "no_messages_are_missing" in skip_reason(graph.tick("refresh_sensor"))


def test_what_another_writer_changes_is_refreshed_while_no_message_comes(graph: Graph, broker: Cluster, monkeypatch):
    publish(broker, message("USER"), message("ACCOUNT"), transaction(1))

    def correct() -> None:
        graph.lake.transact(lambda tx: tx.execute("UPDATE fact_transaction_ledger SET amount = 99.0"))

    Meanwhile(monkeypatch, correct)

    assert graph.run("stream_events", lives(3.0)).success

    assert graph.lake.query("SELECT total_spend_30d FROM dyn_customer_features").to_pylist() == [
        {"total_spend_30d": 99.0}
    ]


def test_kafka_that_goes_away_ends_the_run_or_costs_nothing(graph: Graph, live_bank, broker: Cluster, monkeypatch):
    def away(self: Cluster, topic: str):
        raise following.KafkaUnavailableError("Kafka does not answer")

    monkeypatch.setattr(following, "LOOK_SECONDS", 0.0)
    Meanwhile(monkeypatch, lambda: monkeypatch.setattr(Cluster, "partitions", away))

    result = graph.run("stream_events", lives(5.0))

    assert not result.success
    assert "Kafka does not answer" in str(result.failure_data_for_node("stream").error)
    assert sum(committed_offsets(graph.lake).values()) == 600
    assert not blocked(graph.instance)
