"""A warehouse that went back: it is older than what the world has seen, as after a restore or the loss of its latest commits.

It does not know whom it has written to since, and would write to them again. Here belong the record of it and the refusal.
What shows it is found elsewhere: emails that left in `retention.marks`, the offsets of Kafka's group in `ingestion.backlog`.
"""

from datetime import datetime

from churn_assets.errors import ChurnError
from churn_assets.warehouse.protocol import Queries, Transaction, Warehouse


class SetbackError(ChurnError):
    """The warehouse went back, and nobody may be written to; the message says what to do."""


def note_setback(warehouse: Warehouse, evidence: str, now: datetime) -> None:
    """Record that the warehouse went back, unless that waits for a confirmation already. `now` is UTC."""

    def work(tx: Transaction) -> None:
        if not tx.rows("SELECT noticed_at FROM setbacks WHERE goes_on_at IS NULL"):
            tx.execute("INSERT INTO setbacks (noticed_at, evidence) VALUES (?, ?)", [now, evidence])

    warehouse.transact(work)


def confirm_setbacks(tx: Transaction, goes_on_at: datetime, by: str, now: datetime) -> int:
    """Let emails be written and leave again from a time on, unless they may earlier; returns how many setbacks that was for.

    Times are UTC.
    """
    return tx.execute(
        "UPDATE setbacks SET confirmed_at = ?, confirmed_by = ?, goes_on_at = ? WHERE goes_on_at IS NULL OR goes_on_at > ?",
        [now, by, goes_on_at, goes_on_at],
    )


def why_held(warehouse: Queries, now: datetime) -> str | None:
    """Why nobody may be written to at `now` (UTC), and what to do; None if the warehouse did not go back."""
    found = warehouse.query(
        "SELECT evidence, goes_on_at FROM setbacks WHERE goes_on_at IS NULL OR goes_on_at > ?"
        " ORDER BY goes_on_at DESC NULLS FIRST LIMIT 1",
        [now],
    ).to_pylist()
    if not found:
        return None
    evidence, goes_on_at = found[0]["evidence"], found[0]["goes_on_at"]
    if goes_on_at is None:
        return (
            f"the tables are older than what the world has seen: {evidence}. No email is written or leaves, so that nobody gets"
            " a second one, until `churn restore --confirm`; see docs/backup.md"
        )
    return (
        f"the tables went back ({evidence}), and whom they had written to is not known: no email is written or leaves before"
        f" {goes_on_at:%Y-%m-%d %H:%M} UTC"
    )


def refuse_if_held(warehouse: Queries, now: datetime) -> None:
    """`SetbackError` if nobody may be written to at `now` (UTC)."""
    if why := why_held(warehouse, now):
        raise SetbackError(why)
