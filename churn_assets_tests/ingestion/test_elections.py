"""Leaders that die, against three Apache Kafka brokers: what is lost is named, and what is away is waited for."""

import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest
from confluent_kafka.admin import NewPartitions

from churn_assets.clock import utc_now
from churn_assets.ingestion import backlog, gaps, kafka
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.gaps import Kind
from churn_assets.ingestion.kafka import Cluster
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.apache_kafka import ThreeBrokers
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.messages import transactions
from churn_assets_tests.ingestion.test_apache_kafka import refs, stored_refs, wait_until
from churn_assets_tests.ingestion.test_following import follow

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeBrokers]:
    libraries = request.config.invocation_params.dir / str(request.config.getoption("--kafka"))
    with ThreeBrokers(libraries, tmp_path_factory.mktemp("three")) as brokers:
        yield brokers


@pytest.fixture
def replicated(three: ThreeBrokers, lake: LakeWarehouse) -> Stream:
    """A topic whose partition 0 lives on nodes 2 and 3, and partition 1 on 1 and 2."""
    three.start()
    topic = f"events-{uuid.uuid4().hex[:8]}"
    three.create_topic(topic, [[2, 3], [1, 2]], unclean_leader_election_enable="true", min_insync_replicas="1")
    return Stream(Cluster(three.bootstrap_servers), topic, lake, {})


def send(stream: Stream, first: int, last: int, partition: int = 0) -> None:
    """Publish transactions to one partition, and wait until all replicas that are in sync have them."""
    sent: list[int] = []
    producer = stream.cluster.producer(acks=1)
    for value in transactions(first, last):
        producer.produce(stream.topic, value, partition=partition, on_delivery=lambda _, its: sent.append(its.offset()))
    assert producer.flush(30) == 0
    wait_until(lambda: stream.high_watermarks().get(partition_of(stream, partition), 0) > max(sent))


def partition_of(stream: Stream, number: int) -> kafka.Partition:
    return next(p for p in stream.cluster.partitions(stream.topic) if p.number == number)


def an_unclean_election(stream: Stream, three: ThreeBrokers) -> None:
    """300 messages are on both replicas; 500 more are stored, and lost with the only broker that has them."""
    send(stream, 0, 300)
    old = three.leader(stream.topic, 0)
    new = 5 - old
    three.wait_for_replicas(stream.topic, 0, {2, 3})
    stream.ingest()
    three.brokers[new].kill()
    three.wait_for_replicas(stream.topic, 0, {old})
    send(stream, 300, 800)
    assert stream.ingest().messages == 500
    three.brokers[old].kill()
    wait_until(lambda: three.leader(stream.topic, 0) != old)
    three.brokers[new].start()
    wait_until(lambda: three.leader(stream.topic, 0) == new)


def open_gaps(stream: Stream) -> list[tuple[Kind, int, int | None]]:
    return [(each.gap.kind, each.gap.start, each.gap.end) for each in gaps.kept(stream.lake)]


@pytest.mark.parametrize("looked_at_first", [True, False])
def test_messages_that_an_unclean_election_loses_are_a_gap_until_somebody_resolves_it(
    replicated: Stream, three: ThreeBrokers, looked_at_first: bool
):
    stream = replicated
    an_unclean_election(stream, three)
    send(stream, 0, 10, partition=1)  # known already: the other partition goes on
    if looked_at_first:  # while the new log is shorter than the old one was
        send(stream, 1000, 1100)
        stream.ingest(lagging(stream))
        assert open_gaps(stream) == [(Kind.TRUNCATED, 300, 800)]
        send(stream, 1100, 1700)
    else:
        send(stream, 1000, 1700)

    result = stream.ingest(lagging(stream))

    assert open_gaps(stream) == [(Kind.TRUNCATED, 300, 800)]
    assert result.messages == (0 if looked_at_first else 10)
    assert stored_refs(stream) == refs(0, 800)
    # Nor does the broker that has them back with it: it follows the new leader.
    three.start()
    three.wait_for_replicas(stream.topic, 0, {2, 3})
    assert stream.ingest(lagging(stream)).messages == 0

    (gap,) = gaps.kept(stream.lake)
    gaps.resolve(stream.lake, gap.gap, utc_now(), "Ann", "the election of Monday")
    assert backlog.went_back(stream.lake, stream.cluster, [stream.topic], "lag_exporter") is None

    assert stream.ingest().messages == 700
    assert stored_refs(stream) == sorted([*refs(0, 800), *refs(1000, 1700)])
    assert stream.committed() == stream.high_watermarks()
    assert not broken_ranges(stream.lake)
    assert stream.rows(
        "SELECT outcome, start_offset, end_offset FROM ingest_ranges WHERE kafka_partition = 0 ORDER BY start_offset, outcome"
    ) == [("STORED", 0, 300), ("LOST", 300, 800), ("STORED", 300, 1000)]
    assert not open_gaps(stream)
    assert stream.ingest(lagging(stream)).messages == 0


