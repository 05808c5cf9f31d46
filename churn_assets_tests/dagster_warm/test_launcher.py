import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.launcher.base import WorkerStatus

from churn_assets_tests.dagster_warm.conftest import (
    Project,
    children_of,
    is_alive,
    open_files,
    own_memory,
    parent_of,
    sleep_for,
    wait_until,
)
from churn_assets_tests.rounds import rounds
from dagster_warm import launcher
from dagster_warm.launcher import PROCESS_TAG

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="warm processes need Linux")]


def test_runs_are_forked_from_one_process_that_loaded_the_definitions_once(running_project: Project):
    project = running_project
    first = project.finished(project.launch("noting"))
    loads = project.loads
    others = [project.finished(project.launch(job)) for job in ("noting", "noting")]
    runs = [first, *others]
    assert {run.status for run in runs} == {DagsterRunStatus.SUCCESS}, project.log(first)
    assert len({project.said_by(run)[0] for run in runs}) == 3
    assert len({project.said_by(run)[1] for run in runs}) == 1
    assert project.loads == loads


def test_an_executor_that_starts_processes_works_in_a_fork(running_project: Project):
    project = running_project
    run = project.finished(project.launch("in_processes"))
    assert run.status == DagsterRunStatus.SUCCESS, project.log(run)
    assert PROCESS_TAG in run.tags


def test_a_canceled_run_ends_as_canceled_and_leaves_nothing_behind(running_project: Project):
    project = running_project
    run = project.sleeping()
    pid, child, _ = project.said_by(run)
    with DagsterInstance.from_config(str(project.home)) as of_the_web_server:
        assert of_the_web_server.run_launcher.terminate(run.run_id)
    assert project.finished(run).status == DagsterRunStatus.CANCELED
    wait_until(lambda: not is_alive(pid) and not is_alive(child))
    assert not project.instance.run_launcher.terminate(run.run_id)


def test_a_canceled_run_that_does_not_end_is_killed(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launcher, "KILL_SECONDS", 1.0)
    run = project.sleeping(stubborn=True)
    assert project.instance.run_launcher.terminate(run.run_id)
    assert project.finished(run).status == DagsterRunStatus.CANCELED
    assert "signal 9" in project.log(run)


def test_a_run_whose_process_was_killed_is_failed_and_says_so(running_project: Project):
    project = running_project
    run = project.sleeping()
    pid, child, _ = project.said_by(run)
    assert project.instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    os.kill(pid, signal.SIGKILL)
    assert project.finished(run).status == DagsterRunStatus.FAILURE
    assert "signal 9 (SIGKILL)" in project.log(run)
    wait_until(lambda: not is_alive(child))


def test_changed_code_is_run_while_what_is_under_way_goes_on(running_project: Project):
    project = running_project
    under_way, code = project.sleeping(seconds=600), project.code.read_text()
    project.code.write_text(code.replace("VERSION = 1", "VERSION = 2"))
    run = project.finished(project.launch("noting"))
    assert project.said_by(run)[2] == 2
    assert PROCESS_TAG in run.tags
    assert project.now(under_way).status == DagsterRunStatus.STARTED
    assert project.instance.run_launcher.terminate(under_way.run_id)
    assert project.finished(under_way).status == DagsterRunStatus.CANCELED
    project.code.write_text(code)


