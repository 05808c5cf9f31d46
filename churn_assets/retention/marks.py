"""Which emails left, kept beside the warehouse: what shows that the warehouse went back, and whom it forgot.

A mark is on the disk once the warehouse has stored that the email leaves (SENDING or EXPORTED), and before it does. So the
warehouse knows every mark, unless it is older than the mark. Here belong the marks, the comparison and the way back of what was
forgotten. `warehouse.setbacks` holds emails back meanwhile.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from churn_assets.retention.addresses import LEFT, note_addresses
from churn_assets.retention.statuses import Status, move, note_past_moves
from churn_assets.warehouse.protocol import Queries, Transaction
from churn_assets.warehouse.shelf import Shelf
from churn_assets.warehouse.values import one_row

_CHUNK = 1_000  # marks that one query asks for
_NEWEST = 8  # marks that are looked at first
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
    """The lines `left.ndjson` of a shelf: one mark a line. Who writes has the outbox's turn."""

    def __init__(self, shelf: Shelf) -> None:
        self._lines = shelf.lines("left.ndjson")

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
        self._lines.append(_line(Mark(**row)) for row in rows)

    def forget(self, customer_id: str) -> None:
        """Delete the marks of a customer who is erased."""
        self._lines.keep(lambda line: customer_id not in {mark.customer_id for mark in _marks([line])})

    def unknown_to(self, warehouse: Queries) -> list[Mark]:
        """The marks that the warehouse does not know, in order: none, unless it went back."""
        newest = _marks(self._lines.tail())[-_NEWEST:]
        if not _not_among_moves(warehouse, newest):
            return []  # what goes back loses its latest commits first
        marks = list(self)
        return [
            mark
            for start in range(0, len(marks), _CHUNK)
            for mark in _not_among_moves(warehouse, marks[start : start + _CHUNK])
        ]

    def __iter__(self) -> Iterator[Mark]:
        return iter(_marks(self._lines.read()))


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


def _marks(lines: Iterable[str]) -> list[Mark]:
    found: list[Mark] = []
    for line in lines:
        # What is no whole line was cut off: by where the reading began, or by a loss of power before its email left.
        with suppress(ValueError):
            given: dict[str, Any] = json.loads(line)
            given |= {name: datetime.fromisoformat(given[name]) for name in ("moved_at", "created_at")}
            given["partition_day"] = date.fromisoformat(given["partition_day"])
            found.append(Mark(**given))
    return found


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
