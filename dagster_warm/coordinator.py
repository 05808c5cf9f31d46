"""The run coordinator: a run that nothing holds back starts at once, not at the queue daemon's next tick.

`dagster.yaml`:

    run_coordinator:
      module: dagster_warm.coordinator
      class: DirectRunCoordinator

It is Dagster's queue, with the same options and limits. It launches a run at once only if that certainly exceeds no limit:
- this process has started the warm process of the run's code,
- no run is queued, and fewer runs are in progress than the limit allows,
- no run in progress uses one of the run's pools, and
- no run is in progress if there are limits by tag.
"""

import threading

from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.instance.types import T_DagsterInstance
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from dagster_warm.launcher import WarmRunLauncher

_IN_THE_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


class DirectRunCoordinator(QueuedRunCoordinator[T_DagsterInstance]):
    """Launches a run at once if nothing holds it back, otherwise queues it."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._submitting = threading.Lock()  # of two runs at once, the second sees the first in progress

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Launch or queue the run."""
        with self._submitting:
            if self._has_nothing_to_wait_for(context.dagster_run):
                return self._instance.launch_run(context.dagster_run.run_id, context.workspace)
        return super().submit_run(context)

    def _has_nothing_to_wait_for(self, run: DagsterRun) -> bool:
        launcher = self._instance.run_launcher
        return (
            run.status == DagsterRunStatus.NOT_STARTED
            and isinstance(launcher, WarmRunLauncher)
            and launcher.is_warm(run)
            and self._is_within_limits(run)
        )

    def _is_within_limits(self, run: DagsterRun) -> bool:
        config, pools = self._instance.get_concurrency_config(), self._instance.event_log_storage.get_pool_limits()
        queue = config.run_queue_config
        tag_limits = queue.tag_concurrency_limits if queue else []
        most = queue.max_concurrent_runs if queue else -1
        limits = [most, config.pool_config.default_pool_limit, *(pool.limit for pool in pools)]
        if 0 in (
            *limits,
            *(limit.get("limit") for limit in tag_limits),
        ):  # it holds back every run
            return False
        others = self._instance.get_runs(RunsFilter(statuses=_IN_THE_WAY))
        if others and (tag_limits or 0 < most <= len(others)):
            return False
        return all(other.status != DagsterRunStatus.QUEUED and not _pools(run) & _pools(other) for other in others)


def _pools(run: DagsterRun) -> set[str]:
    return set(run.run_op_concurrency.all_pools or ()) if run.run_op_concurrency else set()
