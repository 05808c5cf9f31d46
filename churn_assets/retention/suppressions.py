"""Who may not be written to: customers on the list of suppressions, and those who refused emails.

Here belong the list and the query for who is on it. Consent is a field of the customer. `outbox` checks whether a customer
has left the bank, right before an email leaves.
"""

from datetime import date, datetime

from churn_assets.errors import ChurnError
from churn_assets.retention.queue import queue_again
from churn_assets.retention.statuses import move
from churn_assets.warehouse.protocol import Transaction, Warehouse

# The ids of all customers who may not be written to, never NULL, so that NOT IN (...) works. The parameter is the current time
# (UTC). Consent that was never asked for (NULL) is not a refusal.
SUPPRESSED = """
    SELECT customer_id FROM suppressions
    WHERE lifted_at IS NULL AND (suppressed_until IS NULL OR CAST(suppressed_until AS TIMESTAMP) > ?)
    UNION ALL
    SELECT customer_id FROM dim_customers WHERE email_consent = FALSE
"""


class SuppressionError(ChurnError):
    """A suppression that is not possible; the message says why."""


def suppress(
    warehouse: Warehouse, customer_id: str, until: date | None, now: datetime, note: str | None, by: str
) -> int:
    """Stop all emails to a customer until a day (exclusive, UTC), or for ever; returns how many emails this cancelled.

    Emails that wait to be approved or to leave are cancelled in the same transaction, and the customer joins the queue again: a
    customer who is still at risk when the suppression ends gets a new email. The longest suppression holds; a shorter one that
    follows does not shorten it. `SuppressionError` for an unknown customer or a day that is not in the future.
    """
    if until is not None and until <= now.date():
        raise SuppressionError(f"a suppression until {until} would be over already; choose a later day (UTC)")

    def work(tx: Transaction) -> int:
        _must_be_known(tx, customer_id)
        tx.execute(
            "INSERT INTO suppressions (customer_id, suppressed_at, suppressed_until, note) VALUES (?, ?, ?, ?)",
            [customer_id, now, until, note],
        )
        # A claim has no text yet; the run that writes it checks the list.
        waiting = tx.rows(
            "SELECT intervention_id FROM agent_intervention_log WHERE customer_id = ? AND status IN ('READY', 'APPROVED')",
            [customer_id],
        )
        queue_again(tx, [id_ for (id_,) in waiting], now)
        move(tx, [id_ for (id_,) in waiting], "CANCELLED", now, by, f"suppressed: {note}" if note else "suppressed")
        return len(waiting)

    return warehouse.transact(work)


def lift(warehouse: Warehouse, customer_id: str, now: datetime) -> bool:
    """Take a customer off the list at `now` (UTC); returns whether they were on it. A refusal of emails stays.

    Cancelled emails stay cancelled. `SuppressionError` for an unknown customer.
    """

    def work(tx: Transaction) -> bool:
        _must_be_known(tx, customer_id)
        [(count,)] = tx.rows(
            "SELECT count(*) FROM suppressions WHERE customer_id = ? AND lifted_at IS NULL"
            " AND (suppressed_until IS NULL OR CAST(suppressed_until AS TIMESTAMP) > ?)",
            [customer_id, now],
        )
        tx.execute(
            "UPDATE suppressions SET lifted_at = ? WHERE customer_id = ? AND lifted_at IS NULL", [now, customer_id]
        )
        return count > 0

    return warehouse.transact(work)


def _must_be_known(tx: Transaction, customer_id: str) -> None:
    if not tx.rows("SELECT customer_id FROM dim_customers WHERE customer_id = ?", [customer_id]):
        raise SuppressionError(f"there is no customer {customer_id}; the ids are in dim_customers")
