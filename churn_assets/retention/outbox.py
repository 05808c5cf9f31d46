"""How emails leave: approved, then exported to a file or sent, each at most once.

Here belong the decisions of people about emails and the two ways out. Nothing else may move an intervention to APPROVED,
EXPORTED, SENDING or SENT. Texts are written elsewhere; the mail server's protocol is `smtp`.

What must not happen is a second delivery that nobody notices, so whatever leaves is marked before it leaves:

- `send` marks an email as SENDING, hands it over and marks it as SENT. Whoever dies in between leaves it SENDING, and the next
  `send` makes that UNCERTAIN, which only a person can end (`resolve`).
- `export` writes a hidden draft, marks its emails as EXPORTED with a note that names the draft, and only then gives the file its
  name. Who dies before the mark has exported nothing; who dies after it has left a draft, and the next `export` finishes it. As
  renaming is atomic, a file that was taken away already is never made again.

One process at a time takes from the outbox; a lock in the folder of the emails sees to it on one machine.
"""

import csv
import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from pathlib import Path

from churn_assets.errors import ChurnError
from churn_assets.retention.queue import queue_again
from churn_assets.retention.quiet_hours import QuietHours
from churn_assets.retention.smtp import Line, Outcome, Smtp, is_address, message
from churn_assets.retention.statuses import Status, StatusError, move
from churn_assets.retention.suppressions import SUPPRESSED
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import one_row

AUTO = "auto"  # who approves where CHURN_APPROVAL says so
UNSETTLED: tuple[Status, ...] = ("READY", "APPROVED", "SENDING", "UNCERTAIN")
EXPORTED_COLUMNS = ("intervention_id", "customer_id", "email", "full_name", "text", "approved_at")

_UNFINISHED = "unfinished: "  # begins the note of an export whose file has no name yet; paths are absolute
_FORMULA = re.compile(r"[=+\-@\t\r\n]")  # what makes a spreadsheet run a cell

# When each was approved, for the last time.
_APPROVALS = """
    SELECT intervention_id, MAX(moved_at) AS approved_at FROM intervention_moves WHERE status_to = 'APPROVED'
    GROUP BY intervention_id
"""
# What is approved, each with why it may not leave. The parameter is the time now (UTC).
_LEAVING = f"""
    SELECT
        log.intervention_id,
        log.customer_id,
        customers.email,
        customers.full_name,
        log.generated_email,
        approvals.approved_at,
        CASE
            WHEN customers.email_consent = FALSE THEN 'refused emails'
            WHEN suppressed.customer_id IS NOT NULL THEN 'is suppressed'
            WHEN with_account.customer_id IS NULL THEN 'has no open account'
        END AS obstacle
    FROM agent_intervention_log AS log
    LEFT JOIN ({_APPROVALS}) AS approvals ON log.intervention_id = approvals.intervention_id
    LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM ({SUPPRESSED}) AS both_kinds) AS suppressed
        ON log.customer_id = suppressed.customer_id
    LEFT JOIN (SELECT DISTINCT customer_id FROM dim_accounts WHERE account_status <> 'CLOSED') AS with_account
        ON log.customer_id = with_account.customer_id
    WHERE log.status = 'APPROVED'
"""
# Who was put back waits behind the others, so that one that a server is always too busy for holds up nobody.
_IN_TURN = " ORDER BY approvals.approved_at, log.intervention_id"


class OutboxError(ChurnError):
    """Nothing can leave this way now; the message says why and what to do."""


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


@dataclass(frozen=True)
class Export:
    """How many emails went which way in an `export`; without any to export there is no file."""

    exported: int
    cancelled: int


@dataclass(frozen=True)
class Sending:
    """How many emails went which way in a `send`, and how many are still approved.

    `uncertain` counts those that an earlier sender left, too. `stopped` says why it did not go on, `quiet_until` (UTC) when it
    may.
    """

    sent: int
    failed: int
    cancelled: int
    uncertain: int
    waiting: int
    stopped: str | None = None
    quiet_until: datetime | None = None


@dataclass(frozen=True)
class _Leaving:
    intervention_id: str
    customer_id: str
    email: str | None
    full_name: str | None
    text: str
    approved_at: datetime
    obstacle: str | None


def masked(email: str | None) -> str:
    """An address of which only the first letter and the domain are told: a***@bank.example; nothing where there is none."""
    if not email:
        return ""
    name, at, domain = email.rpartition("@")
    return f"{name[:1]}***{at}{domain}" if at else "***"


def waiting(warehouse: Warehouse, statuses: Sequence[Status] = UNSETTLED) -> list[Entry]:
    """The emails in these statuses, oldest first; without any named, those that still wait for somebody."""
    return _entries(warehouse, f"log.status IN ({one_row(statuses)})", list(statuses))


