"""The graph over a small bank with events waiting on the embedded broker."""

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from churn_assets.clock import Clock, utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion.kafka import Cluster
from churn_assets.ingestion.publisher import Publisher
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator.live import LiveBank
from churn_assets.simulator.producer import produce_at_once
from churn_assets.simulator.seeding import new_bank, seed, seeded_bank
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.once import made_once


class SteeredClock(Clock):
    """A clock that is put forward: waiting takes no time, and what is planned for the meantime happens."""

    def __init__(self) -> None:
        self.ahead = 0.0  # of the machine's clock, in seconds
        self._planned: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> datetime:
        return utc_now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return self.ahead

    def sleep(self, seconds: float) -> None:
        self.forward(seconds)

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.ahead += seconds
        due = [happens for at, happens in self._planned if at <= self.ahead]
        self._planned = [(at, happens) for at, happens in self._planned if at > self.ahead]
        for happens in due:
            happens()

    def plan(self, at: float, happens: Callable[[], object]) -> None:
        """Let something happen once the clock is `at` seconds ahead."""
        self._planned.append((at, happens))


@dataclass
class Graph:
    """The definitions, what they run on, and a way to run a job or a sensor as the daemon would."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    lake: LakeWarehouse
    settings: Settings
    clock: SteeredClock = field(default_factory=SteeredClock)  # which the definitions' sensors read

    def run(self, job: str, request: dg.RunRequest | None = None) -> dg.ExecuteInProcessResult:
        """Run a job, as a sensor requested it."""
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config=request.run_config if request else None,
            partition_key=request.partition_key if request else None,
            raise_on_error=False,
        )

    def set(self, **settings: Any) -> None:
        """Change settings by field name and start again, as an operator would."""
        self.settings = self.settings.model_copy(update=settings)
        self.definitions = build_defs(self.settings, clock=self.clock)

    def tick(self, sensor: str, cursor: str | None = None) -> SensorExecutionData:
        """Evaluate a sensor once."""
        repository = self.definitions.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=cursor,
            repository_def=repository,
            resources={"warehouse": self.lake, "settings": self.settings},
        )
        return repository.get_sensor_def(sensor).evaluate_tick(context)


def skip_reason(tick: SensorExecutionData) -> str:
    """Why a tick requested no run."""
    assert not tick.run_requests
    return tick.skip_message or ""


def the_request(tick: SensorExecutionData) -> dg.RunRequest:
    """The first run that a tick requested."""
    assert tick.run_requests
    return tick.run_requests[0]


@contextmanager
def graph_over(home: Path) -> Generator[Graph]:
    """The graph over the lake of a home."""
    settings, clock = load_settings(CHURN_HOME=home), SteeredClock()
    with dg.DagsterInstance.ephemeral() as instance:
        yield Graph(build_defs(settings, clock=clock), instance, open_lake(settings.lake_path), settings, clock)


@pytest.fixture
def graph(settings: Settings, lake: LakeWarehouse) -> Iterator[Graph]:
    with graph_over(settings.home) as graph:
        graph.lake = lake
        yield graph


SEEDED = (200, 40, 1)  # customers, days, seed


@pytest.fixture(scope="session")
def seeded_home(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose bank of 200 customers has a history of 40 days. Copy it, do not use it."""

    def make(home: Path) -> None:
        shutil.copytree(deployed_home, home)
        lake = open_lake(load_settings(CHURN_HOME=home).lake_path)
        seed(lake, new_bank(*SEEDED, utc_now()), utc_now(), lambda ledger, rows: None)

    return made_once(tmp_path_factory, "seeded", make)


@pytest.fixture
def live_bank(settings: Settings, seeded_home: Path, lake: LakeWarehouse, broker: Cluster) -> LiveBank:
    """A seeded bank of 200 customers, of which 600 further events wait on the broker."""
    if settings.lake_is_shared:
        seed(lake, new_bank(*SEEDED, utc_now()), utc_now(), lambda ledger, rows: None)
    else:
        assert "_connection" not in vars(lake), "it is put in place before anybody has opened it"
        shutil.copytree(seeded_home, settings.home, dirs_exist_ok=True)
    bank = seeded_bank(lake)
    assert bank
    live = LiveBank(bank)
    produce_at_once(live, Publisher(broker, EVENTS_TOPIC), 600, utc_now, lambda sent: None)
    return live
