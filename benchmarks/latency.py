"""How long is the way of one event: to its ledger, to a fresh score, to an email?

    make benchmark-latency                                   # 200 events for each row of the table; four hours
    make benchmark-latency ARGS="--events 20 --refresh eager"

A bank of its own, an embedded broker and Dagster with all its sensors, one after another with the warm launcher of
`dagster.yaml` and with Dagster's default launcher and coordinator, refreshing eagerly and within a target lag of one minute.
Customers are brought close to the class HIGH first; then, at random moments, a single wire transfer brings one of them over
it: first while nothing else happens, then beside a stream of other events. A change of the lake is noticed by a look at its
catalog every 20 ms, so each hop is known to that. Emails are written by the template; one customer in ten gets none, as ever.
CPU is that of all processes of Dagster and the broker.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import yaml
from dagster import DagsterInstance, RunsFilter

from benchmarks.idle import churn, cpu_seconds, running, stop
from churn_assets.automation.gates import UNDER_WAY
from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.project_files import PROJECT_FILES
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import load_settings
from churn_assets.wiring import open_lake

QUIET_SECONDS, PATIENCE_SECONDS = 25.0, 900.0
HOPS = ("committed ledger", "fresh score", "email")


class Watch:
    """When each snapshot of the lake came to be seen. It asks SQLite, which costs next to nothing.

    In a process of its own: a second SQLite beside DuckDB's in one process would break the locks of both.
    """

    def __init__(self, lake: Path, seen: Path) -> None:
        self._seen = seen
        self._process = multiprocessing.get_context("spawn").Process(target=_watch, args=(lake, seen), daemon=True)
        self._process.start()

    def end(self) -> None:
        """Look no more."""
        self._process.kill()
        self._process.join()

    def seen_at(self) -> dict[int, float]:
        """By snapshot: seconds of the epoch."""
        return {int(snapshot): float(time) for snapshot, time in map(str.split, self._seen.read_text().splitlines())}


def _watch(lake: Path, seen: Path) -> None:
    newest = 0
    catalog = sqlite3.connect(f"file:{lake / 'catalog.sqlite'}?mode=ro", uri=True)
    with seen.open("a") as lines:
        while True:
            ((found,),) = catalog.execute("SELECT max(snapshot_id) FROM ducklake_snapshot")
            lines.writelines(f"{snapshot} {time.time()}\n" for snapshot in range(newest + 1, found + 1))
            lines.flush()
            newest = found
            time.sleep(0.02)


class Bench:
    """One running system."""

    def __init__(self, folder: str, stack: ExitStack, *, launcher: str, refresh: str) -> None:
        settings = load_settings(CHURN_HOME=folder)
        self.lake = open_lake(settings.lake_path)
        settings.dagster_home.mkdir()
        config = yaml.safe_load((PROJECT_FILES / "dagster.yaml").read_text())
        if launcher == "default":
            del config["run_launcher"], config["run_coordinator"]
        (settings.dagster_home / "dagster.yaml").write_text(yaml.dump(config))
        os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
        environment = {
            **os.environ,
            "CHURN_HOME": folder,
            "CHURN_REFRESH": refresh,
        }
        environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
        for command in (["seed", "--customers", "2000", "--days", "40"], ["deploy"]):
            with running(churn(*command), environment) as process:
                assert process.wait() == 0
        self.lake.transact(
            lambda tx: tx.execute("UPDATE dynamic_tables SET target_lag = '1 minute' WHERE target_lag <> 'DOWNSTREAM'")
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        dagster = [*churn()[:1], "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", f"{port}"]
        self.processes = [stack.enter_context(running(command, environment)) for command in (churn("broker"), dagster)]
        stack.callback(stop, self.processes)
        self.environment = environment
        self._instance = stack.enter_context(DagsterInstance.get())
        self._producer = _wait_for_broker(settings).producer(linger_ms=0)
        self.watch = Watch(settings.lake_path, Path(folder) / "seen")
        stack.callback(self.watch.end)

    def send(self, messages: Iterable[tuple[str, dict[str, object]]]) -> float:
        """Send messages at once; the time before, as seconds of the epoch."""
        now = time.time()
        for kind, payload in messages:
            key = str(payload.get("customer_id") or payload.get("account_id"))
            self._producer.produce(EVENTS_TOPIC, json.dumps({"event_type": kind, "payload": payload}), key)
        self._producer.flush(10)
        return now

    def wait_until_quiet(self) -> None:
        """Return when no run was under way for a while."""
        end, quiet_since = time.monotonic() + PATIENCE_SECONDS, time.monotonic()
        while time.monotonic() - quiet_since < QUIET_SECONDS:
            assert time.monotonic() < end, "the system does not come to rest"
            if self._instance.get_runs(RunsFilter(statuses=UNDER_WAY), limit=1) or not self._instance.get_runs(limit=1):
                quiet_since = time.monotonic()
            time.sleep(1)

    def runs(self) -> int:
        """How many runs there have been."""
        return self._instance.get_runs_count()

    def customers_close_to_high(self, wanted: int) -> list[tuple[str, str]]:
        """Customers and an account of each, whom one large wire brings into HIGH."""
        candidates = self.lake.query(
            "SELECT customer_id, min(account_id) AS account_id FROM dim_accounts INNER JOIN dim_customers USING (customer_id)"
            " WHERE email_consent IS NOT FALSE AND account_status = 'OPEN' AND customer_id NOT IN"
            " (SELECT customer_id FROM agent_intervention_log) GROUP BY customer_id ORDER BY customer_id"
            f" LIMIT {wanted * 2 + 20}"
        ).to_pylist()
        at = (utc_now() - timedelta(minutes=1)).isoformat()
        self.send(
            message
            for candidate in candidates
            for number in range(6)
            for message in _annoyances(candidate["customer_id"], number, at)
        )
        found, end = [], time.monotonic() + PATIENCE_SECONDS
        while len(found) < wanted:
            assert time.monotonic() < end, f"only {len(found)} customers are close to HIGH"
            self.wait_until_quiet()
            rows = self.lake.query(
                "SELECT p.customer_id FROM dyn_churn_predictions AS p INNER JOIN dyn_customer_features AS f USING (customer_id)"
                " WHERE p.risk_score BETWEEN 0.45 AND 0.69 AND f.wire_out_30d <= 5000"
            )
            close = set(rows["customer_id"].to_pylist())
            found = [(c["customer_id"], c["account_id"]) for c in candidates if c["customer_id"] in close][:wanted]
        (newest,) = self.lake.query("SELECT id FROM lake.current_snapshot()")["id"].to_pylist()
        assert newest in self.watch.seen_at(), "the watch is blind"
        return found

    def hops(self, sent: dict[str, tuple[str, float]]) -> dict[str, list[float]]:
        """Seconds from each event, by reference its customer and when it was sent, to each hop that it has reached."""
        ledger = dict(self._pairs("SELECT transaction_ref, snapshot_id FROM fact_transaction_ledger"))
        refreshes = self.lake.query(
            "SELECT position FROM dynamic_table_refresh_history WHERE name = 'dyn_churn_predictions' ORDER BY position"
        )["position"].to_pylist()
        emails = dict(
            self._pairs("SELECT customer_id, snapshot_id FROM agent_intervention_log WHERE generated_email IS NOT NULL")
        )
        seen_at = self.watch.seen_at()
        found: dict[str, list[float]] = {hop: [] for hop in HOPS}
        for reference, (customer, sent_at) in sent.items():
            stored = ledger.get(reference)
            scored = next((position for position in refreshes if stored is not None and position > stored), None)
            for hop, snapshot in zip(HOPS, (stored, scored, emails.get(customer)), strict=True):
                if snapshot is not None:
                    found[hop].append(seen_at[snapshot] - sent_at)
        return found

    def _pairs(self, sql: str) -> list[tuple[str, int]]:
        return [tuple(row.values()) for row in self.lake.query(sql).to_pylist()]


def main() -> None:
    """Measure each way asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--gap", type=float, default=12.0, help="seconds between two events, in the mean")
    parser.add_argument("--gap-beside", type=float, default=3.0, help="the same beside the stream of other events")
    parser.add_argument("--rate", type=float, default=2000.0, help="events a minute of that stream")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of the idle system to look at")
    parser.add_argument("--launcher", choices=["warm", "default", "both"], default="both")
    parser.add_argument("--refresh", choices=["eager", "lag", "both"], default="both")
    options = parser.parse_args()
    print("launcher | refresh | beside | hop | events | p50 s | p95 s | max s")  # noqa: T201
    for refresh in ["eager", "lag"] if options.refresh == "both" else [options.refresh]:
        for launcher in ["warm", "default"] if options.launcher == "both" else [options.launcher]:
            _measure(options, launcher=launcher, refresh=refresh)


