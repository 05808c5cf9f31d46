"""Turns among the processes of one machine: one of them at a time holds a file's lock, and the kernel ends a dead one's turn."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(lock: Path, taken: Exception | None = None) -> Generator[None]:
    """Hold the lock on a file, which is made where it is missing, with its folder.

    Waits as long as another process, or another thread, holds it; with `taken`, raises that at once instead.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        if taken is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise taken from None
        yield
