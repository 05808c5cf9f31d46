"""Ingestion over the Kafka protocol: exactly once, whatever is asked, repeated or broken."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import backlog, commit, kafka
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Partition, Watermarks
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import row_count
from churn_assets.warehouse.setbacks import why_held
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.messages import message

LEDGER = "fact_transaction_ledger"
INGEST_ALL = """
import sys
from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import row_count
from churn_assets.wiring import lake_place

settings = load_settings()
lake, cluster = LakeWarehouse(lake_place(settings)), kafka.connect(settings)
ranges = [lag.waiting for lag in lags(lake, cluster, settings.topics)]
print("ready", flush=True)
sys.stdin.readline()
ingest(lake, cluster, ranges, on_gap="fail", group="g", clock=utc_now, report=print)
"""


def ingesting_process(stream: Stream) -> subprocess.Popen[str]:
    """A process that is about to ingest all that waits, as soon as it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST_ALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=stream.environment,
    )
    assert process.stdout.readline() == "ready\n"
    return process


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


def assert_stored_exactly_once(stream: Stream, rejects: dict[str, int], refs: list[str]) -> None:
    assert sorted(row[0] for row in stream.rows(f"SELECT transaction_ref FROM {LEDGER}")) == sorted(refs)
    assert dict(stream.rows("SELECT reason, count(*) FROM event_rejects GROUP BY reason")) == rejects
    assert stream.committed() == stream.high_watermarks()
    assert not broken_ranges(stream.lake)


def test_ten_thousand_events_with_one_percent_poison_give_exactly_the_right_rows_rejects_and_offsets(stream: Stream):
    messages, rejects, refs = poisoned_stream(10_000, 0.01)
    stream.send(messages)

    result = stream.ingest()

    assert result.rejected == rejects
    assert result.messages == 10_000
    assert result.bytes == sum(map(len, messages))
    assert_stored_exactly_once(stream, rejects, refs)
    assert stream.rows("SELECT count(*) FROM event_rejects WHERE original IS NULL OR kafka_offset IS NULL") == [(0,)]


