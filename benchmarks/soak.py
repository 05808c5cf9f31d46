"""Does it grow? A demo at 2,000 events a minute for hours, with run workers killed now and then.

    make soak                                # 80 minutes of warm-up and an hour
    make soak ARGS="--hours 8"
    make soak ARGS="--hours 0.1 --warm-up 2 --every 1 --home /tmp/soak"

Every five minutes it prints a line: the megabytes on disk of the home by part, its files, and of each process the memory and the
open handles. At the end the demo stops, and what it has stored is checked: the dynamic tables are equal to a recompute, no
event is there twice, none is missing between the first and the last one of its partition, nobody was written to twice.

It fails where that does not hold and, if it measured for half an hour at least, where something grows: the home by more than
60 MB an hour, the memory of one process by more than 20 MB an hour. Growth is the slope of a line through the points after
the warm-up, in which Python loads what it needs, the runs of each job reach the number that is kept, files reach the age at
which they are deleted, and the embedded broker holds as many messages as it keeps. Linux only.
"""

import argparse
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from churn_assets.clock import utc_now
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake

MOST_HOME_MB, MOST_MEMORY_MB = 60.0, 20.0  # growth in an hour
JUDGED_MINUTES = 30.0  # a shorter time says little about an hour
KILL_SECONDS = 90.0  # mean time between two kills of a run worker
PARTS = {
    "event_log": ("dagster/event_log.*",),
    "dagster": ("dagster/**/*",),
    "lake_data": ("lake/data/**/*",),
    "catalog": ("lake/catalog.*",),
    "logs": ("logs/*",),
    "rest": ("**/*",),
}
# By name, a word of the command line that only this process has.
SERVERS = {
    "demo": "demo",
    "code": "grpc",
    "daemon": "dagster._daemon",
    "web": "dagster_webserver",
    "board": "churn_assets.dashboard.serve",
    "producer": "produce",
}
CHAIN = ("customer_day", "dyn_customer_features", "dyn_churn_predictions")
KEYS = {
    "fact_transaction_ledger": "transaction_ref",
    "app_activity_logs": "log_id",
    "support_cases": "case_id",
    "agent_intervention_log": "customer_id",
}


@dataclass(frozen=True)
class Process:
    """What /proc says of one process; memory in MB, shared pages counted in part."""

    pid: int
    parent: int
    words: frozenset[str]
    memory: float
    handles: int


@dataclass
class Soak:
    """The demo's home and what was measured: by column, its values by the minute."""

    home: Path
    began: float = field(default_factory=time.monotonic)
    minutes: list[float] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)
    kills: int = 0

    def measure(self) -> None:
        """Add one point."""
        self.minutes.append((time.monotonic() - self.began) / 60)
        seen: set[Path] = set()
        row: dict[str, float] = {"home": 0.0, "files": 0.0}
        for part, patterns in PARTS.items():
            size = 0
            for path in {path for pattern in patterns for path in self.home.glob(pattern)} - seen:
                seen.add(path)
                try:
                    size += path.lstat().st_blocks * 512 if path.is_file() else 0
                except FileNotFoundError:
                    continue
            row[part] = size / 1e6
        row |= {"home": sum(row[part] for part in PARTS), "files": len(seen)}
        found = processes_of(self.home)
        for name, word in SERVERS.items():
            of_name = [process for process in found if word in process.words]
            row |= {
                name: sum(process.memory for process in of_name),
                f"{name}_fd": sum(process.handles for process in of_name),
            }
        warm = [process for process in found if process.pid in {worker.parent for worker in run_workers(found)}]
        row |= {"warm": statistics.fmean(process.memory for process in warm) if warm else self._last("warm")}
        row |= {"all": sum(process.memory for process in found), "processes": len(found), "kills": self.kills}
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)

    def _last(self, name: str) -> float:
        return self.columns[name][-1] if self.columns.get(name) else 0.0

    def line(self) -> str:
        """The newest point, or the names of its columns before the first."""
        return f"{self.minutes[-1]:>6.0f} " + " ".join(f"{value[-1]:>9.0f}" for value in self.columns.values())

    def head(self) -> str:
        """The names over the numbers of `line`."""
        return f"{'minute':>6} " + " ".join(f"{name:>9}" for name in self.columns)

    def growth(self, warm_up: float) -> dict[str, float]:
        """By column, the growth an hour after the warm-up."""
        points = [place for place, minute in enumerate(self.minutes) if minute >= warm_up]
        hours = [self.minutes[place] / 60 for place in points]
        if len(points) < 2:
            return {}
        return {
            name: statistics.linear_regression(hours, [values[place] for place in points]).slope
            for name, values in self.columns.items()
        }