def shown(warehouse: Warehouse, intervention_id: str) -> tuple[Entry, str | None, list[Move]]:
    """One intervention with its full text, None where it has none, and its moves in order. `StatusError` if unknown."""
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
    """Let READY emails leave: all of them, or none and `StatusError`. `now` is UTC."""
    warehouse.transact(lambda tx: _move_from("READY", tx, ids, "APPROVED", now, by))


def approve_all(warehouse: Warehouse, by: str, now: datetime) -> int:
    """Let every READY email leave; how many. `now` is UTC."""

    def work(tx: Transaction) -> int:
        ids = [id_ for (id_,) in tx.rows("SELECT intervention_id FROM agent_intervention_log WHERE status = 'READY'")]
        move(tx, ids, "APPROVED", now, by)
        return len(ids)

    return warehouse.transact(work)


def approve_if_automatic(warehouse: Warehouse, settings: Settings, now: datetime) -> int:
    """Approve every READY email where the settings leave that to nobody; how many. `now` is UTC."""
    return approve_all(warehouse, AUTO, now) if settings.approval == "auto" else 0


def reject(warehouse: Warehouse, ids: Sequence[str], by: str, now: datetime, note: str | None = None) -> None:
    """Never let READY emails leave: all of them, or none and `StatusError`. `now` is UTC; `note` says why."""
    warehouse.transact(lambda tx: _move_from("READY", tx, ids, "REJECTED", now, by, note))


def resolve(warehouse: Warehouse, intervention_id: str, was_sent: bool, by: str, now: datetime) -> None:
    """End the doubt about an UNCERTAIN email: it was sent, or it waits to leave again. Otherwise `StatusError`."""
    to, note = ("SENT", "found to be sent") if was_sent else ("APPROVED", "found not to be sent")
    warehouse.transact(lambda tx: _move_from("UNCERTAIN", tx, [intervention_id], to, now, by, note))


def export(
    warehouse: Warehouse, file: Path, folder: Path, by: str, now: datetime, say: Callable[[str], None]
) -> Export:
    """Write every approved email to a new CSV file (UTF-8, EXPORTED_COLUMNS, times UTC), and mark it as EXPORTED.

    Exports that were interrupted are finished first, and `say` is told. Who may no longer be written to is cancelled instead. In
    cells that a spreadsheet would run a ' comes first. `folder` is that of the emails. `OutboxError` where the file exists, its
    folder does not, or another process takes from the outbox.
    """
    file = file.absolute()
    with _alone(folder):
        _finish_exports(warehouse, say)
        if file.exists():
            raise OutboxError(f"{file} exists already; choose another name")
        if not file.parent.is_dir():
            raise OutboxError(f"there is no folder {file.parent}")
        leaving, cancelled = warehouse.transact(lambda tx: _all_leaving(tx, by, now))
        if not leaving:
            return Export(0, cancelled)
        draft = _draft(file)
        _write(draft, leaving)

        def claim(tx: Transaction) -> None:
            if _all_leaving(tx, by, now) != (leaving, 0):
                raise OutboxError("the outbox changed while it was written; nothing was exported, so try again")
            move(tx, [email.intervention_id for email in leaving], "EXPORTED", now, by, f"{_UNFINISHED}{file}")

        try:
            warehouse.transact(claim)
        except OutboxError:
            draft.unlink()
            raise
        _publish(draft, file)
        _note_finished(warehouse, file)
    return Export(len(leaving), cancelled)


def send(
    warehouse: Warehouse, smtp: Smtp, folder: Path, quiet: QuietHours | None, by: str, clock: Callable[[], datetime]
) -> Sending:
    """Send the approved emails over SMTP, one after the other, in the order of their approval. `clock` is UTC.

    Who may no longer be written to is cancelled instead. An email that the server refuses for good is FAILED. The first one that
    the server does not want now stays approved, and sending stops there, as it does in the quiet hours and where an email becomes
    UNCERTAIN. `folder` is that of the emails. `OutboxError` where another process takes from the outbox.
    """
    with _alone(folder), Line(smtp) as line:
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
    """Move from this one status only: a person who approves must not end what a sender is in the middle of."""
    unique = list(dict.fromkeys(ids))
    for id_, found in tx.rows(
        f"SELECT intervention_id, status FROM agent_intervention_log WHERE intervention_id IN ({one_row(unique)})",
        unique,
    ):
        if found != status:
            raise StatusError(f"intervention {id_} is {found}, and only one that is {status} can become {to} this way")
    move(tx, unique, to, now, by, note)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "outbox.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when the process dies
        except BlockingIOError:
            raise OutboxError("another process is sending or exporting now; try again when it has ended") from None
        yield


