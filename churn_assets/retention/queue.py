"""The queue for a retention email: customers who moved into the class HIGH, or whose live metrics moved to CRITICAL.

Here belongs how the streams fill the queue, and how customers leave it without an email. `claims` takes them for an email.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from churn_assets.configuration import rules
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.values import flat, one_row, places

STREAM = "stream_high_risk_customers"
ALERT_STREAM = "churn_metrics_stream"

# Rows of a stream that moved into a state. A row that changed within the state does not count.
_CAME_INTO = (
    "came.change_action = 'INSERT' AND came.{state} AND NOT EXISTS (SELECT 1 FROM {changes} AS was"
    " WHERE was.customer_id = came.customer_id AND was.change_action = 'DELETE' AND was.{state})"
)
_WAITS = "SELECT customer_id FROM retention_queue WHERE left_at IS NULL"
# Customers who left the queue for an intervention and have not joined it since.
_HAD_A_TURN = (
    "SELECT customer_id FROM retention_queue GROUP BY customer_id"
    " HAVING max(CASE WHEN left_reason = 'intervention' THEN left_at END) = max(left_at)"
)


def fill_queue(tx: Transaction, now: datetime) -> int:
    """Queue each transition into HIGH since the last call, and each HIGH customer who had no turn; returns how many joined.

    The second rule is for customers whose transition was seen long ago: they waited because of an alert that has since expired,
    or were dropped or given up while they were not HIGH. So every HIGH customer waits, or left the queue for an intervention.
    The stream's position and the queue's rows change in the one transaction `tx`. Nobody waits twice.
    """
    changes = tx.consume_stream(STREAM)
    came_into = _CAME_INTO.format(changes=changes, state="risk_class = 'HIGH'")
    high: list[tuple[str, str]] = [
        (f"{changes} AS came", came_into),
        ("dyn_churn_predictions AS came", f"came.risk_class = 'HIGH' AND came.customer_id NOT IN ({_HAD_A_TURN})"),
    ]
    return sum(
        tx.execute(
            "INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)"
            " SELECT came.customer_id, 'prediction', came.risk_score, came.reason_codes, CAST(? AS TIMESTAMP)"
            f" FROM {source} WHERE {condition} AND came.customer_id NOT IN ({_WAITS})",
            [now],
        )
        for source, condition in high
    )


def raise_alerts(tx: Transaction, now: datetime) -> int:
    """Log each transition of live metrics to CRITICAL since the last call and queue its customer; returns the number of alerts.

    Only customers on the books can be written to. Others are logged without a model score, and not queued.
    """
    changes = tx.consume_stream(ALERT_STREAM)
    came_into = _CAME_INTO.format(changes=changes, state="risk_status = 'CRITICAL'")
    alerts = tx.rows(
        "SELECT came.customer_id, came.avg_churn_score, came.max_churn_score, came.declines, came.spend,"
        " predictions.model_score, predictions.customer_id AS on_the_books, predictions.reason_codes"
        f" FROM {changes} AS came LEFT JOIN dyn_churn_predictions AS predictions"
        f" ON came.customer_id = predictions.customer_id WHERE {came_into}"
    )
    if not alerts:
        return 0
    lines = [
        [alert_id(customer_id, now), customer_id, now, average, largest, declines, spend, score]
        for customer_id, average, largest, declines, spend, score, *_ in alerts
    ]
    tx.execute(
        "INSERT INTO high_risk_history (alert_id, customer_id, alerted_at, avg_churn_score, max_churn_score, declines, spend,"
        f" model_score) VALUES {places(lines)}",
        flat(lines),
    )
    waiting = {customer_id for (customer_id,) in tx.rows(_WAITS)}
    queued: list[list[Any]] = [
        [customer_id, "alert", average, reasons, now]
        for customer_id, average, *_, on_the_books, reasons in alerts
        if on_the_books and customer_id not in waiting
    ]
    if queued:
        tx.execute(
            "INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)"
            f" VALUES {places(queued)}",
            flat(queued),
        )
    return len(alerts)


def queue_again(tx: Transaction, interventions: Sequence[str], now: datetime) -> None:
    """Let the customers of cancelled interventions wait again, until they are written to or `drop_from_queue` drops them."""
    if interventions:
        tx.execute(
            "INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)"
            " SELECT customer_id, source, churn_score, reason_codes, CAST(? AS TIMESTAMP) FROM agent_intervention_log"
            f" WHERE intervention_id IN ({one_row(interventions)}) AND customer_id NOT IN ({_WAITS})",
            [now, *interventions],
        )


def alert_id(customer_id: str, at: datetime) -> str:
    """The id of the alert of a customer at a time (UTC)."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"churn_assets/alert/{customer_id}/{at.isoformat()}"))


def drop_from_queue(tx: Transaction, now: datetime) -> int:
    """Take out customers who left the bank or are no longer at risk; returns how many. The row keeps the reason.

    The live metrics look back ten minutes only, so an alert stands until it is a day old. The next `fill_queue` queues a
    customer who is HIGH at that time again, as a prediction.
    """
    reasons: dict[str, tuple[str, list[datetime]]] = {
        "left the bank": ("customer_id NOT IN (SELECT customer_id FROM dyn_churn_predictions)", []),
        "no longer HIGH": (
            "source = 'prediction' AND customer_id NOT IN"
            " (SELECT customer_id FROM dyn_churn_predictions WHERE risk_class = 'HIGH')",
            [],
        ),
        "the alert is too old": (
            "source = 'alert' AND queued_at < ?",
            [now - timedelta(hours=rules().emails.alert_hours)],
        ),
    }
    return sum(
        tx.execute(
            f"UPDATE retention_queue SET left_at = ?, left_reason = ? WHERE left_at IS NULL AND {condition}",
            [now, reason, *parameters],
        )
        for reason, (condition, parameters) in reasons.items()
    )
