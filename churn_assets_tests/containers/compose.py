"""docker-compose.yml as a project of its own: names, ports and volumes beside those of whoever works on this machine."""

import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from churn_assets_tests.containers.engine import company_certificates, docker
from churn_assets_tests.ports import free_port
from churn_assets_tests.repository import REPOSITORY

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "Dockerfile"
PATIENCE_SECONDS = 600.0
PORTS = ("DAGSTER_PORT", "DASHBOARD_PORT", "METRICS_PORT", "KAFKA_PORT")


def compose(text: str) -> dict[str, Any]:
    """A compose file with the defaults of its variables."""
    return yaml.safe_load(re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text))


def compose_command() -> list[str]:
    """The command that reads compose files on this machine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    pytest.fail("there is no docker compose; `.ci/install docker` brings one")


class Project:
    """The containers, networks and volumes of one `docker compose --project-name`."""

    def __init__(self, name: str, **variables: str) -> None:
        self.name = name
        self.ports = {port: str(free_port()) for port in PORTS}
        self.variables = variables | self.ports | {"CA_BUNDLE": company_certificates()}
        self._command = [*compose_command(), "--project-name", name, "--file", str(COMPOSE_FILE)]

    def run(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """`docker compose …`, with variables beside those of the project."""
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | self.variables | variables,
        )
        assert done.returncode == 0 or not check, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def remove(self) -> None:
        """End and delete everything, also what was stored."""
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)

    def containers(self) -> dict[str, dict[str, Any]]:
        """By service, what `docker inspect` says of its container."""
        ids = self.run("ps", "--quiet").stdout.split()
        found = yaml.safe_load(docker("inspect", *ids).stdout) if ids else []
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def logs(self, *services: str) -> str:
        """What the containers have said."""
        return self.run("logs", "--no-color", *services).stdout

    def address(self, port: str, path: str = "/") -> str:
        """The URL of a published port."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def answers(self, port: str, path: str = "/") -> bool:
        """Whether a published port answers."""
        try:
            with urllib.request.urlopen(self.address(port, path), timeout=10) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def metrics(self) -> dict[str, float]:
        """The sum of each metric over its labels; nothing while they cannot be had."""
        try:
            with urllib.request.urlopen(self.address("METRICS_PORT", "/metrics"), timeout=30) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
        except (OSError, urllib.error.URLError):
            return {}
        totals: dict[str, float] = {}
        for family in families:
            for sample in family.samples:
                table = sample.labels.get("table")
                name = f"{sample.name}:{table}" if table else sample.name
                totals[name] = totals.get(name, 0.0) + sample.value
        return totals

    def until(self, reached: Callable[[], bool], what: str) -> float:
        """Wait until it is so; returns the seconds it took."""
        begin = time.monotonic()
        while not reached():
            if time.monotonic() - begin > PATIENCE_SECONDS:
                pytest.fail(f"not reached: {what}\n{self.logs()[-8000:]}")
            time.sleep(1)
        return time.monotonic() - begin
