import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import commit, kafka
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.commit import broken_ranges, committed_offsets, ingest, waiting_ranges
from churn_assets.ingestion.kafka import Cluster, OffsetRange
from churn_assets.settings import EVENTS_TOPIC, Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.conftest import Send
from churn_assets_tests.ingestion.messages import message

INGEST_ALL = """
import sys
from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.commit import committed_offsets, ingest, waiting_ranges
from churn_assets.settings import EVENTS_TOPIC, load_settings
from churn_assets.warehouse.lake import LakeWarehouse

settings = load_settings()
lake, cluster = LakeWarehouse(settings.lake_path), kafka.locate(settings)
lake.query("SELECT 1")
marks = kafka.watermarks(cluster, EVENTS_TOPIC)
print("ready", flush=True)
sys.stdin.readline()
ranges = waiting_ranges(EVENTS_TOPIC, marks, committed_offsets(lake, cluster.epoch))
ingest(lake, cluster, cluster.epoch, ranges, utc_now())
"""


def ingesting_process() -> subprocess.Popen[str]:
    """A process that is about to ingest all that waits, as soon as it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST_ALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def rows(lake: LakeWarehouse, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in lake.query(sql).to_pylist()]


def poisoned_stream(events: int, share: float, duplicates: int = 0) -> tuple[list[bytes], dict[str, int], list[str]]:
    """Shuffled messages, the number of rejects by reason, and the transaction references that must be stored."""
    poisons = {
        "not JSON": lambda number: b"{%d" % number,
        "unknown event_type": lambda number: json.dumps({"event_type": f"X{number}", "payload": {}}).encode(),
        "missing account_id": lambda number: message("TXN", transaction_ref=f"P{number}", account_id=...),
        "amount is not a number": lambda number: message("TXN", transaction_ref=f"P{number}", amount="much"),
    }
    luck = random.Random(1)
    reasons = [luck.choice(sorted(poisons)) for _ in range(int(events * share))]
    refs = [f"T{number}" for number in range(events - len(reasons))]
    messages = [poisons[reason](number) for number, reason in enumerate(reasons)]
    messages += [message("TXN", transaction_ref=ref) for ref in refs]
    messages += [message("TXN", transaction_ref=ref) for ref in luck.sample(refs, duplicates)]
    luck.shuffle(messages)
    return messages, dict(Counter(reasons)), refs


def assert_stored_exactly_once(lake: LakeWarehouse, cluster: Cluster, rejects: dict[str, int], refs: list[str]) -> None:
    assert sorted(row[0] for row in rows(lake, "SELECT transaction_ref FROM fact_transaction_ledger")) == sorted(refs)
    assert dict(rows(lake, "SELECT reason, count(*) FROM event_rejects GROUP BY reason")) == rejects
    high = {(EVENTS_TOPIC, partition): mark.high for partition, mark in kafka.watermarks(cluster, EVENTS_TOPIC).items()}
    assert committed_offsets(lake, cluster.epoch) == high
    assert not broken_ranges(lake)


def test_ten_thousand_events_with_one_percent_poison_give_exactly_the_right_rows_rejects_and_offsets(
    broker, send: Send, waiting, lake
):
    messages, rejects, refs = poisoned_stream(10_000, 0.01)
    send(messages)

    result = ingest(lake, broker, broker.epoch, waiting(), utc_now())

    assert result.rejected == rejects
    assert result.messages == 10_000
    assert_stored_exactly_once(lake, broker, rejects, refs)
    assert rows(lake, "SELECT count(*) FROM event_rejects WHERE original IS NULL OR kafka_offset IS NULL") == [(0,)]


def test_running_any_range_again_changes_nothing(broker, send: Send, waiting, lake):
    messages, rejects, refs = poisoned_stream(400, 0.05)
    send(messages)
    whole = waiting()
    halves = [OffsetRange(r.topic, r.partition, r.start, r.end // 2) for r in whole]

    for ranges in (halves, whole, halves, whole):
        ingest(lake, broker, broker.epoch, ranges, utc_now())

    assert_stored_exactly_once(lake, broker, rejects, refs)


def test_duplicates_are_dropped_within_a_batch_and_across_batches(broker, send: Send, waiting, lake):
    send([message("TXN", transaction_ref="T1"), message("TXN", transaction_ref="T1")])
    first = ingest(lake, broker, broker.epoch, waiting(), utc_now())
    send([message("TXN", transaction_ref="T1"), message("TXN", transaction_ref="T2")])
    second = ingest(lake, broker, broker.epoch, waiting(), utc_now())

    ledger = "fact_transaction_ledger"
    assert (first.stored[ledger], first.duplicates[ledger]) == (1, 1)
    assert (second.stored[ledger], second.duplicates[ledger]) == (1, 1)


def test_a_customer_shows_the_latest_state_however_late_an_older_one_arrives(broker, send: Send, waiting, lake):
    for name, updated_at in (("Second", "2026-03-02"), ("First", "2026-03-01"), ("Third", "2026-03-03")):
        send([message("USER", full_name=name, updated_at=updated_at)])
        ingest(lake, broker, broker.epoch, waiting(), utc_now())
        if name == "First":
            assert rows(lake, "SELECT full_name FROM dim_customers") == [("Second",)]

    assert rows(lake, "SELECT full_name FROM dim_customers") == [("Third",)]


def test_two_processes_that_ingest_the_same_messages_at_once_store_them_once(broker, send: Send, lake):
    messages, rejects, refs = poisoned_stream(2_000, 0.01, duplicates=100)
    send(messages)

    processes = [ingesting_process() for _ in range(2)]
    for process in processes:
        go(process)

    assert [process.wait(60) for process in processes] == [0, 0]
    assert_stored_exactly_once(lake, broker, rejects, refs)


@pytest.mark.slow
def test_killed_at_any_moment_ingestion_loses_nothing_and_doubles_nothing(broker, send: Send, waiting, lake):
    luck = random.Random(2)
    all_rejects: Counter[str] = Counter()
    all_refs: list[str] = []
    for kill in range(8):
        messages, rejects, refs = poisoned_stream(1_500, 0.02, duplicates=50)
        refs = [f"{kill}{ref}" for ref in refs]
        send([m.replace(b'"transaction_ref": "T', b'"transaction_ref": "%dT' % kill) for m in messages])
        all_rejects.update(rejects)
        all_refs += refs
        process = ingesting_process()
        go(process)
        time.sleep(luck.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not broken_ranges(lake)

    ingest(lake, broker, broker.epoch, waiting(), utc_now())

    assert_stored_exactly_once(lake, broker, dict(all_rejects), all_refs)


def test_a_range_beyond_what_is_stored_is_refused_because_it_would_leave_a_gap(broker, send: Send, waiting, lake):
    send([message("TXN", transaction_ref=f"T{number}") for number in range(40)])
    ingest(lake, broker, broker.epoch, [r for r in waiting() if r.partition == 0], utc_now())
    end = committed_offsets(lake, broker.epoch)[EVENTS_TOPIC, 0]

    with pytest.raises(commit.OffsetGapError, match="run the earlier range first"):
        ingest(lake, broker, broker.epoch, [OffsetRange(EVENTS_TOPIC, 0, end + 1, end + 2)], utc_now())


def test_offsets_beyond_the_end_of_a_partition_are_not_committed(broker, send: Send, waiting, lake):
    send([message("TXN")])
    beyond = [OffsetRange(r.topic, r.partition, r.start, r.end + 5) for r in waiting()]

    with pytest.raises(kafka.OffsetsGoneError, match="the cluster holds"):
        ingest(lake, broker, broker.epoch, beyond, utc_now())
    assert committed_offsets(lake, broker.epoch) == {}


def test_a_restarted_embedded_broker_begins_a_new_epoch_and_old_runs_stay_harmless(settings: Settings, lake):
    def all_waiting(cluster: Cluster) -> list[OffsetRange]:
        marks = kafka.watermarks(cluster, EVENTS_TOPIC)
        return waiting_ranges(EVENTS_TOPIC, marks, committed_offsets(lake, cluster.epoch))

    def send_one(cluster: Cluster, ref: str) -> None:
        producer = kafka_producer(cluster)
        producer.send_bytes(b"key", message("TXN", transaction_ref=ref))
        producer.flush()

    with embedded_broker(settings.broker_file) as old:
        send_one(old, "T1")
        stored = all_waiting(old)
        ingest(lake, old, old.epoch, stored, utc_now())
        send_one(old, "T2")
        lost = all_waiting(old)
    with embedded_broker(settings.broker_file) as new:
        send_one(new, "T3")
        ingest(lake, new, new.epoch, all_waiting(new), utc_now())

        assert ingest(lake, new, old.epoch, stored, utc_now()).ranges == []
        with pytest.raises(kafka.OffsetsGoneError, match="the embedded broker was restarted"):
            ingest(lake, new, old.epoch, lost, utc_now())

    assert rows(lake, "SELECT transaction_ref FROM fact_transaction_ledger ORDER BY 1") == [("T1",), ("T3",)]


def kafka_producer(cluster: Cluster):
    from churn_assets.simulator.producer import EventProducer

    return EventProducer(cluster)


def test_an_unreachable_cluster_is_a_clear_error_that_names_the_address(monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)

    with pytest.raises(kafka.KafkaUnavailableError, match=r"127\.0\.0\.1:9 does not answer"):
        kafka.locate(load_settings(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9"))


def test_a_large_backlog_is_taken_in_runs_of_bounded_size_evenly_from_the_partitions(monkeypatch):
    monkeypatch.setattr(commit, "INGEST_RUN_MESSAGES", 100)
    marks = {0: kafka.Watermarks(0, 1000), 1: kafka.Watermarks(20, 30), 2: kafka.Watermarks(0, 0)}

    ranges = waiting_ranges("t", marks, {("t", 0): 500})

    assert ranges == [OffsetRange("t", 0, 500, 533), OffsetRange("t", 1, 20, 30)]
