"""Runs that died with the container of their code server, which nobody else can notice.

Dagster's default launcher starts runs as children of the code server. When its container dies they are gone, but Dagster takes
them for started until `max_runtime_seconds` have passed, and no sensor requests their work meanwhile. So the container runs
`python -m churn_assets.automation.lost_runs` before it starts the server. Where the warm launcher starts the runs, none is lost
in this way.
"""

import dagster as dg

LAUNCHED = ".dagster/grpc_info"  # the tag of a run that the default launcher has handed to a code server
GONE = "The run's process is gone: the container that it ran in was started again."


def report_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report all runs that were handed to a code server as failed; returns their ids. Call it while no code server runs."""
    launched = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    lost = [run for run in instance.get_runs(dg.RunsFilter(statuses=launched)) if LAUNCHED in run.tags]
    for run in lost:
        instance.report_run_failed(run, GONE)
    return [run.run_id for run in lost]


if __name__ == "__main__":
    with dg.DagsterInstance.get() as found:
        for run_id in report_lost_runs(found):
            print(f"run {run_id}: {GONE}")  # noqa: T201
