"""Turns among the processes of one machine: one at a time holds a file lock, which the kernel releases if it dies."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(lock: Path, taken: Exception | None = None) -> Generator[None]:
    """Hold the lock on a file, which is created with its folder if it is missing.

    Waits while another process or thread holds the lock; with `taken`, raises that exception at once instead.
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