def _measure(options: argparse.Namespace, *, launcher: str, refresh: str) -> None:
    moments = random.Random(9)
    with (
        tempfile.TemporaryDirectory(prefix="churn-benchmark-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        bench = Bench(folder, stack, launcher=launcher, refresh=refresh)
        bench.wait_until_quiet()
        customers = bench.customers_close_to_high(2 * options.events)
        idle, runs = cpu_seconds(bench.processes), bench.runs()
        time.sleep(options.idle)
        idle, runs = cpu_seconds(bench.processes) - idle, bench.runs() - runs
        if options.idle:
            share = f"{idle / options.idle * 100:.1f} % of a core, in which {runs} runs were due"
            print(f"{launcher} | {refresh} | idle: {share}", flush=True)  # noqa: T201
        for beside, gap in ((0.0, options.gap), (options.rate, options.gap_beside)):
            if beside:
                produce = running(churn("produce", "--rate", f"{beside}"), bench.environment)
                stack.callback(stop, [stack.enter_context(produce)])
                time.sleep(30)
            began, cpu, sent = time.monotonic(), cpu_seconds(bench.processes), {}
            for _ in range(options.events):
                time.sleep(moments.expovariate(1 / gap))
                customer, account = customers.pop()
                reference = f"LATENCY-{customer}"
                sent[reference] = customer, bench.send([("TXN", _wire(reference, account))])
            time.sleep(30.0 if refresh == "eager" else 150.0)
            hours, used = (time.monotonic() - began) / 3600, cpu_seconds(bench.processes) - cpu
            row = f"{launcher} | {refresh} | {beside:g}"
            for hop, seconds in bench.hops(sent).items():
                print(f"{row} | {hop} | {_figures(seconds)}", flush=True)  # noqa: T201
            print(f"{row} | CPU: {used / hours / 60:.1f} minutes an hour", flush=True)  # noqa: T201


def _figures(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{len(seconds)} | | |"
    return (
        f"{len(seconds)} | {statistics.median(seconds):.2f} | {statistics.quantiles(seconds, n=20)[-1]:.2f}"
        f" | {max(seconds):.2f}"
    )


def _wait_for_broker(settings: object) -> kafka.Cluster:
    while True:
        with suppress(kafka.KafkaUnavailableError):
            return kafka.connect(settings)  # type: ignore[arg-type]
        time.sleep(0.5)


def _annoyances(customer: str, number: int, at: str) -> list[tuple[str, dict[str, object]]]:
    """What brings a customer to 0.55: six errors, and three angry cases."""
    log = {"log_id": f"LATENCY-{customer}-{number}", "customer_id": customer, "event_type": "LOGIN"}
    case = {
        "case_id": f"LATENCY-{customer}-{number}",
        "customer_id": customer,
        "category": "FEES",
        "sentiment_score": 0.05,
    }
    return [
        ("LOG", {**log, "event_timestamp": at, "error_code": "ERR_500"}),
        ("CASE", {**case, "open_timestamp": at}),
    ]


def _wire(reference: str, account: str) -> dict[str, object]:
    return {
        "transaction_ref": reference,
        "account_id": account,
        "posting_date": utc_now().isoformat(),
        "transaction_code": "WIRE_OUT",
        "amount": 9000.0,
    }


if __name__ == "__main__":
    main()
