"""The check that CHURN_DRIVER holds, and what an asset does where it may not drive. Who drives is in `operations.driver`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from churn_assets.assets.readable import table
from churn_assets.operations.driver import who_drives_instead, wrong_driver
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

DRIVER_CHECK = dg.AssetCheckKey(dg.AssetKey("retention_emails"), "one_driver")
DRIVER_CHECK_SPEC = dg.AssetCheckSpec(
    DRIVER_CHECK.name,
    asset=DRIVER_CHECK.asset_key,
    description="Dagster or the warehouse's own tasks move the streams and write the emails, as CHURN_DRIVER says; never both.",
)


def driver_found(settings: Settings, tasks: Mapping[str, bool]) -> dict[str, Any]:
    """The result of the check that only the right driver is at work, as the arguments of `dg.AssetCheckResult`."""
    problem = wrong_driver(settings, tasks)
    return {
        "asset_key": DRIVER_CHECK.asset_key,
        "check_name": DRIVER_CHECK.name,
        "passed": problem is None,
        "description": problem,
        "metadata": {
            "driver": settings.driver,
            "tasks": table([{"task": task, "active": active} for task, active in tasks.items()], ["task", "active"]),
        },
    }


def must_drive(settings: Settings, warehouse: Warehouse) -> None:
    """Raise `dg.Failure` if Dagster may not move streams and write emails."""
    if problem := who_drives_instead(settings, warehouse):
        raise dg.Failure(problem)
