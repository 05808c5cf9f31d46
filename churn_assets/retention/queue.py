"""Who waits for a retention email: customers who have come into the class HIGH.

Here belong the way from the stream into the queue and out of it without an email. Claiming and writing is `emails`.
"""

from datetime import datetime

from churn_assets.warehouse.protocol import Transaction

STREAM = "stream_high_risk_customers"


def fill_queue(tx: Transaction, now: datetime) -> int:
    """Move each transition into HIGH since the last call from the stream to the queue; how many customers joined.

    The stream's position and the queue's rows change in the one transaction `tx`. Who waits already does not wait twice.
    """
    tx.consume_stream(STREAM, "changed_predictions")
    return tx.execute(
        "INSERT INTO retention_queue (customer_id, churn_score, queued_at)"
        " SELECT after.customer_id, after.churn_score, ? FROM changed_predictions AS after"
        " WHERE after.change_action = 'INSERT' AND after.risk_class = 'HIGH'"
        " AND NOT EXISTS (SELECT 1 FROM changed_predictions AS before WHERE before.customer_id = after.customer_id"
        " AND before.change_action = 'DELETE' AND before.risk_class = 'HIGH')"
        " AND NOT EXISTS (SELECT 1 FROM retention_queue AS waiting WHERE waiting.customer_id = after.customer_id"
        " AND waiting.left_at IS NULL)",
        [now],
    )


def drop_from_queue(tx: Transaction, now: datetime) -> int:
    """Take out who is no longer HIGH or has left the bank; how many. The reason stays with the row."""
    return tx.execute(
        "UPDATE retention_queue SET left_at = ?, left_reason = 'no longer HIGH' WHERE left_at IS NULL"
        " AND customer_id NOT IN (SELECT customer_id FROM dyn_churn_predictions WHERE risk_class = 'HIGH')",
        [now],
    )
