"""Which customers a role may see in a search.

The rule is the same as in the serving views: a row of `segment_grants` lets a role see one segment, or all ('*'). Each search
reads the grants and applies them to the customers' current segments.
"""

from dataclasses import dataclass
from typing import Protocol

from churn_assets.rules import ANALYST_ROLE, ENGINEER_ROLE
from churn_assets.serving.reading import UnknownRoleError, roles
from churn_assets.warehouse.protocol import Queries

_EVERY_SEGMENT = "*"


class Seen(Protocol):
    """The segments and customers that one role sees."""

    def segments(self) -> frozenset[str] | None:
        """The segments; None stands for every customer, including those whose segment is unknown."""
        ...

    def segments_now(self, customers: set[str]) -> dict[str, str]:
        """The current segment of each of these customers, without unknown customers."""
        ...

    def texts(self) -> bool:
        """Whether it sees what customers wrote; the views' `mask_case_text` follows the same rule."""
        ...


@dataclass(frozen=True)
class SeenByGrants:
    """What a role sees according to the grants in the warehouse's tables. Implements `Seen`."""

    warehouse: Queries
    role: str

    def segments(self) -> frozenset[str] | None:
        """See `Seen`."""
        return granted_segments(self.warehouse, self.role)

    def segments_now(self, customers: set[str]) -> dict[str, str]:
        """See `Seen`."""
        return segments_now(self.warehouse, customers)

    def texts(self) -> bool:
        """See `Seen`."""
        return reads_texts(self.role)


@dataclass(frozen=True)
class SeenInViews:
    """What a session sees in the serving views, for roles that may read nothing else. Implements `Seen`."""

    serving: Queries

    def segments(self) -> frozenset[str] | None:
        """See `Seen`."""
        return frozenset(self.serving.query("SELECT DISTINCT segment FROM customer_risk")["segment"].to_pylist())

    def segments_now(self, customers: set[str]) -> dict[str, str]:
        """See `Seen`."""
        return _segments(self.serving, "customer_risk", customers)

    def texts(self) -> bool:
        """See `Seen`. The session is the analyst's."""
        return False


def reads_texts(role: str) -> bool:
    """Whether a role may read and search what customers wrote: it may hold names and addresses of anybody."""
    return role == ENGINEER_ROLE


def granted_segments(warehouse: Queries, role: str) -> frozenset[str] | None:
    """The segments that a role may see; None stands for every customer, including those whose segment is unknown."""
    if role == ENGINEER_ROLE:
        return None
    rows = warehouse.query("SELECT segment FROM segment_grants WHERE role_name = ?", [role])
    granted = frozenset(rows["segment"].to_pylist())
    if not granted and role != ANALYST_ROLE:
        raise UnknownRoleError(f"there is no role {role!r}; the roles are {', '.join(roles(warehouse))}")
    return None if _EVERY_SEGMENT in granted else granted


def segments_now(warehouse: Queries, customers: set[str]) -> dict[str, str]:
    """The current segment of each of these customers, without unknown customers."""
    return _segments(warehouse, "dim_customers", customers)


def _segments(warehouse: Queries, table: str, customers: set[str]) -> dict[str, str]:
    if not customers:
        return {}
    rows = warehouse.query(
        f"SELECT customer_id, segment FROM {table} WHERE customer_id IN ({', '.join('?' * len(customers))})",
        sorted(customers),
    )
    return dict(zip(rows["customer_id"].to_pylist(), rows["segment"].to_pylist(), strict=True))
