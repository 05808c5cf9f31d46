"""Bring the lake to the state that the code describes: tables from `sql/`, dynamic tables from `dbt/`.

Every step is idempotent, and no object that holds data is ever dropped. The tables change in one transaction. The deployment to
Snowflake is in `account`.
"""

from collections.abc import Callable

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.tables import Refresh
from churn_assets.operations.dbt import declare
from churn_assets.operations.first_day import OLDEST_EMAIL, note_first_day
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse


def deploy(settings: Settings, warehouse: Warehouse, report: Callable[[str], None]) -> None:
    """Create what is missing, declare the dynamic tables and give new definitions their first refresh."""
    report("tables")
    for change in warehouse.deploy():
        report(f"  {change}")
    report("dynamic tables (dbt)")
    declare(settings)
    note_first_day(settings, warehouse.query(OLDEST_EMAIL)["oldest_day"][0].as_py(), utc_now().date())
    for result in refresh_new(warehouse):
        report(f"{result.name}: {result.rows_inserted:,} rows")


def refresh_new(warehouse: Warehouse) -> list[Refresh]:
    """Refresh every table that is to be initialized at once, sources before readers."""
    now = utc_now()
    return warehouse.refresh((table.name for table in warehouse.dynamic_tables(now) if table.is_to_be_initialized), now)
