"""Which warehouse the settings ask for. Here, and only here, is CHURN_TARGET asked.

Here belongs the choice; what a warehouse does is `lake`'s and `snowflake`'s.
"""

from collections.abc import Callable

from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse


def open_warehouse(settings: Settings, *, read_only: bool = False, tag: Callable[[], str] = lambda: "") -> Warehouse:
    """The warehouse of `settings`; nothing is opened before it is asked something.

    `tag` says at any time on whose behalf statements are run; Snowflake's query history keeps it.
    """
    if settings.target == "snowflake":
        # Its client takes two seconds to import, which every command of the lake would pay.
        from churn_assets.warehouse.snowflake import SnowflakeWarehouse  # noqa: PLC0415

        return SnowflakeWarehouse(settings, read_only=read_only, tag=tag)
    from churn_assets.warehouse.lake import LakeWarehouse  # noqa: PLC0415

    return LakeWarehouse(settings.lake_path, read_only=read_only)


def warehouse_to_write(settings: Settings, *, tag: Callable[[], str] = lambda: "") -> Warehouse:
    """The warehouse of `settings`, with every table that this version knows."""
    warehouse = open_warehouse(settings, tag=tag)
    warehouse.deploy()
    return warehouse
