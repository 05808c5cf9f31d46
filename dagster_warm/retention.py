"""Deletion of old runs and of what they recorded. Dagster's own `retention` in `dagster.yaml` covers ticks only, by whole days.

It works on each of Dagster's SQL storages. SQLite uses the freed space again: a database stops growing, its file does not
become smaller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import sqlalchemy as db
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

_UNSUCCESSFUL = (DagsterRunStatus.FAILURE.value, DagsterRunStatus.CANCELED.value)
_FINISHED = (DagsterRunStatus.SUCCESS.value, *_UNSUCCESSFUL)
_OF_ASSETS = (DagsterEventType.ASSET_MATERIALIZATION.value, DagsterEventType.ASSET_OBSERVATION.value)
_EVALUATED = (AssetCheckExecutionRecordStatus.SUCCEEDED.value, AssetCheckExecutionRecordStatus.FAILED.value)
_AT_ONCE = 5000  # runs; the rest is left for the next time, so that one call takes minutes at most


@dataclass(frozen=True)
class Retention:
    """How long things are kept. Of each job and outcome at most `runs_of_a_job` runs stay, the newest."""

    successes: timedelta
    failures: timedelta  # also canceled runs
    runs_of_a_job: int
    skipped_ticks: timedelta


def purge(instance: DagsterInstance, retention: Retention, now: datetime) -> int:
    """Delete at `now` (UTC) what is older than `retention` or beyond its numbers; returns the number of runs.

    What is known about the present stays: the last run of each job, the last materialization and observation of each asset and
    partition, the last evaluation of each check with all attempts since, and runs that have not finished.
    """
    events, runs = _storages(instance)
    with events.index_connection() as connection:
        latest, evaluations = _ids(connection, _latest_of_assets()), _ids(connection, _latest_of_checks())
        kept = {*_runs_of(connection, SqlEventLogStorageTable, latest)}
        kept |= {*_runs_of(connection, AssetCheckExecutionsTable, evaluations)}
    with runs.connect() as connection:
        due = [run for (run,) in connection.execute(_runs_due(retention, now)) if run not in kept][:_AT_ONCE]
    for run in due:
        instance.delete_run(run)
        instance.compute_log_manager.delete_logs(prefix=[run])
        with runs.connect() as connection:  # SQLite does not cascade
            connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id == run))
        with events.index_connection() as connection:
            of_run = AssetCheckExecutionsTable.c.run_id == run
            connection.execute(AssetCheckExecutionsTable.delete().where(of_run))
    _purge_what_no_run_recorded(events, latest, evaluations, now - retention.successes)
    # An instance that lives in memory has no ticks.
    for state in instance.all_instigator_state() if instance.schedule_storage else []:
        before = (now - retention.skipped_ticks).replace(tzinfo=UTC).timestamp()
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before, [TickStatus.SKIPPED])
    return len(due)


def _storages(instance: DagsterInstance) -> tuple[SqlEventLogStorage, SqlRunStorage]:
    return cast("SqlEventLogStorage", instance.event_log_storage), cast("SqlRunStorage", instance.run_storage)


def _latest_of_assets() -> db.Select[Any]:
    of = SqlEventLogStorageTable.c
    is_of_asset = of.asset_key.is_not(None) & of.dagster_event_type.in_(_OF_ASSETS)
    return db.select(db.func.max(of.id)).where(is_of_asset).group_by(of.asset_key, of.dagster_event_type, of.partition)


def _latest_of_checks() -> db.Select[Any]:
    """Of each check the last record that ended and all that follow: one that was planned may have raised."""
    of = AssetCheckExecutionsTable.c
    ended = (
        db.select(of.asset_key, of.check_name, db.func.max(of.id).label("id"))
        .where(of.execution_status.in_(_EVALUATED))
        .group_by(of.asset_key, of.check_name)
        .subquery()
    )
    same = (of.asset_key == ended.c.asset_key) & (of.check_name == ended.c.check_name)
    both = AssetCheckExecutionsTable.outerjoin(ended, same)
    return db.select(of.id).select_from(both).where(of.id >= db.func.coalesce(ended.c.id, 0))


def _runs_due(retention: Retention, now: datetime) -> db.Select[Any]:
    """The runs that are too old or too many, oldest first."""
    of = RunsTable.c
    newest_first = of.id.desc()
    of_job = db.func.row_number().over(partition_by=of.pipeline_name, order_by=newest_first).label("of_job")
    of_outcome = db.func.row_number().over(partition_by=[of.pipeline_name, of.status], order_by=newest_first)
    found = db.select(of.id, of.run_id, of.status, of.end_time, of_job, of_outcome.label("of_outcome")).subquery().c

    def before(age: timedelta) -> Any:
        return found.end_time < (now - age).replace(tzinfo=UTC).timestamp()

    is_old = db.case((found.status.in_(_UNSUCCESSFUL), before(retention.failures)), else_=before(retention.successes))
    is_due = found.status.in_(_FINISHED) & (found.of_job > 1) & (is_old | (found.of_outcome > retention.runs_of_a_job))
    return db.select(found.run_id).where(is_due).order_by(found.id)


def _purge_what_no_run_recorded(
    events: SqlEventLogStorage, latest: Sequence[int], evaluations: Sequence[int], before: datetime
) -> None:
    """Delete what sensors and Dagster itself have reported, but for what is the last of its kind."""
    of_event, of_check = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    with events.index_connection() as connection:
        old = (of_event.run_id == RUNLESS_RUN_ID) & (of_event.timestamp < before)
        connection.execute(SqlEventLogStorageTable.delete().where(old & of_event.id.not_in(latest)))
        old = (of_check.run_id == RUNLESS_RUN_ID) & (of_check.evaluation_event_timestamp < before)
        connection.execute(AssetCheckExecutionsTable.delete().where(old & of_check.id.not_in(evaluations)))


def _ids(connection: db.Connection, query: db.Select[Any]) -> list[int]:
    return [id_ for (id_,) in connection.execute(query)]


def _runs_of(connection: db.Connection, table: db.Table, ids: Sequence[int]) -> list[str]:
    return [run for (run,) in connection.execute(db.select(table.c.run_id).where(table.c.id.in_(ids)))]
