"""The dashboard's source on a machine of one's own: the warehouse of the settings.

It is apart from `source` because in Snowflake, where the app runs too, there is neither DuckDB nor a search index.
"""

import getpass
from collections.abc import Sequence

from churn_assets.clock import utc_now
from churn_assets.dashboard.source import Decision, must_be_seen
from churn_assets.retention.outbox import approval
from churn_assets.settings import Settings
from churn_assets.wiring import open_agent, open_serving, open_warehouse

TIMEOUT_SECONDS = 20.0


class WarehouseSource:
    """The warehouse of the settings, over connections of its own. Implements `Source`."""

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self.serving = open_serving(settings, role, TIMEOUT_SECONDS)
        self.agent = open_agent(settings, role)

    def decide(self, decision: Decision, ids: Sequence[str], note: str | None = None) -> None:
        must_be_seen(self.serving, ids)
        warehouse, by, now = open_warehouse(self._settings), f"{getpass.getuser()} as {self.serving.role}", utc_now()
        if decision == "approve":
            approval.approve(warehouse, ids, by, now)
        else:
            approval.reject(warehouse, ids, by, now, note)
