"""The serving views as one role sees them: the only way in which the dashboard, questions and searches read the warehouse.

Here belong the two ways of asking: the project's own SQL, and SQL that a person or a language model wrote. Which views there
are is `serving_views`, what may run is `guard`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from churn_assets.analyst import guard
from churn_assets.analyst.serving_views import LAKE, serving_views, with_serving_views
from churn_assets.errors import ChurnError
from churn_assets.settings import ANALYST_ROLE, ENGINEER_ROLE
from churn_assets.warehouse.protocol import Warehouse


class UnknownRoleError(ChurnError):
    """There is no such role; the message names those that there are."""


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

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._lake.query(with_serving_views(sql, self.role), parameters)

    def query_from_outside(self, sql: str) -> pa.Table:
        columns = {view: self.query(f"SELECT * FROM {view} LIMIT 0").column_names for view in serving_views()}
        # The types do not matter: the guard only traces columns to tables.
        tables = {view: dict.fromkeys(names, "VARCHAR") for view, names in columns.items()}
        return self.query(guard.checked(sql, tables, row_limit=None))


class SnowflakeServing:
    """On Snowflake: the session has the role, and the policies of the secure views hold. Implements `Serving`."""

    dialect: guard.Dialect = "snowflake"

    def __init__(self, warehouse: Warehouse, role: str) -> None:
        self._warehouse = warehouse
        self.role = role

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._warehouse.query(sql, parameters)

    def query_from_outside(self, sql: str) -> pa.Table:
        return self._warehouse.query(sql)


def roles(lake: Warehouse) -> list[str]:
    """Every role that sees anything of the lake's serving views, the engineer's first."""
    granted = lake.query(f"SELECT DISTINCT role_name FROM {LAKE}segment_grants ORDER BY role_name")
    return list(dict.fromkeys((ENGINEER_ROLE, ANALYST_ROLE, *granted["role_name"].to_pylist())))
