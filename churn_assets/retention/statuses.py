"""The life of an intervention as one small state machine.

Here belong the statuses, the moves between them and the one function that makes a move. Other modules decide on the moves.
`note_past_moves` only records what was done before a warehouse went back.

    CONTROL                                   in the control group: logged, never written to
    CLAIMED -> READY                          a run has taken the customer; the text is written and checked
    READY -> APPROVED or REJECTED             by a person, or automatically
    APPROVED -> EXPORTED                      handed to another system
    APPROVED -> SENDING -> SENT or FAILED     FAILED: the server refused this email for good
    SENDING -> APPROVED                       the server was not reached, so nothing was sent
    SENDING -> UNCERTAIN                      the sender died: sent or not, nobody knows
    UNCERTAIN -> SENT or APPROVED             a person has found out
    CLAIMED, READY or APPROVED -> CANCELLED   the customer left, withdrew consent or was suppressed
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from churn_assets.errors import ChurnError
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.values import flat, one_row, places

Status = Literal[
    "CONTROL",
    "CLAIMED",
    "READY",
    "APPROVED",
    "REJECTED",
    "EXPORTED",
    "SENDING",
    "SENT",
    "FAILED",
    "UNCERTAIN",
    "CANCELLED",
]

FIRST: tuple[Status, ...] = ("CONTROL", "CLAIMED")
MOVES: dict[Status, tuple[Status, ...]] = {
    "CLAIMED": ("READY", "CANCELLED"),
    "READY": ("APPROVED", "REJECTED", "CANCELLED"),
    "APPROVED": ("EXPORTED", "SENDING", "CANCELLED"),
    "SENDING": ("SENT", "FAILED", "APPROVED", "UNCERTAIN"),
    "UNCERTAIN": ("SENT", "APPROVED"),
}


class StatusError(ChurnError):
    """A move that the status of an intervention does not allow; the message names both statuses."""


_MOVES_INTO = (
    "INSERT INTO intervention_moves (intervention_id, status_from, status_to, moved_at, moved_by, note) VALUES"
)


def begin(tx: Transaction, statuses: Mapping[str, Status], now: datetime) -> None:
    """Log the first status of new interventions, given by id."""
    moves = [[id_, None, status, now, "run", None] for id_, status in statuses.items()]
    tx.execute(f"{_MOVES_INTO} {places(moves)}", flat(moves))


def move(tx: Transaction, ids: Sequence[str], to: Status, now: datetime, by: str, note: str | None = None) -> None:
    """Move interventions to a status, and log each move in `intervention_moves`: all of them, or none and `StatusError`.

    `by` says who decided: a person, `run` or `auto`. Two transactions that move the same intervention conflict.
    """
    if not ids:
        return
    found = dict(
        tx.rows(
            f"SELECT intervention_id, status FROM agent_intervention_log WHERE intervention_id IN ({one_row(ids)})",
            list(ids),
        )
    )
    if unknown := [id_ for id_ in ids if id_ not in found]:
        raise StatusError(f"there is no intervention {unknown[0]}; `churn outbox list` shows what there is")
    if wrong := [id_ for id_ in ids if to not in MOVES.get(found[id_], ())]:
        raise StatusError(f"intervention {wrong[0]} is {found[wrong[0]]} and cannot become {to}")
    tx.execute(f"UPDATE agent_intervention_log SET status = ? WHERE intervention_id IN ({one_row(ids)})", [to, *ids])
    moves = [[id_, found[id_], to, now, by, note] for id_ in ids]
    tx.execute(f"{_MOVES_INTO} {places(moves)}", flat(moves))


def note_past_moves(
    tx: Transaction, intervention_id: str, path: Sequence[tuple[Status, datetime]], by: str, note: str
) -> None:
    """Log moves that were made and forgotten (status and time, UTC), whatever the status is now; the last is the status."""
    [(status,)] = tx.rows("SELECT status FROM agent_intervention_log WHERE intervention_id = ?", [intervention_id])
    came_from = [status, *(to for to, _ in path)]
    moves = [[intervention_id, was, to, at, by, note] for was, (to, at) in zip(came_from, path, strict=False)]
    tx.execute("UPDATE agent_intervention_log SET status = ? WHERE intervention_id = ?", [path[-1][0], intervention_id])
    tx.execute(f"{_MOVES_INTO} {places(moves)}", flat(moves))
