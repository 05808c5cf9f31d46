from confluent_kafka import Consumer, TopicPartition

from churn_assets.ingestion.publisher import Publisher, replay
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.messages import message


def keys_and_values(stream: Stream) -> list[tuple[bytes | None, bytes]]:
    consumer = Consumer({"bootstrap.servers": stream.cluster.bootstrap_servers, "group.id": "look"})
    found = []
    try:
        marks = stream.cluster.partitions(stream.topic)
        consumer.assign([TopicPartition(p.topic, p.number, 0) for p in marks])
        while len(found) < sum(mark.high for mark in marks.values()):
            found += [(m.key(), m.value()) for m in consumer.consume(10, timeout=1.0)]
    finally:
        consumer.close()
    return sorted(found, key=str)


def test_replayed_lines_are_published_as_they_stand_keyed_by_customer_or_account(stream: Stream):
    lines = [message("LOG") + b"\n", b"\n", b"not JSON\r\n", b"   \n", message("TXN"), b"\xff\xfe"]
    progress: list[int] = []

    sent = replay(lines, Publisher(stream.cluster, stream.topic), progress.append)

    assert sent == progress[-1] == 4
    assert keys_and_values(stream) == sorted(
        [(b"C1", message("LOG")), (None, b"not JSON"), (b"A1", message("TXN")), (None, b"\xff\xfe")], key=str
    )


def test_what_was_replayed_twice_is_stored_once(stream: Stream):
    for _ in range(2):
        replay([message("TXN"), b"poison"], Publisher(stream.cluster, stream.topic), lambda sent: None)
        stream.ingest()

    assert stream.rows("SELECT count(*) FROM fact_transaction_ledger") == [(1,)]
    assert stream.rows("SELECT count(*) FROM event_rejects") == [(2,)]
