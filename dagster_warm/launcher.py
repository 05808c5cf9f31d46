"""The run launcher: which run goes to which warm process, and what happens where there is none.

`dagster.yaml`:

    run_launcher:
      module: dagster_warm.launcher
      class: WarmRunLauncher

It belongs to the process that launches runs: the daemon, or the web server where no daemon does. Each code location has a
warm process of its own. Whatever keeps a run from being forked, it is started by Dagster's default launcher instead, and
the run's log says why.
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

# Hidden in the UI, like all tags that begin so: the name under which the run's warm process listens.
PROCESS_TAG = ".dagster/warm_process"
KILL_SECONDS = 60.0  # for a canceled run to end by itself
# An answer may have to wait until a process that replaces itself has loaded the definitions.
_PATIENCE_SECONDS = 30.0
_HERE = {"localhost", "127.0.0.1", "::1"}


class NotWarmError(Exception):
    """A run cannot be forked; the message says why. It was not begun."""


@dataclass(frozen=True)
class Started:
    """A warm process that this one has started, and is the parent of."""

    name: str
    process: subprocess.Popen[bytes]
    lifeline: int

    def end(self) -> None:
        """Let it end: at once while it loads, else after the runs under way."""
        os.close(self.lifeline)


class WarmRunLauncher(RunLauncher[T_DagsterInstance], ConfigurableClass):
    """Forks each run from a process that has loaded the definitions before. For Linux; elsewhere as the default launcher."""

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
        """What `dagster.yaml` says."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The options in `dagster.yaml`."""
        return {
            "replace_after_runs": Field(
                IntSource, default_value=1000, description="After so many runs a warm process replaces itself."
            ),
            "drain_seconds": Field(
                IntSource,
                default_value=30,
                description="How long runs may go on when the launching process has ended, before they are interrupted.",
            ),
            "load_timeout_seconds": Field(
                IntSource,
                default_value=60,
                description="How long a launch waits for the definitions to be loaded before it falls back.",
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The launcher as `dagster.yaml` configures it."""
        return cls(**config_value, inst_data=inst_data)

    def register_instance(self, instance: T_DagsterInstance) -> None:
        """Remember the instance, for the fallback too."""
        super().register_instance(instance)
        self._default.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork the run, or start it by the default launcher."""
        run = context.dagster_run
        try:
            self._fork(run)
        except NotWarmError as error:
            self._instance.report_engine_event(
                f"Not forked from a warm process but started by the default launcher: {error}", run, cls=type(self)
            )
            self._default.launch_run(context)

    def is_warm(self, run: DagsterRun) -> bool:
        """Whether this process has already started the warm process that the run would be forked from."""
        origin = run.job_code_origin
        started = self._started.get(serialize_value(origin.repository_origin)) if origin else None
        return started is not None and started.process.poll() is None

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, as Ctrl-C would. One that has not ended after a minute is killed."""
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
        """Run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is there. Of runs of the default launcher nothing is known, as it does not say."""
        try:
            if not _is_forked(run) or _ask(run, "find"):
                return CheckRunHealthResult(WorkerStatus.RUNNING)
        except TimeoutError:  # it is there, and loading the definitions anew
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the run's process is gone")

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs of the default launcher."""
        self._default.join(timeout)

    def dispose(self) -> None:
        """Let the warm processes end."""
        with self._starting:
            while self._started:
                self._started.popitem()[1].end()
        self._default.dispose()

    def _fork(self, run: DagsterRun) -> None:
        """Raises `NotWarmError` as long as the run was not handed over, `DagsterLaunchFailedError` if that is in doubt."""
        origin = _origin_here(run)
        deadline = time.monotonic() + self._load_timeout_seconds
        reloaded = False
        while True:
            started, is_new = self._process_of(origin)
            try:
                if self._hand_over(run, started, deadline):
                    return
                if reloaded:
                    raise NotWarmError("files that the definitions are loaded from change with each loading")
                reloaded = True
            except WarmProcessGoneError as error:
                if is_new:
                    raise NotWarmError(
                        f"the warm process ended while it was started, see its output: {error}"
                    ) from None
            except TimeoutError:
                self._give_up(origin)
                raise NotWarmError(
                    f"the definitions were not loaded within {self._load_timeout_seconds} s (load_timeout_seconds)"
                ) from None

    def _hand_over(self, run: DagsterRun, started: Started, deadline: float) -> bool:
        """Whether it was; if not, the process is loading the definitions anew and is to be called again."""
        with call(started.name) as line:
            line.send({"do": "launch"})
            answer = line.receive(max(0.1, deadline - time.monotonic()))
            if "reloading" in answer:
                return False
            if "error" in answer:
                raise NotWarmError(answer["error"])
            # Before it runs: whoever wants to end it, in whichever process, must find it.
            self._instance.add_run_tags(run.run_id, {PROCESS_TAG: started.name})
            try:
                line.send({"run_id": run.run_id, "arguments": self._arguments(run)})
                receipt = line.receive()
            except (WarmProcessGoneError, TimeoutError) as error:
                # It may have begun. Another start might run it twice; the failure is seen, and can be retried.
                raise DagsterLaunchFailedError(f"the warm process ended while it was given the run: {error}") from error
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
            # They are the child's now: as long as this process held them, nobody would notice that it has died.
            listener.close()
            os.close(ending)
        return Started(name, process, lifeline)

    def _give_up(self, origin: RepositoryPythonOrigin) -> None:
        with self._starting:
            if (started := self._started.pop(serialize_value(origin), None)) is not None:
                started.end()


def _origin_here(run: DagsterRun) -> RepositoryPythonOrigin:
    """Where the run's code comes from, if that is on this machine. Raises `NotWarmError`."""
    if sys.platform != "linux":
        raise NotWarmError("warm processes need Linux")
    if run.job_code_origin is None or run.remote_job_origin is None:
        raise NotWarmError("the run does not say where its code is")
    location = run.remote_job_origin.repository_origin.code_location_origin
    if isinstance(location, GrpcServerCodeLocationOrigin) and not (location.socket or location.host in _HERE):
        raise NotWarmError(f"its code is on another host, {location.host}")
    return run.job_code_origin.repository_origin


def _is_forked(run: DagsterRun) -> bool:
    return PROCESS_TAG in run.tags and GRPC_INFO_TAG not in run.tags


def _ask(run: DagsterRun, what: str) -> bool:
    """Tell the run's warm process to do something with it; False where either is gone. Raises `TimeoutError`."""
    try:
        with call(run.tags[PROCESS_TAG]) as line:
            line.send({"do": what, "run_id": run.run_id})
            return line.receive(_PATIENCE_SECONDS)["found"]
    except WarmProcessGoneError:
        return False
