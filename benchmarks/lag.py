"""Do the predictions stay within their target lag while events keep coming?

    make benchmark-lag                       # twenty minutes at 2,000 events a minute, target lag 1 minute
    make benchmark-lag ARGS="--minutes 5"

It runs `churn demo` as a user would, in a home of its own, with CHURN_REFRESH=lag and every dynamic table's target lag set to
one minute. For every batch of events, the age of its oldest one when the predictions showed it is computed afterwards from the
ledgers and the history of refreshes: the end of the first refresh that began after the batch was stored. The worst of these
is the greatest age that an event not yet reflected ever had. The first minutes, in which Dagster starts, do not count.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from resource import RUSAGE_CHILDREN, getrusage

from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake

START_MINUTES = 3.0  # for Dagster to start and to work off what had come in meanwhile
EVENTS = {
    "fact_transaction_ledger": "posting_date",
    "app_activity_logs": "event_timestamp",
    "support_cases": "open_timestamp",
}


def main() -> None:
    """Run the demo, stop it, print what its tables say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="events a minute")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as home, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        environment = {**os.environ, "CHURN_HOME": home, "CHURN_REFRESH": "lag"}
        environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
        command = [
            sys.executable,
            "-m",
            "churn_assets.cli",
            "demo",
            "--port",
            f"{port}",
            "--rate",
            f"{options.rate}",
        ]
        settings = load_settings(CHURN_HOME=home)
        lake = open_lake(settings.lake_path)
        before = getrusage(RUSAGE_CHILDREN)
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as demo:
            while not (settings.dagster_home / "dagster.yaml").exists() and demo.poll() is None:
                time.sleep(1)
            lake.transact(
                lambda tx: tx.execute(
                    "UPDATE dynamic_tables SET target_lag = '1 minute' WHERE target_lag <> 'DOWNSTREAM'"
                )
            )
            time.sleep((START_MINUTES + options.minutes) * 60)
            demo.send_signal(signal.SIGINT)
        after = getrusage(RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        _report(lake, options.minutes, cpu)


def _report(lake: LakeWarehouse, minutes: float, cpu_seconds: float) -> None:
    batches = " UNION ALL ".join(
        f"SELECT ingested_at, min({time_column}) AS oldest, count(*) AS events FROM {ledger}"
        f" WHERE kafka_offset IS NOT NULL GROUP BY ingested_at"
        for ledger, time_column in EVENTS.items()
    )
    (worst,) = lake.query(
        f"WITH batches AS ({batches}), first AS (SELECT min(ingested_at) + to_seconds({START_MINUTES * 60:.0f}) AS counts_from,"
        f" min(ingested_at) + to_seconds({(START_MINUTES + minutes) * 60 - 90:.0f}) AS counts_to FROM batches),"
        " refreshes AS (SELECT started_at, started_at + to_milliseconds((duration_seconds * 1000)::BIGINT) AS ended_at"
        " FROM dynamic_table_refresh_history WHERE name = 'dyn_churn_predictions'),"
        # What was stored less than a second before a refresh began may have been committed after it.
        " shown AS (SELECT oldest, events, (SELECT min(ended_at) FROM refreshes"
        " WHERE started_at > ingested_at + INTERVAL 1 SECOND) AS shown_at FROM batches, first"
        " WHERE ingested_at BETWEEN counts_from AND counts_to)"
        " SELECT max(epoch(shown_at - oldest)) AS worst, median(epoch(shown_at - oldest)) AS middle, sum(events) AS events,"
        " count(*) FILTER (WHERE shown_at IS NULL) AS never, (SELECT count(*) FROM refreshes) AS refreshes FROM shown"
    ).to_pylist()
    hours = (START_MINUTES + minutes) / 60
    print(  # noqa: T201
        f"{worst['events']:,} events over {minutes:g} minutes, {worst['refreshes']} refreshes\n"
        f"age of the oldest event not yet reflected: {worst['worst']:.0f} s at most, {worst['middle']:.0f} s in the middle;"
        f" batches never reflected: {worst['never']}\n"
        f"CPU of all processes: {cpu_seconds / hours / 60:.0f} minutes an hour, start included"
    )


if __name__ == "__main__":
    main()
