"""The demo as a user runs it: real processes, the Kafka protocol, runs that the Dagster daemon launches."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from churn_assets.clock import utc_now
from churn_assets.operations.status import status
from churn_assets.settings import load_settings
from churn_assets.wiring import open_lake
from churn_assets_tests.ports import free_port
from dagster_warm.launcher import PROCESS_TAG

pytestmark = pytest.mark.slow

CHURN = [sys.executable, "-m", "churn_assets.cli"]
# A word of each one's command that no other process has.
SERVERS = {"code server": "grpc", "daemon": "dagster._daemon", "webserver": "dagster_webserver"}
PATIENCE_SECONDS = 600.0  # many first runs share two cores with other tests


class Demo:
    """A running `churn demo`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        port, dashboard_port = free_port(), free_port()
        self.address, self.dashboard = (f"http://127.0.0.1:{number}" for number in (port, dashboard_port))
        ports = ["--port", str(port), "--dashboard-port", str(dashboard_port)]
        options = [*ports, "--customers", "300", "--days", "40", "--rate", "1200"]
        self._output = (home.parent / f"demo-{port}.log").open("a+")
        self._process = subprocess.Popen(
            [*CHURN, "demo", *options],
            stdout=self._output,
            stderr=self._output,
            env=os.environ | {"CHURN_HOME": str(home)},
        )

    def wait_until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that satisfies `reached`, as soon as there is anything to say."""
        settings = load_settings(CHURN_HOME=self._home)
        lake = open_lake(settings.lake_path, read_only=True)
        end = time.monotonic() + PATIENCE_SECONDS
        state = None
        while time.monotonic() < end:
            assert self._process.poll() is None, self.output()
            if "Ctrl-C stops everything" in self.output():
                state = status(settings, lake, utc_now())
                if reached(state):
                    return state
            time.sleep(2)
        pytest.fail(f"not reached: {state}\n{self.output()}")

    def stop(self) -> int:
        """Ctrl-C, and wait for the end."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(120)

    def kill(self) -> None:
        """End it in any case. What it said can be read no more."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    def kill_server(self, word: str) -> None:
        """Kill one of the demo's processes, as the kernel does when memory runs out."""
        [pid] = [pid for pid, line in self._found() if word in line.split()]
        os.kill(pid, signal.SIGKILL)

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def processes_left(self) -> list[str]:
        """Command lines of processes that work on this home and do not end within a moment."""
        end = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return left

    def processes(self) -> list[str]:
        """Command lines of the processes that work on this home."""
        return [line for _, line in self._found()]

    def _found(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self._home).encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                    found.append((int(process.name), (process / "cmdline").read_text().replace("\0", " ")))
            except OSError:
                continue
        return found


def committed(state: dict[str, Any]) -> int:
    return sum(offset["committed"] for offset in state["offsets"])


def is_scored(state: dict[str, Any]) -> bool:
    return all(table["lag_seconds"] < 5 for table in state["dynamic_tables"])


def jobs() -> set[str]:
    """The jobs that have a run."""
    with dg.DagsterInstance.get() as instance:
        return {run.job_name for run in instance.get_runs()}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_events_become_emails_and_a_second_start_goes_on_also_where_its_servers_are_killed(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    for name in ("OPENAI_API_KEY", "SNOWFLAKE_PASSWORD", "SNOWFLAKE_TOKEN"):
        monkeypatch.setenv(name, "s3cret")

    demo = Demo(home)
    try:
        state = demo.wait_until(lambda s: s["emails"]["total"] > 0 and committed(s) > 0 and "stream_events" in jobs())
        running = demo.processes()
        assert demo.stop() == 0, demo.output()
        said = demo.output()
    finally:
        demo.kill()
    assert demo.processes_left() == []
    assert {"demo", *SERVERS.values(), "produce", "churn_assets.dashboard.serve"} <= {
        word for line in running for word in line.split()
    }
    assert not [line for line in running if "s3cret" in line]
    assert "s3cret" not in said
    assert not [path for path in home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    runs = dg.DagsterInstance.get().get_runs()
    assert [run.status for run in runs if not run.is_success] == []
    requested = {run.job_name: run.tags.get("dagster/sensor_name") for run in runs}
    assert requested["stream_events"] == "kafka_sensor"
    assert requested["write_retention_emails"] == "emails_sensor"
    assert [run.run_id for run in runs if PROCESS_TAG not in run.tags] == [], "started without the warm process"

    demo = Demo(home)
    try:
        again = demo.wait_until(lambda s: committed(s) > 0)
        for name, word in SERVERS.items():
            demo.kill_server(word)
            # More than what was under way at the kill, and with the features and scores that belong to it.
            enough = committed(again) + 1000
            again = demo.wait_until(lambda s, enough=enough: committed(s) > enough and is_scored(s))
            assert f"the {name} ended with SIGKILL; it is started again now" in demo.output()
        assert urllib.request.urlopen(f"{demo.address}/server_info", timeout=10).status == 200
        assert demo.stop() == 0, demo.output()
        assert "dim_customers:" not in demo.output()  # not seeded again
    finally:
        demo.kill()
    assert demo.processes_left() == []
    assert again["emails"]["total"] >= state["emails"]["total"]
    assert again["ledgers"]["app_activity_logs"] > state["ledgers"]["app_activity_logs"]
    assert written_twice(home) == []


def written_twice(home: Path) -> list[str]:
    """What the lake of a home has twice and must have once: events, emails, messages of Kafka."""
    found: list[str] = []
    for sql in (
        "SELECT transaction_ref FROM fact_transaction_ledger GROUP BY 1 HAVING count(*) > 1",
        "SELECT customer_id FROM agent_intervention_log GROUP BY 1 HAVING count(*) > 1",
    ):
        asked = subprocess.run(
            [*CHURN, "query", "--json", sql], capture_output=True, text=True, env=os.environ | {"CHURN_HOME": str(home)}
        )
        found += map(str, json.loads(asked.stdout))
    return found
