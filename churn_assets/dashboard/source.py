"""Where the dashboard's rows come from, and what it may do, as a role.

Here belongs what differs between this machine and Snowflake beyond the serving views, and nothing that is drawn.
"""

import getpass
from collections.abc import Sequence
from typing import Literal, Protocol

from churn_assets.analyst.agent import Agent
from churn_assets.analyst.serving import Serving
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.retention import outbox
from churn_assets.settings import Settings
from churn_assets.warehouse.opening import open_agent, open_serving, open_warehouse

TIMEOUT_SECONDS = 20.0
Decision = Literal["approve", "reject"]
READY = "SELECT intervention_id FROM written_emails WHERE status = 'READY'"


class NotVisibleError(ChurnError):
    """An intervention that the role does not see was to be decided about."""


class Source(Protocol):
    """What the pages ask."""

    @property
    def serving(self) -> Serving:
        """The serving views, as the role sees them."""
        ...

    @property
    def agent(self) -> Agent:
        """Who answers questions in words."""
        ...

    def decide(self, decision: Decision, ids: Sequence[str], note: str | None = None) -> None:
        """Let READY emails leave, or never; `ChurnError` where that cannot be, and then nothing has changed."""
        ...


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
            outbox.approve(warehouse, ids, by, now)
        else:
            outbox.reject(warehouse, ids, by, now, note)


def must_be_seen(serving: Serving, ids: Sequence[str]) -> None:
    """`NotVisibleError` where one of these does not wait for a decision among what the role sees."""
    if hidden := sorted(set(ids) - set(serving.query(READY)["intervention_id"].to_pylist())):
        raise NotVisibleError(f"{hidden[0]} does not wait for a decision any more; look at the list again")
