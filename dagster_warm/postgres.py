"""Dagster's storage in PostgreSQL, with connections that stay open.

`dagster.yaml`:

    storage:
      custom:
        module: dagster_warm.postgres
        class: OpenPostgresStorage
        config: {postgres_db: …}  # as of Dagster's own, `storage: postgres:`

Dagster's own storage opens a connection for each statement, outside of its web server. PostgreSQL forks a process for it and
the password is hashed some thousand times, so an event, of four statements, costs a server more than the run that reports it.
The tables are Dagster's. It needs the package dagster-postgres.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Engine, create_engine

# The last events may be missing after a power failure of the database's machine, as with `OpenSqliteStorage`. Nobody waits for
# the disk at each event.
_OPTIONS = "-c synchronous_commit=off"


@cache
def _engine(url: str) -> Engine:
    """One engine for all Dagster instances of a process, because Dagster opens an instance for each sensor tick."""
    return create_engine(
        url,
        isolation_level="AUTOCOMMIT",  # as Dagster's
        max_overflow=-1,
        pool_pre_ping=True,  # a connection from before a restart of the database is replaced
        connect_args={"options": _OPTIONS},
    )


os.register_at_fork(after_in_child=_engine.cache_clear)  # connections must not be carried across a fork

_has_tables: set[str] = set()  # by URL; looked at once in a process


class OpenPostgresStorage(DagsterPostgresStorage):
    """Runs, events and ticks in one database."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, postgres_url not in _has_tables, inst_data)
        _has_tables.add(postgres_url)
        for part in (self._run_storage, self._event_log_storage, self._schedule_storage):
            part._engine = _engine(postgres_url)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storage as `dagster.yaml` configures it."""
        return cls(pg_url_from_config(config_value), inst_data)  # type: ignore[arg-type]
