"""What an account has: the statements that earlier deployments ran, its streams and its dynamic tables.

Here belongs the comparison of a statement with the history: new, changed or unchanged. `account` acts on the result.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from churn_assets.operations.account_doctor import dynamic_tables, is_unreadable, streams
from churn_assets.operations.statements import HISTORY, QUEUE_AT_RISK, Statement
from churn_assets.warehouse.snowflake_connection import Rows
from churn_assets.warehouse.snowflake_names import Names

Mark = Literal["new", "changed", "unchanged", "each time", "history unknown"]
_LATEST = """
    SELECT file, statement, checksum FROM churn_deployments
    QUALIFY ROW_NUMBER() OVER (PARTITION BY file, statement ORDER BY deployed_at DESC) = 1
"""


@dataclass
class Known:
    """What an account has. `history` maps a statement's file and `about` to its checksum."""

    history: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    streams: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    tables: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def life(self, statement: Statement) -> str:
        """The creation times of the streams on the table that `statement` reads."""
        return str(
            sorted(
                str(stream["created_on"])
                for stream in self.streams.values()
                if _reads(statement) == bare(stream["table_name"])
            )
        )

    def is_unreadable(self, stream: str, table: str) -> bool:
        """Whether a stream is stale, or its table was recreated after it."""
        there = self.streams.get(bare(stream))
        return there is not None and is_unreadable(there, self.tables.get(bare(table)))

    def mark(self, statement: Statement) -> Mark:
        """How a statement compares with the history."""
        if _runs_each_time(statement):
            return "each time"
        recorded = self.history.get((statement.file, statement.about))
        if recorded is None:
            return "new"
        return "unchanged" if recorded == self.checksum(statement) else "changed"

    def checksum(self, statement: Statement) -> str:
        """SHA-256 of a statement's text; for a statement that `makes_up`, of its text and its streams' creation times."""
        life = self.life(statement) if makes_up(statement) else ""
        return hashlib.sha256((statement.text + life).encode()).hexdigest()


def look(rows: Rows, names: Names) -> Known:
    """Read what the account has. The connection's role must be able to read the history."""
    return Known(
        {(row["file"], row["statement"]): row["checksum"] for row in rows(_LATEST)},
        named(streams(rows, names)),
        named(dynamic_tables(rows, names)),
    )


def named(objects: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of SHOW, keyed by the name in capitals."""
    return {row["name"].upper(): row for row in objects}


def count_marks(statements: Iterable[Statement], known: Known) -> dict[str, int]:
    """How many statements are new and how many changed, without zeros."""
    marks = [known.mark(one) for one in statements]
    return {mark: marks.count(mark) for mark in ("new", "changed") if mark in marks}


def is_opening(statement: Statement) -> bool:
    """Whether it runs at the start of every phase."""
    return statement.phase != "account" and (statement.is_of_the_session or statement.file == HISTORY)


def _runs_each_time(statement: Statement) -> bool:
    return is_opening(statement) or statement.plain.startswith(("USE ", "ALTER TASK "))


def makes_up(statement: Statement) -> bool:
    """Whether it queues the customers at risk whom a newly created stream does not contain."""
    return statement.file == QUEUE_AT_RISK


def _reads(statement: Statement) -> str:
    return bare(statement.about.rpartition(" ")[2])


def bare(name: str) -> str:
    """The last part of a dotted name, in capitals and without quotes."""
    return name.rpartition(".")[2].strip('"').upper()
