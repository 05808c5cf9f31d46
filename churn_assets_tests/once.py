"""What takes seconds to make is made once for all workers of a test run; each copies it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def worker_count() -> int:
    """How many processes share the tests."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of this test run as `make` left it; whoever comes first makes it, the others wait for it.

    It belongs to all workers: copy it, do not use it.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, is_made = root / name, root / f"{name}.is_made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
            make(folder)
            is_made.touch()
    return folder
