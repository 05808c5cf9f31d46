"""A broker with a topic that tests write whatever they like to."""

from collections.abc import Callable, Iterator

import pytest

from churn_assets.ingestion import kafka
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.commit import committed_offsets, waiting_ranges
from churn_assets.ingestion.kafka import Cluster, OffsetRange
from churn_assets.settings import EVENTS_TOPIC, Settings
from churn_assets.simulator.producer import EventProducer
from churn_assets.warehouse.lake import LakeWarehouse

Send = Callable[[list[bytes]], None]


@pytest.fixture
def broker(settings: Settings) -> Iterator[Cluster]:
    """The embedded broker of this test's home."""
    with embedded_broker(settings.broker_file) as cluster:
        yield cluster


@pytest.fixture
def send(broker: Cluster) -> Send:
    """Publishes messages, spread over the partitions by their position."""

    def publish(messages: list[bytes]) -> None:
        producer = EventProducer(broker)
        for position, message in enumerate(messages):
            producer.send_bytes(str(position).encode(), message)
        producer.flush()

    return publish


@pytest.fixture
def waiting(broker: Cluster, lake: LakeWarehouse) -> Callable[[], list[OffsetRange]]:
    """The ranges that the sensor would ask for now."""
    return lambda: waiting_ranges(
        EVENTS_TOPIC, kafka.watermarks(broker, EVENTS_TOPIC), committed_offsets(lake, broker.epoch)
    )
