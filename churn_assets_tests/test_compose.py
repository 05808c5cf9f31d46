"""docker-compose.yml without Docker: what it says is checked, and its processes run on this machine.

The processes get the commands, environments, health checks and start order of the file. Only what containers would
add is replaced: host names, ports, folders, and the entry points of the Kafka and PostgreSQL images.
"""

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml

from churn_assets.ingestion.kafka import Cluster
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.ports import free_port
from churn_assets_tests.repository import REPOSITORY

pytestmark = pytest.mark.kafka

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "Dockerfile"
PATIENCE_SECONDS = 600.0
STOP_SECONDS = 100.0  # as the longest stop_grace_period of the file
PORTS = ("3000", "4000", "5432", "9092", "19092", "29093")
POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian does not put them on the PATH
# The official images begin with these; KafkaDockerWrapper is the very program of Kafka's.
IMAGE_COMMANDS = {
    "kafka": """
        mkdir -p {root}/kafka/defaults {root}/kafka/mounted {root}/kafka/config
        touch {root}/kafka/defaults/server.properties {root}/kafka/defaults/log4j2.yaml
        touch {root}/kafka/defaults/tools-log4j2.yaml
        java -cp {libraries} kafka.docker.KafkaDockerWrapper setup --default-configs-dir {root}/kafka/defaults \
            --mounted-configs-dir {root}/kafka/mounted --final-configs-dir {root}/kafka/config
        exec java $KAFKA_HEAP_OPTS -cp {libraries} kafka.Kafka {root}/kafka/config/server.properties""",
    "postgres": """
        echo "$POSTGRES_PASSWORD" > $PGDATA.password
        initdb --auth=scram-sha-256 --username=$POSTGRES_USER --pwfile=$PGDATA.password -D $PGDATA
        echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D $PGDATA postgres
        exec postgres -D $PGDATA -p {postgres_port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''""",
}


def compose(text: str, **variables: str) -> dict[str, Any]:
    """A compose file, with its variables replaced by `variables` or their defaults."""
    return yaml.safe_load(re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text))


