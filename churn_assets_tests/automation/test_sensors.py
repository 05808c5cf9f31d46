"""All sensors together: events become emails, and an idle system rests."""

import dagster as dg

from churn_assets.assets.interventions import ALERTS
from churn_assets.clock import utc_now
from churn_assets.retention.queue import STREAM
from churn_assets_tests.assets.conftest import Graph, skip_reason, the_request

INGESTED = {"dim_customers", "dim_accounts", "fact_transaction_ledger", "app_activity_logs", "support_cases"}


def test_sensor_by_sensor_waiting_events_become_an_email(graph: Graph, live_bank):
    requested = the_request(graph.tick("kafka_sensor"))
    assert requested.job_name == "ingest_events"
    ranges = requested.run_config["ops"]["ingest"]["config"]["ranges"]
    assert sum(r["end"] - r["start"] for r in ranges) == 600
    ingested = graph.run("ingest_events", requested)
    assert ingested.success
    assert {e.asset_key.path[-1] for e in ingested.get_asset_materialization_events() if e.asset_key} <= INGESTED
    assert skip_reason(graph.tick("kafka_sensor")) == "no messages wait"

    graph.set(refresh="eager")
    assert graph.tick("refresh_sensor").run_requests
    assert graph.run("refresh_dynamic_tables").success
    assert skip_reason(graph.tick("refresh_sensor")) == "every dynamic table is within its target lag"

    requested = graph.tick("emails_sensor").run_requests
    assert requested
    assert requested[0].partition_key == utc_now().date().isoformat()
    assert graph.run("write_retention_emails", requested[0]).success
    assert skip_reason(graph.tick("emails_sensor")) == "no queued customer may get an email today"
    assert graph.lake.query("SELECT 1 FROM agent_intervention_log WHERE status = 'READY'").num_rows > 0


def test_eager_events_come_to_the_queue_in_one_run(eager_graph: Graph, live_bank):
    graph = eager_graph
    requested = the_request(graph.tick("kafka_sensor"))
    assert requested.job_name == "stream_events"
    result = graph.run("stream_events", until_it_is_quiet(requested))
    assert result.success
    materialized = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    assert materialized >= {"dyn_churn_predictions", STREAM, ALERTS}
    assert skip_reason(graph.tick("kafka_sensor")) == "no messages wait"
    assert skip_reason(graph.tick("refresh_sensor")) == "every dynamic table is within its target lag"
    assert graph.tick("emails_sensor").run_requests


def until_it_is_quiet(requested: dg.RunRequest) -> dg.RunRequest:
    """The request for a run that ends as soon as nothing waits."""
    config = requested.run_config["ops"]["stream"]["config"]
    return requested.with_replaced_attrs(run_config={"ops": {"stream": {"config": {**config, "quiet_seconds": 0.0}}}})


def test_an_idle_system_requests_no_run(graph: Graph, broker):
    for job in ("refresh_dynamic_tables", "check_ledgers", "maintain_tables"):
        assert graph.run(job).success

    for sensor in ("kafka_sensor", "refresh_sensor", "emails_sensor", "ledger_checks_sensor", "maintenance_sensor"):
        assert skip_reason(graph.tick(sensor))
