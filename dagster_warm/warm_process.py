"""The warm process: it loads the definitions of one code location and forks a process for each run.

It is a separate program, started by the launcher. It has one thread, no connections and no state of a run: it only loads,
forks, waits and reaps. So it does not grow, and its forks inherit nothing that two processes must not share. When the code
has changed, or after many runs, it replaces itself (`exec`) and stays the parent of the runs in progress.
"""

import fcntl
import gc
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from selectors import EVENT_READ, DefaultSelector
from typing import Never

from dagster_warm import worker
from dagster_warm.changes import Fingerprint, fingerprint, has_changed, recorded_files
from dagster_warm.messages import Line, WarmProcessGoneError, is_same_user

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


@dataclass(frozen=True)
class Orders:
    """The launcher's arguments. `listener` and `lifeline` are file descriptors; the lifeline closes when the launcher ends."""

    listener: int
    lifeline: int
    origin: str
    replace_after_runs: int
    drain_seconds: float
    kill_seconds: float


@dataclass
class Child:
    """A forked process; `kill_at` is a time of the monotonic clock. A process that reports a death has no run."""

    arguments: str
    run_id: str | None
    kill_at: float | None = None


@dataclass
class State:
    """What survives a replacement: the children, the pipe that tells them when this process is gone, and module names.

    `learned` are modules that runs imported in addition to the definitions; `avoided` are modules that make forking unsafe.
    """

    tether: tuple[int, int]
    notice: tuple[int, int]  # has a byte to read once the runs should come to an end
    children: dict[int, Child] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)
    avoided: list[str] = field(default_factory=list)

    def save(self) -> int:
        """Write the state to a file in memory; returns its descriptor, for `restore`."""
        file = os.memfd_create("state", 0)
        os.write(file, json.dumps(asdict(self)).encode())
        os.lseek(file, 0, os.SEEK_SET)
        return file

    @classmethod
    def restore(cls, file: int) -> "State":
        """The state that `save` wrote."""
        with os.fdopen(file) as text:
            found = json.load(text)
        children = {int(pid): Child(**child) for pid, child in found["children"].items()}
        return cls(tuple(found["tether"]), tuple(found["notice"]), children, found["learned"], found["avoided"])


