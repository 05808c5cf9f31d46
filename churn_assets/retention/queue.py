"""Who waits for a retention email: customers who have come into the class HIGH, or whose live metrics came to CRITICAL.

Here belong the ways from the streams into the queue and out of it without an email. Claiming and writing is `emails`.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from churn_assets.settings import ALERT_HOURS
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.values import flat, one_row, places

STREAM = "stream_high_risk_customers"
ALERT_STREAM = "churn_metrics_stream"

# Rows of a stream that are in a state now and were not before; a row that changed within the state is none.
_CAME_INTO = (
    "after.change_action = 'INSERT' AND after.{state} AND NOT EXISTS (SELECT 1 FROM {changes} AS before"
    " WHERE before.customer_id = after.customer_id AND before.change_action = 'DELETE' AND before.{state})"
)
_WAITS = "SELECT customer_id FROM retention_queue WHERE left_at IS NULL"


def fill_queue(tx: Transaction, now: datetime) -> int:
    """Move each transition into HIGH since the last call from the stream to the queue; how many customers joined.

    The stream's position and the queue's rows change in the one transaction `tx`. Who waits already does not wait twice.
    """
    tx.consume_stream(STREAM, "changed_predictions")
    came = _CAME_INTO.format(changes="changed_predictions", state="risk_class = 'HIGH'")
    return tx.execute(
        "INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)"
        " SELECT after.customer_id, 'prediction', after.risk_score, after.reason_codes, ?"
        f" FROM changed_predictions AS after WHERE {came} AND after.customer_id NOT IN ({_WAITS})",
        [now],
    )


def raise_alerts(tx: Transaction, now: datetime) -> int:
    """Log each transition of live metrics to CRITICAL since the last call and queue its customer; how many there were.

    Only customers on the books can be written to, so others are logged with no score of the model and not queued.
    """
    tx.consume_stream(ALERT_STREAM, "changed_metrics")
    came = _CAME_INTO.format(changes="changed_metrics", state="risk_status = 'CRITICAL'")
    alerts = tx.rows(
        "SELECT after.customer_id, after.avg_churn_score, after.max_churn_score, after.declines, after.spend,"
        " predictions.model_score, predictions.customer_id, predictions.reason_codes FROM changed_metrics AS after"
        f" LEFT JOIN dyn_churn_predictions AS predictions ON after.customer_id = predictions.customer_id WHERE {came}"
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
    """Let the customers of interventions wait again: they may not be written to now, but are at risk still."""
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
    """Take out who left the bank or is no longer at risk; how many. The reason stays with the row.

    The live metrics look back ten minutes only, so an alert stands until it is a day old.
    """
    reasons: dict[str, tuple[str, list[datetime]]] = {
        "left the bank": ("customer_id NOT IN (SELECT customer_id FROM dyn_churn_predictions)", []),
        "no longer HIGH": (
            "source = 'prediction' AND customer_id NOT IN"
            " (SELECT customer_id FROM dyn_churn_predictions WHERE risk_class = 'HIGH')",
            [],
        ),
        "the alert is too old": ("source = 'alert' AND queued_at < ?", [now - timedelta(hours=ALERT_HOURS)]),
    }
    return sum(
        tx.execute(
            f"UPDATE retention_queue SET left_at = ?, left_reason = ? WHERE left_at IS NULL AND {condition}",
            [now, reason, *parameters],
        )
        for reason, (condition, parameters) in reasons.items()
    )
