"""What fails is reported once, to where a person reads it, and says nothing of customers."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from churn_assets.automation.failure_reports import failure_reports
from churn_assets.clock import utc_now
from churn_assets.operations.status import status
from churn_assets.settings import Settings, load_settings
from churn_assets_tests.assets.conftest import Graph, skip_reason

SECRET = "Jane Doe, jane@example.com, password hunter2"


class repaired:  # noqa: N801
    """Whether somebody has repaired the asset."""

    is_broken = True


@dg.asset
def broken() -> None:
    """An asset that cannot be made."""
    if repaired.is_broken:
        raise ValueError(SECRET)


@dg.asset(
    check_specs=[
        dg.AssetCheckSpec("no_name_twice", asset="customers", blocking=True, description="No name occurs twice."),
        dg.AssetCheckSpec("few_orphans", asset="customers", blocking=True),
        dg.AssetCheckSpec("some_rows", asset="customers"),
    ]
)
def customers() -> dg.MaterializeResult:
    """An asset with a check that fails, one that warns and one that passes."""
    return dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(check_name="no_name_twice", passed=False, description=SECRET),
            dg.AssetCheckResult(check_name="few_orphans", passed=False, severity=dg.AssetCheckSeverity.WARN),
            dg.AssetCheckResult(check_name="some_rows", passed=True),
        ]
    )


DEFINITIONS = dg.Definitions(
    assets=[broken, customers],
    jobs=[
        dg.define_asset_job("make_broken", dg.AssetSelection.assets("broken")),
        dg.define_asset_job("make_customers", dg.AssetSelection.assets("customers")),
    ],
    sensors=[failure_reports],
    resources={"settings": None},
    executor=dg.in_process_executor,
)


class Watched:
    """A Dagster whose `failure_reports` ticks."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.instance = instance
        self.settings = settings
        self._cursor: str | None = None

    def run(self, job: str) -> str:
        """Run a job; its run's id."""
        ran = DEFINITIONS.resolve_job_def(job).execute_in_process(instance=self.instance, raise_on_error=False)
        return ran.run_id

    def tick(self) -> list[dict[str, Any]]:
        """The alerts that a tick adds to the file."""
        before = len(self._lines())
        repository = DEFINITIONS.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self._cursor,
            repository_def=repository,
            resources={"settings": self.settings},
        )
        tick = repository.get_sensor_def("failure_reports").evaluate_tick(context)
        assert not tick.run_requests
        self._cursor = tick.cursor
        return [json.loads(line) for line in self._lines()[before:]]

    def _lines(self) -> list[str]:
        file = self.settings.alerts_file
        return file.read_text().splitlines() if file.exists() else []


def _ephemeral(_: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def _with_a_database_for_each_run(folder: Path) -> dg.DagsterInstance:
    """As without our dagster.yaml."""
    return dg.DagsterInstance.local_temp(str(folder))


@pytest.fixture(params=[_ephemeral, _with_a_database_for_each_run])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    make: Callable[[Path], dg.DagsterInstance] = request.param
    (tmp_path / "dagster").mkdir()
    with make(tmp_path / "dagster") as instance:
        found = Watched(instance, load_settings())
        found.tick()  # the first one only notes where the log ends
        yield found


def test_a_failed_run_is_reported_once_with_its_step_and_without_the_text_of_the_exception(watched: Watched):
    run_id = watched.run("make_broken")

    (alert,) = watched.tick()

    assert alert.pop("when")[:13] == utc_now().isoformat()[:13]
    assert alert == {
        "kind": "run",
        "severity": "error",
        "job": "make_broken",
        "asset": None,
        "run_id": run_id,
        "message": "make_broken failed in step broken: ValueError",
        "link": f"/runs/{run_id}",
        "state": "begins",
    }
    assert watched.tick() == []
    again = watched.run("make_broken")
    assert [(each["run_id"], each["state"]) for each in watched.tick()] == [(again, "goes on")]


def test_a_failed_check_is_reported_once_for_each_run_and_at_severity_warn_as_a_warning(watched: Watched):
    run_id = watched.run("make_customers")

    *checks, run = watched.tick()

    assert [(each["severity"], each["asset"], each["message"]) for each in checks] == [
        ("error", "customers", "check no_name_twice of customers failed: No name occurs twice."),
        ("warning", "customers", "check few_orphans of customers failed"),
    ]
    assert {(each["kind"], each["job"], each["link"]) for each in checks} == {
        ("check", "make_customers", f"/runs/{run_id}")
    }
    assert run["message"] == "make_customers failed in step customers: DagsterAssetCheckFailedError"
    assert "hunter2" not in watched.settings.alerts_file.read_text()
    assert watched.tick() == []
    watched.run("make_customers")
    assert len(watched.tick()) == 3


def test_the_end_of_a_failure_is_reported_once_also_if_it_lasted_for_less_than_a_tick(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
):
    def report(passed: bool) -> None:
        watched.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=dg.AssetKey("customers"), check_name="some_rows", passed=passed)
        )

    watched.run("make_broken")
    report(False)
    assert [each["state"] for each in watched.tick()] == ["begins", "begins"]

    monkeypatch.setattr(repaired, "is_broken", False)
    watched.run("make_broken")
    report(True)

    assert [(each["state"], each["severity"], each["message"]) for each in watched.tick()] == [
        ("is over", "info", "make_broken has run again without a failure"),
        ("is over", "info", "check some_rows of customers passes again"),
    ]
    watched.run("make_broken")
    report(True)
    assert watched.tick() == []
    report(False)
    report(True)
    assert [each["state"] for each in watched.tick()] == ["begins", "is over"]


