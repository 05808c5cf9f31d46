"""What does a lake on PostgreSQL and S3 cost, beside one in a folder, and what does the network between add?

    make benchmark-shared-lake                              # 5,000 customers; needs PostgreSQL (`.ci/install lake`)
    make benchmark-shared-lake ARGS="--customers 100000"
    AWS_ENDPOINT_URL=http://127.0.0.1:7070 AWS_ACCESS_KEY_ID=… make benchmark-shared-lake     # another S3 server than moto

On the same bank, in one run, for a lake in a folder and for a shared one behind lines of 0, 1 and 5 ms (a proxy on this
machine, half of it each way):

- commits: 1, 2 and 4 processes each store batches of 100 rows and an offset, as an ingestion does, for ten seconds;
- a batch: 30 events are stored, and all dynamic tables with streams follow, in one process, 20 times.

CPU is that of the writing process alone, without PostgreSQL and the S3 server.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from churn_assets.clock import utc_now
from churn_assets.operations import backup
from churn_assets.operations.lake import deploy
from churn_assets.settings import load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets.warehouse.protocol import Transaction
from churn_assets.wiring import open_lake
from churn_assets_tests.line import Line
from churn_assets_tests.shared_lakes import SharedLakes, shared_lakes
from churn_assets_tests.warehouse.processes import process

SECONDS, BATCHES, EVENTS, ROWS = 10.0, 20, 30, 100
ROW = (
    "INSERT INTO app_activity_logs (log_id, event_type, customer_id, event_timestamp, error_code, ingested_at)"
    " SELECT ? || range::VARCHAR, 'ERROR', ids[1 + range % len(ids)], ?, 'ERR_500', ?"
    " FROM range({rows}), (SELECT list(customer_id) AS ids FROM (FROM dim_customers ORDER BY customer_id LIMIT 30))"
)


def store(tx: Transaction, rows: int) -> None:
    """Store rows and an offset."""
    now = utc_now()
    tx.execute(ROW.format(rows=rows), [uuid.uuid4().hex, now, now])
    tx.execute("UPDATE benchmark_offset SET stored = stored + 1")


def commit_for_a_while(connection: Connection, place: LakePlace, environment: dict[str, str]) -> None:
    """Commit until the time is over, then say how often and with how much CPU."""
    os.environ.update(environment)
    lake, commits = LakeWarehouse(place), 0
    lake.transact(lambda tx: store(tx, ROWS))
    connection.send("ready")
    connection.recv()
    begun, cpu = time.monotonic(), time.process_time()
    while time.monotonic() < begun + SECONDS:
        lake.transact(lambda tx: store(tx, ROWS))
        commits += 1
    connection.send((commits, time.process_time() - cpu))


def commits_of(place: LakePlace, writers: int) -> tuple[float, float]:
    """Commits a second of so many processes together, and CPU milliseconds of each commit."""
    with ExitStack() as stack:
        ends = [stack.enter_context(process(commit_for_a_while, place, dict(os.environ)))[1] for _ in range(writers)]
        for end in ends:
            end.recv()
        for end in ends:
            end.send("go")
        done = [end.recv() for end in ends]
    commits = sum(count for count, _ in done)
    return commits / SECONDS, 1000 * sum(cpu for _, cpu in done) / commits


def batches_of(place: LakePlace) -> tuple[float, float, float]:
    """Median and 95th percentile of the seconds of a batch, and CPU seconds of each."""
    lake, seconds = open_lake(place), []
    tables = [table.name for table in lake.dynamic_tables(utc_now())]
    lake.refresh(tables, utc_now())
    cpu = time.process_time()
    for _ in range(BATCHES):
        begun = time.monotonic()
        lake.transact(lambda tx: store(tx, EVENTS))
        lake.refresh_and(tables, utc_now(), lambda tx, results: results)
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1], (time.process_time() - cpu) / BATCHES


def measured(name: str, place: LakePlace) -> dict[str, object]:
    """All figures of a place, which are printed as they come."""
    found: dict[str, object] = {"lake": name}
    median, late, cpu = batches_of(place)
    found |= {"batch_p50_s": round(median, 3), "batch_p95_s": round(late, 3), "batch_cpu_s": round(cpu, 3)}
    for writers in (1, 2, 4):
        rate, cpu_ms = commits_of(place, writers)
        found |= {f"commits_a_second_{writers}": round(rate, 1), f"cpu_ms_a_commit_{writers}": round(cpu_ms)}
    print(json.dumps(found), flush=True)  # noqa: T201
    return found


def over_lines(lakes: SharedLakes, name: str, data: str, scratch: Path, seconds: float, stack: ExitStack) -> LakePlace:
    """The place of a lake behind lines that take so long one way."""
    if not seconds:
        return LakePlace.shared(lakes.postgres.url(name), data, scratch)
    server = urlsplit(lakes.server)
    lines = [stack.enter_context(Line(port, seconds).open()) for port in (lakes.postgres.port, server.port or 80)]
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{lines[1].port}"
    return LakePlace.shared(lakes.postgres.url(name, lines[0].port), data, scratch)


def main() -> None:
    """Make the bank, copy it to each place, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=5000)
    parser.add_argument("--days", type=int, default=180)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as folder, shared_lakes() as lakes:
        os.environ.update(lakes.keys)
        settings = load_settings(CHURN_HOME=Path(folder, "home"))
        lake, now = open_lake(settings.lake_path), utc_now()
        lake.deploy()
        seed(lake, new_bank(options.customers, options.days, 1, now), now, lambda *_: None)
        deploy(settings, lake, lambda _: None)
        lake.transact(lambda tx: tx.execute("CREATE TABLE benchmark_offset AS SELECT 0::BIGINT AS stored"))
        backup.back_up(settings, str(Path(folder, "backup")), now, lambda _: None)
        measured("in a folder", lake.place)
        for milliseconds in (0, 1, 5):
            shared = lakes.empty(f"at_{milliseconds}")
            there = load_settings(CHURN_HOME=Path(folder, f"host_{milliseconds}"), **shared.environment)
            backup.restore(there, str(Path(folder, "backup")), lambda _: None)
            with ExitStack() as stack:
                place = over_lines(lakes, shared.name, shared.data, there.lake_path, milliseconds / 2000, stack)
                measured(f"PostgreSQL and S3, network of {milliseconds} ms", place)
            os.environ["AWS_ENDPOINT_URL"] = lakes.server


if __name__ == "__main__":
    main()
