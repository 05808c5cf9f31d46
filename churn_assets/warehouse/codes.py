"""What the bank's rules say of a row, as SQL that runs on both warehouses. The dbt project has the conditions as macros."""

from collections.abc import Sequence

from churn_assets.configuration import rules
from churn_assets.warehouse.values import literal


def has_code(column: str, codes: Sequence[str]) -> str:
    """A condition: the column has one of these codes, whatever its case and the blanks around it."""
    if not codes:
        return "FALSE"
    return f"upper(trim({column})) IN ({', '.join(f'upper({literal(code)})' for code in codes)})"


def is_closed(account_status: str = "account_status") -> str:
    """A condition: an account with this state is closed; every other state counts as open."""
    return has_code(account_status, rules().codes.account_closed)


def closed_at(prefix: str = "") -> str:
    """When an account was closed (UTC); NULL if it is open, or if nobody has said when. `prefix` is that of its columns.

    A message from Kafka that says no `closed_at` says since when its state is true. A file has no such time of its own.
    """
    since = f"CASE WHEN {prefix}kafka_topic IS NOT NULL THEN {prefix}updated_at END"
    return f"CASE WHEN {is_closed(f'{prefix}account_status')} THEN coalesce({prefix}closed_at, {since}) END"
