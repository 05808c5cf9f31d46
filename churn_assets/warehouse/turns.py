"""Turns: one process at a time does something, such as writing to a lake. If it dies, the next one has its turn.

Here belong the two ways of taking turns: those of one machine by a lock on a file, those of many hosts by a lock of a
PostgreSQL database. Who takes turns for what is said where it is done.
"""

import fcntl
import hashlib
import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import SecretStr

from churn_assets.errors import ChurnError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812

# A host that is cut off keeps its turn until the server notices, after about eleven seconds without a sign of life. Nobody waits
# longer for a server that is cut off.
KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 15_000} | KEEPALIVES  # options of libpq
_LOOK_MS = 500  # a process that waits for its turn can be ended this often


class DatabaseUnavailableError(ChurnError):
    """A PostgreSQL database cannot be reached or does not let us in; the message says why."""


class Turns(Protocol):
    """A way of taking turns."""

    def turn(self, name: str, taken: Exception | None = None) -> AbstractContextManager[None]:
        """Have the turn of a name. Waits while others have it; with `taken`, raises that exception at once instead."""
        ...


class TurnsHere:
    """Turns among the processes of one machine, by locks on files in a folder, which is made if it is missing.

    The kernel releases the lock of a process that dies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def turn(self, name: str, taken: Exception | None = None) -> AbstractContextManager[None]:
        """See `Turns`."""
        return turn(self._folder / name, taken)


@contextmanager
def turn(lock: Path, taken: Exception | None = None) -> Generator[None]:
    """Hold the lock on a file, which is created with its folder if it is missing.

    Waits while another process or thread holds the lock; with `taken`, raises that exception at once instead.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        if taken is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise taken from None
        yield


class TurnsOfDatabase:
    """Turns among the processes of all hosts, by advisory locks of a PostgreSQL database, whose address is `url`.

    The server releases the lock of a process that dies, and of one that it has not heard of for about eleven seconds. A
    connection belongs to one session, so a pooler between must not share it among transactions.
    """

    def __init__(self, url: SecretStr) -> None:
        self._url = url
        self._idle: list[tuple[int, Connection]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return TurnsOfDatabase, (self._url,)

    @contextmanager
    def turn(self, name: str, taken: Exception | None = None) -> Generator[None]:
        """See `Turns`; `DatabaseUnavailableError` if the database does not answer."""
        key = int.from_bytes(hashlib.sha256(f"churn_assets {name}".encode()).digest()[:8], signed=True)
        connection = self._lock(key, taken)
        try:
            yield
        finally:
            try:
                _ask(connection, "SELECT pg_advisory_unlock(%s)", key)
            except _database_errors():
                connection.close()  # which ends the turn as well, as soon as the server notices
            else:
                self._idle.append((os.getpid(), connection))

    def ask(self, *statements: str) -> Any:
        """Run statements; the first value of the last one, or None. `DatabaseUnavailableError` without an answer."""
        for is_new in (False, True):  # an idle connection may have ended meanwhile
            connection = self._connection(is_new)
            try:
                found = [_ask(connection, sql) for sql in statements][-1]
            except _database_errors() as error:
                connection.close()
                if is_new:
                    raise DatabaseUnavailableError(_in_words(error)) from error
            else:
                self._idle.append((os.getpid(), connection))
                return found
        raise AssertionError

    def _lock(self, key: int, taken: Exception | None) -> "Connection":
        """A connection that holds the lock. One that has ended meanwhile is given up for a new one."""
        import psycopg2  # noqa: PLC0415

        is_new = False
        while True:
            connection = self._connection(is_new)
            try:
                if taken is None:
                    _ask(connection, "SELECT pg_advisory_lock(%s)", key)
                elif not _ask(connection, "SELECT pg_try_advisory_lock(%s)", key):
                    self._idle.append((os.getpid(), connection))
                    raise taken
            except psycopg2.errors.LockNotAvailable:  # pyright: ignore[reportAttributeAccessIssue]
                self._idle.append((os.getpid(), connection))
                is_new = False
            except psycopg2.Error as error:
                connection.close()
                if is_new:
                    raise DatabaseUnavailableError(_in_words(error)) from error
                is_new = True
            except BaseException as error:
                if error is not taken:
                    connection.close()  # which may have got the lock
                raise
            else:
                return connection

    def _connection(self, is_new: bool) -> "Connection":
        import psycopg2  # noqa: PLC0415  (only a shared lake needs it)
        from psycopg2.extensions import make_dsn  # noqa: PLC0415

        while self._idle and not is_new:
            process, connection = self._idle.pop()
            if process == os.getpid():  # not one of the process that this one was forked from
                return connection
        of_session = {f"tcp_{name}": value for name, value in KEEPALIVES.items()} | {"lock_timeout": _LOOK_MS}
        try:
            connection = psycopg2.connect(
                make_dsn(
                    self._url.get_secret_value(),
                    application_name="churn_assets",
                    options=" ".join(f"-c {name}={value}" for name, value in of_session.items()),
                    **PATIENCE,
                )
            )
        except psycopg2.Error as error:
            raise DatabaseUnavailableError(_in_words(error)) from error
        connection.autocommit = True
        return connection


def _ask(connection: "Connection", sql: str, *parameters: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        found = cursor.fetchone() if cursor.description else None
        return found and found[0]


def _database_errors() -> type[Exception]:
    import psycopg2  # noqa: PLC0415

    return psycopg2.Error


def _in_words(error: Exception) -> str:
    return f"PostgreSQL cannot be used for the lake: {' '.join(str(error).split()) or 'the connection ended'}"
