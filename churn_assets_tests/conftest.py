"""Fixtures that more than one part of the tests reads. Each test has a home of its own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_assets.deployment import deploy
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.kafka import Cluster
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("CHURN_", "KAFKA_", "DAGSTER_", "SNOWFLAKE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where there is no .env
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def deployed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty, deployed lake, made once: dbt takes seconds to start. Copy it, do not use it."""
    home = tmp_path_factory.mktemp("template") / "home"
    settings = load_settings(CHURN_HOME=home)
    deploy(settings, LakeWarehouse(settings.lake_path), lambda _: None)
    return home


@pytest.fixture
def settings(tmp_path: Path, deployed_home: Path) -> Settings:
    """The settings of a home with an empty, deployed lake."""
    shutil.copytree(deployed_home, tmp_path / "home")
    return load_settings(CHURN_HOME=tmp_path / "home")


@pytest.fixture
def lake(settings: Settings) -> LakeWarehouse:
    """An empty, deployed lake: ledgers, declared dynamic tables, queue and intervention log."""
    return LakeWarehouse(settings.lake_path)


@pytest.fixture
def broker(settings: Settings) -> Iterator[Cluster]:
    """The embedded broker of this test's home."""
    with embedded_broker(settings.broker_file) as cluster:
        yield cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kafka LIBRARIES`: run the ingestion tests against Apache Kafka, whose jars are in that folder."""
    parser.addoption("--kafka", default=None, metavar="LIBRARIES", help=str(pytest_addoption.__doc__))
