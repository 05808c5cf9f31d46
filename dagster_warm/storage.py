"""Dagster's storage in SQLite, with connections that stay open.

`dagster.yaml`:

    storage:
      custom:
        module: dagster_warm.storage
        class: OpenSqliteStorage
        config:
          base_dir: {env: DAGSTER_HOME}

For each statement, Dagster's own SQLite storage opens a database, compiles the statement, and closes the database, which
merges its write-ahead log. It also writes most events twice: to a database of the run and to one of all runs. So an event
costs 20 ms there, and 2 to 3 ms here. The tables are Dagster's.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from dagster import StringSource
from dagster._core.event_api import EventHandlerFn
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.event_log.polling_event_watcher import SqlPollingEventWatcher
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event

_BUSY_SECONDS = 60


@cache
def _engine(address: str) -> Engine:
    """One engine for all Dagster instances of a process, because Dagster opens an instance for each sensor tick."""
    engine = create_engine(address, max_overflow=-1, connect_args={"timeout": _BUSY_SECONDS})
    # With the write-ahead log, which Dagster enables, a power failure leaves the database intact; the last events may
    # be missing.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = NORMAL"))
    return engine


os.register_at_fork(after_in_child=_engine.cache_clear)  # SQLite's connections must not be carried across a fork


class _Open:
    """One database with connections that stay open."""

    _conn_string: str  # set by Dagster's class

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with _engine(self._conn_string).connect() as connection, connection.begin():
            yield connection


class _Events(_Open, ConsolidatedSqliteEventLogStorage):
    def run_connection(self, run_id: str | None) -> Any:
        return self.connect()

    def index_connection(self) -> Any:
        return self.connect()

    # Dagster's class watches the database's file, which does not change while its log does.

    @cached_property
    def _watcher(self) -> SqlPollingEventWatcher:
        return SqlPollingEventWatcher(self)

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        self._watcher.watch_run(run_id, cursor, callback)

    def end_watch(self, run_id: str, handler: EventHandlerFn) -> None:
        self._watcher.unwatch_run(run_id, handler)

    def dispose(self) -> None:
        if "_watcher" in vars(self):
            self._watcher.close()


class _Runs(_Open, SqliteRunStorage):
    pass


class _Schedules(_Open, SqliteScheduleStorage):
    pass


class OpenSqliteStorage(DagsterSqliteStorage):
    """Runs, events and ticks in three databases in one folder; each stays open as long as the instance."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self.base_dir = base_dir
        self._inst_data = inst_data
        folder = Path(base_dir)
        is_made = folder / "storage_is_made"
        if is_made.exists():
            # Dagster's `from_local` would check every table for migrations again, a third of the cost of a tick.
            self._run_storage = _Runs(create_db_conn_string(base_dir, "runs"))
            self._event_log_storage = _Events(base_dir)
            self._schedule_storage = _Schedules(create_db_conn_string(base_dir, "schedules"))
            return
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "storage.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may try to create the tables at once
            self._run_storage = _Runs.from_local(base_dir)
            self._event_log_storage = _Events(base_dir)
            self._schedule_storage = _Schedules.from_local(base_dir)
            is_made.touch()

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The one option in `dagster.yaml`: the folder of the databases."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storage as `dagster.yaml` configures it."""
        return cls(config_value["base_dir"], inst_data)
