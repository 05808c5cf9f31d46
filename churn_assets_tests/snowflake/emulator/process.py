"""An emulator in a process of its own, which all clients of a test reach, and which outlives any of them."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

import snowflake.connector
from snowflake.connector import SnowflakeConnection

from churn_assets_tests.ports import free_port

_START_SECONDS = 60
PASSWORD = "s3cret of the emulator"  # it takes any; a test looks for this one in what dbt writes


@dataclass(frozen=True)
class RunningEmulator:
    """Where a running emulator is reached, and what a test can ask of it."""

    host: str
    port: int

    def connect(self, **parameters: Any) -> SnowflakeConnection:
        """A connection of the real connector, as account administrator where nothing else is said."""
        return snowflake.connector.connect(
            **{
                "account": "emulator",
                "user": "emulator",
                "password": "emulator",
                "role": "ACCOUNTADMIN",
                "host": self.host,
                "port": self.port,
                "protocol": "http",
                "paramstyle": "qmark",
                "login_timeout": 20,
                "network_timeout": 60,
                **parameters,
            }
        )

    def environment(self) -> dict[str, str]:
        """The variables with which the project's programs and dbt's profile reach it."""
        return {
            "CHURN_TARGET": "snowflake",
            "SNOWFLAKE_ACCOUNT": "emulator",
            "SNOWFLAKE_USER": "emulator",
            "SNOWFLAKE_PASSWORD": PASSWORD,
            "SNOWFLAKE_HOST": self.host,
            "SNOWFLAKE_PORT": str(self.port),
            "SNOWFLAKE_PROTOCOL": "http",
        }

    def fail(self, pattern: str, errno: int, times: int = 1, message: str | None = None) -> None:
        """Let the next `times` statements in which the pattern is found fail with a number."""
        self._ask("fail", {"pattern": pattern, "errno": errno, "times": times, "message": message})

    def complete(self, **completion: Any) -> None:
        """Set what AI_COMPLETE answers: `text`, `error`, `completion_tokens`."""
        self._ask("completion", completion)

    def reset(self) -> None:
        """Put an empty account in the place of this one; all sessions are gone."""
        self._ask("reset", {})

    def _ask(self, what: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"http://{self.host}:{self.port}/emulator/{what}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            response.read()


@contextmanager
def running(*options: str) -> Generator[RunningEmulator]:
    """An emulator with an empty account, until the block ends."""
    emulator = RunningEmulator("127.0.0.1", free_port())
    command = [sys.executable, "-m", "churn_assets_tests.snowflake.emulator", "--port", str(emulator.port)]
    process = subprocess.Popen([*command, "--until-stdin-closes", *options], stdin=subprocess.PIPE)
    try:
        _wait_for(emulator, process)
        yield emulator
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(emulator: RunningEmulator, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the emulator ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://{emulator.host}:{emulator.port}/emulator", timeout=5):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError("the emulator did not answer")
