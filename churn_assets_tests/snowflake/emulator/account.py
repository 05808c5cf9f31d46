"""The state of the emulated account, which all sessions share: objects, locks, history, and what tests tell it to do.

One statement runs at a time, so that each sees what was committed before it began and nothing else of others: Snowflake's
READ COMMITTED. A transaction waits for a lock here while others run. All of it is in memory.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from fakesnow.instance import FakeSnow

from churn_assets_tests.snowflake.emulator.errors import StatementError, does_not_exist
from churn_assets_tests.snowflake.emulator.names import Name, shown

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.dynamic_tables import DynamicTable, PastRefresh
    from churn_assets_tests.snowflake.emulator.session import Session
    from churn_assets_tests.snowflake.emulator.streams import Stream

SYSTEM_ROLES = ("ACCOUNTADMIN", "SECURITYADMIN", "USERADMIN", "SYSADMIN", "PUBLIC")


@dataclass(frozen=True)
class Limits:
    """Times that are hours or minutes in Snowflake, in seconds."""

    # LOCK_TIMEOUT, 12 hours there, where a session does not set it.
    lock_timeout: float = 30
    # For how long the transaction of a session may rest before one that waits for its lock may end it; 5 minutes there.
    # A client that was killed says nothing, so this is when its transaction is rolled back.
    idle: float = 3


@dataclass
class Definition:
    """An object that is kept as it was defined."""

    kind: str
    name: Name
    text: str
    owner: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    created_on: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Grant:
    privilege: str
    granted_on: str
    name: str
    role: str
    is_future: bool = False
    grant_option: bool = False


@dataclass(frozen=True)
class Asked:
    """A statement as it came."""

    text: str
    tag: str
    session: int
    id: str
    role: str
    started_at: datetime


@dataclass
class Failure:
    """What a test wants to fail: the next `times` statements that match."""

    pattern: re.Pattern[str]
    number: int
    message: str
    times: int


@dataclass
class Completion:
    """What AI_COMPLETE answers."""

    text: str = "Dear customer, thank you for being with us. We would like to hear from you."
    error: str | None = None
    completion_tokens: int = 40


class Account:
    def __init__(self, stages: Path, limits: Limits, port: int) -> None:
        self.limits = limits
        self.port = port  # where it is served
        self.stages = stages
        self.engine = FakeSnow(create_database_on_connect=False, create_schema_on_connect=False)
        self.turn = threading.Condition()
        self.sessions: dict[str, Session] = {}
        self.numbers = count(1)
        self.roles: dict[str, datetime] = dict.fromkeys(SYSTEM_ROLES, datetime.now(UTC))
        self.grants: dict[Grant, datetime] = {}
        self.definitions: dict[tuple[str, Name], Definition] = {}
        self.dynamic_tables: dict[Name, DynamicTable] = {}
        self.streams: dict[Name, Stream] = {}
        self.refreshes: list[PastRefresh] = []
        # The files that COPY has loaded, by table: path on the stage and checksum.
        self.loaded: dict[Name, set[tuple[str, str]]] = {}
        # How often each table was written, by committed changes.
        self.versions: Counter[Name] = Counter()
        self.asked: list[Asked] = []
        self.failures: list[Failure] = []
        self.completion = Completion()
        self._locks: dict[Name, Session] = {}
        self.duck: duckdb.DuckDBPyConnection = self.engine.duck_conn.cursor()

    # ---- locks

    def lock(self, session: "Session", names: Iterable[Name]) -> None:
        """Wait until no other transaction has locked these tables or streams, and keep them until the session's ends."""
        deadline = time.monotonic() + session.lock_timeout
        for name in names:
            while (holder := self._locks.get(name)) is not None and holder is not session:
                if not holder.is_busy and time.monotonic() - holder.last_active > self.limits.idle:
                    holder.abort(f"it rested for {self.limits.idle} s and blocked session {session.number}")
                    continue
                if time.monotonic() > deadline:
                    raise StatementError(
                        625,
                        "57014",
                        f"Statement has locked table '{shown(name)}' in a transaction of session {holder.number} and this lock"
                        " has not yet been released.",
                    )
                self.turn.wait(0.1)
            if session.transaction is not None:
                self._locks[name] = session

    def release(self, session: "Session") -> None:
        self._locks = {name: holder for name, holder in self._locks.items() if holder is not session}
        self.turn.notify_all()

    def locks(self) -> list[tuple[Name, "Session"]]:
        return list(self._locks.items())

    # ---- tables

    def before_change(self, names: Iterable[Name]) -> None:
        """Let every open transaction keep what streams on these tables show it."""
        changed = set(names)
        for session in list(self.sessions.values()):
            if session.transaction is not None:
                for stream in self.streams.values():
                    if stream.source in changed and not stream.is_stale:
                        session.stream_content(stream)

    def changed(self, names: Iterable[Name]) -> None:
        """Say that a change of these tables was committed."""
        self.versions.update(set(names))

    def replaced(self, name: Name) -> None:
        """Say that a table was dropped or created anew: streams on it have lost their place, and COPY its memory."""
        for stream in self.streams.values():
            if stream.source == name:
                stream.is_stale = True
        self.loaded.pop(name, None)
        self.changed([name])

    def is_there(self, name: Name) -> bool:
        """Whether there is a table or view."""
        sql = """
            SELECT 1 FROM information_schema.tables
            WHERE (table_catalog, upper(table_schema), table_name) = (?, ?, ?)
        """
        return self.duck.execute(sql, list(name)).fetchone() is not None

    def has_schema(self, database: str, schema: str | None = None) -> bool:
        if schema is None:
            return ("DATABASE", (database,)) in self.definitions
        return ("SCHEMA", (database, schema)) in self.definitions

    def definition(self, kind: str, name: Name) -> Definition:
        if (found := self.definitions.get((kind, name))) is None:
            raise does_not_exist(kind.capitalize(), shown(name))
        return found

    # ---- what tests ask for

    def fail_if_told(self, text: str) -> None:
        for failure in self.failures:
            if failure.times and failure.pattern.search(text):
                failure.times -= 1
                raise StatementError(failure.number, "XX000", failure.message)
