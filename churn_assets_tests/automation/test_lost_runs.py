"""Runs whose container is gone do not keep sensors waiting."""

import dagster as dg

from churn_assets.automation.gates import under_way
from churn_assets.automation.lost_runs import LAUNCHED, report_lost_runs


@dg.job
def storing() -> None: ...


def test_runs_that_a_code_server_was_running_are_failed_and_those_of_others_and_not_yet_launched_are_left_alone():
    launched = {LAUNCHED: "{}"}
    with dg.DagsterInstance.ephemeral() as instance:
        lost = [
            instance.create_run_for_job(storing, status=status, tags=launched).run_id
            for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
        ]
        queued = instance.create_run_for_job(storing, status=dg.DagsterRunStatus.NOT_STARTED)
        of_a_person = instance.create_run_for_job(storing, status=dg.DagsterRunStatus.STARTED)

        assert set(report_lost_runs(instance)) == set(lost)

        still = {run.run_id for run in instance.get_runs() if run.status != dg.DagsterRunStatus.FAILURE}
        assert still == {queued.run_id, of_a_person.run_id}
        for run in (queued, of_a_person):
            instance.report_run_failed(run)
        assert under_way(instance, "storing") is None
