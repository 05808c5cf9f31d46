"""Apache Kafka brokers for tests: KRaft mode, on loopback, each in a directory of its own."""

import signal
import subprocess
import time
import uuid
from functools import cached_property
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

from churn_assets.ingestion.kafka import Cluster, KafkaUnavailableError, Watermarks
from churn_assets_tests.ports import free_port

START_SECONDS = 60.0
USER, PASSWORD = "churn", "not-to-be-seen-9b1f"


class KafkaServer:
    """A broker run from the jars in `libraries`. Its `sasl_servers` listener asks for USER and PASSWORD.

    `first` is the broker that controls the cluster which this one joins; without it, this one does. The offsets of groups are on
    so many brokers as `replicas` says.
    """

    def __init__(
        self, libraries: Path, directory: Path, *, node: int = 1, first: "KafkaServer | None" = None, replicas: int = 1
    ) -> None:
        self._classpath = f"{libraries.absolute()}/*"
        self._directory = directory
        self._configuration = directory / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        plain, sasl = free_port(), free_port()
        self._controller = first._controller if first else f"127.0.0.1:{free_port()}"
        self._cluster_id = first._cluster_id if first else str(uuid.uuid4())
        self.bootstrap_servers = f"127.0.0.1:{plain}"
        self.sasl_servers = f"127.0.0.1:{sasl}"
        self._configuration.write_text(
            "\n".join(
                [
                    "process.roles=broker" if first else "process.roles=broker,controller",
                    f"node.id={node}",
                    f"controller.quorum.voters=1@{self._controller}",
                    f"listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl}"
                    + ("" if first else f",CONTROLLER://{self._controller}"),
                    "listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
                    "controller.listener.names=CONTROLLER",
                    "inter.broker.listener.name=PLAIN",
                    "sasl.enabled.mechanisms=PLAIN",
                    "listener.name.sasl.plain.sasl.jaas.config="
                    "org.apache.kafka.common.security.plain.PlainLoginModule required"
                    f' user_{USER}="{PASSWORD}";',
                    f"log.dirs={directory / 'log'}",
                    f"offsets.topic.replication.factor={replicas}",
                    "offsets.topic.num.partitions=1",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "transaction.state.log.num.partitions=1",
                    "group.initial.rebalance.delay.ms=0",
                    "auto.create.topics.enable=false",
                    "log.retention.check.interval.ms=300",
                    "log.initial.task.delay.ms=300",
                    "file.delete.delay.ms=100",
                    # A dead broker is noticed within two seconds instead of nine.
                    "broker.heartbeat.interval.ms=500",
                    "broker.session.timeout.ms=2000",
                    "controlled.shutdown.enable=false",
                ]
            )
        )

    def __enter__(self) -> "KafkaServer":
        self.begin()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def begin(self) -> None:
        """Make the broker's storage and start it for the first time, without waiting for it."""
        self._java("kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(self._configuration)).wait()
        self._process = self._java("kafka.Kafka", str(self._configuration))

    def start(self) -> None:
        """Start the broker, unless it runs, and return when it answers."""
        self._process = self._process or self._java("kafka.Kafka", str(self._configuration))
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                Cluster(self.bootstrap_servers)
                return
            except KafkaUnavailableError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    log = (self._directory / "broker.log").read_text()
                    raise RuntimeError(f"the broker did not start: {log[-3000:]}") from error
                time.sleep(0.3)

    def kill(self) -> None:
        """SIGKILL: the broker has no time to write anything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 2})

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic; a name that is being deleted is waited for."""
        end = time.monotonic() + 10
        while True:
            try:
                new = NewTopic(topic, num_partitions=partitions, replication_factor=1)
                self.admin.create_topics([new])[topic].result(10)
                break
            except KafkaException:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        while len(self._watermarks(topic)) < partitions:
            time.sleep(0.1)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete the messages of a partition before an offset, as retention would."""
        place = TopicPartition(topic, partition, before)
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 2})  # which knows new partitions
        for deleted in admin.delete_records([place]).values():
            deleted.result(10)

    def _watermarks(self, topic: str) -> list[Watermarks]:
        """Of the topic's partitions that have a leader."""
        return [marks for marks in Cluster(self.bootstrap_servers).partitions(topic).values() if marks]

    def configure_topic(self, topic: str, **configuration: str) -> None:
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in configuration.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(10)

    def _java(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._directory / "broker.log").open("ab") as log:
            return subprocess.Popen(
                ["java", "-Xmx512m", "-Xms256m", "-cp", self._classpath, main, *arguments], stdout=log, stderr=log
            )


class ThreeBrokers:
    """A cluster of three brokers. The first one also controls it; kill only the other two."""

    def __init__(self, libraries: Path, directory: Path) -> None:
        first: KafkaServer | None = None
        self.brokers: dict[int, KafkaServer] = {}
        for node in (1, 2, 3):
            (directory / str(node)).mkdir()
            self.brokers[node] = KafkaServer(libraries, directory / str(node), node=node, first=first, replicas=3)
            first = self.brokers[1]
        self.bootstrap_servers = ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    def __enter__(self) -> "ThreeBrokers":
        for broker in self.brokers.values():
            broker.begin()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for broker in self.brokers.values():
            broker.kill()

    def start(self) -> None:
        """Start those that do not run."""
        for broker in self.brokers.values():
            broker.start()

    def create_topic(self, topic: str, replicas: list[list[int]], **configuration: str) -> None:
        """Create a topic; `replicas` has the nodes of each partition, the same number for each."""
        new = NewTopic(
            topic,
            num_partitions=len(replicas),
            replication_factor=-1,
            replica_assignment=replicas,
            config={name.replace("_", "."): value for name, value in configuration.items()},
        )
        self.brokers[1].admin.create_topics([new])[topic].result(10)
        for partition, nodes in enumerate(replicas):
            self.wait_for_replicas(topic, partition, set(nodes))

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads the partition; -1 if none does."""
        return self.brokers[1].admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader

    def wait_for_replicas(self, topic: str, partition: int, nodes: set[int]) -> None:
        """Wait until exactly these nodes have all messages of the partition."""
        end = time.monotonic() + START_SECONDS
        while True:
            found = self.brokers[1].admin.list_topics(topic, timeout=10).topics.get(topic)
            if found and found.partitions and set(found.partitions[partition].isrs) == nodes:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{topic}[{partition}] is not in sync on {nodes}: {found and found.partitions}")
            time.sleep(0.1)
