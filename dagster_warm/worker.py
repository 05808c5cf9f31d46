"""What a forked process does: it executes one run, or reports that a run's process has died. Then it ends.

It starts as a copy of the warm process, so it renews what two processes must not share.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Never

from dagster_warm.messages import WarmProcessGoneError, call

# Seconds for a run to end after it was interrupted because the warm process is gone; then it is killed.
ORPHAN_SECONDS = 10.0

_notice: int | None = None


def should_end() -> bool:
    """Whether a run that would go on should come to its end now, because Dagster's daemon has ended.

    After the launcher's `drain_seconds` it is interrupted. False where the run was not forked from a warm process.
    """
    return _notice is not None and bool(select.select([_notice], [], [], 0)[0])


def become(work: Callable[[], None], tether: int, notice: int) -> Never:
    """Do the work and end the process. When the other end of `tether` is closed, the work is interrupted, then killed.

    Once there is something to read from `notice`, `should_end` is true.
    """
    global _notice  # noqa: PLW0603  # it belongs to the process
    _notice = notice
    code = 1
    try:
        threading.Thread(target=_end_with, args=(tether,), daemon=True, name="tether").start()
        if "numpy.random" in sys.modules:  # a fork reseeds Python's generator, but not NumPy's
            sys.modules["numpy.random"].seed()
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # the fork must never return into the forking code
        traceback.print_exc()
    finally:
        _end(code)


def execute(arguments: str, parent: str) -> None:
    """Execute a run as `dagster api execute_run` does, with its arguments; tell the warm process what it had to import."""
    from dagster._cli.api import api_cli  # noqa: PLC0415

    before = set(sys.modules)
    api_cli.main(["execute_run", arguments], standalone_mode=False)
    imported = [name for name, module in sys.modules.items() if name not in before and module.__spec__]
    if imported:
        with suppress(WarmProcessGoneError, TimeoutError), call(parent) as line:
            line.send({"do": "learn", "modules": imported})


def report_death(arguments: str, exit_code: int) -> None:
    """Mark a run whose process ended too early as failed, or as canceled if that was requested."""
    from dagster import DagsterInstance, DagsterRunStatus  # noqa: PLC0415
    from dagster._grpc.types import ExecuteRunArgs  # noqa: PLC0415
    from dagster._serdes import deserialize_value  # noqa: PLC0415
    from dagster._utils import get_run_crash_explanation  # noqa: PLC0415

    execution = deserialize_value(arguments, ExecuteRunArgs)
    assert execution.instance_ref is not None
    with DagsterInstance.from_ref(execution.instance_ref) as instance:
        run = instance.get_run_by_id(execution.run_id)
        if run is None or run.is_finished:
            return
        message = get_run_crash_explanation(f"Run execution process for {run.run_id}", exit_code)
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)


def _end_with(tether: int) -> None:
    os.read(tether, 1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(ORPHAN_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)


def _end(code: int) -> Never:
    """Exit as the interpreter would, but without tearing down modules, which would copy the memory that forks share."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
