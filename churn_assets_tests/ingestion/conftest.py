"""A topic that tests write whatever they like to, and its ingestion.

The tests here run against the embedded broker, and with `--kafka` against Apache Kafka (`make test-kafka`).
"""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import history
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.ingestion.commit import Stored, committed_offsets
from churn_assets.ingestion.isolation import decode
from churn_assets.ingestion.kafka import Cluster, OffsetRange, Partition
from churn_assets.ingestion.mapping.compiling import Mappings
from churn_assets.ingestion.publisher import Publisher
from churn_assets.ingestion.schema_registry import Registry
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import OnGap, Settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.apache_kafka import KafkaServer

PARTITIONS = 4


@dataclass
class Stream:
    """A topic, the lake that it is ingested into, and what ingestion said on its way."""

    cluster: Cluster
    topic: str
    lake: LakeWarehouse
    environment: dict[str, str]
    on_gap: OnGap = "fail"
    mappings: Mappings | None = None
    registry: Registry | None = None
    reported: list[str] = field(default_factory=list)

    def send(self, messages: list[bytes]) -> None:
        """Publish messages, spread over the partitions by their position."""
        publisher = Publisher(self.cluster, self.topic)
        for position, message in enumerate(messages):
            publisher.send(str(position).encode(), message)
        publisher.flush()

    def waiting(self) -> list[OffsetRange]:
        """The ranges that the sensor would ask for now."""
        return [lag.waiting for lag in lags(self.lake, self.cluster, [self.topic]) if lag.waiting]

    def ingest(
        self,
        ranges: list[OffsetRange] | None = None,
        *,
        isolated: bool = False,
        clock: Callable[[], datetime] = utc_now,
    ) -> Stored:
        """Ingest as a run does, all that waits unless told otherwise."""
        return ingest(
            self.lake,
            self.cluster,
            self.waiting() if ranges is None else ranges,
            on_gap=self.on_gap,
            group="lag_exporter",
            clock=clock,
            report=self.reported.append,
            isolated=isolated,
            mappings=self.mappings,
            registry=self.registry,
        )

    def high_watermarks(self) -> dict[Partition, int]:
        """Of the partitions that anything was ever written to; only these are committed."""
        return {p: marks.high for p, marks in self.cluster.partitions(self.topic).items() if marks and marks.high}

    def committed(self) -> dict[Partition, int]:
        return {p: offset for p, offset in committed_offsets(self.lake).items() if p.topic == self.topic}

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return [tuple(row.values()) for row in self.lake.query(sql).to_pylist()]


class DecoderHere:
    """Decodes in this process: half a second faster than a child, and it sees what a test has patched."""

    decode = staticmethod(decode)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _files_are_decoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "IsolatedDecoder", DecoderHere)


@pytest.fixture(scope="session")
def kafka_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Apache Kafka, one broker for all tests; one that a test killed is started again."""
    libraries = request.config.invocation_params.dir / str(request.config.getoption("--kafka"))
    with KafkaServer(libraries, tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def stream(request: pytest.FixtureRequest, settings: Settings, lake: LakeWarehouse) -> Iterator[Stream]:
    """A topic of this test alone."""
    if request.config.getoption("--kafka"):
        server: KafkaServer = request.getfixturevalue("kafka_server")
        server.start()
        topic = f"events-{uuid.uuid4().hex[:8]}"
        server.create_topic(topic, PARTITIONS)
        environment = {"KAFKA_BOOTSTRAP_SERVERS": server.bootstrap_servers, "CHURN_TOPICS": topic}
        yield Stream(Cluster(server.bootstrap_servers), topic, lake, dict(os.environ) | environment)
    else:
        yield Stream(request.getfixturevalue("broker"), EVENTS_TOPIC, lake, dict(os.environ))
