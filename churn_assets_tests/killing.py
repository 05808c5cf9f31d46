"""For tests that kill jobs: what the bank sends meanwhile, the jobs, and what must hold afterwards. Tests stand elsewhere."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion.commit import broken_ranges, committed_offsets
from churn_assets.ingestion.events import EVENT_TYPES
from churn_assets.ingestion.kafka import Cluster
from churn_assets.ingestion.publisher import Publisher
from churn_assets.retention.claims import customers_written_to_twice
from churn_assets.retention.emails import next_day
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import limits_of
from churn_assets_tests.dynamic_tables.anew import dynamic_rows, recomputed
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.retention.post import Mailbox, mail_server
from churn_assets_tests.warehouse.processes import FORKS, PATIENCE_SECONDS

JOBS = (
    "ingest_events", "refresh_dynamic_tables", "stream_events", "write_retention_emails", "send_emails", "check_ledgers",
    "maintain_tables",
)  # fmt: skip


def run_here(connection: Connection, environment: dict[str, str], *arguments: Any) -> None:
    """`run` in a process of its own, whose fork server may have been started by a test with another home."""
    os.environ.clear()
    os.environ.update(environment)
    run(connection, *arguments)


def run(connection: Connection | None, job: str, quiet_seconds: float = 0.5) -> None:
    """Run a job as a run of Dagster's does, in the home that the environment names. Beside another one it may fail."""
    definitions = build_defs(load_settings())
    partition = utc_now().date().isoformat() if job == "write_retention_emails" else None
    with dg.DagsterInstance.ephemeral() as instance:
        if connection:
            connection.send("begun")
        definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition,
            run_config={"ops": {"stream": {"config": {"quiet_seconds": quiet_seconds}}}}
            if job == "stream_events"
            else None,
            raise_on_error=connection is None,
        )


class Stream:
    """Events for the bank's customers, some of whom they bring to HIGH; `keys` has the key of each fact that was sent."""

    def __init__(self, lake: LakeWarehouse, cluster: Cluster, luck: random.Random) -> None:
        self._publisher = Publisher(cluster, EVENTS_TOPIC)
        self._luck = luck
        self._accounts = lake.query(
            "SELECT customer_id, min(account_id) AS account_id FROM dim_accounts WHERE account_status = 'OPEN'"
            " GROUP BY customer_id ORDER BY customer_id"
        ).to_pylist()
        self.keys: dict[str, set[str]] = {event_type.ledger: set() for event_type in EVENT_TYPES}
        self._number = 0

    def send(self) -> None:
        """What a bank sends within a moment, with retries, and one customer's reasons to leave."""
        for account in self._luck.sample(self._accounts, 15):
            self._send(
                "TXN", account, transaction_ref=self._next(), transaction_code="POS", amount=self._luck.randint(1, 90)
            )
        troubled = self._luck.choice(self._accounts)
        for _ in range(6):
            self._send("LOG", troubled, log_id=self._next(), error_code="ERR_500")
            self._send("CASE", troubled, case_id=self._next(), sentiment_score=0.05)
        self._send("TXN", troubled, transaction_ref=self._next(), transaction_code="WIRE_OUT", amount=9000.0)
        self._publisher.flush()

    def _next(self) -> str:
        self._number += 1
        return f"K{self._number}"

    def _send(self, event_type: str, account: dict[str, str], **payload: object) -> None:
        now = f"{utc_now().isoformat()}Z"
        owner = "account_id" if event_type == "TXN" else "customer_id"
        times = {"TXN": "posting_date", "LOG": "event_timestamp", "CASE": "open_timestamp"}
        value = message(event_type, **{owner: account[owner], times[event_type]: now, **payload})
        for _ in range(self._luck.choice([1, 1, 1, 2])):
            self._publisher.send(account["customer_id"].encode(), value)
        contract = next(each for each in EVENT_TYPES if each.name == event_type)
        self.keys[contract.ledger].add(json.loads(value)["payload"][contract.key])


