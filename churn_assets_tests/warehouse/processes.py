"""Processes of a test's own, for what only a second process shows: contention and sudden death."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

PATIENCE_SECONDS = 60.0  # after which a process that says nothing is a failure, not a slow machine

FORKS = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Let the fork server of this worker import what its processes need: they start in a tenth of a new interpreter's time.

    There is one, and what counts is what it was told last before its first process. So say it in a fixture: said when a file
    is imported, the last file's modules were imported for every other's tests.
    """
    FORKS.set_forkserver_preload([*modules])


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """Run `target(connection, *args)` in a process of its own, which does not outlive the block."""
    preload("__main__", "pytest", "churn_assets.wiring")
    ours, theirs = FORKS.Pipe()
    child = FORKS.Process(target=target, args=(theirs, *args), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join()
        ours.close()


def heard_from(connection: Connection) -> Any:
    """The next message of the process at the other end."""
    assert connection.poll(PATIENCE_SECONDS), "the process said nothing"
    return connection.recv()


def killed(child: BaseProcess) -> None:
    """Kill with SIGKILL, as a power cut or the kernel would."""
    child.kill()
    child.join(PATIENCE_SECONDS)
