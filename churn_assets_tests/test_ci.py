"""`.ci/run` on a machine of one's own and the jobs on GitHub run the same commands."""

import yaml

from churn_assets_tests.repository import REPOSITORY


def test_the_jobs_of_the_workflow_run_what_the_one_command_runs():
    script = (REPOSITORY / ".ci/run").read_text().splitlines()
    here = [line for line in script if "make " in line and not line.startswith("#")]
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"].values()
    there = [step["run"] for job in jobs for step in job["steps"] if "make " in step.get("run", "")]
    assert sorted(there) == sorted(here), "give .ci/run and .github/workflows/ci.yml the same `make` lines"
