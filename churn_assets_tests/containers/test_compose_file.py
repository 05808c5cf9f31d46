"""What docker-compose.yml and the Dockerfile say, without an engine. They run in `test_compose_up.py`."""

import re
import subprocess

import pytest
import yaml

from churn_assets_tests.containers.compose import COMPOSE_FILE, DOCKERFILE, compose, compose_command
from churn_assets_tests.repository import REPOSITORY

pytestmark = pytest.mark.docker


def test_the_compose_file_is_valid():
    found = subprocess.run(
        [*compose_command(), "-f", str(COMPOSE_FILE), "config", "-q"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert found.returncode == 0, found.stderr


def test_every_image_has_an_exact_version():
    stages = re.findall(r"^FROM (\S+) AS (\w+)", DOCKERFILE.read_text(), re.MULTILINE)
    images = [image for image, _ in stages if image not in {name for _, name in stages}]
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
    del common["storage"], here["storage"]  # in PostgreSQL here
    assert here == common