def test_running_any_range_again_changes_nothing(stream: Stream):
    messages, rejects, refs = poisoned_stream(400, 0.05)
    stream.send(messages)
    whole = stream.waiting()
    halves = [OffsetRange(r.partition, r.start, r.end // 2) for r in whole]

    for ranges in (halves, whole, halves, whole):
        stream.ingest(ranges)

    assert_stored_exactly_once(stream, rejects, refs)


def test_a_backlog_is_stored_in_chunks_that_say_how_far_they_are(stream: Stream, monkeypatch):
    monkeypatch.setattr(kafka, "INGEST_CHUNK_MESSAGES", 300)
    messages, rejects, refs = poisoned_stream(2_000, 0.05, duplicates=30)
    stream.send(messages)

    result = stream.ingest()

    progress = [line for line in stream.reported if "offsets stored" in line]
    assert len(progress) == 7
    assert progress[0].startswith("300 of 2,030 offsets stored")
    assert progress[-1].startswith("2,030 of 2,030 offsets stored")
    assert result.messages == 2_030
    assert_stored_exactly_once(stream, rejects, refs)


def test_each_range_knows_when_its_first_and_last_message_were_sent(stream: Stream):
    before = utc_now()
    stream.send([message("TXN", transaction_ref=f"T{number}") for number in range(50)])
    after = utc_now()
    stream.ingest()
    ranges = stream.lake.query("SELECT oldest_message_at, newest_message_at, stored_at FROM ingest_ranges").to_pylist()
    assert ranges
    for known in ranges:
        # Kafka's time stamps are whole milliseconds.
        assert before - timedelta(milliseconds=1) <= known["oldest_message_at"] <= known["newest_message_at"] <= after
        assert known["newest_message_at"] <= known["stored_at"]


def test_several_topics_are_ingested_by_one_run(stream: Stream, request: pytest.FixtureRequest):
    topics = [stream.topic, f"{stream.topic}-more"]
    if request.config.getoption("--kafka"):
        request.getfixturevalue("kafka_server").create_topic(topics[1], 2)
    for topic, ref in zip(topics, ("T1", "T2"), strict=True):
        stream.topic = topic
        stream.send([message("TXN", transaction_ref=ref)])
    ranges = [lag.waiting for lag in backlog.lags(stream.lake, stream.cluster, topics)]

    assert stream.ingest(ranges).rows == {LEDGER: 2}

    assert stream.rows(f"SELECT transaction_ref, kafka_topic FROM {LEDGER} ORDER BY 1") == [
        ("T1", topics[0]),
        ("T2", topics[1]),
    ]


def test_a_chunk_of_large_messages_ends_by_its_bytes(stream: Stream, monkeypatch):
    monkeypatch.setattr(kafka, "INGEST_CHUNK_BYTES", 1_000_000)
    monkeypatch.setattr(kafka, "_BATCH_MESSAGES", 1)
    large = [message("TXN", transaction_ref=f"T{number}", note="x" * 300_000) for number in range(8)]
    stream.send(large)

    assert stream.ingest().rows[LEDGER] == 8
    assert len(stream.reported) == 2


def test_duplicates_are_dropped_within_a_batch_and_across_batches(stream: Stream):
    stream.send([message("TXN", transaction_ref="T1"), message("TXN", transaction_ref="T1")])
    first = stream.ingest()
    stream.send([message("TXN", transaction_ref="T1"), message("TXN", transaction_ref="T2")])
    second = stream.ingest()

    assert (first.rows[LEDGER], first.duplicates[LEDGER]) == (1, 1)
    assert (second.rows[LEDGER], second.duplicates[LEDGER]) == (1, 1)


def test_a_customer_shows_the_latest_state_however_late_an_older_one_arrives(stream: Stream):
    for name, updated_at in (("Second", "2026-03-02"), ("First", "2026-03-01"), ("Third", "2026-03-03")):
        stream.send([message("USER", full_name=name, updated_at=updated_at)])
        stream.ingest()
        if name == "First":
            assert stream.rows("SELECT full_name FROM dim_customers") == [("Second",)]

    assert stream.rows("SELECT full_name FROM dim_customers") == [("Third",)]


def test_a_time_stamp_ahead_of_its_time_hides_nothing_that_comes_after_it(stream: Stream):
    ahead = int((time.time() + 3_000) * 1000)  # Kafka itself refuses more than an hour
    producer = stream.cluster.producer()

    def send(customer: str, name: str, stamp: int | None = None) -> None:
        value = message("USER", customer_id=customer, full_name=name, updated_at=...)
        producer.produce(stream.topic, value, b"", 0, timestamp=stamp or int(time.time() * 1000))

    send("alone", "old", ahead)
    send("together", "old")
    send("together", "ahead", ahead)
    assert producer.flush(30) == 0
    stream.ingest()
    names = "SELECT full_name FROM dim_customers ORDER BY customer_id"
    assert stream.rows(names) == [("old",), ("ahead",)]
    send("alone", "ahead", ahead)
    send("alone", "new")
    send("together", "new")
    assert producer.flush(30) == 0
    stream.ingest()

    assert stream.rows(names) == [("new",), ("new",)]
    assert stream.rows("SELECT count(*) FROM dim_customers WHERE updated_at > now() + INTERVAL 1 MINUTE") == [(0,)]


@pytest.mark.parametrize("odd", [{}, {"note": "decoded one by one"}])
def test_a_state_that_says_it_holds_from_later_on_hides_nothing_that_comes_after_it(
    stream: Stream, odd: dict[str, str]
):
    def user(name: str, hours: float) -> bytes:
        since = (utc_now() + timedelta(hours=hours)).isoformat()
        return message("USER", full_name=name, email_consent=name == "ahead", updated_at=f"{since}Z", **odd)

    stream.send([user("ahead", 5)])
    stream.send([user("new", 0)])
    stream.ingest()
    assert stream.rows("SELECT full_name, email_consent FROM dim_customers") == [("new", False)]
    stream.send([user("ahead", 5)])
    stream.ingest()
    stream.send([user("new", 0)])
    stream.ingest()

    assert stream.rows("SELECT full_name, email_consent FROM dim_customers") == [("new", False)]


def test_what_was_stored_while_the_clock_was_ahead_hides_nothing_that_comes_after_it(stream: Stream):
    stream.send([message("USER", full_name="ahead", updated_at=f"{(utc_now() + timedelta(days=2)).isoformat()}Z")])
    stream.ingest(clock=lambda: utc_now() + timedelta(days=2))
    stream.send([message("USER", full_name="new", updated_at=f"{utc_now().isoformat()}Z")])
    stream.ingest()
    stream.send([message("USER", full_name="late", updated_at=f"{(utc_now() - timedelta(days=1)).isoformat()}Z")])
    stream.ingest()

    assert stream.rows("SELECT full_name FROM dim_customers") == [("new",)]


def test_what_an_event_says_beyond_the_contract_is_kept(stream: Stream):
    stream.send([message("TXN", loyalty={"tier": "gold"})])
    stream.ingest()

    assert stream.rows(f"SELECT extra_fields->>'$.loyalty.tier' FROM {LEDGER}") == [("gold",)]


@pytest.mark.slow
def test_two_processes_that_ingest_the_same_messages_at_once_store_them_once(stream: Stream):
    messages, rejects, refs = poisoned_stream(2_000, 0.01, duplicates=100)
    stream.send(messages)

    processes = [ingesting_process(stream) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)

    assert [process.returncode for process in processes] == [0, 0]
    assert_stored_exactly_once(stream, rejects, refs)


def test_the_kafka_group_is_told_what_has_been_stored(stream: Stream):
    from confluent_kafka import Consumer, TopicPartition

    stream.send([message("TXN", transaction_ref=f"T{number}") for number in range(40)])
    stream.ingest()

    consumer = Consumer({"bootstrap.servers": stream.cluster.bootstrap_servers, "group.id": "lag_exporter"})
    try:
        asked = [TopicPartition(p.topic, p.number) for p in stream.committed()]
        told = {found.partition: found.offset for found in consumer.committed(asked, timeout=10)}
    finally:
        consumer.close()
    assert told == {p.number: offset for p, offset in stream.committed().items()}


def test_what_is_stored_stays_stored_if_the_kafka_group_cannot_be_committed(stream: Stream, monkeypatch):
    def refuse(*_: object) -> None:
        raise kafka.KafkaUnavailableError("not authorized")

    monkeypatch.setattr(Cluster, "commit_group", refuse)
    stream.send([message("TXN")])

    assert stream.ingest().rows[LEDGER] == 1
    assert "could not be committed to the group lag_exporter: not authorized" in stream.reported[-1]


@pytest.mark.in_home
def test_a_lake_that_is_older_than_what_its_group_was_told_is_noticed_before_it_catches_up(
    stream: Stream, settings: Settings, tmp_path: Path
):
    stream.send([message("TXN", transaction_ref=f"T{number}") for number in range(40)])
    stream.ingest()
    for name in ("yesterday", "another_copy"):
        shutil.copytree(settings.lake_path, tmp_path / name)
    stream.send([message("TXN", transaction_ref=f"T{number}") for number in range(40, 80)])
    stream.ingest()
    assert why_held(stream.lake, utc_now()) is None

    stream.lake = LakeWarehouse(tmp_path / "yesterday")
    assert stream.ingest().rows[LEDGER] == 40

    assert f"they had stored {stream.topic}[" in str(why_held(stream.lake, utc_now()))
    another = LakeWarehouse(tmp_path / "another_copy")
    assert backlog.went_back(another, stream.cluster, [stream.topic], "lag_exporter")
    backlog.rewind_group(another, stream.cluster, [stream.topic], "lag_exporter")
    assert backlog.went_back(another, stream.cluster, [stream.topic], "lag_exporter") is None


def test_old_ranges_are_joined_into_few_that_say_the_same(stream: Stream):
    for number in range(4):
        stream.send([message("TXN", transaction_ref=f"T{number}-{each}") for each in range(20)])
        stream.ingest()
    passed = min(stream.committed())
    stream.lake.transact(
        lambda tx: commit.skip(tx, OffsetRange(passed, (end := stream.committed()[passed]), end + 5), utc_now())
    )
    extremes = (
        "SELECT kafka_partition, outcome, min(start_offset), max(end_offset), max(stored_at), min(oldest_message_at),"
        " max(newest_message_at), sum(end_offset - start_offset)::BIGINT FROM ingest_ranges GROUP BY ALL ORDER BY ALL"
    )
    before, lines = stream.rows(extremes), row_count(stream.lake, "ingest_ranges")
    furthest = commit.furthest_offsets(stream.lake)

    def join(until: datetime) -> int:
        return stream.lake.transact(lambda tx: commit.merge_old_ranges(tx, until))

    assert join(utc_now() - timedelta(days=1)) == 0
    gone = join(utc_now() + timedelta(seconds=1))

    assert row_count(stream.lake, "ingest_ranges") == lines - gone == len(before)
    assert stream.rows(extremes) == before
    assert commit.furthest_offsets(stream.lake) == furthest
    assert not broken_ranges(stream.lake)
    assert join(utc_now() + timedelta(seconds=1)) == 0


def test_a_range_beyond_what_is_stored_is_refused_because_it_would_leave_a_gap(stream: Stream):
    stream.send([message("TXN", transaction_ref=f"T{number}") for number in range(40)])
    first = stream.waiting()[0]
    stream.ingest([first])

    with pytest.raises(commit.OffsetGapError, match="run the earlier range first"):
        stream.ingest([OffsetRange(first.partition, first.end + 1, first.end + 2)])


def test_offsets_beyond_the_end_of_a_partition_are_not_committed(stream: Stream):
    stream.send([message("TXN")])
    beyond = [OffsetRange(r.partition, r.start, r.end + 5) for r in stream.waiting()]

    with pytest.raises(kafka.OffsetsGoneError, match="the cluster holds up to 1"):
        stream.ingest(beyond)
    assert stream.committed() == {}


def test_a_restarted_embedded_broker_begins_a_new_epoch_and_old_runs_stay_harmless(settings, lake, tmp_path):
    def stream_of(cluster: Cluster) -> Stream:
        return Stream(cluster, "bank_transactions", lake, {})

    with embedded_broker(settings.broker_file) as cluster:
        old = stream_of(cluster)
        old.send([message("TXN", transaction_ref="T1")])
        stored = old.waiting()
        old.ingest(stored)
        old.send([message("TXN", transaction_ref="T2")])
        lost = old.waiting()
    with embedded_broker(settings.broker_file) as cluster:
        new = stream_of(cluster)
        new.send([message("TXN", transaction_ref="T3")])
        new.ingest()

        assert new.ingest(stored).ranges == []
        with pytest.raises(kafka.OffsetsGoneError, match="the embedded broker was restarted"):
            new.ingest(lost)

    assert new.rows(f"SELECT transaction_ref FROM {LEDGER} ORDER BY 1") == [("T1",), ("T3",)]


def test_an_unreachable_cluster_is_a_clear_error_that_names_the_address(monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)

    with pytest.raises(kafka.KafkaUnavailableError, match=r"127\.0\.0\.1:9 does not answer"):
        kafka.connect(load_settings(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9"))


class SomeCluster:
    """A cluster with one topic of one partition."""

    id = "cluster"
    is_embedded = False

    def __init__(self, marks: Watermarks | None) -> None:
        self._marks = marks

    def partitions(self, topic: str) -> dict[Partition, Watermarks | None]:
        return {Partition("cluster/topic", topic, 3): self._marks}


def lag(low: int, high: int, stored: dict[tuple[str, int], int]) -> backlog.PartitionLag:
    """Where the warehouse has stored up to these offsets, by epoch and partition."""
    standing = backlog._Standing(
        {Partition(epoch, "t", number): to for (epoch, number), to in stored.items()}, {}, {}, set()
    )
    (found,) = backlog._lags(SomeCluster(Watermarks(low, high)), ["t"], standing)  # type: ignore[arg-type]
    return found


HERE, BEFORE, BESIDE = ("cluster/topic", 3), ("cluster/old", 3), ("cluster/topic", 1)


@pytest.mark.parametrize(
    ("found", "waiting", "gap", "blocked"),
    [
        (lag(0, 10, {}), (0, 10), None, ()),
        (lag(4, 10, {}), (4, 10), None, ()),
        (lag(0, 10, {HERE: 10}), (10, 10), None, ()),
        (lag(0, 10, {BESIDE: 8}), (0, 10), None, ()),
        (lag(4, 10, {BESIDE: 8}), (4, 10), "t[3] 0 to 4 were deleted", ("fail",)),
        (lag(7, 10, {HERE: 5}), (5, 10), "t[3] 5 to 7 were deleted", ("fail",)),
        (lag(10, 10, {HERE: 5}), (5, 10), "t[3] 5 to 10 were deleted", ("fail",)),
        (lag(0, 3, {HERE: 5}), (5, 5), "the cluster has lost messages", ("fail", "skip")),
        (
            lag(0, 3, {BEFORE: 5}),
            (0, 3),
            "was deleted and created again; messages of the old topic from 5 on",
            ("fail",),
        ),
    ],
)
def test_a_gap_names_what_is_missing_and_blocks_unless_it_may_be_skipped(found, waiting, gap, blocked):
    assert (found.waiting.start, found.waiting.end) == waiting
    assert found.problem is None if gap is None else gap in found.problem
    assert tuple(on_gap for on_gap in ("fail", "skip") if found.is_blocked(on_gap)) == blocked
