"""Which segments a role sees in the serving views: the table `segment_grants`. Here belongs its change, not what it means."""

from collections.abc import Sequence

from churn_assets.rules import ENGINEER_ROLE
from churn_assets.serving.reading import UnknownRoleError
from churn_assets.warehouse.protocol import Transaction, Warehouse


def grant_segments(warehouse: Warehouse, role: str, segments: Sequence[str]) -> None:
    """Let a role see these segments and no others; '*' stands for all, and none for nothing."""
    if role == ENGINEER_ROLE:
        raise UnknownRoleError(f"{role} sees every segment, whatever is granted")

    def write(tx: Transaction) -> None:
        tx.execute("DELETE FROM segment_grants WHERE role_name = ?", [role])
        for segment in dict.fromkeys(segments):
            tx.execute("INSERT INTO segment_grants (role_name, segment) VALUES (?, ?)", [role, segment])

    warehouse.transact(write)
