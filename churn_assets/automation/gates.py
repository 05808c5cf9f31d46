"""Reasons not to request a run now: one is active, the last one has just failed, or a blocking check failed.

Here belong the queries that all sensors make to Dagster's own storage. Queries to the warehouse belong to each sensor.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from math import ceil, log2

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from churn_assets.assets.ledger_checks import BLOCKING_LEDGER_CHECKS
from churn_assets.assets.ledgers import BLOCKING_INGEST_CHECKS
from churn_assets.assets.maintenance import FILES_CHECK
from churn_assets.rules import CLOCK_SKEW_SECONDS, LONGEST_RETRY_SECONDS, RETRY_AFTER_FAILURE_SECONDS

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
BLOCKING_CHECKS = (*BLOCKING_INGEST_CHECKS, *BLOCKING_LEDGER_CHECKS, FILES_CHECK)
_OUTCOMES = {AssetCheckExecutionRecordStatus.SUCCEEDED: True, AssetCheckExecutionRecordStatus.FAILED: False}
_NEVER = datetime.fromisoformat("1970-01-01")
_FAILURES_TO_LONGEST_RETRY = 1 + ceil(log2(LONGEST_RETRY_SECONDS / RETRY_AFTER_FAILURE_SECONDS))
_LOOKED_AT = 100  # planned evaluations that never ended, of which one may have raised


def not_now(instance: dg.DagsterInstance, now: datetime, *jobs: str) -> dg.SkipReason | None:
    """Why none of the jobs may be requested at `now` (UTC): one is active, or its last run has just failed."""
    if skip := under_way(instance, *jobs):
        return skip
    return next(filter(None, (just_failed(instance, now, job) for job in jobs)), None)


def under_way(instance: dg.DagsterInstance, *jobs: str) -> dg.SkipReason | None:
    """The first of the jobs with an active run (queued, starting, started or canceling); None without one."""
    for job in jobs:
        if instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1):
            return dg.SkipReason(f"a run of {job} is queued or started")
    return None


def just_failed(instance: dg.DagsterInstance, now: datetime, job: str) -> dg.SkipReason | None:
    """How long to wait at `now` (UTC) before a job is tried again after a failure; None if no wait is needed."""
    of_job = dg.RunsFilter(job_name=job)
    last = instance.get_run_records(of_job, limit=1)
    if not last or last[0].dagster_run.status != dg.DagsterRunStatus.FAILURE:
        return None
    latest = instance.get_run_records(of_job, limit=_FAILURES_TO_LONGEST_RETRY)
    failures = max(1, sum(1 for _ in takewhile(_failed_soon, latest)))
    pause = min(LONGEST_RETRY_SECONDS, RETRY_AFTER_FAILURE_SECONDS * 2 ** (failures - 1))
    failed_for = (now - _without_offset(last[0].update_timestamp)).total_seconds()
    if -CLOCK_SKEW_SECONDS < failed_for < pause:
        runs = "run" if failures == 1 else f"{failures} runs"
        return dg.SkipReason(f"the last {runs} failed; trying again in {pause - failed_for:.0f} s")
    return None


def _failed_soon(record: dg.RunRecord) -> bool:
    """Whether a run failed before it had lived for the longest pause. One that lives longer begins the pauses anew."""
    lived = (record.end_time or 0.0) - (record.start_time or record.end_time or 0.0)
    return record.dagster_run.status == dg.DagsterRunStatus.FAILURE and lived < LONGEST_RETRY_SECONDS


def ended_well(instance: dg.DagsterInstance, *jobs: str) -> bool:
    """Whether the newest run of the jobs has succeeded, or there was none. One whose process died has failed."""
    last = [record for job in jobs for record in instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)]
    newest = max(last, key=lambda record: record.storage_id, default=None)
    return newest is None or newest.dagster_run.status == dg.DagsterRunStatus.SUCCESS


def ran_at(instance: dg.DagsterInstance, job: str, now: datetime) -> datetime:
    """When the last run of the job was requested (UTC); in 1970 if there was none.

    Nor was there one, if it is yet to come at `now`: the clock was ahead, and what it said must not keep anything waiting.
    """
    last = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    requested_at = _without_offset(last[0].create_timestamp) if last else _NEVER
    return requested_at if requested_at <= now + timedelta(seconds=CLOCK_SKEW_SECONDS) else _NEVER


def blocked(instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey] = BLOCKING_CHECKS) -> dg.SkipReason | None:
    """The first of the checks whose last evaluation that ended failed, if any.

    In Dagster a blocking check stops only the later steps of its own run. Here the later steps are in other runs.
    """
    for key in checks:
        if has_failed(instance, key):
            return dg.SkipReason(f"stopped by the failed check {key.name} of {key.asset_key.to_user_string()}")
    return None


def has_failed(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> bool:
    """Whether the check's last evaluation failed."""
    return last_outcome(instance, check) is False


def last_outcome(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> bool | None:
    """Whether the check's last evaluation that ended has passed; None if none has ended.

    A run that is queued, under way, cancelled or killed changes nothing: what was found before it still holds. A check that
    raised has failed. So only an evaluation that passes lifts a failure.
    """
    history = instance.event_log_storage.get_asset_check_execution_history
    latest = history(check, limit=1)
    if not latest or latest[0].status in _OUTCOMES:
        return _OUTCOMES[latest[0].status] if latest else None
    ended = history(check, limit=1, status=set(_OUTCOMES))
    planned = history(check, limit=_LOOKED_AT, status={AssetCheckExecutionRecordStatus.PLANNED})
    if any(_raised(instance, record) for record in planned if not ended or record.id > ended[0].id):
        return False
    return _OUTCOMES[ended[0].status] if ended else None


def _raised(instance: dg.DagsterInstance, planned: AssetCheckExecutionRecord) -> bool:
    """Whether a check that was planned never came to an evaluation because it raised.

    Not if its step makes an asset, too: an ingestion that raises has stored nothing, so its checks are as they were.
    """
    run = instance.get_run_by_id(planned.run_id)
    if run is None or run.status != dg.DagsterRunStatus.FAILURE or planned.event is None:
        return False
    step = planned.event.step_key

    def has(kind: dg.DagsterEventType) -> bool:
        found = instance.get_records_for_run(planned.run_id, of_type=kind).records
        return any(one.event_log_entry.step_key == step for one in found)

    return has(dg.DagsterEventType.STEP_FAILURE) and not has(dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)


def _without_offset(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)
