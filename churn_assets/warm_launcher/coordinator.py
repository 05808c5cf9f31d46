"""The run coordinator: a run that has nothing to wait for does not wait for the queue's next look.

`dagster.yaml`:

    run_coordinator:
      module: churn_assets.warm_launcher.coordinator
      class: DirectRunCoordinator

With its options and limits it is Dagster's queue. Only a run that finds no other one queued or under way, in the process
that has started the warm process of its code, is launched on the spot. Such a run can exceed no limit.
"""

import threading

from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.instance.types import T_DagsterInstance
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from churn_assets.warm_launcher.launcher import WarmRunLauncher

_IN_THE_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


class DirectRunCoordinator(QueuedRunCoordinator[T_DagsterInstance]):
    """Launches a run at once where nothing stands in its way, and queues it elsewhere."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._submitting = threading.Lock()  # of two runs at once, the second finds the first one under way

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
            and not self._instance.get_runs(RunsFilter(statuses=_IN_THE_WAY), limit=1)
            and not self._is_anything_stopped()
        )

    def _is_anything_stopped(self) -> bool:
        """Whether some limit is 0, by which runs or a pool are held back though nothing is under way."""
        config = self._instance.get_concurrency_config()
        queue, pools = config.run_queue_config, self._instance.event_log_storage.get_pool_limits()
        limits = [config.pool_config.default_pool_limit, *(pool.limit for pool in pools)]
        if queue is not None:
            limits += [queue.max_concurrent_runs, *(limit.get("limit") for limit in queue.tag_concurrency_limits)]
        return 0 in limits
