"""Gaps: messages that Kafka no longer has as they were, kept in the warehouse until somebody resolves them.

Here belong what a gap is, how it is recorded and what resolving it does. Where gaps are looked for is in `backlog`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from churn_assets.errors import ChurnError
from churn_assets.ingestion import commit
from churn_assets.ingestion.kafka import OffsetRange, Partition
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import as_table, flat


class Kind(StrEnum):
    """What happened to the messages."""

    DELETED = "DELETED"
    """Kafka deleted them before they were stored."""
    TRUNCATED = "TRUNCATED"
    """They were stored, then Kafka lost them: what it has at their offsets now was never read."""
    CREATED_AGAIN = "CREATED_AGAIN"
    """Their topic was deleted and created again; nobody knows how many it still had."""


@dataclass(frozen=True)
class Gap:
    """The messages `[start, end)` of a partition. `end` is None for CREATED_AGAIN, whose `partition` is the new one."""

    partition: Partition
    kind: Kind
    start: int
    end: int | None

    def __str__(self) -> str:
        match self.kind:
            case Kind.DELETED:
                missing = f"{self.partition} {self.start} to {self.end}"
                return f"{missing} were deleted by the topic's retention before they were stored"
            case Kind.TRUNCATED:
                return (
                    f"{self.partition}: the cluster has lost messages between {self.start} and {self.end} that were stored (an"
                    " unclean leader election, a restored backup); what it has there now was never read"
                )
            case Kind.CREATED_AGAIN:
                return (
                    f"{self.partition} was deleted and created again; messages of the old topic from {self.start} on, if there"
                    " were any, were never stored"
                )

    @property
    def can_be_skipped(self) -> bool:
        """Whether nothing more can be done than to go on without the messages, as CHURN_ON_GAP=skip does."""
        return self.kind != Kind.TRUNCATED

    @property
    def resolution(self) -> str:
        """What `resolve` does about it."""
        match self.kind:
            case Kind.DELETED:
                return f"goes on at {self.end} without them"
            case Kind.TRUNCATED:
                return f"reads the partition again from {self.start}; what is stored already is dropped as a duplicate"
            case Kind.CREATED_AGAIN:
                return "reads the new topic from its beginning"


@dataclass(frozen=True)
class KeptGap:
    """A gap as it is kept in the warehouse. Times are UTC; the last three are None while it is open."""

    gap: Gap
    found_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    reason: str | None


_COLUMNS = {
    "epoch": "VARCHAR",
    "topic": "VARCHAR",
    "kafka_partition": "INTEGER",
    "kind": "VARCHAR",
    "start_offset": "BIGINT",
    "end_offset": "BIGINT",
    "found_at": "TIMESTAMP",
}
_OPEN = "epoch = ? AND topic = ? AND kafka_partition = ? AND resolved_at IS NULL"


def kept(warehouse: Warehouse, *, only_open: bool = True) -> list[KeptGap]:
    """The gaps, oldest first: the open ones, or all that were ever found."""
    rows = warehouse.query(
        f"SELECT {', '.join(_COLUMNS)}, resolved_at, resolved_by, reason FROM kafka_gaps"
        f"{' WHERE resolved_at IS NULL' if only_open else ''} ORDER BY found_at, topic, kafka_partition, epoch"
    ).to_pylist()
    return [
        KeptGap(
            Gap(
                Partition(row["epoch"], row["topic"], row["kafka_partition"]),
                Kind(row["kind"]),
                row["start_offset"],
                row["end_offset"],
            ),
            row["found_at"],
            row["resolved_at"],
            row["resolved_by"],
            row["reason"],
        )
        for row in rows
    ]


def keep(warehouse: Warehouse, gaps: Iterable[Gap], now: datetime) -> None:
    """Record the gaps, unless their partition has an open one already; `now` is UTC."""
    rows = [[*gap.partition, gap.kind.value, gap.start, gap.end, now] for gap in gaps]
    if not rows:
        return
    names = ", ".join(_COLUMNS)
    warehouse.transact(
        lambda tx: tx.execute(
            f"INSERT INTO kafka_gaps ({names}) SELECT {names} FROM {as_table(rows, _COLUMNS)} AS found WHERE NOT EXISTS ("
            "SELECT 1 FROM kafka_gaps AS known WHERE known.epoch = found.epoch AND known.topic = found.topic"
            " AND known.kafka_partition = found.kafka_partition AND known.resolved_at IS NULL)",
            flat(rows),
        )
    )


def resolve(warehouse: Warehouse, gap: Gap, now: datetime, by: str, reason: str | None) -> None:
    """Do what `gap.resolution` says and note who did (`by`) and why, in one transaction.

    `ChurnError` if the gap is not open any more.
    """

    def work(tx: Transaction) -> None:
        done = tx.execute(
            f"UPDATE kafka_gaps SET resolved_at = ?, resolved_by = ?, reason = ? WHERE {_OPEN} AND start_offset = ?",
            [now, by, reason, *gap.partition, gap.start],
        )
        if not done:
            raise ChurnError(f"the gap of {gap.partition} at {gap.start} is resolved already; see `churn gaps --all`")
        if gap.end is None:
            return  # the new topic is read from its beginning as soon as no gap is open
        messages = OffsetRange(gap.partition, gap.start, gap.end)
        if gap.kind == Kind.TRUNCATED:
            commit.go_back(tx, messages)
        else:
            commit.skip(tx, messages, now)

    warehouse.transact(work)
