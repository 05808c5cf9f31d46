"""Send approved emails over SMTP, each at most once. `smtp` has the protocol.

`send` moves an email to SENDING, marks it (`retention.marks`), hands it over and moves it to SENT. A process that dies in between
leaves it SENDING; the next `send` makes that UNCERTAIN, which only a person can settle (`approval.resolve`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from churn_assets.retention.addresses import note_addresses
from churn_assets.retention.marks import Marks
from churn_assets.retention.outbox.approval import masked
from churn_assets.retention.outbox.leaving import APPROVALS, IN_TURN, Leaving, alone, cancel, leaving, leaving_at
from churn_assets.retention.outbox.quiet_hours import QuietHours
from churn_assets.retention.outbox.smtp import Line, Outcome, Smtp, is_address, message
from churn_assets.retention.statuses import Status, move
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.setbacks import refuse_if_held
from churn_assets.warehouse.shelf import Shelf


@dataclass(frozen=True)
class Sending:
    """How many emails a `send` moved to each status, and how many are still approved (`waiting`).

    `uncertain` includes the emails that an earlier sender left. `stopped` says why sending stopped early. `quiet_until` (UTC) is
    when it may go on.
    """

    sent: int
    failed: int
    cancelled: int
    uncertain: int
    waiting: int
    stopped: str | None = None
    quiet_until: datetime | None = None


def send(
    warehouse: Warehouse, smtp: Smtp, shelf: Shelf, quiet: QuietHours | None, by: str, clock: Callable[[], datetime]
) -> Sending:
    """Send the approved emails over SMTP, one after the other, in the order of their approval. `clock` gives UTC.

    Emails to customers who may no longer be written to are cancelled. An email that the server refuses for good is FAILED. An
    email that the server defers stays approved, and sending stops. It also stops in the quiet hours and after an email becomes
    UNCERTAIN. The marks are on `shelf`. `OutboxError` if another process is sending or exporting.
    """
    refuse_if_held(warehouse, clock())
    marks = Marks(shelf)
    with alone(shelf), Line(smtp) as line:
        moved: Counter[Status] = Counter()
        moved["UNCERTAIN"] = _doubt_who_was_left(warehouse, by, clock())
        stopped: str | None = None
        quiet_until: datetime | None = None
        for intervention_id in _approved(warehouse):
            if quiet and (quiet_until := quiet.until(clock())):
                break
            if stopped := line.open():
                break
            email = _claim(warehouse, intervention_id, by, clock())
            if email is None:
                continue
            if email.obstacle:
                moved["CANCELLED"] += 1
                continue
            marks.append(warehouse, [email.intervention_id])
            outcome = _hand_over(line, smtp, email, clock())
            _conclude(warehouse, email, outcome, by, clock())
            moved[outcome.status] += 1
            if outcome.is_last:
                stopped = outcome.note
                break
        return Sending(
            sent=moved["SENT"],
            failed=moved["FAILED"],
            cancelled=moved["CANCELLED"],
            uncertain=moved["UNCERTAIN"],
            waiting=len(_approved(warehouse)),
            stopped=stopped,
            quiet_until=quiet_until,
        )


def _approved(warehouse: Warehouse) -> list[str]:
    rows = warehouse.query(
        "SELECT log.intervention_id FROM agent_intervention_log AS log"
        f" LEFT JOIN ({APPROVALS}) AS approvals ON log.intervention_id = approvals.intervention_id"
        f" WHERE log.status = 'APPROVED' {IN_TURN}"
    )
    return rows["intervention_id"].to_pylist()


def _claim(warehouse: Warehouse, intervention_id: str, by: str, now: datetime) -> Leaving | None:
    """Move an approved email to SENDING, or to CANCELLED where it has an obstacle; None if it is no longer approved."""

    def work(tx: Transaction) -> Leaving | None:
        sql, parameters = f"{leaving()} AND log.intervention_id = ?", [*leaving_at(now), intervention_id]
        found = [Leaving(*row) for row in tx.rows(sql, parameters)]
        cancel(tx, found, by, now)
        ids = [email.intervention_id for email in found if not email.obstacle]
        move(tx, ids, "SENDING", now, by)
        note_addresses(tx, ids, now)
        return found[0] if found else None

    return warehouse.transact(work)


def _hand_over(line: Line, smtp: Smtp, email: Leaving, now: datetime) -> Outcome:
    if email.email is None or not is_address(email.email):
        return Outcome("FAILED", f"no address that can be written to: {masked(email.email) or 'none'}")
    return line.deliver(email.email, message(smtp, email.intervention_id, email.email, email.text, now))


def _conclude(warehouse: Warehouse, email: Leaving, outcome: Outcome, by: str, now: datetime) -> None:
    warehouse.transact(lambda tx: move(tx, [email.intervention_id], outcome.status, now, by, outcome.note))


def _doubt_who_was_left(warehouse: Warehouse, by: str, now: datetime) -> int:
    """Move the emails that are SENDING while nobody sends to UNCERTAIN; returns how many."""

    def work(tx: Transaction) -> int:
        ids = [id_ for (id_,) in tx.rows("SELECT intervention_id FROM agent_intervention_log WHERE status = 'SENDING'")]
        move(tx, ids, "UNCERTAIN", now, by, "the sender died; ask the mail server whether it was sent")
        return len(ids)

    return warehouse.transact(work)
