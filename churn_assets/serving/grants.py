"""Changes to `segment_grants`, the table of the segments that each role sees. Its meaning is in `views`."""

import re
from collections.abc import Sequence

from churn_assets.rules import ANALYST_ROLE, ENGINEER_ROLE
from churn_assets.serving.reading import UnknownRoleError
from churn_assets.warehouse.protocol import Transaction, Warehouse

_ROLE = re.compile(r"[^\W\d][\w$]{0,254}")


def grant_segments(warehouse: Warehouse, role: str, segments: Sequence[str]) -> None:
    """Let a role see only these segments; '*' stands for all, and an empty list for none."""
    if not _ROLE.fullmatch(role):
        raise UnknownRoleError(f"{role!r} is no name of a role; it has letters, digits and _, such as {ANALYST_ROLE}")
    if not all(segments):
        raise UnknownRoleError("a segment has a name, such as MASS; '*' stands for all")
    if role == ENGINEER_ROLE:
        raise UnknownRoleError(f"{role} sees every segment, whatever is granted")

    def write(tx: Transaction) -> None:
        tx.execute("DELETE FROM segment_grants WHERE role_name = ?", [role])
        for segment in dict.fromkeys(segments):
            tx.execute("INSERT INTO segment_grants (role_name, segment) VALUES (?, ?)", [role, segment])

    warehouse.transact(write)