class Rehearsal:
    """Starts jobs and kills them at a random moment of the time that they take."""

    def __init__(self, luck: random.Random) -> None:
        self._luck = luck
        self._seconds = dict.fromkeys(JOBS, 2.0)
        self.killed: Counter[str] = Counter()

    def start_and_kill(self, jobs: list[str]) -> None:
        """Run the jobs beside each other; each is killed unless it ends before."""
        running = [self.start(job) for job in jobs]
        begun_at = time.monotonic()
        deaths = sorted(
            (self._luck.uniform(0, self._seconds[job]), job, process)
            for job, process in zip(jobs, running, strict=True)
        )
        for after, job, process in deaths:
            process.join(max(0.0, begun_at + after - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
                self.killed[job] += 1
            else:
                assert process.exitcode == 0
                self._seconds[job] = time.monotonic() - begun_at

    def start(self, job: str, *arguments: float) -> BaseProcess:
        """A process that has begun to run a job."""
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=run_here, args=(theirs, dict(os.environ), job, *arguments), daemon=True)
        process.start()
        theirs.close()
        assert ours.poll(PATIENCE_SECONDS), f"{job} did not begin"
        return process


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """What the bank's mail server has taken; emails are approved by themselves."""
    box = Mailbox()
    with mail_server(box) as port:
        monkeypatch.setenv("CHURN_SMTP_URL", f"smtp://127.0.0.1:{port}")
        monkeypatch.setenv("CHURN_EMAIL_FROM", "bank@bank.example")
        monkeypatch.setenv("CHURN_APPROVAL", "auto")
        monkeypatch.setenv("CHURN_QUIET_HOURS", "none")
        yield box


@pytest.fixture
def luck() -> random.Random:
    """Chance that can be had again: its seed is in the output."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    print(f"again with TEST_SEED={seed}")  # noqa: T201
    return random.Random(seed)


def all_is_as_if_nothing_had_died(
    stream: Stream, lake: LakeWarehouse, broker: Cluster, box: Mailbox, settings: Settings, tmp_path: Path
) -> None:
    """Let what is left be done, and compare with what was sent, and with a lake that computes all anew."""
    for job in ("maintain_tables", "ingest_events", "refresh_dynamic_tables"):
        run(None, job)
    while next_day(lake, limits_of(settings), utc_now()):
        run(None, "write_retention_emails")
    run(None, "send_emails")

    # Nothing is lost, nothing doubled.
    for event_type in EVENT_TYPES:
        stored = lake.query(f"SELECT {event_type.key} AS key FROM {event_type.ledger}")["key"].to_pylist()
        assert len(stored) == len(set(stored)), event_type.ledger
        assert {key for key in stored if key.startswith("K")} == stream.keys[event_type.ledger]
    assert not lake.query("FROM event_rejects").num_rows
    assert not broken_ranges(lake)
    highs = {p: marks.high for p, marks in broker.partitions(EVENTS_TOPIC).items() if marks and marks.high}
    assert {p: to for p, to in committed_offsets(lake).items() if p.topic == EVENTS_TOPIC} == highs
    # Features and scores are those of a lake that computes them anew.
    now = utc_now()
    assert dynamic_rows(recomputed(lake, tmp_path / "anew", now), now) == dynamic_rows(lake, now)
    # Nobody is forgotten, nobody is written to twice.
    at_risk = lake.query(
        "SELECT DISTINCT customer_id FROM dyn_churn_predictions INNER JOIN dim_customers USING (customer_id)"
        " INNER JOIN dim_accounts USING (customer_id) WHERE risk_class = 'HIGH' AND account_status = 'OPEN'"
        " AND email_consent IS NOT FALSE AND email IS NOT NULL"
    )["customer_id"].to_pylist()
    log = lake.query("SELECT customer_id, status FROM agent_intervention_log").to_pylist()
    assert len(at_risk) >= 3
    assert set(at_risk) <= {row["customer_id"] for row in log}
    assert customers_written_to_twice(lake) == []
    assert {row["status"] for row in log} <= {"SENT", "UNCERTAIN", "CONTROL", "CANCELLED"}
    sent = Counter(str(message["To"]) for message in box.delivered)
    assert set(sent.values()) == {1}
    in_doubt = sum(row["status"] == "UNCERTAIN" for row in log)
    assert 0 <= len(box.delivered) - sum(row["status"] == "SENT" for row in log) <= in_doubt
