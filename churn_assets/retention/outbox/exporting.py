"""Approved emails as a file for another system to send, each exported at most once.

`export` writes a hidden draft, moves its emails to EXPORTED with a note that names the draft, marks them (`retention.marks`),
and only then gives the file its name. A process that dies before the move has exported nothing. One that dies after it leaves a
draft, which the next `export` finishes. Renaming is atomic, so a file that was already taken away is never made again.
"""

import csv
import os
import re
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path

from churn_assets.retention.addresses import note_addresses
from churn_assets.retention.marks import Marks
from churn_assets.retention.outbox.leaving import Leaving, OutboxError, all_leaving, alone
from churn_assets.retention.statuses import move
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.setbacks import refuse_if_held
from churn_assets.warehouse.shelf import Shelf

EXPORTED_COLUMNS = ("intervention_id", "customer_id", "email", "full_name", "text", "approved_at")
_UNFINISHED = "unfinished: "  # begins the note of an export whose file has no name yet; paths are absolute
_FORMULA = re.compile(r"[=+\-@\t\r\n]")  # a first character that makes a spreadsheet run a cell


@dataclass(frozen=True)
class Export:
    """How many emails an `export` wrote and how many it cancelled. If there is none to write, it makes no file."""

    exported: int
    cancelled: int


def export(
    warehouse: Warehouse, file: Path, shelf: Shelf, by: str, now: datetime, say: Callable[[str], None]
) -> Export:
    """Write every approved email to a new CSV file (UTF-8, EXPORTED_COLUMNS, times UTC), and mark it as EXPORTED.

    Interrupted exports are finished first and reported to `say`. Emails to customers who may no longer be written to are
    cancelled. A cell that a spreadsheet would run starts with a '. The marks are on `shelf`. `OutboxError` if the
    file exists, its folder does not, or another process is sending or exporting.
    """
    file = file.absolute()
    refuse_if_held(warehouse, now)
    with alone(shelf):
        _finish_exports(warehouse, shelf, say)
        if file.exists():
            raise OutboxError(f"{file} exists already; choose another name")
        if not file.parent.is_dir():
            raise OutboxError(f"there is no folder {file.parent}")
        leaving, cancelled = warehouse.transact(lambda tx: all_leaving(tx, by, now))
        if not leaving:
            return Export(0, cancelled)
        draft = _draft(file)
        _write(draft, leaving)

        def claim(tx: Transaction) -> None:
            if all_leaving(tx, by, now) != (leaving, 0):
                raise OutboxError("the outbox changed while it was written; nothing was exported, so try again")
            ids = [email.intervention_id for email in leaving]
            move(tx, ids, "EXPORTED", now, by, f"{_UNFINISHED}{file}")
            note_addresses(tx, ids, now)

        try:
            warehouse.transact(claim)
        except OutboxError:
            draft.unlink()
            raise
        _publish(draft, file, warehouse, shelf)
        _note_finished(warehouse, file)
    return Export(len(leaving), cancelled)


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.draft")


def _write(draft: Path, leaving: list[Leaving]) -> None:
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


def _publish(draft: Path, file: Path, warehouse: Warehouse, shelf: Shelf) -> None:
    """Mark the emails of an export, then give its draft the name of its file."""
    if file.exists():
        raise OutboxError(f"{file} was made while its export was under way; move it away and export again")
    leaving = warehouse.query(
        "SELECT DISTINCT intervention_id FROM intervention_moves WHERE status_to = 'EXPORTED' AND note = ?",
        [f"{_UNFINISHED}{file}"],
    )
    Marks(shelf).append(warehouse, leaving["intervention_id"].to_pylist())
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


def _finish_exports(warehouse: Warehouse, shelf: Shelf, say: Callable[[str], None]) -> None:
    """Give the drafts of interrupted exports their names. The lock must be held."""
    notes = warehouse.query(
        "SELECT DISTINCT note FROM intervention_moves WHERE status_to = 'EXPORTED' AND note LIKE ? ORDER BY note",
        [f"{_UNFINISHED}%"],
    )["note"].to_pylist()
    for file in (Path(note.removeprefix(_UNFINISHED)) for note in notes):
        if _draft(file).exists():
            _publish(_draft(file), file, warehouse, shelf)
            say(f"the export to {file} that was interrupted is finished")
        else:
            say(f"the export to {file} was interrupted when its file was made; see that the file was not lost")
        _note_finished(warehouse, file)
