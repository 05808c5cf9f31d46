"""The embedded Kafka broker: librdkafka's mock cluster, for a laptop where nothing is installed.

It speaks the Kafka protocol to any client, keeps a few megabytes a partition in memory and forgets everything when it
stops. It is for trying and testing, never for production.
"""

import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer

from churn_assets.ingestion.kafka import Cluster, KafkaUnavailableError, is_running


@contextmanager
def embedded_broker(broker_file: Path) -> Generator[Cluster]:
    """Run a broker while the context lasts and write its address to `broker_file`, where `kafka.connect` finds it."""
    if is_running(broker_file):
        raise KafkaUnavailableError(f"an embedded broker already runs in this home; its address is in {broker_file}")
    client = Producer({"test.mock.num.brokers": 1, "log_level": 2})
    broker = next(iter(client.list_topics(timeout=5).brokers.values()))
    cluster = Cluster(f"{broker.host}:{broker.port}", embedded_id=f"embedded-{uuid.uuid4()}")
    broker_file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = broker_file.with_suffix(".tmp")
    unfinished.write_text(
        json.dumps({"bootstrap_servers": cluster.bootstrap_servers, "id": cluster.id, "pid": os.getpid()})
    )
    unfinished.replace(broker_file)
    try:
        yield cluster
    finally:
        broker_file.unlink(missing_ok=True)
        del client
