"""The serving views as one role sees them: the only way in which the dashboard, questions and searches read the warehouse.

Here belong the two ways of asking: the project's own SQL, and SQL that a person or a language model wrote. Which views there
are is `serving_views`, what may run is `guard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import pyarrow as pa

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.tables import parse_target_lag
from churn_assets.errors import ChurnError
from churn_assets.rules import ANALYST_ROLE, ENGINEER_ROLE, FEATURES_TARGET_LAG, SNAPSHOT_RETENTION_HOURS
from churn_assets.serving import guard
from churn_assets.serving.views import LAKE, serving_views, with_serving_views
from churn_assets.warehouse.protocol import Queries, Warehouse, WarehouseError


class UnknownRoleError(ChurnError):
    """There is no such role; the message names those that there are."""


@dataclass(frozen=True)
class Freshness:
    """How old the oldest change is that a table does not show, and how old it may become; in seconds."""

    name: str
    lag_seconds: float
    target_lag_seconds: float


class Serving(Protocol):
    """The serving views, for a role."""

    @property
    def role(self) -> str:
        """Whose eyes these are."""
        ...

    @property
    def dialect(self) -> guard.Dialect:
        """Whose SQL it takes."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of a SELECT of the project's own over serving views."""
        ...

    def query_from_outside(self, sql: str) -> pa.Table:
        """The result of somebody's SQL over serving views; `ChurnError` where it would do anything else."""
        ...

    def roles(self) -> list[str]:
        """Every role that may be chosen in this one's place, itself among them."""
        ...

    def freshness(self) -> list[Freshness]:
        """How far each table that is derived from others is behind them."""
        ...

    def version(self) -> str:
        """Changes whenever a query may have another result than before, so that results can be kept until then."""
        ...

    def score_history(self, customer_id: str) -> pa.Table:
        """How a customer's score came about, as far as time travel reaches: computed_at (UTC), risk_score, risk_class and
        reason_codes, oldest first. Nothing of a customer whom the role does not see.
        """
        ...


# From when to when the lake knows the predictions; they may have been made after its first snapshot.
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
# How one customer's score came about within the last day: a row for each time that the score was written anew.
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
    """On the lake: views are written into each query, and SQL from outside is guarded. Implements `Serving`."""

    dialect: guard.Dialect = "duckdb"

    def __init__(self, lake: Warehouse, role: str) -> None:
        self._lake = lake
        self.role = role
        if role not in {ENGINEER_ROLE, ANALYST_ROLE} and role not in (known := roles(lake)):
            raise UnknownRoleError(
                f"there is no role {role!r}; those that there are: {', '.join(known)}."
                " A row in segment_grants (role_name, segment) makes another one"
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
        # The types do not matter: the guard only traces columns to tables.
        tables = {view: dict.fromkeys(names, "VARCHAR") for view, names in columns.items()}
        return self.query(guard.checked(sql, tables, row_limit=None))

    def version(self) -> str:
        return str(self._asked("SELECT id FROM lake.current_snapshot()")["id"][0])

    def score_history(self, customer_id: str) -> pa.Table:
        snapshots = self._asked(_SNAPSHOTS).to_pylist()[0]
        seen = self.query("SELECT customer_id FROM customer_risk WHERE customer_id = ?", [customer_id]).num_rows
        return self._asked(_HISTORY.format(**snapshots), [customer_id if seen else ""] * 2)

    def _asked(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        import duckdb  # noqa: PLC0415  # in Snowflake, where this module is imported too, there is none

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
        return [self.role]  # who may take on which is Snowflake's affair

    def freshness(self) -> list[Freshness]:
        # Of the dynamic tables an analyst sees no more than their rows, so the newest event that was stored stands for all.
        newest = self.query("SELECT MAX(event_timestamp) AS newest FROM customer_activity")["newest"][0].as_py()
        behind = (utc_now() - newest).total_seconds() if newest else 0.0
        return [Freshness("customer_activity", behind, parse_target_lag(FEATURES_TARGET_LAG))]

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._session.query(sql, parameters)

    def query_from_outside(self, sql: str) -> pa.Table:
        return self._session.query(sql)

    def version(self) -> str:
        return f"{utc_now():%Y-%m-%d %H:%M}"  # to ask what has changed would cost as much as to ask again

    def score_history(self, customer_id: str) -> pa.Table:
        # By documentation. Hour by hour, until the first hour of which Snowflake knows nothing.
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
    """Every role that sees anything of the lake's serving views, the engineer's first."""
    granted = lake.query(f"SELECT DISTINCT role_name FROM {LAKE}segment_grants ORDER BY role_name")
    return list(dict.fromkeys((ENGINEER_ROLE, ANALYST_ROLE, *granted["role_name"].to_pylist())))
