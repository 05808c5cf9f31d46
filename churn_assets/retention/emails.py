"""One email to each waiting customer, once: claim, write, log.

A run claims customers in one transaction, which takes them from the queue and gives each a line in the intervention log.
Only then are texts written, and stored in a second transaction. A run that dies between the two leaves claims, which the
next run of that day completes; the 7-day rule counts claims, so nobody is written to twice.
"""

import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from churn_assets.retention.queue import drop_from_queue, fill_queue
from churn_assets.retention.writer import EmailRequest, Writer
from churn_assets.settings import EMAIL_PAUSE_DAYS, EMAILS_PER_RUN
from churn_assets.warehouse.protocol import Transaction, Warehouse

# Waiting, still HIGH, and no email within the pause. The parameter is the time that the pause reaches back to (UTC).
_ELIGIBLE = """
    FROM retention_queue AS queue
    INNER JOIN dyn_churn_predictions AS predictions
        ON queue.customer_id = predictions.customer_id AND predictions.risk_class = 'HIGH'
    WHERE queue.left_at IS NULL
        AND queue.customer_id NOT IN (SELECT customer_id FROM agent_intervention_log WHERE created_at > ?)
"""


@dataclass(frozen=True)
class EmailRun:
    """What one run of one day did: customers newly claimed, dropped from the queue, and texts written."""

    claimed: int
    dropped: int
    written: int


def eligible_count(warehouse: Warehouse, now: datetime) -> int:
    """How many waiting customers could get an email at `now` (UTC)."""
    return warehouse.query(f"SELECT count(*) AS eligible {_ELIGIBLE}", [_pause_start(now)])["eligible"][0].as_py()


def unfinished_days(warehouse: Warehouse) -> list[date]:
    """Days with claims whose text is still owed, oldest first."""
    rows = warehouse.query(
        "SELECT DISTINCT partition_day FROM agent_intervention_log WHERE status = 'CLAIMED' ORDER BY partition_day"
    )
    return rows["partition_day"].to_pylist()


def write_emails(warehouse: Warehouse, writer: Writer, day: date, now: datetime) -> EmailRun:
    """Complete the claims of `day` and, if it is the day of `now` (UTC), claim and write up to 50 more.

    A past day gets no new customers, so running it again changes nothing.
    """
    claimed, dropped = (0, 0)
    if day == now.date():
        claimed, dropped = warehouse.transact(lambda tx: _claim(tx, day, now))
    owed = warehouse.query(
        "SELECT log.intervention_id, log.reason_codes, customers.full_name, customers.segment"
        " FROM agent_intervention_log AS log INNER JOIN dim_customers AS customers USING (customer_id)"
        " WHERE log.status = 'CLAIMED' AND log.partition_day = ? ORDER BY log.churn_score DESC, log.customer_id",
        [day],
    ).to_pylist()
    texts = {
        claim["intervention_id"]: writer.write(
            EmailRequest(claim["full_name"], claim["segment"], claim["reason_codes"])
        )
        for claim in owed
    }
    written = warehouse.transact(lambda tx: _store_texts(tx, texts, writer.name)) if texts else 0
    return EmailRun(claimed, dropped, written)


def customers_written_to_twice(warehouse: Warehouse) -> list[str]:
    """Customers with two interventions less than the pause apart; there must be none."""
    rows = warehouse.query(
        "SELECT DISTINCT customer_id FROM (SELECT customer_id, created_at - lag(created_at) OVER"
        f" (PARTITION BY customer_id ORDER BY created_at) < INTERVAL '{EMAIL_PAUSE_DAYS}' DAY AS too_soon"
        " FROM agent_intervention_log) AS pairs WHERE too_soon ORDER BY customer_id"
    )
    return rows["customer_id"].to_pylist()


def intervention_id(customer_id: str, day: date) -> str:
    """The id of the one intervention that a customer can have on a day."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"churn_assets/intervention/{customer_id}/{day}"))


def _pause_start(now: datetime) -> datetime:
    return now - timedelta(days=EMAIL_PAUSE_DAYS)


def _claim(tx: Transaction, day: date, now: datetime) -> tuple[int, int]:
    fill_queue(tx, now)  # who is dropped below must come into HIGH anew, so the stream has to have seen them leave
    dropped = drop_from_queue(tx, now)
    taken = tx.rows(
        f"SELECT queue.customer_id, predictions.churn_score, predictions.reason_codes {_ELIGIBLE}"
        f" ORDER BY predictions.churn_score DESC, queue.queued_at, queue.customer_id LIMIT {EMAILS_PER_RUN}",
        [_pause_start(now)],
    )
    if taken:
        # Updating the queue's rows makes two runs that take the same customer conflict; one of them starts over.
        tx.execute(
            "UPDATE retention_queue SET left_at = ?, left_reason = 'email' WHERE left_at IS NULL"
            f" AND customer_id IN ({', '.join('?' * len(taken))})",
            [now, *(customer_id for customer_id, _, _ in taken)],
        )
        lines = [
            (intervention_id(customer_id, day), customer_id, score, now, reasons, day)
            for customer_id, score, reasons in taken
        ]
        tx.execute(
            "INSERT INTO agent_intervention_log"
            " (intervention_id, customer_id, churn_score, created_at, status, reason_codes, partition_day) VALUES "
            + ", ".join(["(?, ?, ?, ?, 'CLAIMED', ?, ?)"] * len(lines)),
            [value for line in lines for value in line],
        )
    return len(taken), dropped


def _store_texts(tx: Transaction, texts: dict[str, str], writer: str) -> int:
    return tx.execute(
        "UPDATE agent_intervention_log SET generated_email = texts.text, writer = texts.writer, status = 'READY'"
        f" FROM (VALUES {', '.join(['(?, ?, ?)'] * len(texts))}) AS texts (intervention_id, text, writer)"
        " WHERE agent_intervention_log.intervention_id = texts.intervention_id AND status = 'CLAIMED'",
        [value for claim, text in texts.items() for value in (claim, text, writer)],
    )
