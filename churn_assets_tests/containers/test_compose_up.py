"""`docker compose up` in real containers, seen from outside: first email, load, kills, restarts, wrong settings."""

import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect, sync_playwright

from churn_assets_tests.browser import open_browser
from churn_assets_tests.containers.compose import COMPOSE_FILE, Project, compose
from churn_assets_tests.containers.engine import Engine, docker, have_image

pytestmark = pytest.mark.docker

OURS = compose(COMPOSE_FILE.read_text())["services"]["prepare"]["image"]
BASE = "python:3.12.12-slim-bookworm"
LASTING = ("kafka", "postgres", "dagster", "dashboard", "metrics", "producer")
LOAD_MINUTES = float(os.environ.get("LOAD_MINUTES", "2"))
SCORES = "churn_table_lag_seconds:dyn_churn_predictions"
MOST_MB = 1100  # the image, on the base image that it is made for
UPSTREAM_BASE_MB = 130


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine that has every image of the file."""
    engine = Engine()
    try:
        services = compose(COMPOSE_FILE.read_text())["services"].values()
        for image in sorted({BASE, *(service["image"] for service in services)} - {OURS}):
            have_image(image)
        Project("churn-test").run("build", "prepare")
        yield engine
    finally:
        engine.end()


@pytest.fixture(scope="module")
def project(engine: Engine) -> Iterator[Project]:
    """The project, running, with an email written. The tests take turns with it, in the order of the file."""
    project = Project("churn-test")
    project.remove()
    try:
        begin = time.monotonic()
        project.run("up", "--detach")
        project.until(lambda: project.metrics().get("churn_emails", 0) > 0, "an email is written")
        print(f"from `up` to the first email: {time.monotonic() - begin:.0f} s")  # noqa: T201
        yield project
    finally:
        project.remove()


def stored(project: Project) -> float:
    return project.metrics().get("churn_messages_total", 0.0)


def goes_on(project: Project, why: str) -> None:
    """Events are stored and scored from here on."""
    begin = time.monotonic()
    before = 0.0

    def moves() -> bool:
        nonlocal before
        now = project.metrics()
        before = before or now.get("churn_messages_total", 0.0)
        return 0 < before < now.get("churn_messages_total", 0.0) and now.get(SCORES, 999.0) < 30

    project.until(moves, f"events are stored and scored {why}")
    print(f"{why}: goes on after {time.monotonic() - begin:.0f} s")  # noqa: T201


def test_the_image_is_small_runs_as_nobody_in_particular_and_has_no_compiler(engine):
    image = docker("image", "inspect", "--format", "{{.Size}} {{.Config.User}}", OURS).stdout.split()
    base = docker("image", "inspect", "--format", "{{.Size}}", BASE).stdout
    ours_mb = (int(image[0]) - int(base)) / 1e6
    print(f"the image adds {ours_mb:.0f} MB to its base")  # noqa: T201
    assert ours_mb + UPSTREAM_BASE_MB <= MOST_MB
    assert image[1] == "10001"
    for tool in ("gcc", "cc", "make", "uv"):
        assert docker("run", "--rm", OURS, "sh", "-c", f"command -v {tool}", check=False).returncode != 0, tool


def test_the_pages_answer_in_a_browser(project):
    with sync_playwright() as playwright, open_browser(playwright) as page:
        page.goto(project.address("DAGSTER_PORT", "/assets/retention_emails?view=checks"))
        page.get_by_text("one_email_in_7_days").first.wait_for()
        page.goto(project.address("DASHBOARD_PORT"))
        page.get_by_role("link", name="Interventions").click()
        page.get_by_role("heading", name="Emails waiting for a decision").wait_for()
        expect(page.get_by_text("Traceback")).to_have_count(0)


def test_nobody_complains(project):
    said = project.logs()
    bad = [
        line for line in said.splitlines() if any(word in line for word in ("Traceback", " ERROR", "CRITICAL", "rror:"))
    ]
    assert bad == []


def test_every_container_has_a_limit_and_cannot_write_where_the_code_is(project):
    found = project.containers()
    assert set(LASTING) <= set(found)
    assert [name for name in LASTING if not found[name]["HostConfig"]["Memory"]] == []
    ours = [name for name in LASTING if found[name]["Config"]["Image"] == OURS]
    assert [name for name in ours if not found[name]["HostConfig"]["ReadonlyRootfs"]] == []
    assert project.run("exec", "-T", "dagster", "touch", "/app/x", check=False).returncode != 0


def test_two_thousand_events_a_minute_are_kept_up_with(project):
    project.run("up", "--detach", "--no-deps", "producer", CHURN_RATE="2000")
    time.sleep(30)  # the burst of what the new producer owes
    begin, before, ages, used = time.monotonic(), stored(project), list[float](), _cpu_seconds(project)
    while time.monotonic() < begin + LOAD_MINUTES * 60:
        time.sleep(5)
        ages.append(project.metrics().get(SCORES, 999.0))
    minutes = (time.monotonic() - begin) / 60
    rate = (stored(project) - before) / minutes
    cores = (_cpu_seconds(project) - used) / (minutes * 60)
    print(  # noqa: T201
        f"{rate:.0f} messages a minute, scores {statistics.median(ages):.1f} s behind, at most {max(ages):.1f}; {cores:.2f} cores"
    )
    project.run("up", "--detach", "--no-deps", "producer")
    # Scores of the bank's own model come on top of the events.
    assert rate > 1800
    project.until(lambda: project.metrics().get("churn_kafka_lag_messages", 999.0) < 100, "nothing waits afterwards")
    assert {
        name: each["State"]["OOMKilled"] for name, each in project.containers().items() if each["State"]["OOMKilled"]
    } == {}


def _cpu_seconds(project: Project) -> float:
    """What the containers that are ours, and PostgreSQL, have used."""
    total = 0.0
    for name, container in project.containers().items():
        if name in LASTING and name not in {"kafka", "producer"}:
            line = project.run(
                "exec", "-T", name, "cat", "/sys/fs/cgroup/cpuacct/cpuacct.usage", check=False
            ).stdout.strip()
            if not line:
                line = (
                    project.run("exec", "-T", name, "grep", "usage_usec", "/sys/fs/cgroup/cpu.stat").stdout.split()[1]
                    + "000"
                )
            assert container["State"]["Running"]
            total += int(line) / 1e9
    return total


@pytest.mark.parametrize("service", LASTING)
def test_a_container_whose_process_dies_is_started_again_and_all_goes_on(project, service):
    container = project.containers()[service]
    os.kill(container["State"]["Pid"], signal.SIGKILL)

    project.until(
        lambda: project.containers().get(service, container)["State"]["Pid"] not in {0, container["State"]["Pid"]},
        f"{service} is started again",
    )
    goes_on(project, f"{service} killed")


def test_what_was_stored_is_there_after_down_and_up(project):
    before = stored(project)
    project.run("down", "--timeout", "60")
    project.run("up", "--detach")
    goes_on(project, "down and up")
    assert stored(project) >= before > 0


def test_the_engine_may_be_started_again(engine, project):
    if not engine.is_ours:
        pytest.skip("the engine of this machine was there before the tests, which leave it alone")
    engine.restart()
    goes_on(project, "engine started again")


def test_a_port_that_is_taken_is_named(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = project.run("up", "--detach", "--no-deps", "dashboard", check=False, DASHBOARD_PORT=port)
    assert done.returncode != 0
    assert port in done.stderr
    project.run("up", "--detach", "--no-deps", "dashboard")


def test_another_password_than_the_one_of_the_first_start_is_said_by_what_prepares(project):
    project.run("up", "--no-deps", "prepare", check=False, DAGSTER_POSTGRES_PASSWORD="another")
    said = project.logs("prepare")
    assert 'password authentication failed for user "dagster"' in said
    assert said.count("Traceback") == 0