def main() -> None:
    """Run the demo, kill and measure, stop it, check what it has stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="after the warm-up")
    parser.add_argument("--warm-up", type=float, default=80.0, help="minutes")
    parser.add_argument("--every", type=float, default=5.0, help="minutes between two lines")
    parser.add_argument("--rate", type=float, default=2000.0, help="events a minute")
    parser.add_argument("--customers", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the kills")
    parser.add_argument("--home", type=Path, help="an empty folder that is kept afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="churn-soak-", ignore_cleanup_errors=True) as folder:
        home = (options.home or Path(folder)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        say(f"home {home}, seed of the kills {options.seed}")
        soak = Soak(home)
        with (home / "demo.out").open("ab") as output:
            process = subprocess.Popen(demo(options), env=environment(home), stdout=output, stderr=output)
            try:
                _watch(soak, process, options)
            finally:
                process.send_signal(signal.SIGINT)
                code = process.wait()
        faults = [] if code == 0 else [f"the demo ended with code {code}; see demo.out"]
        faults += faults_of(open_lake(load_settings(CHURN_HOME=home).lake_path))
        faults += _report(soak, options.warm_up)
        say("\n".join(faults) if faults else "all is well")
        raise SystemExit(bool(faults))


def demo(options: argparse.Namespace) -> list[str]:
    """The command line of the demo."""
    command = [sys.executable, "-m", "churn_assets.cli", "demo", "--rate", f"{options.rate}"]
    for option in ("--port", "--dashboard-port"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            command += [option, f"{free.getsockname()[1]}"]
    return [*command, "--customers", f"{options.customers}"]


def environment(home: Path) -> dict[str, str]:
    """The demo's, without what the caller has set for another bank."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("CHURN_", "KAFKA_"))}
    return ours | {"CHURN_HOME": str(home)}


def _watch(soak: Soak, process: subprocess.Popen[bytes], options: argparse.Namespace) -> None:
    chance = random.Random(options.seed)
    end = soak.began + (options.warm_up + options.hours * 60) * 60
    point, kill = soak.began + options.every * 60, soak.began + options.warm_up * 30
    while time.monotonic() < end and process.poll() is None:
        time.sleep(1)
        if time.monotonic() >= kill:
            soak.kills += kill_a_run(soak.home, chance)
            kill = time.monotonic() + chance.expovariate(1 / KILL_SECONDS)
        if time.monotonic() >= point:
            soak.measure()
            if len(soak.minutes) == 1:
                say(soak.head())
            say(soak.line())
            point += options.every * 60


def processes_of(home: Path) -> list[Process]:
    """The processes that have the home in their environment."""
    found: list[Process] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"CHURN_HOME={home}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = frozenset((folder / "cmdline").read_text().split("\0"))
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            pages = (folder / "smaps_rollup").read_text()
            memory = int(pages.partition("\nPss:")[2].split()[0]) / 1024
            found.append(Process(int(folder.name), parent, words, memory, len(list((folder / "fd").iterdir()))))
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return found


def run_workers(processes: list[Process]) -> list[Process]:
    """The forks of the warm process, each of which is a run."""
    warm = {process.pid for process in processes if "dagster_warm.warm_process" in process.words}
    return [process for process in processes if process.pid in warm and process.parent in warm]


def kill_a_run(home: Path, chance: random.Random) -> int:
    """Kill one of the runs under way; returns their number."""
    workers = run_workers(processes_of(home))
    if not workers:
        return 0
    os.kill(chance.choice(sorted(worker.pid for worker in workers)), signal.SIGKILL)
    return 1


def faults_of(lake: LakeWarehouse) -> list[str]:
    """What is wrong with what was stored."""
    faults = [
        f"{table} has {twice} values of {key} twice"
        for table, key in KEYS.items()
        if (twice := _one(lake, f"SELECT count({key}) - count(DISTINCT {key}) FROM {table}"))
    ]
    missing = _one(
        lake,
        "SELECT coalesce(sum(hole), 0) FROM (SELECT start_offset - lag(end_offset) OVER of_partition AS hole FROM ingest_ranges"
        " WINDOW of_partition AS (PARTITION BY epoch, topic, kafka_partition ORDER BY start_offset)) WHERE hole <> 0",
    )
    faults += [f"{missing} messages are missing between those stored"] if missing else []
    now = utc_now()
    lake.refresh(CHAIN, now)
    lake.transact(lambda tx: tx.execute("UPDATE dynamic_tables SET position = NULL, base_position = NULL"))
    return faults + [
        f"{done.name} differs from its recompute in {wrong} rows"
        for done in lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
        if done.name in CHAIN and (wrong := done.rows_inserted + done.rows_updated + done.rows_deleted)
    ]


def _one(lake: LakeWarehouse, sql: str) -> int:
    return lake.query(sql).column(0)[0].as_py()


def _report(soak: Soak, warm_up: float) -> list[str]:
    """Print the growth; what is above its limit."""
    growth = soak.growth(warm_up)
    minutes = soak.minutes[-1] - warm_up if soak.minutes else 0.0
    say(f"{'hourly':>6} " + " ".join(f"{growth.get(name, 0.0):>+9.1f}" for name in soak.columns))
    if minutes < JUDGED_MINUTES:
        say(f"measured for {max(minutes, 0):.0f} minutes, too short to judge the growth")
        return []
    limits = {"home": MOST_HOME_MB} | dict.fromkeys([*SERVERS, "warm"], MOST_MEMORY_MB)
    return [
        f"{name} grows by {growth[name]:.0f} MB an hour, more than {most:g}"
        for name, most in limits.items()
        if growth[name] > most
    ]


def say(text: str) -> None:
    """Print now, so that a run that is cut off has told what it saw."""
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
