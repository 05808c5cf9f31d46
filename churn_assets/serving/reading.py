"""The serving views as one role sees them. The dashboard, questions and searches read the warehouse only through them.

Here belong the two kinds of queries: the project's own SQL, and SQL that a person or a language model wrote. `views` defines
the views, `guard` decides what may run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import pyarrow as pa

from churn_assets.clock import utc_now
from churn_assets.configuration import rules
from churn_assets.dynamic_tables.tables import parse_target_lag
from churn_assets.errors import ChurnError
from churn_assets.rules import ANALYST_ROLE, ENGINEER_ROLE, SNAPSHOT_RETENTION_HOURS
from churn_assets.serving import guard
from churn_assets.serving.views import LAKE, serving_views, with_serving_views
from churn_assets.warehouse.protocol import Queries, Warehouse, WarehouseError


class UnknownRoleError(ChurnError):
    """There is no such role; the message lists the roles."""


@dataclass(frozen=True)
class Freshness:
    """A table's lag, which is the age of the oldest change that it does not show yet, and its target; in seconds."""

    name: str
    lag_seconds: float
    target_lag_seconds: float


class Serving(Protocol):
    """The serving views, for a role."""

    @property
    def role(self) -> str:
        """The role whose view this is."""
        ...

    @property
    def dialect(self) -> guard.Dialect:
        """The SQL dialect of its queries."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of one of the project's own SELECTs over serving views."""
        ...

    def query_from_outside(self, sql: str) -> pa.Table:
        """The result of untrusted SQL over serving views; `ChurnError` if it does anything else."""
        ...

    def roles(self) -> list[str]:
        """Every role that may be chosen instead of this one, including this one."""
        ...

    def freshness(self) -> list[Freshness]:
        """How far each derived table lags behind its sources."""
        ...

    def version(self) -> str:
        """A key for caching results: it changes whenever the result of a query may have changed."""
        ...

    def score_history(self, customer_id: str) -> pa.Table:
        """A customer's scores as far back as time travel reaches, oldest first: computed_at (UTC), risk_score, risk_class and
        reason_codes. Empty for a customer whom the role does not see.
        """
        ...


# The first and last snapshot that contain the predictions; the table may be younger than the lake's first snapshot.
_SNAPSHOTS = """
SELECT
    greatest(
        (SELECT min(snapshot_id) FROM lake.snapshots()),
        (
            SELECT max(begin_snapshot) FROM __ducklake_metadata_lake.ducklake_table
            WHERE table_name = 'dyn_churn_predictions' AND end_snapshot IS NULL
        )
    ) AS first,
    (SELECT id FROM lake.current_snapshot()) AS last
"""
# One customer's scores within the last day: one row for each time that the score was rewritten.
_HISTORY = """
SELECT computed_at, risk_score, risk_class, reason_codes
FROM lake.table_insertions('dyn_churn_predictions', {first}, {last}) WHERE customer_id = ?
UNION
SELECT computed_at, risk_score, risk_class, reason_codes FROM dyn_churn_predictions AT (VERSION => {first})
WHERE customer_id = ?
ORDER BY computed_at
"""
_HISTORY_COLUMNS = pa.schema(
    {
        "computed_at": pa.timestamp("us"),
        "risk_score": pa.float64(),
        "risk_class": pa.string(),
        "reason_codes": pa.string(),
    }
)


class LakeServing:
    """On the lake: the views are prepended to each query, and SQL from outside is guarded. Implements `Serving`."""

    dialect: guard.Dialect = "duckdb"

    def __init__(self, lake: Warehouse, role: str) -> None:
        self._lake = lake
        self.role = role
        if role not in {ENGINEER_ROLE, ANALYST_ROLE} and role not in (known := roles(lake)):
            raise UnknownRoleError(
                f"there is no role {role!r}; the roles are {', '.join(known)}."
                " A row in segment_grants (role_name, segment) adds a role"
            )

    def roles(self) -> list[str]:
        return roles(self._lake)

    def freshness(self) -> list[Freshness]:
        tables = self._lake.dynamic_tables(utc_now())
        return [Freshness(table.name, table.lag_seconds, table.target_lag_seconds) for table in tables]

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._asked(with_serving_views(sql, self.role), parameters)

    def query_from_outside(self, sql: str) -> pa.Table:
        columns = {view: self.query(f"SELECT * FROM {view} LIMIT 0").column_names for view in serving_views()}
        # The types do not matter, as the guard only traces columns to tables.
        tables = {view: dict.fromkeys(names, "VARCHAR") for view, names in columns.items()}
        return self.query(guard.checked(sql, tables, row_limit=None))

    def version(self) -> str:
        return str(self._asked("SELECT id FROM lake.current_snapshot()")["id"][0])

    def score_history(self, customer_id: str) -> pa.Table:
        snapshots = self._asked(_SNAPSHOTS).to_pylist()[0]
        seen = self.query("SELECT customer_id FROM customer_risk WHERE customer_id = ?", [customer_id]).num_rows
        return self._asked(_HISTORY.format(**snapshots), [customer_id if seen else ""] * 2)

    def _asked(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        import duckdb  # noqa: PLC0415  # this module is also imported in Snowflake, which has no DuckDB

        try:
            return self._lake.query(sql, parameters)
        except duckdb.Error as error:
            raise WarehouseError(str(error).strip().splitlines()[0]) from error


class SnowflakeServing:
    """On Snowflake: the session has the role, and the policies of the secure views hold. Implements `Serving`."""

    dialect: guard.Dialect = "snowflake"

    def __init__(self, session: Queries, role: str) -> None:
        self._session = session
        self.role = role

    def roles(self) -> list[str]:
        return [self.role]  # Snowflake decides who may use which role

    def freshness(self) -> list[Freshness]:
        # An analyst cannot see the refreshes of the dynamic tables, so the newest stored event stands for all tables.
        newest = self.query("SELECT MAX(event_timestamp) AS newest FROM customer_activity")["newest"][0].as_py()
        behind = (utc_now() - newest).total_seconds() if newest else 0.0
        return [Freshness("customer_activity", behind, parse_target_lag(rules().features.target_lag))]

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._session.query(sql, parameters)

    def query_from_outside(self, sql: str) -> pa.Table:
        return self._session.query(sql)

    def version(self) -> str:
        return f"{utc_now():%Y-%m-%d %H:%M}"  # a query for changes would cost as much as the query itself

    def score_history(self, customer_id: str) -> pa.Table:
        # Written from the documentation. Goes back hour by hour until Snowflake has no data.
        now, found = utc_now(), list[dict[str, Any]]()
        for hours in range(SNAPSHOT_RETENTION_HOURS):
            past = f"AT(OFFSET => -{3600 * hours}) " if hours else ""
            sql = f"SELECT risk_score, risk_class, reason_codes FROM customer_risk {past}WHERE customer_id = ?"
            try:
                rows = self._session.query(sql, [customer_id]).to_pylist()
            except WarehouseError:
                break
            found += [{"computed_at": now - timedelta(hours=hours), **row} for row in rows]
        return pa.table(
            {name: [row[name] for row in reversed(found)] for name in _HISTORY_COLUMNS.names}, schema=_HISTORY_COLUMNS
        )


def roles(lake: Queries) -> list[str]:
    """Every role that sees any row of the lake's serving views, the engineer's first."""
    granted = lake.query(f"SELECT DISTINCT role_name FROM {LAKE}segment_grants ORDER BY role_name")
    return list(dict.fromkeys((ENGINEER_ROLE, ANALYST_ROLE, *granted["role_name"].to_pylist())))
