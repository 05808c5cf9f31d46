"""A warehouse that went back: looking for what shows it before anybody is written to, and going on.

Here belong the look at all that shows it and the confirmation. The record is in `warehouse.setbacks`.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from churn_assets.configuration import rules
from churn_assets.ingestion import backlog, kafka
from churn_assets.retention.journal import turn_to_write
from churn_assets.retention.marks import Marks, bring_back
from churn_assets.retention.outbox.leaving import alone
from churn_assets.retention.queue import queue_again
from churn_assets.retention.statuses import move
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.setbacks import confirm_setbacks, note_setback, refuse_if_held
from churn_assets.warehouse.shelf import RESTORED
from churn_assets.wiring import shelf_of


@dataclass(frozen=True)
class Confirmation:
    """What a confirmation did: emails that were found to have left, emails that were cancelled, and from when on (UTC) emails are
    written and leave again."""

    brought_back: int
    cancelled: int
    goes_on_at: datetime


def must_not_have_gone_back(settings: Settings, warehouse: Warehouse, now: datetime) -> None:
    """`SetbackError` if the warehouse is older than what the world has seen, so that somebody could be written to twice.

    Before emails are written or leave. `KafkaUnavailableError` if Kafka cannot be asked: nothing is sent until it is known.
    """
    _notice(settings, warehouse, now)
    refuse_if_held(warehouse, now)


def evidence(settings: Settings, warehouse: Warehouse) -> list[str]:
    """What shows that the warehouse went back, in words; `KafkaUnavailableError` if Kafka cannot be asked."""
    found: list[str] = []
    shelf = shelf_of(settings)
    if shelf.folder.has(RESTORED):
        found.append(json.loads(shelf.folder.read(RESTORED))["evidence"])
    if forgotten := Marks(shelf).unknown_to(warehouse):
        found.append(f"{len(forgotten):,} emails left that they do not know, the last at {forgotten[-1].moved_at} UTC")
    if _has_kafka(settings):
        found.append(backlog.went_back(warehouse, kafka.connect(settings), settings.topics, settings.kafka_group) or "")
    return [one for one in found if one]


def _notice(settings: Settings, warehouse: Warehouse, now: datetime) -> None:
    if found := evidence(settings, warehouse):
        note_setback(warehouse, "; ".join(found), now)
        shelf_of(settings).folder.delete([RESTORED])


def _has_kafka(settings: Settings) -> bool:
    """Whether there is a cluster to ask. The embedded broker forgets all when it stops."""
    return settings.kafka_bootstrap_servers is not None or kafka.is_running(settings.broker_file)


def confirm(
    settings: Settings, warehouse: Warehouse, *, all_are_marked: bool, by: str, now: datetime
) -> Confirmation | None:
    """Bring back which emails left, as far as it is marked, and let emails be written and leave again; None if nothing is held.

    With `all_are_marked` everybody who was written to is in the marks, which did not go back together with the tables.
    Otherwise others may have been written to as well: what has not left is cancelled, and nobody is written to until the
    pause after an email is over. Messages that Kafka still has are read again by the next ingestion. `now` is UTC.
    """
    shelf = shelf_of(settings)
    with turn_to_write(shelf), alone(shelf):
        _notice(settings, warehouse, now)
        marks = Marks(shelf).unknown_to(warehouse)
        goes_on_at = now if all_are_marked else now + timedelta(days=rules().emails.pause_days)

        def go_on(tx: Transaction) -> tuple[int, int]:
            bring_back(tx, marks, by, now)
            cancelled = 0 if all_are_marked else _cancel_what_may_have_left(tx, by, now)
            return confirm_setbacks(tx, goes_on_at, by, now), cancelled

        confirmed, cancelled = warehouse.transact(go_on)
        if not confirmed:
            return None
        if _has_kafka(settings):
            backlog.rewind_group(warehouse, kafka.connect(settings), settings.topics, settings.kafka_group)
    return Confirmation(len({mark.intervention_id for mark in marks}), cancelled, goes_on_at)


def _cancel_what_may_have_left(tx: Transaction, by: str, now: datetime) -> int:
    ids = [
        id_
        for (id_,) in tx.rows(
            "SELECT intervention_id FROM agent_intervention_log WHERE status IN ('CLAIMED', 'READY', 'APPROVED')"
        )
    ]
    queue_again(tx, ids, now)
    move(tx, ids, "CANCELLED", now, by, "may have left before the tables went back")
    return len(ids)