def test_broken_code_falls_back_says_why_and_is_forked_again_once_mended(running_project: Project):
    project = running_project
    code = project.code.read_text()
    project.code.write_text(f"{code}\nraise RuntimeError('half of an edit')\n")
    run = project.finished(project.launch("noting"))
    assert "started by the default launcher: the definitions could not be loaded" in project.log(run)
    assert "half of an edit" in project.log(run)
    project.code.write_text(code)
    mended = project.finished(project.launch("noting"))
    assert mended.status == DagsterRunStatus.SUCCESS
    assert "default launcher" not in project.log(mended)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import socket; kept = socket.socket()", "opens socket:"),
        (
            "import threading; threading.Thread(target=time.sleep, args=(600,), daemon=True, name='poller').start()",
            "poller",
        ),
        (
            "import sqlite3; kept = sqlite3.connect(os.environ['KEPT']); kept.execute('CREATE TABLE a (b)')",
            "kept.sqlite",
        ),
    ],
)
def test_what_a_fork_would_break_is_not_forked(
    project: Project, line: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KEPT", str(tmp_path / "kept.sqlite"))
    project.code.write_text(
        project.code.read_text().replace("VERSION = 1", f"VERSION = 1\nif 'api' not in sys.argv: {line}")
    )
    run = project.finished(project.launch("noting"))
    assert run.status == DagsterRunStatus.SUCCESS
    assert reason in project.log(run)


def test_runs_end_where_the_warm_process_was_killed(project: Project):
    run = project.sleeping()
    pid, child, _ = project.said_by(run)
    os.kill(parent_of(pid), signal.SIGKILL)
    assert project.finished(run).status == DagsterRunStatus.FAILURE
    wait_until(lambda: not is_alive(pid))
    assert project.instance.run_launcher.check_run_worker_health(project.now(run)).status == WorkerStatus.NOT_FOUND
    assert project.finished(project.launch("noting")).status == DagsterRunStatus.SUCCESS
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("launcher_config", [{"drain_seconds": 1}])
def test_nothing_is_left_of_a_launching_process_that_was_killed(project: Project):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from churn_assets_tests.dagster_warm.conftest import Project\n"
        "with Project(Path(sys.argv[1])) as project:\n"
        "    project.sleeping()\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, project.folder]) as daemon:
        wait_until(lambda: any(project.said_by(run) for run in project.instance.get_runs()))
        (run,) = project.instance.get_runs()
        pid = project.said_by(run)[0]
        warm = parent_of(pid)
        daemon.kill()
    wait_until(lambda: not is_alive(pid) and not is_alive(warm))
    assert project.finished(run).status == DagsterRunStatus.FAILURE


@pytest.mark.parametrize("launcher_config", [{"replace_after_runs": 2}])
def test_a_warm_process_replaces_itself_after_many_runs(project: Project):
    loads = []
    for _ in range(5):
        assert project.finished(project.launch("noting")).status == DagsterRunStatus.SUCCESS
        loads.append(project.loads)
    assert loads[-1] - loads[0] == 2


def test_many_runs_in_a_row_leave_no_process_open_file_or_memory_behind(project: Project):
    def launched(count: int) -> int:
        runs = [project.finished(project.launch("noting")) for _ in range(count)]
        assert {run.status for run in runs} == {DagsterRunStatus.SUCCESS}
        assert [run for run in runs if PROCESS_TAG not in run.tags] == []
        (warm,) = {project.said_by(run)[1] for run in runs}
        wait_until(lambda: not children_of(warm))
        return warm

    warm = launched(20)  # what is learned and cached is by then
    files, memory, own_files = open_files(warm), own_memory(warm), open_files(os.getpid())
    runs = int(os.environ.get("RUNS_IN_A_ROW", max(30, rounds(100))))
    assert launched(runs) == warm
    assert open_files(warm) == files
    # Threads of the client that asks the code location, and of earlier tests, open and close some at any time.
    assert open_files(os.getpid()) < own_files + runs / 2
    assert own_memory(warm) < memory + 4096


@pytest.mark.parametrize("launcher_config", [{"load_timeout_seconds": 2}])
def test_definitions_that_never_finish_loading_fall_back(project: Project):
    project.code.write_text(f"{project.code.read_text()}\nif 'api' not in sys.argv: time.sleep(600)\n")
    run = project.finished(project.launch("noting"))
    assert run.status == DagsterRunStatus.SUCCESS
    assert "not loaded within 2 s" in project.log(run)


def test_a_run_that_nothing_stands_in_the_way_of_is_not_queued(project: Project):
    assert project.submitted("noting") == DagsterRunStatus.QUEUED, (
        "this process is not warm yet, perhaps it is a short command"
    )
    for record in project.instance.get_run_records():
        project.instance.delete_run(record.dagster_run.run_id)
    project.finished(project.launch("noting"))
    assert project.submitted("noting") != DagsterRunStatus.QUEUED
    wait_until(lambda: all(record.dagster_run.is_finished for record in project.instance.get_run_records()))
    under_way = project.sleeping()
    assert project.submitted("noting") != DagsterRunStatus.QUEUED, "it needs no pool that is in use"
    assert project.submitted("sleeping", run_config=sleep_for(1)) == DagsterRunStatus.QUEUED, "its pool is in use"
    assert project.submitted("noting") == DagsterRunStatus.QUEUED, "another one waits longer"
    assert project.instance.run_launcher.terminate(under_way.run_id)
    project.finished(under_way)


LIMITS = [{"max_concurrent_runs": 1}, {"tag_concurrency_limits": [{"key": "team", "value": "risk", "limit": 1}]}]


@pytest.mark.parametrize("limits", LIMITS)
def test_a_run_is_queued_while_others_are_under_way_that_a_limit_may_count_it_with(project: Project):
    project.finished(project.launch("noting"))
    alone = project.submitted("noting", tags={"team": "risk"})
    assert alone != DagsterRunStatus.QUEUED
    wait_until(lambda: all(record.dagster_run.is_finished for record in project.instance.get_run_records()))
    under_way = project.sleeping()
    assert project.submitted("noting", tags={"team": "risk"}) == DagsterRunStatus.QUEUED
    assert project.instance.run_launcher.terminate(under_way.run_id)
    project.finished(under_way)


@pytest.mark.parametrize("limits", [{"tag_concurrency_limits": [{"key": "team", "value": "risk", "limit": 0}]}])
def test_a_run_that_may_never_start_is_queued(project: Project):
    project.finished(project.launch("noting"))
    assert project.submitted("noting", tags={"team": "risk"}) == DagsterRunStatus.QUEUED


def test_what_runs_import_is_imported_once(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(project.code.parent))
    project.code.write_text(
        project.code.read_text().replace("def note(context):", "def note(context):\n    import slowly")
    )
    slowly = project.code.parent / "slowly.py"
    slowly.write_text(f"with open({str(project.folder / 'imports')!r}, 'a') as imports: imports.write('.')\n")
    for _ in range(3):
        assert project.finished(project.launch("noting")).status == DagsterRunStatus.SUCCESS
    # By the first run, and by the process that the others are forked from.
    assert (project.folder / "imports").read_text() == ".."
    slowly.write_text(slowly.read_text().replace("'.'", "'!'"))
    assert project.finished(project.launch("noting")).status == DagsterRunStatus.SUCCESS
    assert "!" in (project.folder / "imports").read_text()