def test_a_process_that_lives_on_stops_at_messages_that_an_unclean_election_loses(
    replicated: Stream, three: ThreeBrokers, monkeypatch: pytest.MonkeyPatch
):
    stream = replicated
    live = follow(stream, monkeypatch)
    live.next_batch(0.1)
    send(stream, 0, 300)
    old = three.leader(stream.topic, 0)
    new = 5 - old
    three.wait_for_replicas(stream.topic, 0, {2, 3})
    wait_until(lambda: live.next_batch(0.2).messages == 0 and stored_refs(stream) == refs(0, 300))
    three.brokers[new].kill()
    three.wait_for_replicas(stream.topic, 0, {old})
    send(stream, 300, 800)
    wait_until(lambda: live.next_batch(0.2).messages == 0 and stored_refs(stream) == refs(0, 800))
    three.brokers[old].kill()
    wait_until(lambda: three.leader(stream.topic, 0) != old)
    three.brokers[new].start()
    wait_until(lambda: three.leader(stream.topic, 0) == new)
    send(stream, 1000, 1700)

    def finds_the_gap() -> bool:
        with suppress(kafka.KafkaUnavailableError):
            live.next_batch(0.2)
        return bool(open_gaps(stream))

    wait_until(finds_the_gap)
    live.next_batch(0.2)
    live.close()

    assert open_gaps(stream) == [(Kind.TRUNCATED, 300, 800)]
    assert any(lag.gap for lag in live.standing)
    assert stored_refs(stream) == refs(0, 800)


def lagging(stream: Stream) -> list[kafka.OffsetRange]:
    """What a run is asked for, those of partitions with a gap included."""
    return [lag.waiting for lag in lags(stream.lake, stream.cluster, [stream.topic])]


def test_an_election_that_loses_nothing_raises_no_alarm(replicated: Stream, three: ThreeBrokers):
    stream = replicated
    send(stream, 0, 300)
    stream.ingest()
    old = three.leader(stream.topic, 0)
    three.wait_for_replicas(stream.topic, 0, {2, 3})
    three.brokers[old].kill()
    wait_until(lambda: three.leader(stream.topic, 0) == 5 - old)
    send(stream, 300, 400)

    stream.ingest()
    three.start()
    three.wait_for_replicas(stream.topic, 0, {2, 3})
    send(stream, 400, 500)
    stream.ingest()

    assert stored_refs(stream) == refs(0, 500)
    assert not open_gaps(stream)


def test_a_partition_without_a_leader_is_named_and_left_aside_until_it_has_one(replicated: Stream, three: ThreeBrokers):
    stream = replicated
    send(stream, 0, 50)
    stream.ingest()
    send(stream, 50, 100)
    send(stream, 100, 200, partition=1)
    asked = stream.waiting()
    for node in (2, 3):
        three.brokers[node].kill()
    wait_until(lambda: (three.leader(stream.topic, 0), three.leader(stream.topic, 1)) == (-1, 1))

    result = stream.ingest(asked)

    assert result.messages == 100
    assert stored_refs(stream) == sorted([*refs(0, 50), *refs(100, 200)])
    away, there = lags(stream.lake, stream.cluster, [stream.topic])
    assert away.problem == f"{stream.topic}[0] has no leader that answers; its messages wait until it has one"
    assert there.problem is None
    assert f"left aside: {away.problem}" in stream.reported
    three.start()
    wait_until(lambda: three.leader(stream.topic, 0) != -1)
    stream.ingest()
    assert stored_refs(stream) == refs(0, 200)


def test_the_lost_head_of_a_new_partition_is_a_gap(replicated: Stream, three: ThreeBrokers):
    stream = replicated
    send(stream, 0, 10)
    stream.ingest()
    three.brokers[1].admin.create_partitions([NewPartitions(stream.topic, 3)])[stream.topic].result(10)
    wait_until(lambda: sum(marks is not None for marks in stream.cluster.partitions(stream.topic).values()) == 3)
    send(stream, 10, 70, partition=2)
    three.brokers[1].delete_records(stream.topic, 2, before=60)
    send(stream, 70, 80, partition=2)

    assert stream.ingest().messages == 0
    assert open_gaps(stream) == [(Kind.DELETED, 0, 60)]

    (gap,) = gaps.kept(stream.lake)
    gaps.resolve(stream.lake, gap.gap, utc_now(), "Ann", None)
    stream.ingest()
    assert stored_refs(stream) == sorted([*refs(0, 10), *refs(70, 80)])
    assert not open_gaps(stream)
    assert not broken_ranges(stream.lake)
