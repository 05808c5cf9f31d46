"""The resources as the UI gets them."""

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_graphql.test.utils import execute_dagster_graphql

from churn_assets.definitions import build_defs
from churn_assets.settings import Settings, load_settings
from churn_assets_tests.assets.conftest import Graph

CODE_LOCATION = """
from churn_assets.definitions import build_defs
from churn_assets.settings import load_settings

defs = build_defs(load_settings())
"""
RESOURCES = """{
  repositoriesOrError { ... on RepositoryConnection { nodes { allTopLevelResourceDetails {
    name description resourceType configuredValues { key value } configFields { name description }
  } } } }
}"""


def asked_by_the_ui(folder: Path) -> dict[str, Any]:
    """What Dagster's GraphQL says of each resource, by name, for the settings in the environment."""
    file = folder / "location.py"
    file.write_text(CODE_LOCATION)
    origin = LoadableTargetOrigin(executable_path=sys.executable, python_file=str(file), attribute="defs")
    (folder / "instance").mkdir()
    with (
        dg.DagsterInstance.local_temp(str(folder / "instance")) as instance,
        in_process_test_workspace(instance, origin) as workspace,
    ):
        answer = execute_dagster_graphql(workspace, RESOURCES)
    (repository,) = answer.data["repositoriesOrError"]["nodes"]
    return {resource["name"]: resource for resource in repository["allTopLevelResourceDetails"]}


def test_every_resource_has_a_name_a_description_and_its_configuration_without_a_secret(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    secrets = {
        "SNOWFLAKE_PASSWORD": "snowflake-secret",
        "SNOWFLAKE_TOKEN": "token-secret",
        "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE": "passphrase-secret",
        "OPENAI_API_KEY": "openai-secret",
        "CHURN_SMTP_URL": "smtp://ann:smtp-secret@mail.bank.example",
        "KAFKA_SASL_PASSWORD": "kafka-secret",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    resources = asked_by_the_ui(tmp_path)

    assert "secret" not in json.dumps([resource["configuredValues"] for resource in resources.values()])
    assert {name: resource["resourceType"].rpartition(".")[2] for name, resource in resources.items()} == {
        "settings": "SettingsResource",
        "warehouse": "WarehouseResource",
        "desk": "DeskResource",
    }
    for resource in resources.values():
        assert resource["description"]
        assert all(field["description"] for field in resource["configFields"])
        assert {each["key"] for each in resource["configuredValues"]} == {
            field["name"] for field in resource["configFields"]
        }
    shown = {each["key"]: json.loads(each["value"]) for each in resources["settings"]["configuredValues"]}
    assert (shown["SNOWFLAKE_PASSWORD"], shown["CHURN_SMTP_URL"], shown["CHURN_TARGET"]) == (
        "(hidden)",
        "(hidden)",
        "local",
    )
    assert shown["CHURN_EMAIL_FROM"] == ""


def test_a_resource_is_replaced_by_name(graph: Graph):
    off = load_settings(CHURN_HOME=graph.settings.home).model_copy(update={"driver": "native"})
    graph.definitions = build_defs(graph.settings, resource_overrides={"settings": off})

    run = graph.run("refresh_dynamic_tables")

    assert not run.success  # the streams are left to the warehouse's own tasks
