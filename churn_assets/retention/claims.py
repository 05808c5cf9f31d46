"""Who may be written to, and the claims that take a customer from the queue.

Here belong the rules that decide who gets an intervention: the queue's order, the 7-day rule, the control group, the limits of
a day, and which claims are cancelled. `emails` completes the claims.
"""

import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from churn_assets.configuration import rules
from churn_assets.retention.addresses import (
    LEFT,
    UNDER_WAY,
    address,
    address_hash,
    addressed,
    note_addresses,
    pause_began,
)
from churn_assets.retention.control import is_in_control_group
from churn_assets.retention.queue import drop_from_queue, fill_queue, queue_again
from churn_assets.retention.statuses import Status, begin, move
from churn_assets.retention.suppressions import SUPPRESSED
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import as_table, flat, one_row, places

# Waiting, still at risk, not suppressed, no intervention within the pause or on this day, and no email within the pause to the
# customer or to the address. For the parameters see `_eligible_at`.
_ELIGIBLE = f"""
    FROM retention_queue AS queue
    INNER JOIN dyn_churn_predictions AS predictions
        ON queue.customer_id = predictions.customer_id
        AND (predictions.risk_class = 'HIGH' OR queue.source = 'alert')
    LEFT JOIN dim_customers AS customers ON queue.customer_id = customers.customer_id
    WHERE queue.left_at IS NULL
        AND queue.customer_id NOT IN ({SUPPRESSED})
        AND queue.customer_id NOT IN (
            SELECT customer_id FROM agent_intervention_log
            WHERE (created_at > ? AND status <> 'CANCELLED') OR partition_day = ?
        )
        AND queue.customer_id NOT IN (SELECT customer_id FROM ({addressed(LEFT)}) AS of_customer)
        AND queue.customer_id NOT IN (
            SELECT sharing.customer_id
            FROM dim_customers AS sharing
            CROSS JOIN address_salt AS salt
            INNER JOIN ({addressed(UNDER_WAY)}) AS of_address
                ON {address_hash("sharing.email")} = of_address.address_hash
            WHERE sharing.customer_id IN (SELECT customer_id FROM retention_queue WHERE left_at IS NULL)
        )
"""


@dataclass(frozen=True)
class Claims:
    """How many customers were claimed, how many of them are in the control group, and how many others left the queue."""

    claimed: int = 0
    control: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Claim:
    """A claimed customer to whom a text is owed. `failed_attempts` counts the runs whose writer gave none."""

    intervention_id: str
    customer_id: str
    full_name: str
    segment: str
    reasons: str
    failed_attempts: int


def is_anybody_waiting(warehouse: Warehouse) -> bool:
    """Whether a customer waits in the queue, or a text is owed.

    The query is always the same, so that Snowflake answers it without a running warehouse as long as nothing was written.
    """
    return bool(
        warehouse.query(
            "SELECT customer_id FROM retention_queue WHERE left_at IS NULL"
            " UNION ALL SELECT customer_id FROM agent_intervention_log WHERE status = 'CLAIMED' LIMIT 1"
        ).num_rows
    )


def eligible_count(warehouse: Warehouse, now: datetime) -> int:
    """How many waiting customers could get an email at `now` (UTC) if a day had no limits and nobody shared an address."""
    return warehouse.query(f"SELECT count(*) AS eligible {_ELIGIBLE}", _eligible_at(now))["eligible"][0].as_py()


def has_room(warehouse: Warehouse, day: date, emails_per_day: int) -> bool:
    """Whether another customer may be claimed for `day`."""
    (counts,) = warehouse.query(_TAKEN, [day]).to_pylist()
    return _room(counts["taken"], counts["owed"], emails_per_day) > 0


def claim(tx: Transaction, day: date, now: datetime, emails_per_day: int, control_share: float) -> Claims:
    """Take the customers who may be written to from the queue, highest score first, and log an intervention for each.

    Customers in the control group are taken like all others, and logged as CONTROL. Of customers who share an address, one is
    taken at a time.
    """
    dropped = drop_from_queue(tx, now)
    fill_queue(tx, now)  # after the drop: a HIGH customer whose alert was too old waits again at once
    taken_today, owed = tx.rows(_TAKEN, [day])[0]
    taken = tx.rows(
        "SELECT queue.customer_id, queue.source, predictions.reason_codes,"
        " CASE WHEN queue.source = 'alert' THEN queue.churn_score ELSE predictions.risk_score END AS score"
        f" {_ELIGIBLE} QUALIFY ROW_NUMBER() OVER (PARTITION BY {address('customers.email')},"
        f" CASE WHEN {address('customers.email')} IS NULL THEN queue.customer_id END"
        " ORDER BY score DESC NULLS LAST, queue.queued_at, queue.customer_id) = 1"
        " ORDER BY score DESC NULLS LAST, queue.queued_at, queue.customer_id"
        f" LIMIT {_room(taken_today, owed, emails_per_day)}",
        _eligible_at(now),
    )
    if not taken:
        return Claims(dropped=dropped)
    customers = [row[0] for row in taken]
    first: dict[str, Status] = {
        intervention_id(customer, day): "CONTROL" if is_in_control_group(customer, control_share) else "CLAIMED"
        for customer in customers
    }
    # Two runs that take the same customer conflict, because both update its row in the queue; one of them starts over.
    tx.execute(
        "UPDATE retention_queue SET left_at = ?, left_reason = 'intervention' WHERE left_at IS NULL"
        f" AND customer_id IN ({one_row(customers)})",
        [now, *customers],
    )
    lines = [
        [id_, customer, score, now, status, source, reasons, day]
        for (id_, status), (customer, source, reasons, score) in zip(first.items(), taken, strict=True)
    ]
    tx.execute(
        "INSERT INTO agent_intervention_log"
        " (intervention_id, customer_id, churn_score, created_at, status, source, reason_codes, partition_day)"
        f" VALUES {places(lines)}",
        flat(lines),
    )
    begin(tx, first, now)
    note_addresses(tx, list(first), now)
    alerted = [[customer, id_] for customer, id_ in zip(customers, first, strict=True)]
    since = now - timedelta(hours=rules().emails.alert_hours)
    tx.execute(
        "UPDATE high_risk_history SET intervention_id = taken.intervention_id"
        f" FROM {as_table(alerted, {'customer_id': 'VARCHAR', 'intervention_id': 'VARCHAR'})} AS taken"
        " WHERE high_risk_history.customer_id = taken.customer_id AND high_risk_history.intervention_id IS NULL"
        " AND high_risk_history.alerted_at > ?",
        [*flat(alerted), since],
    )
    return Claims(len(taken), list(first.values()).count("CONTROL"), dropped)


