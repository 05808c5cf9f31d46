"""The source of the dashboard's rows, and the decisions that it may make, for a role.

Here belong the differences between this machine and Snowflake beyond the serving views. Nothing is drawn here.
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
    """A decision was requested about an intervention that the role does not see."""


class Source(Protocol):
    """The interface of the pages to a warehouse."""

    @property
    def serving(self) -> Serving:
        """The serving views, as the role sees them."""
        ...

    @property
    def agent(self) -> Agent:
        """The agent that answers questions in words."""
        ...

    def damage(self) -> list[str]:
        """The damaged files that are known, in words; empty in Snowflake, which keeps the files itself."""
        ...

    def decide(self, decision: Decision, ids: Sequence[str], note: str | None = None) -> None:
        """Approve or reject READY emails; on a `ChurnError` nothing has changed."""
        ...


def must_be_seen(serving: Serving, ids: Sequence[str]) -> None:
    """`NotVisibleError` unless all of these wait for a decision and the role sees them."""
    if hidden := sorted(set(ids) - set(serving.query(READY)["intervention_id"].to_pylist())):
        raise NotVisibleError(f"{hidden[0]} no longer waits for a decision; look at the list again")


class SessionSource:
    """The app's session in Snowflake, with the rights of the app's owner, the analyst's role. Implements `Source`.

    Written from the documentation. It answers verified questions and searches; the agent CHURN_AGENT answers others.
    """

    def __init__(self, session: Any) -> None:
        """`session` is a Snowpark session in the schema of the serving views."""
        self._queries = _SessionQueries(session)
        self.serving = SnowflakeServing(self._queries, ANALYST_ROLE)
        here = (name.strip('"') for name in (session.get_current_database(), session.get_current_schema()))
        names = Names(**dict(zip(("database", "serving_schema"), here, strict=True)))
        search = CortexSearch(self._queries, names, SeenInViews(self.serving))
        self.agent = Agent(load_semantic_model(), self.serving, lambda: search, None, utc_now, {})

    def damage(self) -> list[str]:
        return []

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
