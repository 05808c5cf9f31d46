"""What deploy/kubernetes says, without a cluster: on one it has never run. `make lint` holds it against Kubernetes' schemas."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config
from dagster_postgres.utils import pg_config

from churn_assets.cli.up import DEFINITIONS
from churn_assets.settings import SECRETS
from churn_assets_tests.containers import kubernetes
from churn_assets_tests.containers.compose import COMPOSE_FILE, DOCKERFILE, compose
from churn_assets_tests.containers.kubernetes import FOLDER, kustomization, manifests, problems, settings_file
from churn_assets_tests.docs.commands import is_variable
from churn_assets_tests.docs.pages import Page
from churn_assets_tests.repository import REPOSITORY

SERVICES = compose(COMPOSE_FILE.read_text())["services"]
OURS = ("dagster", "dashboard", "metrics")
WITH_KUBECTL = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which has kustomize, is not installed"
)


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [document for _, document in manifests() if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    return manifest("StatefulSet")["spec"]["template"]["spec"]


def containers() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in [*pod()["initContainers"], *pod()["containers"]]}


def values() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())


def user_deployment() -> dict[str, Any]:
    (found,) = values()["dagster-user-deployments"]["deployments"]
    return found


def built(folder: Path) -> dict[str, dict[str, Any]]:
    """What kustomize makes of a folder, by kind."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}


def is_known(variable: str) -> bool:
    return is_variable(variable) or variable in SERVICES["dagster"]["environment"]


def test_every_manifest_fits_the_schema(capsys: pytest.CaptureFixture[str]):
    assert kubernetes.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda found: found["spec"]["template"]["spec"]["containers"][0].update(imagePolicy="Always"),
            "statefulset.yaml: StatefulSet for Kubernetes 1.37: spec.template.spec.containers.0: Additional properties are not"
            " allowed ('imagePolicy' was unexpected); correct it as in `kubectl explain statefulset`",
        ),
        (lambda found: found["spec"].update(replicas="one"), "spec.replicas: 'one' is not of type"),
        (lambda found: found.pop("spec") and found.update(sepc={}), "the document: Additional properties"),
        (
            lambda found: found.update(kind="StatefulSets"),
            "there is no such kind in apps/v1; correct kind or apiVersion",
        ),
        (lambda found: found.update(apiVersion="apps/v2"), "there is no such kind in apps/v2"),
        (lambda found: found.pop("kind"), "'kind' is missing; every manifest has apiVersion and kind"),
    ],
)
def test_a_wrong_manifest_is_said_with_what_to_do(change: Callable[[dict[str, Any]], object], said: str):
    wrong = deepcopy(manifest("StatefulSet"))
    change(wrong)

    assert said in "\n".join(problems(FOLDER / "statefulset.yaml", wrong))