def give_up_claims(tx: Transaction, now: datetime) -> int:
    """Cancel the claims of customers who left, are no longer at risk or may not be written to now; returns how many.

    All of them join the queue again. The queue's own rules then drop those who left or are no longer at risk, so that a
    customer who comes back into HIGH is not forgotten.
    """
    gone: dict[str, str] = dict(
        tx.rows(
            "SELECT log.intervention_id, CASE WHEN predictions.customer_id IS NULL THEN 'left the bank'"
            " WHEN suppressed.customer_id IS NOT NULL THEN 'suppressed' ELSE 'no longer HIGH' END AS reason"
            " FROM agent_intervention_log AS log LEFT JOIN dyn_churn_predictions AS predictions"
            " ON log.customer_id = predictions.customer_id"
            f" LEFT JOIN (SELECT DISTINCT customer_id FROM ({SUPPRESSED}) AS both_kinds) AS suppressed"
            " ON log.customer_id = suppressed.customer_id"
            " WHERE log.status = 'CLAIMED' AND (predictions.customer_id IS NULL OR suppressed.customer_id IS NOT NULL"
            " OR (log.source = 'prediction' AND predictions.risk_class <> 'HIGH'))",
            [now],
        )
    )
    queue_again(tx, list(gone), now)
    for reason in sorted(set(gone.values())):
        move(tx, [id_ for id_, why in gone.items() if why == reason], "CANCELLED", now, "run", reason)
    return len(gone)


def due_claims(warehouse: Warehouse, day: date, now: datetime) -> list[Claim]:
    """The claims of `day` whose text may be asked for at `now` (UTC), highest score first."""
    rows = warehouse.query(
        "SELECT log.intervention_id, log.customer_id, coalesce(log.reason_codes, '') AS reasons,"
        " coalesce(customers.full_name, '') AS full_name, coalesce(customers.segment, '') AS segment,"
        " coalesce(log.failed_attempts, 0) AS failed_attempts FROM agent_intervention_log AS log"
        f" LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id WHERE {_DUE}"
        " AND log.partition_day = ? ORDER BY log.churn_score DESC NULLS LAST, log.customer_id",
        [now, day],
    )
    return [Claim(**row) for row in rows.to_pylist()]


def oldest_due_day(warehouse: Warehouse, now: datetime) -> date | None:
    """The oldest day with a claim whose text may be asked for at `now` (UTC)."""
    return warehouse.query(f"SELECT min(partition_day) AS day FROM agent_intervention_log AS log WHERE {_DUE}", [now])[
        "day"
    ][0].as_py()


def latest_text(warehouse: Warehouse) -> tuple[datetime, date] | None:
    """When the latest text became ready (UTC), and the day that it counts for."""
    rows = warehouse.query(
        "SELECT moves.moved_at, log.partition_day FROM intervention_moves AS moves INNER JOIN agent_intervention_log AS log"
        " ON moves.intervention_id = log.intervention_id WHERE moves.status_to = 'READY'"
        " ORDER BY moves.moved_at DESC NULLS LAST LIMIT 1"
    ).to_pylist()
    return (rows[0]["moved_at"], rows[0]["partition_day"]) if rows else None


def customers_written_to_twice(warehouse: Warehouse) -> list[str]:
    """Customers with two interventions less than the pause apart; there must be none."""
    rows = warehouse.query(
        "SELECT DISTINCT customer_id FROM (SELECT customer_id, created_at,"
        " lag(created_at) OVER (PARTITION BY customer_id ORDER BY created_at) AS one_before"
        " FROM agent_intervention_log WHERE status <> 'CANCELLED') AS pairs"
        f" WHERE created_at < one_before + INTERVAL '{rules().emails.pause_days} days' ORDER BY customer_id"
    )
    return rows["customer_id"].to_pylist()


def intervention_id(customer_id: str, day: date) -> str:
    """The id of the one intervention that a customer can have on a day."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"churn_assets/intervention/{customer_id}/{day}"))


_TAKEN = (
    "SELECT count(*) AS taken, count(CASE WHEN status = 'CLAIMED' THEN 1 END) AS owed FROM agent_intervention_log"
    " WHERE partition_day = ? AND status NOT IN ('CONTROL', 'CANCELLED')"
)
_DUE = "log.status = 'CLAIMED' AND (log.retry_after IS NULL OR log.retry_after <= ?)"


def _room(taken: int, owed: int, emails_per_day: int) -> int:
    """How many more customers may be claimed on a day: no run owes more than 50 texts."""
    return max(0, min(rules().emails.per_run - owed, emails_per_day - taken))


def _eligible_at(now: datetime) -> list[Any]:
    since = pause_began(now)
    return [now, since, now.date(), since, since]