def validator() -> list[str]:
    """The command that reads compose files on this machine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    pytest.fail("there is no docker compose to check the file with; `apt-get install docker-compose` brings one")


def test_the_compose_file_is_valid():
    found = subprocess.run(
        [*validator(), "-f", str(COMPOSE_FILE), "config", "-q"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert found.returncode == 0, found.stderr


def test_every_image_has_an_exact_version():
    images = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    images += [service["image"] for service in compose(COMPOSE_FILE.read_text())["services"].values()]
    # PostgreSQL's releases have two numbers, all others three.
    exact = re.compile(r"postgres:\d+\.\d+(-\w+)?|[\w./-]+:\d+\.\d+\.\d+(-[\w-]+)?")
    assert [image for image in images if not exact.fullmatch(image)] == []


def test_ports_are_published_on_loopback_only():
    services = compose(COMPOSE_FILE.read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_no_service_runs_as_root():
    last_user = re.findall(r"^USER (\S+)", DOCKERFILE.read_text(), re.MULTILINE)[-1]
    services = compose(COMPOSE_FILE.read_text())["services"]
    ours = services["prepare"]["image"]
    users = {
        name: service.get("user", last_user if service["image"] == ours else "root")
        for name, service in services.items()
    }
    assert {name for name, user in users.items() if str(user).split(":")[0] in {"root", "0"}} == set()


def test_what_a_service_waits_for_can_come_true():
    file = compose(COMPOSE_FILE.read_text())
    services = file["services"]
    for name, service in services.items():
        lasting = service.get("restart") == "unless-stopped"
        assert not lasting or "healthcheck" in service or "depends_on" in service, name
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], other
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert "restart" not in services[other], other
    mounted = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert mounted == set(file["volumes"])


def test_no_variable_of_a_churn_container_is_taken_for_kafka_security():
    services = compose(COMPOSE_FILE.read_text())["services"]
    ours = [service for service in services.values() if service["image"] == services["prepare"]["image"]]
    variables = {name for service in ours for name in service["environment"] if name.startswith("KAFKA_")}
    assert variables == {"KAFKA_BOOTSTRAP_SERVERS"}


def test_dagster_is_set_up_in_containers_as_everywhere_else():
    common = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    here = yaml.safe_load((REPOSITORY / "docker/dagster.yaml").read_text())
    # The code is in another container than the daemon, and Dagster's tables are in PostgreSQL.
    for name in ("run_launcher", "run_coordinator", "storage"):
        del common[name]
    assert {name: here.get(name) for name in common} == common


class Processes:
    """The services of the compose file as processes on this machine, in folders of their own."""

    def __init__(self, root: Path, libraries: Path, **variables: str) -> None:
        self.root = root
        self._libraries = libraries
        self.ports = {port: str(free_port()) for port in PORTS}
        self._names = list(compose(COMPOSE_FILE.read_text())["services"])
        self.services: dict[str, dict[str, Any]] = compose(self._here(COMPOSE_FILE.read_text()), **variables)[
            "services"
        ]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # pytest's folders are closed to the user that PostgreSQL runs as.
        self._database = Path(tempfile.mkdtemp(prefix="churn-postgres-"))
        self._nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._nobody:
            os.chown(self._database, self._nobody.pw_uid, self._nobody.pw_gid)
        self._make_folders()

    def up(self) -> None:
        """Start every service as soon as what it depends on is as far as the file asks for."""
        order = TopologicalSorter({name: service.get("depends_on", {}) for name, service in self.services.items()})
        for name in order.static_order():
            for other, wait in self.services[name].get("depends_on", {}).items():
                if wait["condition"] == "service_healthy":
                    self._await_health(other)
                else:
                    assert self._running[other].wait(PATIENCE_SECONDS) == 0, self.log(other)
            self.start(name)
        for name, service in self.services.items():
            if "healthcheck" in service:
                self._await_health(name)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        command = self.services[name].get("command")
        if command is None:
            script = IMAGE_COMMANDS[name].format(
                root=self.root, libraries=self._classpath, postgres_port=self.ports["5432"]
            )
            command = ["sh", "-ec", script]
        as_nobody = self._nobody if name == "postgres" else None
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(name),
                cwd=self._database if name == "postgres" else self.root / "app",
                start_new_session=True,
                **({"user": as_nobody.pw_uid, "group": as_nobody.pw_gid, "extra_groups": []} if as_nobody else {}),
            )
        return self._running[name]

    def stop(self, *keep: str) -> None:
        """Stop the services as Compose does, the last one first: asked, then killed. Those in `keep` go on."""
        for name, process in reversed(list(self._running.items())):
            if name in keep:
                continue
            # PostgreSQL's image says that it is stopped by SIGINT; SIGTERM would wait for its clients.
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # Dagster's code server sometimes does not end by itself
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def kill(self) -> None:
        """End whatever is left, and remove what lies outside pytest's folders."""
        for process in self._running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for left in self.left():
            os.kill(left, signal.SIGKILL)
        shutil.rmtree(self._database, ignore_errors=True)

    def left(self) -> dict[int, str]:
        """Process ids and command lines of what one of the services has left running."""
        found: dict[int, str] = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                session = int((process / "stat").read_text().rpartition(")")[2].split()[3])
                marked = f"TEST_ROOT={self.root}".encode() in (process / "environ").read_bytes()
                if marked or session in {started.pid for started in self._running.values()}:
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside a service, as `docker compose exec` does."""
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment(service), cwd=self.root / "app", timeout=120
        )

    def stored_by_dagster(self, query: str) -> list[str]:
        """The rows of a query on Dagster's database, their values separated by blanks."""
        database = self.services["postgres"]["environment"]
        address = f"postgresql://{database['POSTGRES_USER']}@127.0.0.1:{self.ports['5432']}/{database['POSTGRES_DB']}"
        found = subprocess.run(
            ["psql", address, "--no-psqlrc", "--tuples-only", "--no-align", "--field-separator= ", "--command", query],
            capture_output=True,
            text=True,
            env=self.environment("postgres") | {"PGPASSWORD": database["POSTGRES_PASSWORD"]},
        )
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()

    def environment(self, name: str) -> dict[str, str]:
        """What the file gives to a service, and what an image would bring."""
        programs = [str(Path(sys.executable).parent), *map(str, POSTGRES_PROGRAMS), os.environ["PATH"]]
        return {
            "PATH": ":".join(programs),
            "HOME": str(self.root / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.root / "app"),
            "PYTHONDONTWRITEBYTECODE": "1",  # the user of the image may not write beside the code
            "PYTHONUNBUFFERED": "1",
            "PGDATA": str(self._database / "data"),
            "TEST_ROOT": str(self.root),
        } | {key: str(value) for key, value in self.services[name].get("environment", {}).items()}

    def until(self, reached: Callable[[], Any], what: str) -> Any:
        """The first true answer of `reached`, as long as no service ends."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            answer = reached()
            if answer:
                return answer
            for name, process in self._running.items():
                if "restart" in self.services[name] and process.poll() is not None:
                    pytest.fail(f"{name} ended by itself\n{self.log(name)}")
            time.sleep(1)
        pytest.fail("\n".join([f"not reached: {what}", *map(self.log, self._running)]))

    def die(self, name: str) -> None:
        """Kill a service with all of its processes, and start it again as Docker does."""
        os.killpg(self._running[name].pid, signal.SIGKILL)
        self._running[name].wait()
        self.start(name)

    def runs_under_way(self) -> list[str]:
        """The ids of the runs that a code server has begun."""
        return self.stored_by_dagster(
            "SELECT run_id FROM runs JOIN run_tags USING (run_id) WHERE status = 'STARTED' AND key = '.dagster/grpc_info'"
        )

    def events_stored(self) -> int:
        """How many offsets of Kafka the lake has."""
        return self._one("SELECT coalesce(sum(committed_offset), 0)::BIGINT FROM kafka_offsets")

    def emails_written(self) -> int:
        """How many emails have a text."""
        return self._one("SELECT count(generated_email) FROM agent_intervention_log")

    def _one(self, sql: str) -> int:
        return self._lake.query(sql).column(0)[0].as_py()

    @cached_property
    def _lake(self) -> LakeWarehouse:
        # Here and not by `churn status`, each of which takes two seconds of a core away from what it watches.
        home = Path(self.environment("producer")["CHURN_HOME"])
        return open_lake(load_settings(CHURN_HOME=home).lake_path, read_only=True)

    def log(self, name: str) -> str:
        return f"--- {name} ---\n{self._log(name).read_text()[-3000:]}"

    def _await_health(self, name: str) -> None:
        check = self.services[name]["healthcheck"]["test"]
        assert check[0] == "CMD", check

        def is_healthy() -> bool:
            with suppress(subprocess.TimeoutExpired):  # a busy machine
                return self.run(name, *check[1:]).returncode == 0
            return False

        self.until(is_healthy, f"{name} is healthy")

    def _make_folders(self) -> None:
        """/app with what the Dockerfile copies there, and Kafka's own command from its jars."""
        app = self.root / "app"
        last_stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
        for source, target in re.findall(r"^COPY (\w\S*) (\S+)$", last_stage, re.MULTILINE):
            shutil.copytree(REPOSITORY / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (app / "docker").iterdir():
            file.write_text(self._here(file.read_text()))
        for folder in ("home", "state", "opt/kafka/bin"):
            (self.root / folder).mkdir(parents=True)
        topics = self.root / "opt/kafka/bin/kafka-topics.sh"
        topics.write_text(f'#!/bin/sh\nexec java -cp {self._classpath} org.apache.kafka.tools.TopicCommand "$@"\n')
        topics.chmod(0o755)

    def _here(self, text: str) -> str:
        """A file's text with the hosts, ports and folders of containers replaced by those of this machine."""
        names = "|".join(self._names)
        text = re.sub(rf"\b({names})(?=:\d)", "127.0.0.1", text)
        text = re.sub(rf"^(\s*host(?:name)?: )({names})$", r"\g<1>127.0.0.1", text, flags=re.MULTILINE)
        text = text.replace("0.0.0.0", "127.0.0.1").replace("://:", "://127.0.0.1:")
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: self.ports[found[1]], text)
        return re.sub(r"(?<![\w.])/(app|opt|state|var)/", rf"{self.root}/\1/", text)

    @property
    def _classpath(self) -> str:
        return shlex.quote(f"{self._libraries}/*")

    def _log(self, name: str) -> Path:
        return self.root / f"{name}.log"


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Processes]:
    libraries = request.config.invocation_params.dir / str(request.config.getoption("--kafka"))
    processes = Processes(tmp_path / "root", libraries.absolute(), CHURN_CUSTOMERS="300", CHURN_DAYS="40")
    try:
        yield processes
    finally:
        processes.kill()


