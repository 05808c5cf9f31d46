"""Old runs are deleted with all that they recorded, and what is known about the present stays."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance
from sqlalchemy import text

from dagster_warm.retention import Retention, purge

DAY = timedelta(days=1)
KEPT = Retention(successes=30 * DAY, failures=90 * DAY, runs_of_a_job=1000, skipped_ticks=timedelta(hours=1))


@dg.asset(check_specs=[dg.AssetCheckSpec("is_fine", asset="often")])
def often(context: dg.AssetExecutionContext) -> Iterator[Any]:
    yield dg.MaterializeResult()
    if context.run.tags.get("evaluated") != "no":
        yield dg.AssetCheckResult(check_name="is_fine", passed=context.run.tags.get("passed") != "no")


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["monday", "tuesday"]))
def by_day() -> None: ...


@dg.asset
def once() -> None: ...


@dg.asset
def broken() -> None:
    raise ValueError("broken")


ASSETS = [often, by_day, once, broken]
JOBS = {
    asset.key.to_user_string(): dg.define_asset_job(f"make_{asset.key.to_user_string()}", [asset]) for asset in ASSETS
}
DEFINITIONS = dg.Definitions(ASSETS, jobs=list(JOBS.values()))


@pytest.fixture
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DagsterInstance]:
    config: dict[str, Any] = {"telemetry": {"enabled": False}}
    if getattr(request, "param", "open") == "open":
        storage = {
            "module": "dagster_warm.storage",
            "class": "OpenSqliteStorage",
            "config": {"base_dir": str(tmp_path)},
        }
        config["storage"] = {"custom": storage}
    (tmp_path / "dagster.yaml").write_text(yaml.dump(config))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def made(instance: DagsterInstance, asset: str, **options: Any) -> str:
    """The id of a run that has made an asset, or has failed to."""
    job = DEFINITIONS.resolve_job_def(f"make_{asset}")
    return job.execute_in_process(instance=instance, raise_on_error=False, **options).run_id


def left(instance: DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def rows(instance: DagsterInstance, run: str) -> dict[str, int]:
    """What each table holds of a run."""
    events, runs = instance.event_log_storage, instance.run_storage
    found: dict[str, int] = {}
    for storage, table in (
        (events, "asset_check_executions"),
        (events, "event_logs"),
        (runs, "run_tags"),
        (runs, "runs"),
    ):
        connect = storage.index_connection if storage is events else storage.connect  # type: ignore[attr-defined]
        with connect() as connection:
            [(count,)] = connection.execute(text(f"SELECT count(*) FROM {table} WHERE run_id = '{run}'"))
            found[table] = count
    return found


@pytest.mark.parametrize("instance", ["open", pytest.param("of Dagster", marks=pytest.mark.slow)], indirect=True)
def test_successes_go_after_their_days_failures_after_theirs_and_the_last_run_of_a_job_never(instance):
    old, last = made(instance, "often"), made(instance, "often")
    failed, failed_last = made(instance, "broken"), made(instance, "broken")
    assert purge(instance, KEPT, now() + 29 * DAY) == 0

    assert purge(instance, KEPT, now() + 31 * DAY) == 1
    assert left(instance) == {last, failed, failed_last}
    assert set(rows(instance, old).values()) == {0}
    assert instance.all_logs(old) == []

    assert purge(instance, KEPT, now() + 1000 * DAY) == 1
    assert left(instance) == {last, failed_last}


def test_of_a_job_with_many_runs_the_newest_of_each_outcome_stay(instance):
    failures = [made(instance, "often", tags={"passed": "no"}) for _ in range(2)]
    runs = [*failures, *(made(instance, "often") for _ in range(3))]
    other = made(instance, "once")
    few = Retention(KEPT.successes, KEPT.failures, 2, KEPT.skipped_ticks)

    purge(instance, few, now())

    assert left(instance) == {*runs[-2:], other}


def test_the_last_materialization_of_each_asset_and_partition_stays_with_its_run(instance):
    of_partitions = {day: made(instance, "by_day", partition_key=day) for day in ("monday", "tuesday")}
    again = made(instance, "by_day", partition_key="tuesday")
    only = made(instance, "once")

    purge(instance, KEPT, now() + 1000 * DAY)

    assert left(instance) == {of_partitions["monday"], again, only}
    assert instance.get_materialized_partitions(dg.AssetKey("by_day")) == {"monday", "tuesday"}
    event = instance.get_latest_materialization_event(dg.AssetKey("once"))
    assert event
    assert event.run_id == only


def test_the_last_evaluation_of_a_check_stays_and_every_attempt_since(instance):
    made(instance, "often")
    evaluated = made(instance, "often", tags={"passed": "no"})
    attempts = [made(instance, "often", tags={"evaluated": "no"}) for _ in range(2)]
    few = Retention(DAY, DAY, 1, DAY)

    purge(instance, few, now() + 2 * DAY)

    assert left(instance) == {evaluated, *attempts}
    check = dg.AssetCheckKey(dg.AssetKey("often"), "is_fine")
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
    assert [record.run_id for record in history] == [*reversed(attempts), evaluated]


def test_a_run_that_is_under_way_stays(instance):
    job = DEFINITIONS.resolve_job_def("make_once")
    started = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    newer = made(instance, "once")
    purge(instance, Retention(DAY, DAY, 0, DAY), now() + 1000 * DAY)
    assert left(instance) == {started.run_id, newer}


def test_what_no_run_recorded_goes_too_but_for_the_last_of_its_kind(instance):
    for number in (1, 2):
        instance.report_runless_asset_event(dg.AssetMaterialization("reported", metadata={"number": number}))
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                check_name="is_fine", asset_key=dg.AssetKey("reported"), passed=number == 2, metadata={}
            )
        )
    purge(instance, KEPT, now() + 31 * DAY)
    key = dg.AssetKey("reported")
    reported = [record.asset_materialization for record in instance.fetch_materializations(key, limit=9).records]
    assert [one.metadata["number"].value for one in reported if one] == [2]
    check = dg.AssetCheckKey(key, "is_fine")
    assert len(instance.event_log_storage.get_asset_check_execution_history(check, limit=9)) == 1
