"""Fixtures that more than one part of the tests reads. Each test has a home of its own."""

import gc
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from churn_assets.clock import utc_now
from churn_assets.configuration import CONFIG_FILE, rules
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.kafka import Cluster
from churn_assets.model import families, metrics, training
from churn_assets.model.training import Trained, train
from churn_assets.operations.backup import move
from churn_assets.operations.lake import deploy
from churn_assets.retention.emails import write_emails
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import CONFIG
from churn_assets.wiring import lake_place, open_lake
from churn_assets_tests.model.customers import training_rows
from churn_assets_tests.once import made_once, worker_count
from churn_assets_tests.retention.email_runs import email_run_of
from churn_assets_tests.shared_lakes import SharedLakes, shared_lakes

gc.disable()  # until all tests are collected: it would walk again and again over what imports leave behind


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("CHURN_", "KAFKA_", "DAGSTER_", "SNOWFLAKE_")):
            monkeypatch.delenv(name)
    # Streamlit's AppTest puts its script there and leaves it; a process started later would run that.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.chdir(tmp_path)  # where there is no .env and no churn.toml
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    rules.cache_clear()


@pytest.fixture
def with_rules(tmp_path: Path) -> Callable[[str], None]:
    """Makes this text the `churn.toml` of the test and of the processes that it starts."""

    def write(text: str) -> None:
        (tmp_path / CONFIG_FILE).write_text(text)
        rules.cache_clear()

    return write


@pytest.fixture(scope="session", autouse=True)
def _one_core_a_worker() -> Iterator[None]:
    """A worker among several has one core: two threads in each query would only take turns, which costs a quarter."""
    with pytest.MonkeyPatch.context() as patch:
        if worker_count() > 1:
            patch.setitem(CONFIG, "threads", 1)
        yield


@pytest.fixture(scope="session")
def deployed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty, deployed lake: dbt takes seconds. Copy it, do not use it."""

    def make(home: Path) -> None:
        settings = load_settings(CHURN_HOME=home)
        deploy(settings, open_lake(settings.lake_path), lambda _: None)

    return made_once(tmp_path_factory, "deployed", make)


@pytest.fixture(scope="session")
def home_by_model(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, deployed with CHURN_SCORE_SOURCE=model. Copy it, do not use it."""

    def make(home: Path) -> None:
        shutil.copytree(deployed_home, home)
        settings = load_settings(CHURN_HOME=home, CHURN_SCORE_SOURCE="model")
        deploy(settings, open_lake(settings.lake_path), lambda _: None)

    return made_once(tmp_path_factory, "deployed_by_model", make)