def test_the_processes_of_the_compose_file_turn_events_into_emails_and_start_again_when_they_are_killed(processes):
    app = processes.root / "app"
    baked = sorted(app.rglob("*"))
    processes.up()
    processes.until(
        lambda: processes.events_stored() > 0 and processes.emails_written() > 0,
        "an event is stored and an email is written",
    )
    outside = Cluster(f"127.0.0.1:{processes.ports['9092']}")  # the listener for the host
    assert len(outside.partitions(EVENTS_TOPIC)) == 4
    address = f"http://127.0.0.1:{processes.ports['3000']}/server_info"
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert "dagster_webserver_version" in json.load(answer)
    said = processes.run("producer", "churn", "status", "--json")
    assert json.loads(said.stdout)["emails"]["total"] > 0, said.stderr

    # `docker compose up` runs these again each time.
    for name in ("topic", "prepare"):
        assert processes.start(name).wait(PATIENCE_SECONDS) == 0, processes.log(name)

    failed = "SELECT pipeline_name FROM runs WHERE status IN ('FAILURE', 'CANCELED')"
    assert processes.stored_by_dagster(failed) == []

    lost = processes.until(processes.runs_under_way, "a run is under way")
    for name in ("code", "daemon", "webserver"):
        # The runs are children of the code server, and die with it; others cannot be launched until it is back.
        processes.die(name)
        enough = processes.events_stored() + 100  # more than what a run under way would store
        processes.until(
            lambda enough=enough: processes.events_stored() > enough, f"events go on without the old {name}"
        )
    processes.until(lambda: urllib.request.urlopen(address, timeout=10).status == 200, "the web server answers")
    in_any = ", ".join(f"'{run}'" for run in lost)
    ends = set(processes.stored_by_dagster(f"SELECT status FROM runs WHERE run_id IN ({in_any})"))
    assert ends <= {"FAILURE", "SUCCESS"}
    under_way = processes.until(processes.runs_under_way, "a run is under way")

    processes.stop("postgres")
    runs = processes.stored_by_dagster(
        "SELECT run_id, status, pipeline_name, value FROM runs JOIN run_tags USING (run_id) WHERE key = 'dagster/sensor_name'"
    )
    ended = {run.partition(" ")[2] for run in runs}
    # Where a refresh is under way, as after the start, events are stored alone.
    assert ended & {f"SUCCESS {job} kafka_sensor" for job in ("stream_events", "ingest_events")}, runs
    assert "SUCCESS write_retention_emails emails_sensor" in ended
    # What was begun is given the time to end.
    cut_off = [run for run in runs if run.split()[0] in under_way and run.split()[1] != "SUCCESS"]
    assert cut_off == [], processes.stored_by_dagster(
        "SELECT pipeline_name, event::json #>> '{dagster_event,message}',"
        " event::json #>> '{dagster_event,event_specific_data,error}'"
        " FROM event_logs JOIN runs USING (run_id) WHERE status <> 'SUCCESS'"
        " AND dagster_event_type IN ('ENGINE_EVENT', 'STEP_FAILURE', 'PIPELINE_FAILURE')"
    )
    processes.stop()
    assert processes.left() == {}
    assert sorted(app.rglob("*")) == baked  # all that is written goes to the volume
