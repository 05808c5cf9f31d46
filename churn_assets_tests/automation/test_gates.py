"""What keeps a sensor from requesting a run, and what lets it go on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from churn_assets.assets.ledgers import ingest_config
from churn_assets.automation.gates import BLOCKING_CHECKS, blocked, just_failed, last_outcome
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Partition
from churn_assets.ingestion.publisher import Publisher
from churn_assets.rules import EVENTS_TOPIC, INGEST_SECONDS, RETRY_AFTER_FAILURE_SECONDS
from churn_assets_tests.assets.conftest import Graph, skip_reason, the_request

SECOND = timedelta(seconds=1)


def test_nothing_is_requested_while_a_run_is_queued_or_has_just_failed(graph: Graph, live_bank):
    for sensor, job in (
        ("kafka_sensor", "ingest_events"),
        ("refresh_sensor", "refresh_dynamic_tables"),
        ("emails_sensor", "write_retention_emails"),
        ("ledger_checks_sensor", "check_ledgers"),
        ("maintenance_sensor", "maintain_tables"),
    ):
        with dg.DagsterInstance.ephemeral() as instance:
            alone = replace(graph, instance=instance)
            run = instance.create_run_for_job(
                graph.definitions.resolve_job_def(job),
                status=dg.DagsterRunStatus.STARTED,
                tags={"dagster/partition": "2026-01-01"},
            )
            assert skip_reason(alone.tick(sensor)) == f"a run of {job} is queued or started"

            instance.report_run_failed(run)
            for _ in range(7):
                again = instance.create_run_for_job(graph.definitions.resolve_job_def(job))
                instance.report_run_failed(again)
            assert "the last 6 runs failed; trying again in" in skip_reason(alone.tick(sensor)), sensor


def test_the_pause_after_failures_doubles_up_to_a_minute(graph: Graph):
    pauses = list[float]()
    for _ in range(8):
        run = graph.instance.create_run_for_job(graph.definitions.resolve_job_def("check_ledgers"))
        graph.instance.report_run_failed(run)
        record = graph.instance.get_run_record_by_id(run.run_id)
        assert record
        failed_at = record.update_timestamp.astimezone(UTC).replace(tzinfo=None)
        pauses.append(
            next(
                after
                for after in range(100)
                if not just_failed(graph.instance, failed_at + after * SECOND, "check_ledgers")
            )
        )
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_run_that_has_lived_for_a_while_begins_the_pauses_anew(graph: Graph):
    for lived in (0, 0, 0, 61):
        run = graph.instance.create_run_for_job(graph.definitions.resolve_job_def("check_ledgers"))
        started = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
        graph.instance.run_storage.handle_run_event(run.run_id, started, datetime.now(UTC) - lived * SECOND)
        graph.instance.report_run_failed(run)
    (record,) = graph.instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
    failed_at = record.update_timestamp.astimezone(UTC).replace(tzinfo=None)

    assert just_failed(graph.instance, failed_at + 1 * SECOND, "check_ledgers")
    assert not just_failed(graph.instance, failed_at + 2 * SECOND, "check_ledgers")


def test_a_failed_run_is_taken_up_again_by_a_later_tick(graph: Graph, live_bank):
    wrong = ingest_config([OffsetRange(Partition("another epoch", EVENTS_TOPIC, 0), 0, 5)])

    failed = graph.run("ingest_events", dg.RunRequest(run_config=dg.RunConfig(ops={"ingest": wrong}).to_config_dict()))

    assert not failed.success
    graph.clock.forward(RETRY_AFTER_FAILURE_SECONDS)
    assert graph.tick("kafka_sensor").run_requests


def test_a_failed_blocking_check_stops_refreshes_and_emails_until_it_passes(eager_graph: Graph, live_bank):
    graph = eager_graph
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


@pytest.mark.parametrize(
    ("runs", "outcome"),
    [
        ("", None),
        ("queued", None),
        ("killed", None),
        ("passes", True),
        ("fails", False),
        ("raises", False),
        ("fails passes", True),
        ("raises passes", True),
        ("passes fails", False),
        ("passes raises", False),
        *((f"fails {later}", False) for later in ("raises", "queued", "under_way", "cancelled", "killed")),
        *((f"raises {later}", False) for later in ("fails", "queued", "under_way", "cancelled", "killed")),
        *((f"passes {later}", True) for later in ("queued", "under_way", "cancelled", "killed")),
        ("passes raises killed queued", False),
        ("fails" + " killed" * 12, False),
        ("passes raises" + " killed" * 12, False),
        ("passes" + " cancelled" * 12, True),
    ],
)
def test_only_an_evaluation_that_ended_says_whether_a_check_has_failed(runs: str, outcome: bool | None):
    does = ""

    @dg.asset_check(asset="ledger", blocking=True)
    def is_right() -> dg.AssetCheckResult:
        if does == "raises":
            raise OSError("a file is gone")
        return dg.AssetCheckResult(passed=does == "passes")

    check = dg.AssetCheckKey(dg.AssetKey("ledger"), "is_right")
    looks = dg.define_asset_job("looks", selection=dg.AssetSelection.checks(check))
    job = dg.Definitions(assets=[dg.AssetSpec("ledger")], asset_checks=[is_right], jobs=[looks]).resolve_job_def(
        "looks"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        for does in runs.split():
            if does in ("passes", "fails", "raises"):
                job.execute_in_process(instance=instance, raise_on_error=False)
                continue
            status = dg.DagsterRunStatus.NOT_STARTED if does == "queued" else dg.DagsterRunStatus.STARTED
            run = instance.create_run_for_job(job, status=status)
            if does == "cancelled":
                instance.report_run_canceled(run)
            elif does == "killed":
                instance.report_run_failed(run)

        assert last_outcome(instance, check) is outcome


def test_a_clock_that_was_ahead_keeps_nothing_waiting(graph: Graph, broker: Cluster):
    graph.clock.forward(2 * 86_400)
    publisher = Publisher(broker, EVENTS_TOPIC)
    publisher.send(b"C1", b"one message")
    publisher.flush()
    first = graph.tick("kafka_sensor")
    assert "1 messages wait, for less than" in skip_reason(first)
    graph.clock.forward(-2 * 86_400)
    again = graph.tick("kafka_sensor", first.cursor)
    assert "1 messages wait, for less than" in skip_reason(again)
    graph.clock.forward(INGEST_SECONDS)
    assert graph.tick("kafka_sensor", again.cursor).run_requests

    assert graph.run("ingest_events", the_request(graph.tick("kafka_sensor", again.cursor))).success
    assert graph.run("maintain_tables").success
    failed = graph.instance.create_run_for_job(graph.definitions.resolve_job_def("check_ledgers"))
    graph.instance.report_run_failed(failed)
    graph.clock.forward(-2 * 86_400)
    assert graph.tick("maintenance_sensor").run_requests
    assert graph.tick("ledger_checks_sensor").run_requests


def test_an_ingestion_that_raises_leaves_its_checks_as_they_were(graph: Graph, live_bank):
    assert graph.run("ingest_events").success
    wrong = ingest_config([OffsetRange(Partition("another epoch", EVENTS_TOPIC, 0), 0, 5)])
    run = dg.RunRequest(run_config=dg.RunConfig(ops={"ingest": wrong}).to_config_dict())
    assert not graph.run("ingest_events", run).success

    assert blocked(graph.instance) is None


def test_the_blocking_checks_exist(graph: Graph):
    assert set(BLOCKING_CHECKS) <= set(graph.definitions.resolve_asset_graph().asset_check_keys)
