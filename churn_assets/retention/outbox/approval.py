"""What people decide about written emails: list, show, approve, reject, and settle a doubt.

Only this module approves and rejects. `exporting` and `sending` let approved emails leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from churn_assets.retention.statuses import Status, StatusError, move
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import one_row

AUTO = "auto"  # approves where CHURN_APPROVAL=auto
UNSETTLED: tuple[Status, ...] = ("READY", "APPROVED", "SENDING", "UNCERTAIN")


@dataclass(frozen=True)
class Entry:
    """An email as a list shows it, with its last move. The address is masked; times are UTC."""

    intervention_id: str
    customer_id: str
    full_name: str | None
    email: str
    status: Status
    created_at: datetime
    moved_at: datetime | None
    moved_by: str | None
    note: str | None


@dataclass(frozen=True)
class Move:
    """One move of an email; `status_from` is None for the first. The time is UTC."""

    status_from: Status | None
    status_to: Status
    moved_at: datetime
    moved_by: str
    note: str | None


def masked(email: str | None) -> str:
    """The address with only its first letter and domain, as a***@bank.example; empty if there is no address."""
    if not email:
        return ""
    name, at, domain = email.rpartition("@")
    return f"{name[:1]}***{at}{domain}" if at else "***"


def waiting(warehouse: Warehouse, statuses: Sequence[Status] = UNSETTLED) -> list[Entry]:
    """The emails in these statuses, oldest first; by default all that are not settled yet."""
    return _entries(warehouse, f"log.status IN ({one_row(statuses)})", list(statuses))


def shown(warehouse: Warehouse, intervention_id: str) -> tuple[Entry, str | None, list[Move]]:
    """One intervention, its full text (None if it has none) and its moves in order. `StatusError` if unknown."""
    entries = _entries(warehouse, "log.intervention_id = ?", [intervention_id])
    if not entries:
        raise StatusError(f"there is no intervention {intervention_id}; `churn outbox list` shows what there is")
    text = warehouse.query(
        "SELECT generated_email FROM agent_intervention_log WHERE intervention_id = ?", [intervention_id]
    )["generated_email"][0]
    moves = warehouse.query(
        "SELECT status_from, status_to, moved_at, moved_by, note FROM intervention_moves WHERE intervention_id = ?"
        " ORDER BY moved_at",
        [intervention_id],
    )
    return entries[0], text.as_py(), [Move(**row) for row in moves.to_pylist()]


def approve(warehouse: Warehouse, ids: Sequence[str], by: str, now: datetime) -> None:
    """Approve READY emails: all of them, or none and `StatusError`. `now` is UTC."""
    warehouse.transact(lambda tx: _move_from("READY", tx, ids, "APPROVED", now, by))


def approve_all(warehouse: Warehouse, by: str, now: datetime) -> int:
    """Approve every READY email; returns how many. `now` is UTC."""

    def work(tx: Transaction) -> int:
        ids = [id_ for (id_,) in tx.rows("SELECT intervention_id FROM agent_intervention_log WHERE status = 'READY'")]
        move(tx, ids, "APPROVED", now, by)
        return len(ids)

    return warehouse.transact(work)


def approve_if_automatic(warehouse: Warehouse, settings: Settings, now: datetime) -> int:
    """Approve every READY email if CHURN_APPROVAL is `auto`; returns how many. `now` is UTC."""
    return approve_all(warehouse, AUTO, now) if settings.approval == "auto" else 0


def reject(warehouse: Warehouse, ids: Sequence[str], by: str, now: datetime, note: str | None = None) -> None:
    """Reject READY emails, which never leave: all of them, or none and `StatusError`. `now` is UTC; `note` says why."""
    warehouse.transact(lambda tx: _move_from("READY", tx, ids, "REJECTED", now, by, note))


def resolve(warehouse: Warehouse, intervention_id: str, was_sent: bool, by: str, now: datetime) -> None:
    """Settle an UNCERTAIN email: it was sent, or it waits to leave again. `StatusError` for any other email."""
    to, note = ("SENT", "found to be sent") if was_sent else ("APPROVED", "found not to be sent")
    warehouse.transact(lambda tx: _move_from("UNCERTAIN", tx, [intervention_id], to, now, by, note))


def _entries(warehouse: Warehouse, condition: str, parameters: list[str]) -> list[Entry]:
    rows = warehouse.query(
        "SELECT log.intervention_id, log.customer_id, customers.full_name, customers.email, log.status, log.created_at,"
        " moves.moved_at, moves.moved_by, moves.note FROM agent_intervention_log AS log"
        " LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id"
        " LEFT JOIN (SELECT intervention_id, status_to, moved_at, moved_by, note, ROW_NUMBER() OVER"
        " (PARTITION BY intervention_id, status_to ORDER BY moved_at DESC NULLS LAST) AS age FROM intervention_moves) AS moves"
        " ON log.intervention_id = moves.intervention_id AND log.status = moves.status_to AND moves.age = 1"
        f" WHERE {condition} ORDER BY log.created_at, log.intervention_id",
        parameters,
    )
    entries = (Entry(**row) for row in rows.to_pylist())
    return [replace(entry, email=masked(entry.email)) for entry in entries]


def _move_from(
    status: Status, tx: Transaction, ids: Sequence[str], to: Status, now: datetime, by: str, note: str | None = None
) -> None:
    """Move from this one status only, so that a person who approves cannot interfere with a sender at work."""
    unique = list(dict.fromkeys(ids))
    for id_, found in tx.rows(
        f"SELECT intervention_id, status FROM agent_intervention_log WHERE intervention_id IN ({one_row(unique)})",
        unique,
    ):
        if found != status:
            raise StatusError(f"intervention {id_} is {found}, and only one that is {status} can become {to} this way")
    move(tx, unique, to, now, by, note)
