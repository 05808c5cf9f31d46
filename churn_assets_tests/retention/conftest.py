"""One lake for all tests of retention, emptied before each: opening a lake takes longer than most of these tests."""

import shutil
from pathlib import Path

import pytest

from churn_assets import wiring
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import forget_everybody
from churn_assets_tests.retention.email_runs import clear_journal


@pytest.fixture(scope="session")
def lake_path(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `lake` lies, for other processes."""
    home = tmp_path_factory.mktemp("retention") / "home"
    shutil.copytree(deployed_home, home)
    return load_settings(CHURN_HOME=home).lake_path


@pytest.fixture(scope="session")
def open_lake(lake_path: Path) -> LakeWarehouse:
    return wiring.open_lake(lake_path)


@pytest.fixture
def lake(open_lake: LakeWarehouse) -> LakeWarehouse:
    """A deployed lake without any customer, prediction, queue or intervention; the stream was never read."""
    forget_everybody(open_lake)
    clear_journal(open_lake)
    return open_lake
