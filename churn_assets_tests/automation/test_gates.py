"""What keeps a sensor from requesting a run, and what lets it go on."""

import dagster as dg
import pytest

from churn_assets.assets.ledgers import ingest_config
from churn_assets.automation.gates import BLOCKING_CHECKS
from churn_assets.ingestion.kafka import OffsetRange, Partition
from churn_assets.rules import EVENTS_TOPIC, RETRY_AFTER_FAILURE_SECONDS
from churn_assets_tests.assets.conftest import Graph, skip_reason


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


def test_the_blocking_checks_exist(graph: Graph):
    assert set(BLOCKING_CHECKS) <= set(graph.definitions.resolve_asset_graph().asset_check_keys)
