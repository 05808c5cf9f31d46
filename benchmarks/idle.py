"""Does an idle system rest?

    make benchmark-idle                      # ten minutes, after what a new bank gives to do

It deploys a bank of 2,000 customers in a home of its own, starts an empty Kafka broker and Dagster with all its sensors,
waits until no run was launched for two minutes, and then counts the runs of ten minutes (there must be none) and the CPU
time of all processes.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from dagster import DagsterInstance

from churn_assets.project_files import PROJECT_FILES

QUIET_SECONDS, PATIENCE_SECONDS = 120, 900


def main() -> None:
    """Watch, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="churn-benchmark-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        home = Path(folder)
        dagster_home = home / "dagster"
        dagster_home.mkdir()
        (dagster_home / "dagster.yaml").write_text((PROJECT_FILES / "dagster.yaml").read_text())
        os.environ["DAGSTER_HOME"] = str(dagster_home)
        environment = {**os.environ, "CHURN_HOME": folder}
        environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
        for command in (["seed", "--customers", "2000", "--days", "90"], ["deploy"]):
            subprocess.run(churn(*command), env=environment, check=True, capture_output=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        dagster = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", f"{port}"]
        processes = [stack.enter_context(running(command, environment)) for command in (churn("broker"), dagster)]
        stack.callback(stop, processes)
        instance = stack.enter_context(DagsterInstance.get())
        began = time.monotonic()
        while (quiet := _seconds_since_a_run(instance)) < QUIET_SECONDS:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise SystemExit(f"not idle: a run was launched {quiet:.0f} s ago")
            time.sleep(5)
        runs, cpu = instance.get_runs_count(), cpu_seconds(processes)
        time.sleep(options.minutes * 60)
        launched, used = instance.get_runs_count() - runs, cpu_seconds(processes) - cpu
        print(  # noqa: T201
            f"{runs} runs before; {launched} runs in {options.minutes:g} idle minutes;"
            f" CPU of all processes: {used / (options.minutes * 60) * 100:.1f} % of a core"
        )


def churn(*arguments: str) -> list[str]:
    """The command line of a `churn` command."""
    return [sys.executable, "-m", "churn_assets.cli", *arguments]


def running(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process in a session of its own."""
    return subprocess.Popen(
        command,
        env=environment,
        cwd=PROJECT_FILES,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let processes and what they have started end; kill what does not, as a daemon that waits for its parent's word."""
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _seconds_since_a_run(instance: DagsterInstance) -> float:
    records = instance.get_run_records(limit=1)
    return time.time() - records[0].create_timestamp.timestamp() if records else 0.0


def cpu_seconds(processes: list[subprocess.Popen[bytes]]) -> float:
    """User and system time of all processes of the sessions so far, Linux only."""
    sessions, ticks = {process.pid for process in processes}, 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        if int(fields[3]) in sessions:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