def test_a_wrong_manifest_makes_lint_red(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    wrong = manifest("Service") | {"spec": {"ports": [{"prot": 3000}]}}
    monkeypatch.setattr(kubernetes, "manifests", lambda: iter([(FOLDER / "service.yaml", wrong)]))

    assert kubernetes.main() == 1
    assert "service.yaml: Service for Kubernetes 1.37: spec.ports.0: " in capsys.readouterr().out
    assert "churn_assets_tests.containers.kubernetes" in (REPOSITORY / "Makefile").read_text()


def test_the_kustomization_has_every_file():
    files = {path.name for path in FOLDER.iterdir()}
    (generated,) = kustomization()["configMapGenerator"]

    assert {*kustomization()["resources"], *generated["envs"], "kustomization.yaml", "dagster-values.yaml"} == files
    assert generated["name"] == manifest("ConfigMap")["metadata"]["name"]


@WITH_KUBECTL
def test_kustomize_builds_what_the_files_say():
    documents = built(FOLDER)

    assert [line for document in documents.values() for line in problems(FOLDER, document)] == []
    assert {kind: found.get("data") for kind, found in documents.items()} == {
        document["kind"]: document.get("data") for _, document in manifests()
    }
    (init, *_) = documents["StatefulSet"]["spec"]["template"]["spec"]["initContainers"]
    assert init["envFrom"][0]["configMapRef"]["name"] == documents["ConfigMap"]["metadata"]["name"]


@WITH_KUBECTL
def test_the_example_of_the_page_builds(tmp_path: Path):
    page = Page(REPOSITORY / "docs/kubernetes.md")
    (example,) = [block.code for block in page.blocks() if block.language == "yaml"]
    base = os.path.relpath(FOLDER, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(example.replace("../churn_assets/deploy/kubernetes", base))
    documents = built(tmp_path)
    settings = documents["ConfigMap"]["data"]
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]

    assert {container["image"] for container in [*pod["initContainers"], *pod["containers"]]} == {
        "registry.bank.example/" + SERVICES["dagster"]["image"]
    }
    assert settings["DAGSTER_POSTGRES_HOST"] == "postgres.bank.example"
    assert [name for name in settings if not is_known(name) and not name.startswith("PG")] == []
    assert {document["metadata"]["namespace"] for document in documents.values()} == {"churn"}


def test_images_are_those_of_the_compose_file():
    images = {container["image"] for container in [*containers().values(), *user_deployment()["initContainers"]]}
    image = user_deployment()["image"]

    assert images | {f"{image['repository']}:{image['tag']}"} == {SERVICES["dagster"]["image"]}


@pytest.mark.parametrize("name", OURS)
def test_a_container_is_started_as_in_the_compose_file(name: str):
    here, there = containers()[name], SERVICES[name]
    memory = {"1500m": "1500Mi", "3g": "3Gi"}[there["mem_limit"]]
    port = int(here["command"][here["command"].index("--port") + 1])

    assert here["command"] == there["command"]
    assert here["ports"] == [{"name": name, "containerPort": port}]
    assert here["resources"]["limits"] == {"memory": memory}
    assert here["resources"]["requests"]["memory"] == memory
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for action in ("httpGet", "tcpSocket"):
            assert here.get(probe, {}).get(action, {}).get("port", name) == name
    if "healthcheck" in there:
        assert f":{port}{here['readinessProbe']['httpGet']['path']}" in there["healthcheck"]["test"][-1]


def test_what_prepare_does_is_a_part_of_what_it_does_in_the_compose_file():
    def steps(command: list[str]) -> list[str]:
        return [line.partition(" >")[0].strip() for line in command[-1].splitlines()]

    assert steps(containers()["prepare"]["command"]) == [
        "install -D docker/dagster.yaml /state/dagster/dagster.yaml", "dagster instance migrate", "churn deploy",
    ]  # fmt: skip
    assert {*steps(containers()["prepare"]["command"])} <= {*steps(SERVICES["prepare"]["command"])}


def test_the_pod_ends_in_the_time_that_the_compose_file_gives():
    assert f"{pod()['terminationGracePeriodSeconds']}s" == SERVICES["dagster"]["stop_grace_period"]


def test_the_service_and_the_policy_have_the_ports_of_the_containers():
    ports = {port["name"]: port["containerPort"] for name in OURS for port in containers()[name]["ports"]}
    (incoming,) = manifest("NetworkPolicy")["spec"]["ingress"]

    assert {port["name"]: port["port"] for port in manifest("Service")["spec"]["ports"]} == ports
    assert {port["targetPort"] for port in manifest("Service")["spec"]["ports"]} == {*ports}
    assert {port["port"] for port in incoming["ports"]} == {*ports}


def test_everything_selects_the_pod():
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]

    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels


def test_no_container_may_do_more_than_it_needs():
    user = int(re.findall(r"^USER (\S+)", DOCKERFILE.read_text(), re.MULTILINE)[-1])
    for of_pod in (pod()["securityContext"], user_deployment()["podSecurityContext"]):
        assert of_pod["runAsNonRoot"]
        assert of_pod["runAsUser"] == of_pod["fsGroup"] == user
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*containers().values(), user_deployment(), *user_deployment()["initContainers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {
            "/state",
            "/tmp",
        }
    assert pod()["automountServiceAccountToken"] is False


def test_every_variable_is_a_setting_and_no_secret():
    text = (FOLDER / "settings.env").read_text()
    named = {*re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE), *(each["name"] for each in user_deployment()["env"])}

    assert [name for name in sorted(named) if not is_known(name)] == []
    assert named.isdisjoint(SECRETS | {"DAGSTER_POSTGRES_PASSWORD"})
    assert "Secret" not in {document["kind"] for _, document in manifests()}


def test_dagsters_storage_has_its_address_from_variables_that_are_set(monkeypatch: pytest.MonkeyPatch):
    storage = yaml.safe_load((REPOSITORY / "docker/dagster.yaml").read_text())["storage"]["custom"]["config"]
    variables = {each["env"] for each in storage["postgres_db"].values() if isinstance(each, dict)}
    of_pod = settings_file()

    assert variables - {*SERVICES["dagster"]["environment"]} == set()
    assert variables - {*of_pod} == {"DAGSTER_POSTGRES_PASSWORD"}
    for name in variables:
        monkeypatch.setenv(name, of_pod.get(name, "secret"))
    assert process_config(pg_config(), storage).success


# Its keys were compared by hand with the chart (docs/kubernetes.md); what is Kubernetes' own in it is held against the schemas.
def test_the_charts_code_server_fits_the_schema_of_a_pod():
    found = user_deployment()
    server = {key: found[key] for key in ("env", "volumeMounts", "securityContext", "resources")}
    server |= {"name": found["name"], "image": found["image"]["repository"]}
    server["envFrom"] = [{"secretRef": secret} for secret in found["envSecrets"]]
    spec = {
        "containers": [server],
        "initContainers": found["initContainers"],
        "volumes": found["volumes"],
        "securityContext": found["podSecurityContext"],
    }
    documents = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "code"}, "spec": spec}, *values()["extraManifests"],
    ]  # fmt: skip

    assert [line for document in documents for line in problems(FOLDER / "dagster-values.yaml", document)] == []


def test_the_chart_runs_our_code_as_docker_does_and_has_its_version():
    found, ours = values(), yaml.safe_load((REPOSITORY / "docker/dagster.yaml").read_text())
    daemon, version = (
        found["dagsterDaemon"],
        re.search(r'name = "dagster"\nversion = "(.+)"', (REPOSITORY / "uv.lock").read_text()),
    )
    assert version is not None

    assert user_deployment()["dagsterApiGrpcArgs"] == ["-m", DEFINITIONS]
    assert f"--version {version[1]} " in (FOLDER / "dagster-values.yaml").read_text()
    assert {each["name"]: each["value"] for each in user_deployment()["env"]}["CHURN_TARGET"] == "snowflake"
    assert found["concurrency"] == {
        "enabled": True,
        "runs": {"maxConcurrentRuns": ours["concurrency"]["runs"]["max_concurrent_runs"]},
        "pools": {
            "defaultLimit": ours["concurrency"]["pools"]["default_limit"],
            "granularity": ours["concurrency"]["pools"]["granularity"],
        },
    }
    assert daemon["sensors"] == {
        "useThreads": ours["sensors"]["use_threads"],
        "numWorkers": ours["sensors"]["num_workers"],
    }
    assert daemon["runMonitoring"] == {"enabled": False}  # two of them would be no YAML
    assert found["additionalInstanceConfig"] == {"run_monitoring": ours["run_monitoring"]}
    for kind in ("sensor", "schedule"):
        assert found["retention"][kind]["purgeAfterDays"] == ours["retention"][kind]["purge_after_days"]
    assert found["telemetry"] == ours["telemetry"]
