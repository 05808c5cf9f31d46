"""Writes messages to Kafka, for the simulated bank and `churn replay`. The callers decide what is written."""

import time
from collections.abc import Callable, Iterable

import duckdb
import pyarrow as pa

from churn_assets.ingestion.kafka import Cluster, KafkaUnavailableError, connect
from churn_assets.settings import Settings

RETRY_SECONDS = 2.0
FLUSH_SECONDS = 10.0  # for the cluster to confirm all messages
_REPLAY_LINES = 10_000  # whose keys are extracted at once


class Publisher:
    """Writes to one topic, or to another that `send` names; messages with the same key keep their order."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic
        self._failures: list[str] = []
        self._producer = cluster.producer(compression_type="zstd", enable_idempotence=True, linger_ms=50)

    def send(self, key: bytes | None, value: bytes, topic: str | None = None) -> None:
        """Hand one message to the client, for the publisher's topic unless `topic` is given. Waits while its queue is full."""
        while True:
            try:
                self._producer.produce(topic or self._topic, value, key, on_delivery=self._note_failure)
                return
            except BufferError:
                self._producer.poll(0.1)

    def poll(self) -> None:
        """Let the client process delivery reports, without waiting."""
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when the cluster has confirmed every message; `KafkaUnavailableError` if it did not."""
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


def wait_for_cluster(settings: Settings, report: Callable[[str], None]) -> Cluster:
    """Wait until the cluster answers, and report each failed attempt: a broker may start after its producer.

    Only a cluster that the settings name is waited for; `KafkaUnavailableError` if the embedded broker does not run.
    """
    while True:
        try:
            return connect(settings)
        except KafkaUnavailableError as error:
            if settings.kafka_bootstrap_servers is None:
                raise
            report(f"{error}; trying again")
            time.sleep(RETRY_SECONDS)


def replay(lines: Iterable[bytes], publisher: Publisher, report: Callable[[int], None]) -> int:
    """Publish each non-blank line as it is, keyed by its customer or else its account; returns the number published.

    Ingestion decides whether a line is a valid event. `report` gets the number so far.
    """
    sent = 0
    pending: list[bytes] = []

    def send_pending() -> None:
        nonlocal sent
        for key, line in zip(_keys(pending), pending, strict=True):
            publisher.send(key, line)
        publisher.poll()
        sent += len(pending)
        pending.clear()
        report(sent)

    for line in lines:
        if stripped := line.strip():
            pending.append(stripped)
        if len(pending) >= _REPLAY_LINES:
            send_pending()
    send_pending()
    publisher.flush()
    return sent


def _keys(lines: list[bytes]) -> list[bytes | None]:
    values = pa.table({"place": pa.array(range(len(lines)), pa.int32()), "value": pa.array(lines, pa.binary())})
    with duckdb.connect(":memory:") as connection:
        connection.register("lines", values)
        rows = connection.execute(
            "SELECT coalesce(payload->>'customer_id', payload->>'account_id') FROM"
            " (SELECT place, try(json_extract(try(decode(value)), '$.payload')) AS payload FROM lines) ORDER BY place"
        ).fetchall()
    return [key.encode() if key else None for (key,) in rows]
