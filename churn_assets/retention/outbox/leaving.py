"""Which approved emails may leave, and the outbox's lock.

Here belongs what `exporting` and `sending` share. Both mark an email before it leaves, so that a crash never causes a second
delivery that nobody notices. Only one process of this machine takes emails from the outbox at a time: it holds a lock in the
folder of the emails.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime

from churn_assets.configuration import rules
from churn_assets.errors import ChurnError
from churn_assets.retention.addresses import LEFT, address, address_hash, addressed, pause_began
from churn_assets.retention.queue import queue_again
from churn_assets.retention.statuses import move
from churn_assets.retention.suppressions import SUPPRESSED
from churn_assets.warehouse.codes import is_closed
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.shelf import Shelf

_LOCK = "outbox.lock"
# When each email was last approved.
APPROVALS = """
    SELECT intervention_id, MAX(moved_at) AS approved_at FROM intervention_moves WHERE status_to = 'APPROVED'
    GROUP BY intervention_id
"""
# An email that the server deferred goes to the end, so that one that is always deferred does not hold up the others.
IN_TURN = " ORDER BY approvals.approved_at, log.intervention_id"


def was_written_to() -> str:
    """What keeps an email from leaving while the pause after another to the same address lasts."""
    return f"got an email at this address within {rules().emails.pause_days} days"


def leaving() -> str:
    """A query of the approved emails, each with what keeps it from leaving, if anything. For the parameters see `leaving_at`."""
    return f"""
    SELECT
        log.intervention_id,
        log.customer_id,
        TRIM(customers.email) AS email,
        customers.full_name,
        log.generated_email,
        approvals.approved_at,
        CASE
            WHEN customers.email_consent = FALSE THEN 'refused emails'
            WHEN suppressed.customer_id IS NOT NULL THEN 'is suppressed'
            WHEN with_account.customer_id IS NULL THEN 'has no open account'
            WHEN of_customer.customer_id IS NOT NULL OR of_address.address_hash IS NOT NULL THEN '{was_written_to()}'
        END AS obstacle,
        {address("customers.email")} AS address
    FROM agent_intervention_log AS log
    LEFT JOIN ({APPROVALS}) AS approvals ON log.intervention_id = approvals.intervention_id
    LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM ({SUPPRESSED}) AS both_kinds) AS suppressed
        ON log.customer_id = suppressed.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM dim_accounts WHERE NOT {is_closed()}) AS with_account
        ON log.customer_id = with_account.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM ({addressed(LEFT)}) AS emails_of_customer) AS of_customer
        ON log.customer_id = of_customer.customer_id
    LEFT JOIN address_salt AS salt ON salt.salt IS NOT NULL
    LEFT JOIN (SELECT DISTINCT address_hash FROM ({addressed(LEFT)}) AS emails_of_address) AS of_address
        ON {address_hash("customers.email")} = of_address.address_hash
    WHERE log.status = 'APPROVED'
"""


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
    address: str | None  # in the form in which addresses are compared


def alone(shelf: Shelf) -> AbstractContextManager[None]:
    """Have the outbox's turn; `OutboxError` if another process has it."""
    taken = OutboxError("another process is sending or exporting now; try again when it has ended")
    return shelf.turn(_LOCK, taken)


def turn_to_send(shelf: Shelf) -> AbstractContextManager[None]:
    """Have the same turn, after waiting for a process that is sending or exporting."""
    return shelf.turn(_LOCK)


def leaving_at(now: datetime) -> list[datetime]:
    """The parameters of `leaving` for the current time (UTC)."""
    return [now, pause_began(now), pause_began(now)]


def all_leaving(tx: Transaction, by: str, now: datetime) -> tuple[list[Leaving], int]:
    """Every approved email that may leave, and how many others were cancelled."""
    approved = _one_to_each([Leaving(*row) for row in tx.rows(leaving() + IN_TURN, leaving_at(now))])
    cancel(tx, approved, by, now)
    free = [email for email in approved if not email.obstacle]
    return free, len(approved) - len(free)


def _one_to_each(approved: list[Leaving]) -> list[Leaving]:
    """The same emails, where a customer or an address that one of them goes to keeps the later ones from leaving."""
    reached: set[tuple[str, str | None]] = set()
    seen: list[Leaving] = []
    for email in approved:
        keys = {("customer", email.customer_id), *([("address", email.address)] if email.address else [])}
        if not email.obstacle and keys & reached:
            email = replace(email, obstacle=was_written_to())  # noqa: PLW2901
        if not email.obstacle:
            reached |= keys
        seen.append(email)
    return seen


def cancel(tx: Transaction, approved: list[Leaving], by: str, now: datetime) -> None:
    """Cancel the emails that have an obstacle, with a note that names it. `now` is UTC."""
    for obstacle in sorted({email.obstacle for email in approved if email.obstacle}):
        ids = [email.intervention_id for email in approved if email.obstacle == obstacle]
        move(tx, ids, "CANCELLED", now, by, f"the customer {obstacle}")
        queue_again(tx, ids, now)
