"""Who moves the streams and writes the emails: we, or on Snowflake the warehouse's own tasks; never both.

The deployment resumes and suspends the tasks, as CHURN_DRIVER says.
"""

from collections.abc import Mapping

from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse


def wrong_driver(settings: Settings, tasks: Mapping[str, bool]) -> str | None:
    """What is wrong with the driver and what to do, or None. `tasks` says of each of the warehouse's tasks if it is active."""
    active = sorted(name for name, is_active in tasks.items() if is_active)
    asleep = sorted(tasks.keys() - set(active))
    if settings.driver == "dagster" and active:
        return f"{' and '.join(active)} runs beside Dagster; `churn deploy` suspends it, or set CHURN_DRIVER=native"
    if settings.driver == "native" and (asleep or not tasks):
        return f"CHURN_DRIVER=native, but {' and '.join(asleep) or 'no task'} does not run; `churn deploy` resumes the tasks"
    return None


def who_drives_instead(settings: Settings, warehouse: Warehouse) -> str | None:
    """Why nobody but the warehouse's own tasks may move streams and write emails, and what to do; None if we may."""
    if settings.driver == "native":
        return "CHURN_DRIVER=native: the warehouse's own tasks do this, and Dagster only observes"
    return wrong_driver(settings, warehouse.tasks())
