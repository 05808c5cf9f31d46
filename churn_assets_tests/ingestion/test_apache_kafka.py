"""What only a real cluster does: transactions, retention, restarts, deleted topics, new partitions, SASL."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import NewPartitions
from pydantic import SecretStr

from churn_assets.ingestion import following, kafka
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.following import Following
from churn_assets.ingestion.kafka import Cluster
from churn_assets_tests.ingestion.apache_kafka import PASSWORD, USER, KafkaServer
from churn_assets_tests.ingestion.conftest import PARTITIONS, Stream
from churn_assets_tests.ingestion.messages import message, transactions
from churn_assets_tests.ingestion.test_following import follow
from churn_assets_tests.ingestion.test_ingest import LEDGER

pytestmark = pytest.mark.kafka


def stored_refs(stream: Stream) -> list[str]:
    return sorted(str(ref) for (ref,) in stream.rows(f"SELECT transaction_ref FROM {LEDGER}"))


def refs(first: int, last: int) -> list[str]:
    return sorted(f"T{number}" for number in range(first, last))


def wait_until(reached, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while True:
        with suppress(kafka.KafkaUnavailableError):  # a partition that is being made has no leader for a moment
            if reached():
                return
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.1)


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(stream: Stream, compression: str):
    producer = stream.cluster.producer(compression_type=compression, linger_ms=50)
    for value in transactions(0, 500):
        producer.produce(stream.topic, value)
    producer.flush()

    stream.ingest()

    assert stored_refs(stream) == refs(0, 500)


def transactional(stream: Stream, name: str) -> Producer:
    producer = stream.cluster.producer(transactional_id=f"{stream.topic}-{name}")
    producer.init_transactions(20)
    return producer


def test_aborted_transactions_are_not_read_and_markers_do_not_stall_the_end(stream: Stream):
    producer = transactional(stream, "a")
    for batch, commit in ((0, True), (1, False), (2, True), (3, False)):
        producer.begin_transaction()
        for value in transactions(batch * 20, batch * 20 + 20):
            producer.produce(stream.topic, value)
        producer.commit_transaction(20) if commit else producer.abort_transaction(20)

    stream.ingest()

    assert stored_refs(stream) == sorted(refs(0, 20) + refs(40, 60))
    # The last offsets are those of an aborted transaction and its marker, and they are committed all the same.
    assert stream.committed() == stream.high_watermarks()
    assert stream.waiting() == []


def test_an_open_transaction_waits_until_it_is_committed(stream: Stream):
    stream.send(transactions(0, 8))
    producer = transactional(stream, "open")
    producer.begin_transaction()
    for value in transactions(8, 16):
        producer.produce(stream.topic, value)
    producer.flush()

    stream.ingest()
    assert stored_refs(stream) == refs(0, 8)
    assert stream.waiting() == []

    producer.commit_transaction(20)
    stream.ingest()
    assert stored_refs(stream) == refs(0, 16)


def test_a_new_partition_is_read_from_its_beginning(stream: Stream, kafka_server: KafkaServer):
    stream.send(transactions(0, 40))
    stream.ingest()
    kafka_server.admin.create_partitions([NewPartitions(stream.topic, PARTITIONS + 2)])[stream.topic].result(10)
    wait_until(lambda: len(stream.cluster.partitions(stream.topic)) == PARTITIONS + 2)
    producer = stream.cluster.producer()
    for value in transactions(40, 50):
        producer.produce(stream.topic, value, partition=PARTITIONS + 1)
    producer.flush()

    stream.ingest()

    assert stored_refs(stream) == refs(0, 50)


def let_retention_pass_the_committed_offset(stream: Stream, server: KafkaServer) -> None:
    """A topic of one partition: 10 messages were stored, the 20 after them deleted by retention, 5 more wait."""
    stream.topic = f"{stream.topic}-short"
    server.create_topic(stream.topic, 1)
    stream.send(transactions(0, 10))
    stream.ingest()
    stream.send(transactions(10, 30))
    server.configure_topic(stream.topic, retention_ms="1")
    wait_until(lambda: next(iter(stream.cluster.partitions(stream.topic).values())).low == 30)
    server.configure_topic(stream.topic, retention_ms="3600000")
    stream.send(transactions(30, 35))


def test_retention_that_passed_the_committed_offset_fails_and_names_what_is_missing(
    stream: Stream, kafka_server: KafkaServer
):
    let_retention_pass_the_committed_offset(stream, kafka_server)

    result = stream.ingest()

    assert result.messages == 0
    assert stored_refs(stream) == refs(0, 10)
    (waiting,) = stream.waiting()
    assert (waiting.start, waiting.end) == (10, 35)


def test_retention_that_passed_the_committed_offset_is_skipped_by_choice_and_stays_on_record(
    stream: Stream, kafka_server: KafkaServer
):
    let_retention_pass_the_committed_offset(stream, kafka_server)
    stream.on_gap = "skip"

    result = stream.ingest()

    assert [(gone.start, gone.end) for gone in result.skipped] == [(10, 30)]
    assert stored_refs(stream) == sorted(refs(0, 10) + refs(30, 35))
    assert stream.rows("SELECT start_offset, end_offset FROM ingest_ranges WHERE outcome = 'SKIPPED'") == [(10, 30)]
    assert not broken_ranges(stream.lake)


def test_a_topic_created_again_under_its_name_is_noticed_even_where_it_is_longer_than_before(
    stream: Stream, kafka_server: KafkaServer
):
    stream.send(transactions(0, 20))
    stream.ingest()
    kafka_server.admin.delete_topics([stream.topic])[stream.topic].result(10)
    kafka_server.create_topic(stream.topic, PARTITIONS)
    stream.send(transactions(100, 200))

    assert stream.ingest().messages == 0
    assert stored_refs(stream) == refs(0, 20)

    stream.on_gap = "skip"
    stream.ingest()
    assert stored_refs(stream) == sorted(refs(0, 20) + refs(100, 200))
    stream.on_gap = "fail"
    stream.send(transactions(200, 210))
    assert stream.ingest().messages == 10


def test_a_broker_killed_and_started_again_mid_batch_costs_nothing(
    stream: Stream, kafka_server: KafkaServer, monkeypatch
):
    monkeypatch.setattr(kafka, "_BATCH_MESSAGES", 50)
    monkeypatch.setattr(kafka, "_FAILOVER_SECONDS", 60.0)  # a busy machine starts a broker slowly
    producer = stream.cluster.producer(linger_ms=20)
    padding = "x" * 2_000
    for number in range(20_000):
        producer.produce(stream.topic, message("TXN", transaction_ref=f"T{number}", note=padding))
        if number % 1_000 == 0:
            producer.flush()
    producer.flush()
    original, restart = Cluster._wanted, threading.Thread(target=kafka_server.start)

    def killing(*arguments, **keywords):
        wanted = original(*arguments, **keywords)
        if wanted and not restart.ident:
            kafka_server.kill()
            restart.start()
        return wanted

    monkeypatch.setattr(Cluster, "_wanted", killing)

    stream.ingest()

    restart.join()
    assert stored_refs(stream) == refs(0, 20_000)
    assert stream.committed() == stream.high_watermarks()


def test_a_topic_that_does_not_exist_is_empty_and_is_not_created(kafka_server: KafkaServer):
    kafka_server.start()
    cluster = Cluster(kafka_server.bootstrap_servers)

    assert cluster.partitions("no-such-topic") == {}
    with pytest.raises(Exception, match="UNKNOWN_TOPIC"):
        kafka_server.admin.describe_topics(TopicCollection(["no-such-topic"]))["no-such-topic"].result(10)


def sasl(password: str) -> dict[str, SecretStr]:
    values = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": USER,
        "sasl.password": password,
    }
    return {name: SecretStr(value) for name, value in values.items()}


def test_a_cluster_that_asks_for_a_password_is_read_and_told_with_it(stream: Stream, kafka_server: KafkaServer):
    stream.send(transactions(0, 20))
    stream.cluster = Cluster(kafka_server.sasl_servers, sasl(PASSWORD))

    stream.ingest()
    stream.send(transactions(20, 30))
    stream.ingest()

    assert stored_refs(stream) == refs(0, 30)
    assert "could not be committed" not in "".join(stream.reported)


def test_a_wrong_password_is_a_clear_error_that_does_not_show_it(kafka_server: KafkaServer, capfd, monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 2.0)
    kafka_server.start()

    with pytest.raises(kafka.KafkaUnavailableError) as raised:
        Cluster(kafka_server.sasl_servers, sasl("wrong-and-secret"))

    captured = capfd.readouterr()
    assert kafka_server.sasl_servers in str(raised.value)
    assert "wrong-and-secret" not in str(raised.value) + captured.out + captured.err


@pytest.fixture
def live(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Following]:
    """A process that lives on, of a stream in which nothing was sent yet."""
    following = follow(stream, monkeypatch)
    yield following
    following.close()


def test_a_process_that_lives_on_passes_markers_and_aborted_transactions_and_comes_to_the_end(
    stream: Stream, live: Following
):
    producer = transactional(stream, "live")
    for batch, commit in ((0, True), (1, False), (2, True), (3, False)):
        producer.begin_transaction()
        for value in transactions(batch * 20, batch * 20 + 20):
            producer.produce(stream.topic, value)
        producer.flush()
        live.next_batch(0.1)
        producer.commit_transaction(20) if commit else producer.abort_transaction(20)

    wait_until(lambda: not live.next_batch(0.5).ranges and stream.committed() == stream.high_watermarks())

    assert stored_refs(stream) == sorted(refs(0, 20) + refs(40, 60))
    assert not broken_ranges(stream.lake)


def test_a_process_that_lives_on_finds_a_new_partition_and_survives_a_restart_of_the_broker(
    stream: Stream, live: Following, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.5)
    stream.send(transactions(0, 40))
    wait_until(lambda: live.next_batch(0.2).messages == 0 and stored_refs(stream) == refs(0, 40))
    kafka_server.admin.create_partitions([NewPartitions(stream.topic, PARTITIONS + 1)])[stream.topic].result(10)
    wait_until(lambda: len(stream.cluster.partitions(stream.topic)) == PARTITIONS + 1)
    producer = stream.cluster.producer()
    for value in transactions(40, 50):
        producer.produce(stream.topic, value, partition=PARTITIONS)
    producer.flush()
    wait_until(lambda: live.next_batch(0.2).messages == 0 and stored_refs(stream) == refs(0, 50))

    kafka_server.kill()
    with suppress(kafka.KafkaUnavailableError):
        live.next_batch(0.5)
    kafka_server.start()
    stream.send(transactions(50, 60))

    wait_until(lambda: live.next_batch(0.2).messages == 0 and stored_refs(stream) == refs(0, 60))
    assert stream.committed() == stream.high_watermarks()
    assert not broken_ranges(stream.lake)
