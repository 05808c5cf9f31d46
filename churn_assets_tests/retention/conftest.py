"""One lake for all tests of retention, emptied before each: opening a lake takes longer than most of these tests."""

import shutil
from pathlib import Path

import pytest

from churn_assets import wiring
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets_tests.retention.bank import forget_everybody
from churn_assets_tests.retention.email_runs import clear_journal
from churn_assets_tests.shared_lakes import SharedLakes


@pytest.fixture(scope="session")
def where(request: pytest.FixtureRequest, deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> LakePlace:
    """Where `lake` is, for other processes."""
    home = tmp_path_factory.mktemp("retention") / "home"
    shutil.copytree(deployed_home, home)
    if request.config.getoption("--shared-lake"):
        lakes: SharedLakes = request.getfixturevalue("shared")
        return lakes.copy("deployed").place(home / "lake")
    return LakePlace.here(home / "lake")


@pytest.fixture(scope="session")
def open_lake(where: LakePlace) -> LakeWarehouse:
    return wiring.open_lake(where)


@pytest.fixture
def lake(open_lake: LakeWarehouse) -> LakeWarehouse:
    """A deployed lake without any customer, prediction, queue or intervention; the stream was never read."""
    forget_everybody(open_lake)
    clear_journal(open_lake)
    return open_lake
