"""`.ci/run` on a machine of one's own and the jobs on GitHub run the same commands."""

import re

import yaml

from churn_assets_tests.repository import REPOSITORY

# A `make` line: the target with what is set before it and after it. `beside` has several in quotes.
MAKE = re.compile(r"(?:TEST_ROUNDS=\S+ )?make [\w-]+(?: ARGS='[^']*')?")


def test_the_jobs_of_the_workflow_run_what_the_one_command_runs():
    script = (REPOSITORY / ".ci/run").read_text().splitlines()
    here = [found for line in script if not line.startswith("#") for found in MAKE.findall(line)]
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"].values()
    there = [found for job in jobs for step in job["steps"] for found in MAKE.findall(step.get("run", ""))]
    assert len(here) > 5
    assert sorted({*there, "make install"}) == sorted(here), (
        "give .ci/run and .github/workflows/ci.yml the same `make` lines"
    )
