"""Fixtures that more than one part of the tests reads. Each test has a home of its own."""

import shutil
from pathlib import Path

import pytest

from churn_assets.deployment import deploy
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CHURN_HOME", "CHURN_TARGET", "CHURN_REFRESH", "KAFKA_BOOTSTRAP_SERVERS", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
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
