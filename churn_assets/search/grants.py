"""Which customers a role may see in a search.

Here belongs the rule, as sql/snowflake/after_dbt/060_policies.sql has it for the views: a row of `segment_grants` lets a role
see one segment, or all ('*'). It is read at each search and holds for the segment that a customer is in now.
"""

from churn_assets.errors import ChurnError
from churn_assets.search.hits import ENGINEER
from churn_assets.warehouse.protocol import Warehouse

EVERY_SEGMENT = "*"


class UnknownRoleError(ChurnError):
    """The role has no grants; the message says which roles there are."""


def granted_segments(warehouse: Warehouse, role: str) -> frozenset[str] | None:
    """The segments that a role may see; None stands for every customer, also one whose segment is not known."""
    if role == ENGINEER:
        return None
    if (
        "segment_grants"
        not in warehouse.query("SELECT table_name FROM information_schema.tables WHERE table_name = 'segment_grants'")[
            "table_name"
        ].to_pylist()
    ):
        raise ChurnError("the table segment_grants is not there; run `churn deploy` first")
    rows = warehouse.query("SELECT role_name, segment FROM segment_grants").to_pylist()
    mine = frozenset(row["segment"] for row in rows if row["role_name"] == role)
    if not mine:
        known = sorted({ENGINEER, *(row["role_name"] for row in rows)})
        raise UnknownRoleError(f"the role {role!r} may see no segment; roles that may see some: {', '.join(known)}")
    return None if EVERY_SEGMENT in mine else mine
