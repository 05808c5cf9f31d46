"""A project of another team: no bank, one file of definitions, and a Dagster of its own that launches warm."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.launcher import LaunchRunContext
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget

CODE = """
import os, signal, subprocess, sys, time
import dagster as dg

with open({folder!r} + "/loads", "a") as loads:
    loads.write("loaded\\n")

@dg.op
def note(context):
    with open({folder!r} + "/" + context.run_id, "w") as file:
        file.write(f"{{os.getpid()}} {{os.getppid()}} {{VERSION}}")

@dg.op(pool="beds", config_schema={{"seconds": float, "stubborn": dg.Field(bool, default_value=False)}})
def sleep(context):
    if context.op_config["stubborn"]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    left_behind = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open({folder!r} + "/" + context.run_id, "w") as file:
        file.write(f"{{os.getpid()}} {{left_behind.pid}} {{VERSION}}")
    time.sleep(context.op_config["seconds"])

@dg.job(executor_def=dg.in_process_executor)
def noting():
    note()

@dg.job(executor_def=dg.in_process_executor)
def sleeping():
    sleep()

@dg.job
def in_processes():
    note()

VERSION = 1
defs = dg.Definitions(jobs=[noting, sleeping, in_processes])
"""


def sleep_for(seconds: float, *, stubborn: bool = False) -> dict[str, Any]:
    """The configuration of a run of the job `sleeping`."""
    return {"ops": {"sleep": {"config": {"seconds": seconds, "stubborn": stubborn}}}}


def write_project(folder: Path, launcher: dict[str, Any], limits: dict[str, Any]) -> None:
    """The files of a project: its definitions, and the `dagster.yaml` of its Dagster."""
    for name in ("home", "code"):
        (folder / name).mkdir()
    (folder / "code" / "definitions.py").write_text(CODE.format(folder=str(folder)))
    module = "dagster_warm"
    config = {
        "run_launcher": {"module": f"{module}.launcher", "class": "WarmRunLauncher", "config": launcher},
        "run_coordinator": {"module": f"{module}.coordinator", "class": "DirectRunCoordinator"},
        "storage": {
            "custom": {
                "module": f"{module}.storage",
                "class": "OpenSqliteStorage",
                "config": {"base_dir": str(folder / "home")},
            }
        },
        "concurrency": {"runs": limits},
        "telemetry": {"enabled": False},
    }
    (folder / "home" / "dagster.yaml").write_text(yaml.dump(config))


class Project:
    """A project in its folder, with its instance, and its code location as a daemon would see them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.code = folder, folder / "home", folder / "code" / "definitions.py"
        self._stack = ExitStack()

    def __enter__(self) -> "Project":
        self.instance = self._stack.enter_context(DagsterInstance.from_config(str(self.home)))
        target = PythonFileTarget(str(self.code), None, str(self.code.parent), "project")
        self.process = self._stack.enter_context(WorkspaceProcessContext(self.instance, target))
        return self

    def __exit__(self, *_: object) -> None:
        launcher = self.instance.run_launcher
        warm = [started.process for started in launcher._started.values()]
        self._stack.close()
        for process in warm:
            process.wait(60)

    def new_run(self, job: str, **options: Any) -> DagsterRun:
        """A run that nobody has submitted yet."""
        location = self.process.create_request_context().get_code_location("project")
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job(job)
        config = options.get("run_config", {})
        plan = location.get_execution_plan(remote, config, step_keys_to_execute=None, known_state=None)
        return create_run_for_test(
            self.instance,
            job,
            job_snapshot=remote.job_snapshot,
            parent_job_snapshot=remote.parent_job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
            **options,
        )

    def launch(self, job: str, **options: Any) -> DagsterRun:
        """A run that has gone straight to the launcher."""
        run = self.new_run(job, status=DagsterRunStatus.STARTING, **options)
        context = LaunchRunContext(run, self.process.create_request_context())
        self.instance.run_launcher.launch_run(context)
        return run

    def submitted(self, job: str, **options: Any) -> DagsterRunStatus:
        """What has become of a new run that the coordinator was given."""
        run = self.new_run(job, **options)
        self.instance.run_coordinator.submit_run(SubmitRunContext(run, self.process.create_request_context()))
        return self.now(run).status

    def sleeping(self, seconds: float = 600.0, *, stubborn: bool = False) -> DagsterRun:
        """A run that is in the middle of its step."""
        run = self.launch("sleeping", run_config=sleep_for(seconds, stubborn=stubborn))
        wait_until(lambda: self.said_by(run))
        return run

    def finished(self, run: DagsterRun) -> DagsterRun:
        """The run once it has ended."""
        wait_until(lambda: self.now(run).is_finished)
        return self.now(run)

    def now(self, run: DagsterRun) -> DagsterRun:
        """The run as it is recorded now."""
        found = self.instance.get_run_by_id(run.run_id)
        assert found
        return found

    def said_by(self, run: DagsterRun) -> list[int]:
        """What the run's step has written: its process, its parent or child, the code's version."""
        file = self.folder / run.run_id
        return [int(number) for number in file.read_text().split()] if file.exists() else []

    def log(self, run: DagsterRun) -> str:
        """All messages of the run."""
        return "\n".join(entry.message for entry in self.instance.all_logs(run.run_id))

    @property
    def loads(self) -> int:
        """How often the definitions were loaded, by whomever."""
        return len((self.folder / "loads").read_text().splitlines())


def wait_until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process is there that is not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parent_of(pid: int) -> int:
    """The process that has forked this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and not waited for yet."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def own_memory(pid: int) -> int:
    """What a process has in memory and shares with no other one, kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.fixture
def launcher_config() -> dict[str, Any]:
    """What `dagster.yaml` says of the launcher."""
    return {}


@pytest.fixture
def limits() -> dict[str, Any]:
    """What `dagster.yaml` says of how many runs there may be at a time."""
    return {}


@pytest.fixture
def project(tmp_path: Path, launcher_config: dict[str, Any], limits: dict[str, Any]) -> Iterator[Project]:
    """A project of this test alone, whose Dagster is up."""
    write_project(tmp_path, launcher_config, limits)
    with Project(tmp_path) as project:
        yield project


@pytest.fixture(scope="module")
def running_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One for several tests, as it takes seconds to start; each leaves its code as it was and no run under way."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder, {}, {})
    with Project(folder) as project:
        yield project