class WarmProcess:
    """Loads once, then serves until the launcher is gone and the runs in progress have ended."""

    def __init__(self, orders: Orders, state: State | None) -> None:
        self._orders = orders
        self._state = state or State(os.pipe(), os.pipe())
        self._listener = socket.socket(fileno=orders.listener)
        for descriptor in (orders.listener, orders.lifeline, *self._state.tether, *self._state.notice):
            os.set_inheritable(descriptor, True)
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGINT, _leave)
        with _killed_at_end_of(orders.lifeline):  # an import may hang
            self._load()
        signal.set_wakeup_fd(self._waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = DefaultSelector()
        for descriptor in (self._listener, orders.lifeline, self._woken):
            self._selector.register(descriptor, EVENT_READ)
        self._line: Line | None = None
        self._forked = 0
        self._end_at: float | None = None  # by the monotonic clock; set when the launcher is gone

    def _load(self) -> None:
        """Import the definitions; note the files that they came from and whether runs can be forked from them."""
        self._error: str | None = None
        descriptors = _descriptors()
        with recorded_files() as self._opened:
            try:
                _import_definitions(self._orders.origin)
                _import(self._state.learned)
            except (Exception, SystemExit) as caught:  # noqa: BLE001  # whatever user code may raise
                traceback.print_exc()
                said = "".join(traceback.format_exception_only(caught)).strip()
                self._error = f"the definitions could not be loaded: {said}"
        self._error = self._error or _unsafe_to_fork(descriptors)
        self._files: Fingerprint = fingerprint(self._opened)
        _leave_in_place()

    def serve(self) -> None:
        """Answer the launcher and reap children."""
        self._reap()
        while self._end_at is None or (self._state.children and time.monotonic() < self._end_at):
            ready = {key.fileobj for key, _ in self._selector.select(self._patience())}
            if self._woken in ready:
                self._woken.recv(4096)
            if self._orders.lifeline in ready:
                self._selector.unregister(self._orders.lifeline)
                os.write(self._state.notice[1], b".")
                self._end_at = time.monotonic() + self._orders.drain_seconds
            self._reap()
            self._kill_the_stubborn()
            if self._listener in ready:
                self._answer()

    def _patience(self) -> float | None:
        times = [child.kill_at for child in self._state.children.values() if child.kill_at is not None]
        if self._end_at is not None:
            times.append(self._end_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with Line(connection) as self._line, suppress(WarmProcessGoneError, TimeoutError):
            if not is_same_user(connection):
                return
            request = self._line.receive()
            match request["do"]:
                case "launch":
                    self._launch(self._line)
                case "terminate":
                    self._line.send({"found": self._terminate(request["run_id"])})
                case "learn":
                    self._learn(request["modules"])
                case "find":
                    self._line.send({"found": self._pid_of(request["run_id"]) is not None})

    def _launch(self, line: Line) -> None:
        """Start a run in two steps: the launcher hands the run over only after this process has said that it is ready."""
        if has_changed(self._files):
            line.send({"reloading": True})
            self._replace()
        if self._error is not None:
            line.send({"error": self._error})
            self._replace()  # the cause may be gone after a reload
        line.send({"ready": True})
        run = line.receive()
        try:
            work = partial(worker.execute, run["arguments"], self._listener.getsockname()[1:].decode())
            self._fork(Child(run["arguments"], run["run_id"]), work)
        except OSError as error:
            line.send({"error": f"the process could not be forked: {error}"})
            return
        line.send({})
        if self._forked >= self._orders.replace_after_runs:
            self._replace()

    def _learn(self, modules: list[str]) -> None:
        """Import what a run has imported, so that the next run does not have to."""
        descriptors = _descriptors()
        new = [name for name in modules if name not in sys.modules and name not in self._state.avoided]
        with _killed_at_end_of(self._orders.lifeline):
            _import(new)
        if _unsafe_to_fork(descriptors):
            self._state.avoided += new
            self._replace()
        self._state.learned += new
        self._files = fingerprint(self._opened) | self._files
        _leave_in_place()

    def _fork(self, child: Child, work: Callable[[], None]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if (pid := os.fork()) == 0:
                self._let_go()
                worker.become(work, self._state.tether[0], self._state.notice[0])
            self._forked += 1
            self._state.children[pid] = child
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _let_go(self) -> None:
        """In a fork: give up what belongs to the warm process. A process group of its own shows what the run leaves behind."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for owned in (self._selector, self._listener, self._woken, self._waker):
            owned.close()
        if self._line is not None:
            self._line.close()
        os.close(self._orders.lifeline)
        for read, write in (self._state.tether, self._state.notice):
            os.close(write)
            os.set_inheritable(read, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _pid_of(self, run_id: str) -> int | None:
        return next((pid for pid, child in self._state.children.items() if child.run_id == run_id), None)

    def _terminate(self, run_id: str) -> bool:
        pid = self._pid_of(run_id)
        if pid is None:
            return False
        self._state.children[pid].kill_at = time.monotonic() + self._orders.kill_seconds
        os.kill(pid, signal.SIGINT)
        return True

    def _kill_the_stubborn(self) -> None:
        for pid, child in self._state.children.items():
            if child.kill_at is not None and child.kill_at <= time.monotonic():
                child.kill_at = None
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid, child in list(self._state.children.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            # Until waitpid its number stays taken, so this reaches only the processes that the run left behind.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            del self._state.children[pid]
            exit_code = os.waitstatus_to_exitcode(status)
            if exit_code != 0 and child.run_id is not None:
                with suppress(OSError):  # if the fork fails, run monitoring finds the death later
                    self._fork(Child(child.arguments, None), partial(worker.report_death, child.arguments, exit_code))

    def _replace(self) -> Never:
        signal.set_wakeup_fd(-1)
        arguments = [json.dumps(asdict(self._orders)), str(self._state.save())]
        os.execv(sys.executable, [sys.executable, "-m", "dagster_warm.warm_process", *arguments])


def _import_definitions(origin: str) -> None:
    from dagster._cli import api  # noqa: F401, PLC0415  # the code that executes a run
    from dagster._core.origin import RepositoryPythonOrigin  # noqa: PLC0415
    from dagster._serdes import deserialize_value  # noqa: PLC0415
    from dagster._utils.hosted_user_process import recon_repository_from_origin  # noqa: PLC0415

    repository = recon_repository_from_origin(deserialize_value(origin, RepositoryPythonOrigin)).get_definition()
    repository.get_all_jobs()


def _import(modules: list[str]) -> None:
    """Import the modules, ignoring failures: a run may have created a module itself, or an import may fail out of place."""
    for name in modules:
        with suppress(Exception, SystemExit):
            import_module(name)


def _leave_in_place() -> None:
    """Exclude loaded objects from garbage collection, which would touch, and thereby copy, their memory in every fork."""
    gc.collect()
    gc.freeze()


def _unsafe_to_fork(descriptors: set[int]) -> str | None:
    """Why forking is unsafe: threads, which a fork loses, or sockets and databases, which it shares. Otherwise None."""
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        return f"loading the definitions starts threads ({', '.join(threads)}), which a fork would not have"
    for descriptor in _descriptors() - descriptors:
        mode = os.fstat(descriptor).st_mode
        is_database = stat.S_ISREG(mode) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        if stat.S_ISSOCK(mode) or is_database:
            opened = os.readlink(f"/proc/self/fd/{descriptor}")
            return (
                f"loading the definitions opens {opened}, which runs must not share; open it in a resource or an asset"
            )
    return None


def _descriptors() -> set[int]:
    """The open file descriptors, without that of the listing itself."""
    return {number for name in os.listdir("/proc/self/fd") if _is_open(number := int(name))}


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def _killed_at_end_of(pipe: int) -> Generator[None]:
    """End this process if the other end of the pipe is closed during the block, whatever the block does."""
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_ASYNC)  # sends SIGIO, which by default ends the process
    try:
        yield
    finally:
        fcntl.fcntl(pipe, fcntl.F_SETFL, flags & ~os.O_ASYNC)


def _leave(*_: object) -> Never:
    os._exit(0)


def main(orders: str, state: str | None = None) -> Never:
    """Serve; then exit at once, because there is nothing to clean up."""
    WarmProcess(Orders(**json.loads(orders)), State.restore(int(state)) if state else None).serve()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