def test_a_check_that_failed_outside_of_a_run_is_reported_with_a_link_to_its_asset(watched: Watched):
    for name, passed in (("some_rows", True), ("no_name_twice", False)):
        watched.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=dg.AssetKey("customers"), check_name=name, passed=passed)
        )

    (alert,) = watched.tick()

    assert (alert["kind"], alert["job"], alert["run_id"]) == ("check", None, None)
    assert alert["link"] == "/assets/customers?view=checks"
    assert watched.tick() == []


def test_a_run_whose_process_is_gone_is_reported_with_what_dagster_says_of_it(watched: Watched):
    job = DEFINITIONS.resolve_job_def("make_broken")
    run = watched.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    watched.instance.report_run_failed(run, "Exceeded maximum runtime\nof 3600 seconds.")

    (alert,) = watched.tick()

    assert alert["message"] == "make_broken failed: Exceeded maximum runtime of 3600 seconds."


def test_what_failed_before_the_first_tick_is_not_reported(tmp_path: Path):
    with dg.DagsterInstance.ephemeral() as instance:
        watched = Watched(instance, load_settings())
        watched.run("make_broken")

        assert watched.tick() == []
        assert watched.tick() == []


@pytest.mark.parametrize("watched", [_ephemeral], indirect=True)
def test_an_alert_is_a_line_of_json_in_the_log_at_error_or_warning(watched: Watched, caplog: pytest.LogCaptureFixture):
    watched.run("make_customers")
    with caplog.at_level(logging.INFO, "churn_assets.alerts"):
        alerts = watched.tick()

    logged = [record for record in caplog.records if record.name == "churn_assets.alerts"]
    assert [record.levelname for record in logged] == ["ERROR", "WARNING", "ERROR"]
    assert [json.loads(record.getMessage()) for record in logged] == alerts


def test_a_failed_check_of_the_bank_is_shown_by_the_status(graph: Graph, live_bank):
    started = graph.tick("failure_reports")
    graph.lake.transact(
        lambda tx: tx.execute("INSERT INTO fact_transaction_ledger SELECT * FROM fact_transaction_ledger LIMIT 1")
    )
    graph.run("check_ledgers")

    assert skip_reason(graph.tick("failure_reports", started.cursor)) == "2 reported"

    failures = status(graph.settings, graph.lake, utc_now())["failures"]
    assert (failures["errors"], failures["warnings"]) == (2, 0)
    assert {each["message"] for each in failures["newest"]} == {
        "check primary_key_is_unique of fact_transaction_ledger failed: No transaction_ref occurs twice.",
        "check_ledgers failed in step fact_transaction_ledger_primary_key_is_unique: DagsterAssetCheckFailedError",
    }
