"""Processes that end by themselves: named, started again, given up; and none of theirs is left."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from churn_assets.cli import supervision
from churn_assets.cli.supervision import EndsEarlyError, Supervised, supervised

WAITS = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
FAILS = [sys.executable, "-c", "raise SystemExit(3)"]


def pids(log: Path) -> list[int]:
    """What has said its number; beside it there are the tracebacks of what was interrupted."""
    return [int(line) for line in log.read_text().splitlines() if line.isdigit()]


def until(reached: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def news(process: Supervised) -> str:
    """The next that it has to say."""
    found: list[str] = []
    until(lambda: found or found.extend(filter(None, [process.look()])))
    return found[0]


def is_running(pid: int) -> bool:
    """Whether it has not ended; who has ended may not be collected yet."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_process_is_named_with_its_log_and_started_again_and_ends_with_the_block(tmp_path):
    log = tmp_path / "server.log"
    with supervised("server", WAITS, os.environ, log) as process:
        until(lambda: pids(log))
        assert process.look() is None
        os.kill(pids(log)[0], signal.SIGKILL)

        assert news(process) == f"the server ended with SIGKILL; it is started again now (see {log})"
        until(lambda: process.look() or len(pids(log)) == 2)
        assert is_running(pids(log)[1])
    assert not is_running(pids(log)[1])


def test_a_process_that_ends_soon_after_each_start_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "MOST_EARLY_ENDS", 3)
    with supervised("server", FAILS, os.environ, tmp_path / "server.log") as process:
        assert "now" in news(process)
        assert "in 2 s" in news(process)
        with pytest.raises(EndsEarlyError, match=r"3 times soon after its start, last with exit code 3; .*server.log"):
            news(process)


def test_what_a_killed_process_has_left_behind_ends_with_the_block(tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "LEFT_SECONDS", 0.2)
    log = tmp_path / "server.log"
    starts_one = [sys.executable, "-c", f"import subprocess; subprocess.Popen({WAITS!r}); import time; time.sleep(60)"]
    with supervised("server", starts_one, os.environ, log) as process:
        until(lambda: pids(log))
        left = pids(log)[0]
        os.kill(os.getpgid(left), signal.SIGKILL)
        news(process)
        until(lambda: process.look() or len(pids(log)) == 2)
        assert is_running(left), "it may still have something to do"
    assert not any(map(is_running, pids(log)))
