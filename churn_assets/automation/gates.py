"""Reasons not to request a run now: one is active, the last one has just failed, or a blocking check failed.

Here belong the queries that all sensors make to Dagster's own storage. Queries to the warehouse belong to each sensor.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from churn_assets.assets.ledger_checks import BLOCKING_LEDGER_CHECKS
from churn_assets.assets.ledgers import INGEST_CHECKS
from churn_assets.rules import RETRY_AFTER_FAILURE_SECONDS

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
BLOCKING_CHECKS = (*INGEST_CHECKS, *BLOCKING_LEDGER_CHECKS)
_OUTCOMES = {AssetCheckExecutionRecordStatus.SUCCEEDED: True, AssetCheckExecutionRecordStatus.FAILED: False}


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
    last = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    if last and last[0].dagster_run.status == dg.DagsterRunStatus.FAILURE:
        failed_for = (now - _without_offset(last[0].update_timestamp)).total_seconds()
        if failed_for < RETRY_AFTER_FAILURE_SECONDS:
            return dg.SkipReason(
                f"the last run failed; trying again in {RETRY_AFTER_FAILURE_SECONDS - failed_for:.0f} s"
            )
    return None


def ran_at(instance: dg.DagsterInstance, job: str) -> datetime:
    """When the last run of the job was requested (UTC); in 1970 if there was none."""
    last = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    return _without_offset(last[0].create_timestamp if last else datetime.fromtimestamp(0, UTC))


def blocked(instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey] = BLOCKING_CHECKS) -> dg.SkipReason | None:
    """The first of the checks whose last evaluation failed, if any.

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
    """Whether the check's last evaluation passed; None if it was never evaluated, or is being evaluated."""
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([check]).get(check)
    return _OUTCOMES.get(record.status) if record else None


def _without_offset(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)
