"""Dagster or the warehouse's own tasks: as CHURN_DRIVER says, and never both."""

import re

import dagster as dg
import pytest

from churn_assets.assets.driver import DRIVER_CHECK
from churn_assets.assets.interventions import ALERTS, TEXT_CHECK
from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.operations.driver import wrong_driver
from churn_assets.retention.queue import STREAM
from churn_assets.retention.statuses import begin, move
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.retention.writing.template import TemplateWriter
from churn_assets.retention.writing.writer import EmailRequest
from churn_assets.settings import SettingsError, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.assets.conftest import Graph, skip_reason, the_request
from churn_assets_tests.retention.bank import HIGH, NOW, fill, interventions, predict, waiting

TASKS = {"process_alerts_task": True, "task_generate_emails": True}
TEXT = TemplateWriter(load_prompts()).write(EmailRequest("Name of C1", "MASS", "many app errors")).text


@pytest.fixture
def native(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """The graph of a warehouse whose tasks write, as far as a lake can stand in for it."""
    monkeypatch.setattr(LakeWarehouse, "tasks", lambda _: TASKS)
    graph.settings = graph.settings.model_copy(update={"driver": "native"})
    graph.definitions = build_defs(graph.settings)
    return graph


def written_by_a_task(lake: LakeWarehouse, customer: str, text: str) -> None:
    """Leave an email as TASK_GENERATE_EMAILS does."""
    now = utc_now()

    def work(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
            " reason_codes, partition_day, generated_email, writer, model, prompt_version, prompt_tokens, completion_tokens)"
            " VALUES (?, ?, 0.9, ?, 'CLAIMED', 'prediction', 'many app errors', ?, ?, 'cortex', 'm', 'v', 300, 60)",
            [f"I-{customer}", customer, now, now.date(), text],
        )
        begin(tx, {f"I-{customer}": "CLAIMED"}, now)
        move(tx, [f"I-{customer}"], "READY", now, "run")

    lake.transact(work)


@pytest.mark.parametrize(
    ("driver", "tasks", "says"),
    [
        ("dagster", {}, None),
        ("dagster", dict.fromkeys(TASKS, False), None),
        ("dagster", TASKS, "process_alerts_task and task_generate_emails runs beside Dagster"),
        (
            "dagster",
            TASKS | {"process_alerts_task": False},
            "^task_generate_emails runs beside Dagster; `churn deploy`",
        ),
        ("native", TASKS, None),
        ("native", TASKS | {"process_alerts_task": False}, "process_alerts_task does not run; `churn deploy` resumes"),
        ("native", {}, "no task does not run"),
    ],
)
def test_two_drivers_and_none_are_each_said_with_what_to_do(driver: str, tasks: dict[str, bool], says: str | None):
    settings = load_settings().model_copy(update={"driver": driver})

    found = wrong_driver(settings, tasks)

    assert (found is None) if says is None else re.search(says, found or "")


def test_only_snowflake_has_tasks_to_drive():
    with pytest.raises(SettingsError, match="CHURN_DRIVER=native needs CHURN_TARGET=snowflake"):
        load_settings(CHURN_DRIVER="native")


def test_the_check_fails_once_both_drive_and_no_email_is_requested_or_written(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    predict(graph.lake, {"C1": HIGH})
    fill(graph.lake, NOW)
    (event,) = graph.tick("driver_sensor").asset_events
    assert (event.asset_check_key, event.passed) == (DRIVER_CHECK, True)
    graph.instance.report_runless_asset_event(event)
    assert skip_reason(graph.tick("driver_sensor")) == "nothing has changed"
    assert graph.tick("emails_sensor").run_requests

    monkeypatch.setattr(LakeWarehouse, "tasks", lambda _: TASKS)
    (event,) = graph.tick("driver_sensor").asset_events
    assert not event.passed
    graph.instance.report_runless_asset_event(event)

    assert "stopped by the failed check one_driver" in skip_reason(graph.tick("emails_sensor"))
    run = graph.run("write_retention_emails", dg.RunRequest(partition_key=utc_now().date().isoformat()))
    assert not run.success
    assert interventions(graph.lake) == []


def test_where_tasks_drive_dagster_reads_no_stream_and_claims_nobody(native: Graph):
    predict(native.lake, {"C1": HIGH})

    assert native.lake.stream_has_data(STREAM)
    request = native.tick("refresh_sensor").run_requests
    assert not request or not {STREAM, ALERTS} & {key.path[-1] for key in request[0].asset_selection or ()}
    assert "the warehouse's own tasks write the emails" in skip_reason(native.tick("emails_sensor"))
    run = native.run("refresh_dynamic_tables")
    assert not run.success
    assert waiting(native.lake) == []
    assert native.lake.stream_has_data(STREAM)


def test_where_tasks_drive_dagster_looks_at_each_new_text_once_and_finds_what_does_not_pass(native: Graph):
    predict(native.lake, {"C1": HIGH, "C2": HIGH})
    written_by_a_task(native.lake, "C1", TEXT)

    first = native.tick("emails_sensor")
    run = native.run("write_retention_emails", the_request(first))

    assert run.success
    assert [line["status"] for line in interventions(native.lake)] == ["READY"]
    assert "they wrote none since the last look" in skip_reason(native.tick("emails_sensor", first.cursor))
    written_by_a_task(native.lake, "C2", "Your churn risk is 0.93!")
    again = native.run("write_retention_emails", the_request(native.tick("emails_sensor", first.cursor)))
    (found,) = [check for check in again.get_asset_check_evaluations() if check.check_name == TEXT_CHECK]
    assert not found.passed


def test_where_tasks_drive_what_they_leave_is_observed_once(native: Graph):
    written_by_a_task(native.lake, "C1", TEXT)

    first = native.tick("driver_sensor")
    observed = {event.asset_key.path[-1] for event in first.asset_events if isinstance(event, dg.AssetObservation)}
    assert observed == {STREAM, ALERTS, "retention_emails"}
    again = native.tick("driver_sensor", first.cursor)
    assert [event for event in again.asset_events if isinstance(event, dg.AssetObservation)] == []
