"""When emails are written and sent, and what keeps them back."""

import dagster as dg
import pytest

from churn_assets import wiring
from churn_assets.clock import utc_now
from churn_assets.retention.writing.prompts import PromptsError
from churn_assets_tests.assets.conftest import Graph, skip_reason


def test_no_email_leaves_by_itself_unless_it_is_set(graph_with_a_ready_email: Graph):
    graph = graph_with_a_ready_email

    assert skip_reason(graph.tick("outbox_sensor")) == "no email may be approved or sent now"

    graph.set(approval="auto")
    assert graph.tick("outbox_sensor").run_requests
    assert graph.run("send_emails").success
    statuses = graph.lake.query("SELECT DISTINCT status FROM agent_intervention_log WHERE status <> 'CONTROL'")
    assert statuses["status"].to_pylist() == ["APPROVED"], "approved, but no mail server is set"
    assert skip_reason(graph.tick("outbox_sensor")) == "no email may be approved or sent now"


def test_nothing_leaves_while_a_text_does_not_pass(graph_with_a_ready_email: Graph):
    graph = graph_with_a_ready_email
    graph.set(approval="auto")
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

    monkeypatch.setattr(wiring, "load_prompts", load)
    graph.set()

    assert graph.run("ingest_events").success
    assert graph.run("refresh_dynamic_tables").success
    assert graph.tick("emails_sensor").run_requests
    request = dg.RunRequest(partition_key=utc_now().date().isoformat())
    assert not graph.run("write_retention_emails", request).success
    assert graph.lake.query("SELECT 1 FROM agent_intervention_log").num_rows == 0
