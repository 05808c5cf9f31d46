"""The deployment through the real connector and dbt, against the emulator of an account.

The emulator is our own idea of Snowflake (see its package): it shows that the way to the account and back works, and what is
there afterwards.
"""

from collections.abc import Callable, Generator
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.operations import account as deployment
from churn_assets.operations.dbt import DeploymentError
from churn_assets.operations.doctor import examine_account
from churn_assets.settings import Settings
from churn_assets.warehouse.schema_version import SCHEMA_VERSION, SchemaVersionError
from churn_assets.warehouse.snowflake import SnowflakeWarehouse
from churn_assets.warehouse.snowflake_connection import Rows, signed_in
from churn_assets_tests.snowflake.emulator.process import RunningEmulator

pytestmark = pytest.mark.emulator

Deploy = Callable[..., list[str]]


@pytest.fixture
def deploy(empty_account: Settings) -> Deploy:
    """Deploys and gives what was reported."""

    def run(*only: str, **settings: Any) -> list[str]:
        said: list[str] = []
        deployment.deploy(empty_account.model_copy(update=settings), only, said.append)
        return said

    return run


@pytest.fixture
def account(empty_account: Settings) -> Generator[Rows]:
    """The account as the engineer sees it, after a deployment."""
    with signed_in(empty_account) as rows:
        yield rows


def as_engineer(rows: Rows) -> Rows:
    for sql in ("USE ROLE DATA_ENGINEER", "USE WAREHOUSE CHURN", "USE SCHEMA CHURN.MAIN"):
        rows(sql)
    return rows


def test_a_failure_in_the_middle_is_one_line_the_next_deployment_goes_on_and_one_more_changes_nothing(
    deploy: Deploy, emulator: RunningEmulator, empty_account: Settings
):
    emulator.fail("CREATE TASK IF NOT EXISTS process_alerts_task", 3001)
    with pytest.raises(
        DeploymentError, match=r"^CREATE TASK process_alerts_task of sql/snowflake/.*050_tasks.sql failed"
    ) as stop:
        deploy()
    assert "`churn doctor` lists what to grant" in str(stop.value)
    assert "\n" not in str(stop.value)

    assert "after_dbt: sql/snowflake/after_dbt/050_tasks.sql, 2 statements, 1 new" in deploy()

    again = deploy()
    assert again[0] == "account: unchanged"
    assert not [line for line in again if " new" in line and "nothing new" not in line]
    found = examine_account(empty_account, utc_now)
    assert [(one.what, one.problem) for one in found if one.problem] == []
    assert "statements, nothing new or changed" in deployment.preview(empty_account, [])


def test_an_account_of_an_older_version_another_driver_and_another_query_is_brought_to_what_is_asked_for(
    deploy: Deploy, account: Rows, empty_account: Settings
):
    def states() -> set[str]:
        return {row["state"] for row in account("SHOW TASKS IN SCHEMA CHURN.MAIN")}

    def created() -> dict[str, Any]:
        return {row["name"]: row["created_on"] for row in rows("SHOW DYNAMIC TABLES IN SCHEMA CHURN.MAIN")}

    assert any(line == "dbt: 4 statements, 4 new" for line in deploy(driver="native"))
    rows = as_engineer(account)
    assert states() == {"started"}

    rows("INSERT INTO retention_queue (customer_id, churn_score, queued_at) VALUES ('C1', 0.8, SYSDATE())")
    rows("DROP VIEW CHURN.SERVING.waiting_customers")  # which DuckDB would not list without the column that it reads
    rows("ALTER TABLE retention_queue DROP COLUMN source")
    rows("ALTER TABLE suppressions DROP COLUMN note")
    rows("DELETE FROM schema_version")
    waiting = "SELECT customer_id, source FROM retention_queue"
    with pytest.raises(SchemaVersionError, match=r"tables are version 0.* run `churn deploy`"):
        SnowflakeWarehouse(empty_account).query(waiting)

    said = deploy(driver="dagster")

    assert "schema: ALTER TABLE retention_queue ADD COLUMN source VARCHAR DEFAULT 'prediction'" in said
    assert "schema: ALTER TABLE suppressions ADD COLUMN IF NOT EXISTS note VARCHAR" in said
    assert said[-1] == f"version {SCHEMA_VERSION}"
    found = SnowflakeWarehouse(empty_account).query(waiting).to_pylist()
    assert found == [{"customer_id": "C1", "source": "prediction"}]
    assert rows("SELECT note FROM suppressions") == []
    assert states() == {"suspended"}

    before = created()
    said = deploy(score_source="model")
    assert any("recreated because the query has changed: dyn_churn_predictions;" in line for line in said)
    assert "  stream_high_risk_customers could not be read any more and was recreated" in said
    assert {name for name, at in created().items() if at != before[name]} == {"DYN_CHURN_PREDICTIONS"}
    assert rows("SELECT COUNT(*) AS changes FROM stream_high_risk_customers") == [{"changes": 0}]
    assert not any("created" in line for line in deploy(score_source="model"))

    rows(f"UPDATE schema_version SET version = {SCHEMA_VERSION + 1}")
    with pytest.raises(SchemaVersionError, match="a newer version of churn"):
        SnowflakeWarehouse(empty_account).query(waiting)
    with pytest.raises(SchemaVersionError, match="a newer version of churn"):
        deploy()
