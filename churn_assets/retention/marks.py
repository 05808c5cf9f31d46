"""Which emails left, kept on this machine beside the warehouse: what shows that the warehouse went back, and whom it forgot.

A mark is written and synced once the warehouse has stored that the email leaves (SENDING or EXPORTED), and before it does. So the
warehouse knows every mark, unless it is older than the mark. Here belong the file, the comparison and the way back of what was
forgotten. `warehouse.setbacks` holds emails back meanwhile.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from churn_assets.retention.addresses import LEFT, note_addresses
from churn_assets.retention.statuses import Status, move, note_past_moves
from churn_assets.warehouse.protocol import Queries, Transaction
from churn_assets.warehouse.values import one_row

_CHUNK = 1_000  # marks that one query asks for
_TAIL_BYTES = 64 * 1024  # in which the newest mark surely is
_THEN: dict[Status, Status] = {"SENDING": "SENT", "EXPORTED": "EXPORTED"}


@dataclass(frozen=True)
class Mark:
    """An email that was about to leave, with its line of the log but for the text. Times are UTC."""

    intervention_id: str
    customer_id: str
    status: Status
    moved_at: datetime
    churn_score: float
    source: str
    reason_codes: str | None
    created_at: datetime
    partition_day: date


class Marks:
    """The file `left.ndjson` in the folder of the emails: one mark a line. Who writes holds the outbox's lock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "left.ndjson"

    def append(self, warehouse: Queries, interventions: Sequence[str]) -> None:
        """Mark the emails, whose leaving the warehouse has stored. They are on the disk when this returns."""
        if not interventions:
            return
        rows = warehouse.query(
            "SELECT log.intervention_id, log.customer_id, log.status, moves.moved_at, log.churn_score, log.source,"
            " log.reason_codes, log.created_at, log.partition_day FROM agent_intervention_log AS log"
            " INNER JOIN (SELECT intervention_id, status_to, MAX(moved_at) AS moved_at FROM intervention_moves"
            " GROUP BY intervention_id, status_to) AS moves"
            " ON log.intervention_id = moves.intervention_id AND log.status = moves.status_to"
            f" WHERE log.intervention_id IN ({one_row(interventions)})",
            list(interventions),
        ).to_pylist()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            if file.tell() and not self._ends_with_a_line():
                file.write(b"\n")  # after a line that a loss of power cut off
            file.writelines(f"{_line(Mark(**row))}\n".encode() for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def forget(self, customer_id: str) -> None:
        """Delete the marks of a customer who is erased."""
        if not self.file.exists():
            return
        kept = self.file.with_suffix(".new")
        kept.write_text("".join(f"{_line(mark)}\n" for mark in self if mark.customer_id != customer_id))
        kept.replace(self.file)

    def unknown_to(self, warehouse: Queries) -> list[Mark]:
        """The marks that the warehouse does not know, in order: none, unless it went back."""
        newest = self._read(_TAIL_BYTES)[-1:]
        if not _not_among_moves(warehouse, list(map(_mark, newest))):
            return []  # what goes back loses its latest commits first
        marks = list(self)
        return [
            mark
            for start in range(0, len(marks), _CHUNK)
            for mark in _not_among_moves(warehouse, marks[start : start + _CHUNK])
        ]

    def __iter__(self) -> Iterator[Mark]:
        return map(_mark, self._read(None))

    def _read(self, last_bytes: int | None) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        with self.file.open("rb") as file:
            if last_bytes is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last_bytes))
            lines = file.read().splitlines()
        found: list[dict[str, Any]] = []
        for line in lines:
            # What is no whole line is the first of the bytes, or was cut off by a loss of power before its email left.
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def _ends_with_a_line(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def bring_back(tx: Transaction, marks: Sequence[Mark], by: str, now: datetime) -> None:
    """Store the emails of marks that the warehouse does not know: they left, so they count as sent or exported.

    Their customers leave the queue, other emails to them are cancelled, and the pause after an email begins anew. `now` is UTC.
    """
    for mark in marks:
        found = tx.rows("SELECT status FROM agent_intervention_log WHERE intervention_id = ?", [mark.intervention_id])
        if not found:
            tx.execute(
                "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
                " reason_codes, partition_day) VALUES (?, ?, ?, ?, 'CLAIMED', ?, ?, ?)",
                [
                    mark.intervention_id,
                    mark.customer_id,
                    mark.churn_score,
                    mark.created_at,
                    mark.source,
                    mark.reason_codes,
                    mark.partition_day,
                ],
            )
        stays: Status = found[0][0] if found and found[0][0] in LEFT else _THEN[mark.status]
        path: list[tuple[Status, datetime]] = [(mark.status, mark.moved_at)]
        if stays != mark.status:
            path.append((stays, now))
        note_past_moves(tx, mark.intervention_id, path, by, "found in the marks after the tables went back")
        tx.execute(
            "UPDATE retention_queue SET left_at = ?, left_reason = 'intervention' WHERE left_at IS NULL AND customer_id = ?",
            [now, mark.customer_id],
        )
        others = tx.rows(
            "SELECT intervention_id FROM agent_intervention_log WHERE customer_id = ?"
            " AND status IN ('CLAIMED', 'READY', 'APPROVED')",
            [mark.customer_id],
        )
        move(tx, [id_ for (id_,) in others], "CANCELLED", now, by, "the customer has got another email")
    note_addresses(tx, list({mark.intervention_id for mark in marks}), now)


def _mark(found: dict[str, Any]) -> Mark:
    found |= {name: datetime.fromisoformat(found[name]) for name in ("moved_at", "created_at")}
    found["partition_day"] = date.fromisoformat(found["partition_day"])
    return Mark(**found)


def _line(mark: Mark) -> str:
    return json.dumps(asdict(mark), default=str)


def _not_among_moves(warehouse: Queries, marks: Sequence[Mark]) -> list[Mark]:
    if not marks:
        return []
    ids: list[Any] = sorted({mark.intervention_id for mark in marks})
    rows = warehouse.query(
        "SELECT intervention_id, status_to, moved_at FROM intervention_moves"
        f" WHERE status_to IN ('SENDING', 'EXPORTED') AND intervention_id IN ({one_row(ids)})",
        ids,
    ).to_pylist()
    known = {tuple(row.values()) for row in rows}
    return [mark for mark in marks if (mark.intervention_id, mark.status, mark.moved_at) not in known]