@pytest.fixture(scope="session")
def shared(deployed_home: Path) -> Iterator[SharedLakes]:
    """Servers that have the deployed lake, too."""
    with shared_lakes() as lakes, pytest.MonkeyPatch.context() as patch:
        for name, value in lakes.keys.items():
            patch.setenv(name, value)
        with TemporaryDirectory() as folder:
            home = Path(folder, "home")
            shutil.copytree(deployed_home, home)
            move(
                load_settings(CHURN_HOME=home, **lakes.empty("deployed").environment), back=False, report=lambda _: None
            )
        yield lakes


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, deployed_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The settings of an empty, deployed lake: in a home, or with `--shared-lake` on PostgreSQL and S3."""
    shutil.copytree(deployed_home, tmp_path / "home")
    if request.config.getoption("--shared-lake"):
        shutil.rmtree(tmp_path / "home" / "lake")
        lakes: SharedLakes = request.getfixturevalue("shared")
        for name, value in lakes.copy("deployed").environment.items():
            monkeypatch.setenv(name, value)
    return load_settings(CHURN_HOME=tmp_path / "home")


@pytest.fixture
def lake(settings: Settings) -> LakeWarehouse:
    """An empty, deployed lake: ledgers, declared dynamic tables, queue and intervention log."""
    return open_lake(lake_place(settings))


@pytest.fixture
def broker(settings: Settings) -> Iterator[Cluster]:
    """The embedded broker of this test's home, and producers that send at once.

    A producer that counts its messages, so that none is doubled, asks a broker for its number. Its first question is often too
    early for a broker that has just begun, and it repeats it after half a second.
    """
    with embedded_broker(settings.broker_file) as cluster, pytest.MonkeyPatch.context() as patch:
        producer = Cluster.producer
        patch.setattr(
            Cluster, "producer", lambda self, **properties: producer(self, **properties | {"enable_idempotence": False})
        )
        yield cluster


@pytest.fixture(scope="session")
def home_of_a_bank(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of `bank`, for tests that only read."""

    def make(home: Path) -> None:
        shutil.copytree(deployed_home, home)
        lake, now = open_lake(load_settings(CHURN_HOME=home).lake_path), utc_now()
        seed(lake, new_bank(400, 60, 1, now), now, lambda ledger, rows: None)
        lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
        write_emails(lake, email_run_of(lake), now.date(), now)
        lake.transact(
            lambda tx: tx.execute(
                "UPDATE agent_intervention_log SET created_at = ? WHERE customer_id ="
                " (SELECT min(customer_id) FROM agent_intervention_log)",
                [now - timedelta(days=60)],
            )
        )

    home = tmp_path_factory.mktemp("analyst") / "home"
    shutil.copytree(made_once(tmp_path_factory, "bank", make), home)
    return home


@pytest.fixture(scope="session")
def bank(home_of_a_bank: Path) -> LakeWarehouse:
    """A seeded bank whose customers at risk have got emails, one of them two months ago."""
    return open_lake(load_settings(CHURN_HOME=home_of_a_bank).lake_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of 2,000 made-up customers; who changes it, copies it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "trained.pickle").write_bytes(pickle.dumps(train(training_rows())))

    return pickle.loads((made_once(tmp_path_factory, "trained", make) / "trained.pickle").read_bytes())


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in a third of the time, where how well they learn does not matter."""
    monkeypatch.setattr(families, "TREES", 20)
    monkeypatch.setattr(families, "STAGES", 20)
    monkeypatch.setattr(training, "IMPORTANCE_REPEATS", 1)
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make test-kafka` and `make test-lake`."""
    kafka = "run the ingestion tests against Apache Kafka, whose jars are in that folder"
    parser.addoption("--kafka", default=None, metavar="LIBRARIES", help=kafka)
    lake = "run the tests that write to a lake on PostgreSQL and S3"
    parser.addoption("--shared-lake", action="store_true", help=lake)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Mark as `heavy` what needs a lake that dbt has deployed, or a trained model; files may say so of themselves.

    Files with such tests come first: a long one as the last would leave the other core idle. With `--kafka` or `--shared-lake`,
    what needs no broker or no lake is left out: `make test` has run it.
    """
    if config.getoption("--kafka"):
        items[:] = [item for item in items if "stream" in item.fixturenames or item.get_closest_marker("kafka")]
    if config.getoption("--shared-lake"):
        items[:] = [
            item
            for item in items
            if {"lake", "shared"} & set(item.fixturenames) and not item.get_closest_marker("in_home")
        ]
    for item in items:
        if {"deployed_home", "trained"} & set(item.fixturenames):
            item.add_marker("heavy")
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: _FIRST.get(item.path.name, len(_FIRST) + (item.path not in heavy)))


# While one worker deploys the lake that nearly all others copy, the other one has what needs none.
_FIRST = {"test_end_to_end.py": 0, "test_agent.py": 1, "test_training.py": 2}
_WHOLE_FILE = re.compile(r"^pytestmark = \[?pytest\.mark\.(\w+)", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over a file whose mark leaves all its tests out: together these files import for seconds."""
    if collection_path.suffix != ".py" or not (mark := _WHOLE_FILE.search(collection_path.read_text())):
        return None
    return f"not {mark[1]} " in f"{config.option.markexpr} " or None


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what imports and collection left: going through it again and again costs a tenth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
