"""A daemon or code server that is dead is named by the doctor; one that never ran is none."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, TickData, TickStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from churn_assets.automation.liveness import checks
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.settings import Settings, load_settings


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's storage of a home."""
    folder = tmp_path / "home" / "dagster"
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    with dg.DagsterInstance.get() as instance:
        yield instance


def beat(instance: dg.DagsterInstance, seconds_ago: float) -> None:
    for name in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, name, "one"))


def tick(instance: dg.DagsterInstance, seconds_ago: float, status: TickStatus) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), location_name="m")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "r"), "sensor")
    if not instance.all_instigator_state():
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING))
    (state,) = instance.all_instigator_state()
    instance.create_tick(
        TickData(
            state.instigator_origin_id,
            "sensor",
            InstigatorType.SENSOR,
            status,
            time.time() - seconds_ago,
            selector_id=state.selector_id,
            error=SerializableErrorInfo("unreachable", [], None) if status == TickStatus.FAILURE else None,
        )
    )


def look(what: str, settings: Settings | None = None) -> str:
    return dict(checks(settings or load_settings(), utc_now()))[what]()


def test_where_dagster_never_ran_nothing_is_dead(tmp_path: Path):
    assert look("daemon") == look("code server") == "Dagster has not run here"


def test_a_daemon_without_a_sign_of_life_is_dead(instance: dg.DagsterInstance):
    assert "has not run" in look("daemon")
    beat(instance, 30)
    assert "last sign of life" in look("daemon")
    beat(instance, 300)

    with pytest.raises(
        ChurnError, match=f"{utc_now() - timedelta(seconds=300):%Y-%m-%d}.*stopped or dead.*start it again"
    ):
        look("daemon")


def test_a_code_server_for_which_no_sensor_ticks_well_is_dead(instance: dg.DagsterInstance):
    assert look("code server") == "no sensor has ticked yet"
    tick(instance, 10, TickStatus.SKIPPED)
    assert "its newest tick" in look("code server")
    tick(instance, 5, TickStatus.FAILURE)

    with pytest.raises(ChurnError, match="code server does not answer"):
        look("code server")
