"""Which approved emails may leave, and the outbox's lock.

Here belongs what `exporting` and `sending` share. Both mark an email before it leaves, so that a crash never causes a second
delivery that nobody notices. Only one process of this machine takes emails from the outbox at a time: it holds a lock in the
folder of the emails.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from churn_assets.errors import ChurnError
from churn_assets.retention.queue import queue_again
from churn_assets.retention.statuses import move
from churn_assets.retention.suppressions import SUPPRESSED
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.turns import turn

# When each email was last approved.
APPROVALS = """
    SELECT intervention_id, MAX(moved_at) AS approved_at FROM intervention_moves WHERE status_to = 'APPROVED'
    GROUP BY intervention_id
"""
# The approved emails, each with the reason why it may not leave, if any. The parameter is the current time (UTC).
LEAVING = f"""
    SELECT
        log.intervention_id,
        log.customer_id,
        customers.email,
        customers.full_name,
        log.generated_email,
        approvals.approved_at,
        CASE
            WHEN customers.email_consent = FALSE THEN 'refused emails'
            WHEN suppressed.customer_id IS NOT NULL THEN 'is suppressed'
            WHEN with_account.customer_id IS NULL THEN 'has no open account'
        END AS obstacle
    FROM agent_intervention_log AS log
    LEFT JOIN ({APPROVALS}) AS approvals ON log.intervention_id = approvals.intervention_id
    LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM ({SUPPRESSED}) AS both_kinds) AS suppressed
        ON log.customer_id = suppressed.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM dim_accounts WHERE account_status <> 'CLOSED') AS with_account
        ON log.customer_id = with_account.customer_id
    WHERE log.status = 'APPROVED'
"""
# An email that the server deferred goes to the end, so that one that is always deferred does not hold up the others.
IN_TURN = " ORDER BY approvals.approved_at, log.intervention_id"


class OutboxError(ChurnError):
    """Emails cannot leave now; the message says why and what to do."""


@dataclass(frozen=True)
class Leaving:
    """An approved email; `obstacle` says why it may not leave. Times are UTC."""

    intervention_id: str
    customer_id: str
    email: str | None
    full_name: str | None
    text: str
    approved_at: datetime
    obstacle: str | None


def alone(folder: Path) -> AbstractContextManager[None]:
    """Hold the outbox's lock in the folder of the emails; `OutboxError` if another process of this machine holds it."""
    taken = OutboxError("another process is sending or exporting now; try again when it has ended")
    return turn(folder / "outbox.lock", taken)


def all_leaving(tx: Transaction, by: str, now: datetime) -> tuple[list[Leaving], int]:
    """Every approved email that may leave, and how many others were cancelled."""
    approved = [Leaving(*row) for row in tx.rows(LEAVING + IN_TURN, [now])]
    cancel(tx, approved, by, now)
    leaving = [email for email in approved if not email.obstacle]
    return leaving, len(approved) - len(leaving)


def cancel(tx: Transaction, approved: list[Leaving], by: str, now: datetime) -> None:
    """Cancel the emails that have an obstacle, with a note that names it. `now` is UTC."""
    for obstacle in sorted({email.obstacle for email in approved if email.obstacle}):
        ids = [email.intervention_id for email in approved if email.obstacle == obstacle]
        move(tx, ids, "CANCELLED", now, by, f"the customer {obstacle}")
        queue_again(tx, ids, now)