def _all_leaving(tx: Transaction, by: str, now: datetime) -> tuple[list[_Leaving], int]:
    """Every approved email that may leave, and how many may not and were cancelled."""
    approved = [_Leaving(*row) for row in tx.rows(_LEAVING + _IN_TURN, [now])]
    _cancel(tx, approved, by, now)
    leaving = [email for email in approved if not email.obstacle]
    return leaving, len(approved) - len(leaving)


def _cancel(tx: Transaction, approved: list[_Leaving], by: str, now: datetime) -> None:
    for obstacle in sorted({email.obstacle for email in approved if email.obstacle}):
        ids = [email.intervention_id for email in approved if email.obstacle == obstacle]
        move(tx, ids, "CANCELLED", now, by, f"the customer {obstacle}")
        queue_again(tx, ids, now)


def _approved(warehouse: Warehouse) -> list[str]:
    rows = warehouse.query(
        "SELECT log.intervention_id FROM agent_intervention_log AS log"
        f" LEFT JOIN ({_APPROVALS}) AS approvals ON log.intervention_id = approvals.intervention_id"
        f" WHERE log.status = 'APPROVED' {_IN_TURN}"
    )
    return rows["intervention_id"].to_pylist()


def _claim(warehouse: Warehouse, intervention_id: str, by: str, now: datetime) -> _Leaving | None:
    """Move an approved email to SENDING, or to CANCELLED where it has an obstacle; None if it is no longer approved."""

    def work(tx: Transaction) -> _Leaving | None:
        found = [_Leaving(*row) for row in tx.rows(f"{_LEAVING} AND log.intervention_id = ?", [now, intervention_id])]
        _cancel(tx, found, by, now)
        move(tx, [email.intervention_id for email in found if not email.obstacle], "SENDING", now, by)
        return found[0] if found else None

    return warehouse.transact(work)


def _hand_over(line: Line, smtp: Smtp, email: _Leaving, now: datetime) -> Outcome:
    if email.email is None or not is_address(email.email):
        return Outcome("FAILED", f"no address that can be written to: {masked(email.email) or 'none'}")
    return line.deliver(email.email, message(smtp, email.intervention_id, email.email, email.text, now))


def _conclude(warehouse: Warehouse, email: _Leaving, outcome: Outcome, by: str, now: datetime) -> None:
    warehouse.transact(lambda tx: move(tx, [email.intervention_id], outcome.status, now, by, outcome.note))


def _doubt_who_was_left(warehouse: Warehouse, by: str, now: datetime) -> int:
    """Move to UNCERTAIN what is SENDING while nobody sends; how many."""

    def work(tx: Transaction) -> int:
        ids = [id_ for (id_,) in tx.rows("SELECT intervention_id FROM agent_intervention_log WHERE status = 'SENDING'")]
        move(tx, ids, "UNCERTAIN", now, by, "the sender died; ask the mail server whether it was sent")
        return len(ids)

    return warehouse.transact(work)


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.draft")


def _write(draft: Path, leaving: list[_Leaving]) -> None:
    with draft.open("w", encoding="utf-8", newline="") as output:
        rows = csv.writer(output)
        rows.writerow(EXPORTED_COLUMNS)
        rows.writerows([_cell(value) for value in astuple(email)[: len(EXPORTED_COLUMNS)]] for email in leaving)
        output.flush()
        os.fsync(output.fileno())
    _sync_folder(draft.parent)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _publish(draft: Path, file: Path) -> None:
    if file.exists():
        raise OutboxError(f"{file} was made while its export was under way; move it away and export again")
    draft.rename(file)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _note_finished(warehouse: Warehouse, file: Path) -> None:
    warehouse.transact(
        lambda tx: tx.execute(
            "UPDATE intervention_moves SET note = ? WHERE status_to = 'EXPORTED' AND note = ?",
            [str(file), f"{_UNFINISHED}{file}"],
        )
    )


def _finish_exports(warehouse: Warehouse, say: Callable[[str], None]) -> None:
    """Give the drafts of interrupted exports their names. The lock must be held."""
    notes = warehouse.query(
        "SELECT DISTINCT note FROM intervention_moves WHERE status_to = 'EXPORTED' AND note LIKE ? ORDER BY note",
        [f"{_UNFINISHED}%"],
    )["note"].to_pylist()
    for file in (Path(note.removeprefix(_UNFINISHED)) for note in notes):
        if _draft(file).exists():
            _publish(_draft(file), file)
            say(f"the export to {file} that was interrupted is finished")
        else:
            say(f"the export to {file} was interrupted when its file was made; see that the file was not lost")
        _note_finished(warehouse, file)
