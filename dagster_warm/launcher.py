"""The run launcher: which run goes to which warm process, and what happens if there is none.

`dagster.yaml`:

    run_launcher:
      module: dagster_warm.launcher
      class: WarmRunLauncher

It lives in the process that launches runs: the daemon, or the web server if no daemon runs. Each code location has its own
warm process. If a run cannot be forked, Dagster's default launcher starts it instead, and the run's log says why.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from dagster import DagsterRun, Field, IntSource
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.instance.types import T_DagsterInstance
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext, RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.origin import RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from dagster_warm.messages import WarmProcessGoneError, call, listen
from dagster_warm.warm_process import Orders

# The tag with the name under which the run's warm process listens. The UI hides tags that begin with ".dagster/".
PROCESS_TAG = ".dagster/warm_process"
KILL_SECONDS = 60.0  # for a canceled run to end before it is killed
# For an answer from a process that may first have to reload the definitions.
_PATIENCE_SECONDS = 30.0
_HERE = {"localhost", "127.0.0.1", "::1"}


class NotWarmError(Exception):
    """A run cannot be forked and has not started; the message says why."""


@dataclass(frozen=True)
class Started:
    """A warm process that is a child of this process."""

    name: str
    process: subprocess.Popen[bytes]
    lifeline: int

    def end(self) -> None:
        """Let it end: at once if it is still loading, otherwise after its runs in progress."""
        os.close(self.lifeline)


class WarmRunLauncher(RunLauncher[T_DagsterInstance], ConfigurableClass):
    """Forks each run from a process that has already loaded the definitions. Off Linux it acts as the default launcher."""

    def __init__(
        self,
        replace_after_runs: int = 1000,
        drain_seconds: int = 30,
        load_timeout_seconds: int = 60,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__()
        self._inst_data = inst_data
        self._replace_after_runs = replace_after_runs
        self._drain_seconds = drain_seconds
        self._load_timeout_seconds = load_timeout_seconds
        self._default = DefaultRunLauncher()
        self._started: dict[str, Started] = {}  # by the code location's origin
        self._starting = threading.Lock()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """The configuration from `dagster.yaml`."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The options in `dagster.yaml`."""
        return {
            "replace_after_runs": Field(
                IntSource, default_value=1000, description="Number of runs after which a warm process replaces itself."
            ),
            "drain_seconds": Field(
                IntSource,
                default_value=30,
                description="How long runs may go on after the launching process has ended, before they are interrupted.",
            ),
            "load_timeout_seconds": Field(
                IntSource,
                default_value=60,
                description="How long a launch waits for the definitions to load before it uses the default launcher.",
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The launcher as `dagster.yaml` configures it."""
        return cls(**config_value, inst_data=inst_data)

    def register_instance(self, instance: T_DagsterInstance) -> None:
        """Set the instance, also for the default launcher."""
        super().register_instance(instance)
        self._default.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork the run, or start it with the default launcher."""
        run = context.dagster_run
        try:
            self._fork(run)
        except NotWarmError as error:
            self._instance.report_engine_event(
                f"Not forked from a warm process; started by the default launcher: {error}", run, cls=type(self)
            )
            self._default.launch_run(context)

    def is_warm(self, run: DagsterRun) -> bool:
        """Whether this process has already started the warm process that the run would be forked from."""
        origin = run.job_code_origin
        started = self._started.get(serialize_value(origin.repository_origin)) if origin else None
        return started is not None and started.process.poll() is None

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, as Ctrl-C would. A run that has not ended after a minute is killed."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if not _is_forked(run):
            return self._default.terminate(run_id)
        self._instance.report_run_canceling(run)
        with suppress(TimeoutError):
            if _ask(run, "terminate"):
                return True
        self._instance.report_engine_event("The run's process could not be found.", run, cls=type(self))
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring is supported."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is alive. Runs of the default launcher count as alive, because it cannot tell."""
        try:
            if not _is_forked(run) or _ask(run, "find"):
                return CheckRunHealthResult(WorkerStatus.RUNNING)
        except TimeoutError:  # it is alive and reloading the definitions
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the run's process is gone")

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs of the default launcher."""
        self._default.join(timeout)

    def dispose(self) -> None:
        """Let all warm processes end."""
        with self._starting:
            while self._started:
                self._started.popitem()[1].end()
        self._default.dispose()

    def _fork(self, run: DagsterRun) -> None:
        """Fork the run. Raises `NotWarmError` if it was not handed over, `DagsterLaunchFailedError` if that is uncertain."""
        origin = _origin_here(run)
        deadline = time.monotonic() + self._load_timeout_seconds
        reloaded = False
        while True:
            started, is_new = self._process_of(origin)
            try:
                if self._hand_over(run, started, deadline):
                    return
                if reloaded:
                    raise NotWarmError("loading the definitions changes files that they are loaded from")
                reloaded = True
            except WarmProcessGoneError as error:
                if is_new:
                    raise NotWarmError(f"the warm process ended during its start, see its output: {error}") from None
            except TimeoutError:
                self._give_up(origin)
                raise NotWarmError(
                    f"the definitions were not loaded within {self._load_timeout_seconds} s (load_timeout_seconds)"
                ) from None

    def _hand_over(self, run: DagsterRun, started: Started, deadline: float) -> bool:
        """Hand the run over. False if the process is reloading the definitions and must be called again."""
        with call(started.name) as line:
            line.send({"do": "launch"})
            answer = line.receive(max(0.1, deadline - time.monotonic()))
            if "reloading" in answer:
                return False
            if "error" in answer:
                raise NotWarmError(answer["error"])
            # Set before the run starts, so that any process can find and terminate it.
            self._instance.add_run_tags(run.run_id, {PROCESS_TAG: started.name})
            try:
                line.send({"run_id": run.run_id, "arguments": self._arguments(run)})
                receipt = line.receive()
            except (WarmProcessGoneError, TimeoutError) as error:
                # The run may have started, and starting it again could run it twice. A failed run is visible and can be retried.
                raise DagsterLaunchFailedError(f"the warm process ended while it received the run: {error}") from error
            if "error" in receipt:
                raise NotWarmError(receipt["error"])
            return True

    def _arguments(self, run: DagsterRun) -> str:
        assert run.job_code_origin is not None
        return serialize_value(ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref()))

    def _process_of(self, origin: RepositoryPythonOrigin) -> tuple[Started, bool]:
        """The warm process of a code location, and whether it was started just now."""
        key = serialize_value(origin)
        with self._starting:
            started = self._started.get(key)
            if started is not None and started.process.poll() is None:
                return started, False
            if started is not None:
                started.end()
            self._started[key] = started = self._start(origin)
            return started, True

    def _start(self, origin: RepositoryPythonOrigin) -> Started:
        name = f"dagster-warm-{uuid.uuid4()}"
        ending, lifeline = os.pipe()
        listener = listen(name)
        try:
            orders = Orders(
                listener=listener.fileno(),
                lifeline=ending,
                origin=serialize_value(origin),
                replace_after_runs=self._replace_after_runs,
                drain_seconds=self._drain_seconds,
                kill_seconds=KILL_SECONDS,
            )
            process = subprocess.Popen(
                [origin.executable_path, "-m", Orders.__module__, json.dumps(asdict(orders))],
                stdin=subprocess.DEVNULL,
                pass_fds=(orders.listener, orders.lifeline),
            )
        except OSError as error:
            os.close(lifeline)
            raise NotWarmError(f"the warm process could not be started: {error}") from error
        finally:
            # The child owns them now. If this process kept them open, nobody would notice the child's death.
            listener.close()
            os.close(ending)
        return Started(name, process, lifeline)

    def _give_up(self, origin: RepositoryPythonOrigin) -> None:
        with self._starting:
            if (started := self._started.pop(serialize_value(origin), None)) is not None:
                started.end()


def _origin_here(run: DagsterRun) -> RepositoryPythonOrigin:
    """The origin of the run's code; `NotWarmError` if the code is not on this machine."""
    if sys.platform != "linux":
        raise NotWarmError("warm processes need Linux")
    if run.job_code_origin is None or run.remote_job_origin is None:
        raise NotWarmError("the run has no code origin")
    location = run.remote_job_origin.repository_origin.code_location_origin
    if isinstance(location, GrpcServerCodeLocationOrigin) and not (location.socket or location.host in _HERE):
        raise NotWarmError(f"its code is on another host, {location.host}")
    return run.job_code_origin.repository_origin


def _is_forked(run: DagsterRun) -> bool:
    return PROCESS_TAG in run.tags and GRPC_INFO_TAG not in run.tags


def _ask(run: DagsterRun, what: str) -> bool:
    """Ask the run's warm process to find or terminate the run; False if either is gone. Raises `TimeoutError`."""
    try:
        with call(run.tags[PROCESS_TAG]) as line:
            line.send({"do": what, "run_id": run.run_id})
            return line.receive(_PATIENCE_SECONDS)["found"]
    except WarmProcessGoneError:
        return False
