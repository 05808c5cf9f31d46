"""Which customers a role may see in a search.

Here belongs the rule, which is that of the serving views: a row of `segment_grants` lets a role see one segment, or all
('*'). It is read at each search and holds for the segment that a customer is in now.
"""

from churn_assets.analyst.serving import UnknownRoleError, roles
from churn_assets.settings import ANALYST_ROLE, ENGINEER_ROLE
from churn_assets.warehouse.protocol import Warehouse

_EVERY_SEGMENT = "*"


def granted_segments(warehouse: Warehouse, role: str) -> frozenset[str] | None:
    """The segments that a role may see; None stands for every customer, also one whose segment is not known."""
    if role == ENGINEER_ROLE:
        return None
    rows = warehouse.query("SELECT segment FROM segment_grants WHERE role_name = ?", [role])
    granted = frozenset(rows["segment"].to_pylist())
    if not granted and role != ANALYST_ROLE:
        raise UnknownRoleError(f"there is no role {role!r}; those that there are: {', '.join(roles(warehouse))}")
    return None if _EVERY_SEGMENT in granted else granted


def segments_now(warehouse: Warehouse, customers: set[str]) -> dict[str, str]:
    """The segment that each of some customers is in, of those who are known."""
    if not customers:
        return {}
    rows = warehouse.query(
        f"SELECT customer_id, segment FROM dim_customers WHERE customer_id IN ({', '.join('?' * len(customers))})",
        sorted(customers),
    )
    return dict(zip(rows["customer_id"].to_pylist(), rows["segment"].to_pylist(), strict=True))
