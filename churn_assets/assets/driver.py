"""Who moves the streams and writes the emails: Dagster, or on Snowflake the warehouse's own tasks; never both.

Here belongs the check that CHURN_DRIVER holds. The deployment resumes and suspends the tasks.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from churn_assets.assets.readable import table
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

DRIVER_CHECK = dg.AssetCheckKey(dg.AssetKey("retention_emails"), "one_driver")
DRIVER_CHECK_SPEC = dg.AssetCheckSpec(
    DRIVER_CHECK.name,
    asset=DRIVER_CHECK.asset_key,
    description="Dagster or the warehouse's own tasks move the streams and write the emails, as CHURN_DRIVER says; never both.",
)


def wrong_driver(settings: Settings, tasks: Mapping[str, bool]) -> str | None:
    """What is wrong with the driver and what to do, or None. `tasks` says of each of the warehouse's tasks if it is active."""
    active = sorted(name for name, is_active in tasks.items() if is_active)
    asleep = sorted(tasks.keys() - set(active))
    if settings.driver == "dagster" and active:
        return f"{' and '.join(active)} runs beside Dagster; `churn deploy` suspends it, or set CHURN_DRIVER=native"
    if settings.driver == "native" and (asleep or not tasks):
        return f"CHURN_DRIVER=native, but {' and '.join(asleep) or 'no task'} does not run; `churn deploy` resumes the tasks"
    return None


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
    if settings.driver == "native":
        raise dg.Failure("CHURN_DRIVER=native: the warehouse's own tasks do this, and Dagster only observes")
    if problem := wrong_driver(settings, warehouse.tasks()):
        raise dg.Failure(problem)
