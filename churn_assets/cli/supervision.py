"""Processes that go on: one that ends by itself is named and started again.

Here belongs what holds for any process. Which processes there are, and in which order they end, belongs to the command that
runs them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from churn_assets.errors import ChurnError

EARLY_SECONDS = 60.0  # a process that ends sooner after its start than this has ended early ...
MOST_EARLY_ENDS = 5  # ... which it may do so many times in a row
STOP_SECONDS = 15.0  # for a process to end before it is killed
LEFT_SECONDS = 45.0  # for what it leaves behind, such as runs under way, to end by itself
# On Linux a child asks the kernel for SIGTERM when its parent dies, so that nothing is left running.
_ENDS_WITH_ITS_PARENT = (
    [
        sys.executable,
        "-c",
        "import ctypes, os, signal, sys\n"
        "PR_SET_PDEATHSIG = 1\n"
        "ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)\n"
        "os.execv(sys.argv[1], sys.argv[1:])",
    ]
    if sys.platform == "linux"
    else []
)


class EndsEarlyError(ChurnError):
    """A process ends again and again soon after its start; the message names its log."""


class Supervised:
    """A command that is started again whenever it ends, with its output in a log file, or in this process's where that is None.

    Each start has a session of its own, so that Ctrl-C reaches only the supervisor, which ends the commands in order.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
        self._name = name
        self._command = [*_ENDS_WITH_ITS_PARENT, *command]
        self._environment = environment
        self._log = log
        self._where = f"{log}" if log else "its output above"
        self._early_ends = 0
        self._start_at = 0.0  # of the next start, if it has ended; by the monotonic clock, like the following one
        self._groups: list[int] = []  # of all starts of which a process is left
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") if self._log else nullcontext() as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        self._started_at = time.monotonic()
        self._has_ended = False
        self._groups.append(self._process.pid)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended since its last start."""
        return self._process.poll() is None

    def look(self) -> str | None:
        """Start it again if it has ended; what a person should know, if anything. Call it about once a second."""
        code = self._process.poll()
        if code is None:
            return None
        if self._has_ended:
            if time.monotonic() >= self._start_at:
                self._start()
            return None
        self._has_ended = True
        self._groups = [group for group in self._groups if _is_there(group)]
        lived = time.monotonic() - self._started_at
        self._early_ends = self._early_ends + 1 if lived < EARLY_SECONDS else 0
        if self._early_ends >= MOST_EARLY_ENDS:
            raise EndsEarlyError(
                f"the {self._name} ended {MOST_EARLY_ENDS} times soon after its start, last with {_said(code)};"
                f" {self._where} says why"
            )
        pause = 2.0 ** (self._early_ends - 1) if self._early_ends > 1 else 0.0
        self._start_at = time.monotonic() + pause
        when = f"in {pause:.0f} s" if pause else "now"
        return f"the {self._name} ended with {_said(code)}; it is started again {when} (see {self._where})"

    def end(self) -> None:
        """Interrupt it, kill it if it does not end, and wait for what it has left behind, which is then ended as well."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for group in self._groups:
            _end_group(group)


@contextmanager
def supervised(
    name: str, command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> Generator[Supervised]:
    """Run a command until the end of the block; somebody has to `look` after it."""
    process = Supervised(name, command, environment, log)
    try:
        yield process
    finally:
        process.end()


def _said(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _is_there(group: int) -> bool:
    """Whether a process of the group has not ended. Where nobody collects orphans, as in some containers, ended ones stay."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return sys.platform != "linux" or any(map(partial(_is_alive_in, group), Path("/proc").glob("[0-9]*/stat")))


def _is_alive_in(group: int, stat: Path) -> bool:
    try:
        state, _, of_group, *_ = stat.read_text().rpartition(")")[2].split()
    except OSError:  # it is gone
        return False
    return int(of_group) == group and state not in ("Z", "X")


def _end_group(group: int) -> None:
    end = time.monotonic() + LEFT_SECONDS
    while _is_there(group) and time.monotonic() < end:
        time.sleep(0.1)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        time.sleep(1.0)
