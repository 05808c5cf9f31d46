"""An Apache Kafka broker for tests: KRaft mode, one node, on loopback, in a directory of its own."""

import signal
import subprocess
import time
import uuid
from functools import cached_property
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

from churn_assets.ingestion.kafka import Cluster, KafkaUnavailableError
from churn_assets_tests.ports import free_port

START_SECONDS = 60.0
USER, PASSWORD = "churn", "not-to-be-seen-9b1f"


class KafkaServer:
    """A broker run from the jars in `libraries`. Its `sasl_servers` listener asks for USER and PASSWORD."""

    def __init__(self, libraries: Path, directory: Path) -> None:
        self._classpath = f"{libraries.absolute()}/*"
        self._directory = directory
        self._configuration = directory / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        plain, sasl, controller = free_port(), free_port(), free_port()
        self.bootstrap_servers = f"127.0.0.1:{plain}"
        self.sasl_servers = f"127.0.0.1:{sasl}"
        self._configuration.write_text(
            "\n".join(
                [
                    "process.roles=broker,controller",
                    "node.id=1",
                    f"controller.quorum.voters=1@127.0.0.1:{controller}",
                    f"listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}",
                    "listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
                    "controller.listener.names=CONTROLLER",
                    "inter.broker.listener.name=PLAIN",
                    "sasl.enabled.mechanisms=PLAIN",
                    "listener.name.sasl.plain.sasl.jaas.config="
                    "org.apache.kafka.common.security.plain.PlainLoginModule required"
                    f' user_{USER}="{PASSWORD}";',
                    f"log.dirs={directory / 'log'}",
                    "offsets.topic.replication.factor=1",
                    "offsets.topic.num.partitions=1",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "transaction.state.log.num.partitions=1",
                    "group.initial.rebalance.delay.ms=0",
                    "auto.create.topics.enable=false",
                    "log.retention.check.interval.ms=300",
                    "log.initial.task.delay.ms=300",
                    "file.delete.delay.ms=100",
                ]
            )
        )

    def __enter__(self) -> "KafkaServer":
        self._java("kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4()), "-c", str(self._configuration)).wait()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the broker and return when it answers."""
        self._process = self._java("kafka.Kafka", str(self._configuration))
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

    def ensure_running(self) -> None:
        if self._process is None:
            self.start()

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
        while not Cluster(self.bootstrap_servers).partitions(topic):
            time.sleep(0.1)

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
