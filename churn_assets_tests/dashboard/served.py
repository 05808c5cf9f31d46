"""The dashboard as `churn dashboard` serves it, in a process of its own."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager

from churn_assets.settings import Settings
from churn_assets_tests.ports import free_port

_PATIENCE_SECONDS = 180.0


@contextmanager
def served_dashboard(settings: Settings) -> Generator[str]:
    """The address at which the dashboard of a home answers."""
    command = [sys.executable, "-m", "churn_assets.cli", "dashboard", "--port"]
    with served(command, {"CHURN_HOME": str(settings.home.absolute())}) as address:
        yield address


@contextmanager
def served(command: list[str], environment: dict[str, str]) -> Generator[str]:
    """The address at which a server of Streamlit's answers; the port is the command's last word."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*command, str(port)], env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        _wait_for(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.2)
