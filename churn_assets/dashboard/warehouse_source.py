"""The dashboard's source outside of Snowflake: the warehouse of the settings.

It is separate from `source` because the app also runs in Snowflake, which has neither DuckDB nor the search index.
"""

from collections.abc import Sequence

from churn_assets.clock import utc_now
from churn_assets.dashboard.source import Decision, must_be_seen
from churn_assets.processes import announce
from churn_assets.retention.outbox import approval
from churn_assets.settings import Settings, acting_user
from churn_assets.wiring import open_agent, open_serving, open_warehouse

TIMEOUT_SECONDS = 20.0


class WarehouseSource:
    """The warehouse of the settings, with its own connections. Implements `Source`."""

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self.serving = open_serving(settings, role, TIMEOUT_SECONDS)
        self.agent = open_agent(settings, role)
        self._warehouse = open_warehouse(settings, read_only=True)
        announce(settings, "dashboard", utc_now())

    def damage(self) -> list[str]:
        return [
            f"{one.file}{f' of {one.table}' if one.table else ''} {one.problem}" for one in self._warehouse.damage()
        ]

    def decide(self, decision: Decision, ids: Sequence[str], note: str | None = None) -> None:
        must_be_seen(self.serving, ids)
        warehouse, by, now = open_warehouse(self._settings), f"{acting_user()} as {self.serving.role}", utc_now()
        if decision == "approve":
            approval.approve(warehouse, ids, by, now)
        else:
            approval.reject(warehouse, ids, by, now, note)
