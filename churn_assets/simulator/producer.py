"""The simulated bank's live events into Kafka. What happens at the bank is `live`."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from confluent_kafka import KafkaException, Producer

from churn_assets.ingestion.kafka import TIMEOUT_SECONDS, Cluster, KafkaUnavailableError
from churn_assets.settings import EVENTS_TOPIC
from churn_assets.simulator.live import Event, LiveBank, encode

BATCH_EVENTS = 10_000  # of one window at full speed
RETRY_SECONDS = 2.0
FLUSH_SECONDS = 10.0  # for a cluster to confirm what it was sent


class EventProducer:
    """Sends events to the topic of one cluster, keyed by customer, so that a customer's events keep their order."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._failures: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap_servers,
                "compression.type": "zstd",
                "enable.idempotence": True,
                "linger.ms": 50,
                "log_level": 2,
            }
        )

    def wait_for_broker(self, report: Callable[[str], None]) -> None:
        """Return as soon as the cluster answers, reporting each failed attempt: a broker may start after its producer."""
        while True:
            try:
                self._producer.list_topics(timeout=TIMEOUT_SECONDS)
                return
            except KafkaException as error:
                report(f"{self._cluster.bootstrap_servers} does not answer ({error.args[0].str()}); trying again")
                time.sleep(RETRY_SECONDS)

    def send(self, events: list[Event]) -> None:
        """Hand events to the client, waiting where its queue is full."""
        for event in events:
            self.send_bytes(event.key.encode(), encode(event))
        self._producer.poll(0)

    def send_bytes(self, key: bytes, value: bytes) -> None:
        """Hand one message to the client, whatever it holds."""
        while True:
            try:
                self._producer.produce(EVENTS_TOPIC, value, key, on_delivery=self._note_failure)
                return
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        """Return when the cluster has confirmed every event; `KafkaUnavailableError` if it did not."""
        unconfirmed = self._producer.flush(FLUSH_SECONDS)
        if unconfirmed:
            raise KafkaUnavailableError(
                f"{self._cluster.bootstrap_servers} did not confirm {unconfirmed} events within {FLUSH_SECONDS:.0f} s"
            )
        if self._failures:
            raise KafkaUnavailableError(f"{len(self._failures)} events were not delivered: {self._failures[0]}")

    def _note_failure(self, error: object, _message: object) -> None:
        if error is not None:
            self._failures.append(str(error))


def produce_steadily(
    bank: LiveBank,
    producer: EventProducer,
    *,
    events_per_minute: float,
    since: datetime,
    clock: Callable[[], datetime],
    stopped: Callable[[], bool],
    report: Callable[[int], None],
) -> None:
    """Send `events_per_minute` until `stopped()`, first what was planned between `since` and now (UTC).

    `report` gets the number of events sent so far, about once a second.
    """
    sent, owed = 0, 0.0
    begin = clock()
    if since < begin:
        producer.send(bank.events(since, begin, 0))
    while not stopped():
        time.sleep(1.0)
        end = clock()
        owed += (end - begin).total_seconds() * events_per_minute / 60
        events = bank.events(begin, end, max(0, int(owed)))
        producer.send(events)
        owed -= len(events)
        sent += len(events)
        report(sent)
        begin = end
    producer.flush()


def produce_at_once(
    bank: LiveBank, producer: EventProducer, count: int, clock: Callable[[], datetime], report: Callable[[int], None]
) -> None:
    """Send `count` events as fast as the cluster takes them; their times are those of the sending."""
    sent = 0
    begin = clock() - timedelta(milliseconds=1)
    while sent < count:
        end = clock()
        events = bank.events(begin, end, min(BATCH_EVENTS, count - sent))[: count - sent]
        producer.send(events)
        sent += len(events)
        report(sent)
        begin = end
    producer.flush()
