"""Where the dashboard's rows come from, and what it may do, as a role.

Here belongs what differs between this machine and Snowflake beyond the serving views, and nothing that is drawn.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import pyarrow as pa

from churn_assets.analyst.agent import Agent
from churn_assets.analyst.semantic_model import load_semantic_model
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.retention.statuses import StatusError
from churn_assets.rules import ANALYST_ROLE
from churn_assets.search.cortex import CortexSearch
from churn_assets.search.grants import SeenInViews
from churn_assets.serving.reading import Serving, SnowflakeServing
from churn_assets.warehouse.protocol import WarehouseError
from churn_assets.warehouse.snowflake_names import Names

Decision = Literal["approve", "reject"]
_DECIDE = "CALL decide_email(?, ?, ?, ?)"
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


def must_be_seen(serving: Serving, ids: Sequence[str]) -> None:
    """`NotVisibleError` where one of these does not wait for a decision among what the role sees."""
    if hidden := sorted(set(ids) - set(serving.query(READY)["intervention_id"].to_pylist())):
        raise NotVisibleError(f"{hidden[0]} does not wait for a decision any more; look at the list again")


class SessionSource:
    """The session of the app in Snowflake, with the rights of its owner, the analyst's role. Implements `Source`.

    By documentation. It answers verified questions and searches; for others there is the agent CHURN_AGENT.
    """

    def __init__(self, session: Any) -> None:
        """`session` is Snowpark's, whose schema is that of the serving views."""
        self._queries = _SessionQueries(session)
        self.serving = SnowflakeServing(self._queries, ANALYST_ROLE)
        here = (name.strip('"') for name in (session.get_current_database(), session.get_current_schema()))
        names = Names(**dict(zip(("database", "serving_schema"), here, strict=True)))
        search = CortexSearch(self._queries, names, SeenInViews(self.serving))
        self.agent = Agent(load_semantic_model(), self.serving, lambda: search, None, utc_now, {})

    def decide(self, decision: Decision, ids: Sequence[str], note: str | None = None) -> None:
        must_be_seen(self.serving, ids)
        to, by = ("APPROVED" if decision == "approve" else "REJECTED"), f"the dashboard as {self.serving.role}"
        for place, intervention in enumerate(ids):
            (said,) = self._queries.query(_DECIDE, [intervention, to, by, note]).column(0).to_pylist()
            if said != "done":
                raise StatusError(f"{intervention}: {said}; {place} before it are decided")


class _SessionQueries:
    def __init__(self, session: Any) -> None:
        self._session = session

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        from snowflake.snowpark.exceptions import SnowparkSQLException  # noqa: PLC0415

        try:
            found: pa.Table = self._session.sql(sql, params=list(parameters)).to_arrow()
        except SnowparkSQLException as error:
            raise WarehouseError(" ".join(str(error).split())[:300]) from error
        return found.rename_columns([name.strip('"').lower() for name in found.column_names])
