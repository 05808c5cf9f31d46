"""What the tests of the analyst's questions ask."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets.retention.emails import write_emails
from churn_assets.settings import load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.desk import desk_of


@pytest.fixture(scope="session")
def home_of_a_bank(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of `bank`, for tests that only read."""
    home = tmp_path_factory.mktemp("analyst") / "home"
    shutil.copytree(deployed_home, home)
    lake, now = LakeWarehouse(load_settings(CHURN_HOME=home).lake_path), utc_now()
    seed(lake, new_bank(400, 60, 1, now), now, lambda ledger, rows: None)
    lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
    write_emails(lake, desk_of(lake), now.date(), now)
    lake.transact(
        lambda tx: tx.execute(
            "UPDATE agent_intervention_log SET created_at = ? WHERE customer_id ="
            " (SELECT min(customer_id) FROM agent_intervention_log)",
            [now - timedelta(days=60)],
        )
    )
    return home


@pytest.fixture(scope="session")
def bank(home_of_a_bank: Path) -> LakeWarehouse:
    """A seeded bank whose customers at risk have got emails, one of them two months ago."""
    return LakeWarehouse(load_settings(CHURN_HOME=home_of_a_bank).lake_path)
