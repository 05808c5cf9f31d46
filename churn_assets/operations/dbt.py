"""dbt for both targets: it declares the dynamic tables and writes the manifest.

Here belongs everything that starts dbt or reads its output. Whole deployments are in `lake` and `account`.
"""

import json
import os
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from churn_assets.configuration import rules
from churn_assets.errors import ChurnError
from churn_assets.operations.column_lineage import store_lineage
from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.rules import dbt_vars
from churn_assets.settings import Settings
from churn_assets.warehouse.snowflake_names import names_of
from churn_assets.wiring import lake_place

DBT_PROJECT = PROJECT_FILES / "dbt"
# The connector's sign-in parameters, and their names in dbt's profile.
_DBT_CALLS = {
    "private_key_file": "private_key_path",
    "private_key_file_pwd": "private_key_passphrase",
    "authenticator": "authenticator",
    "token": "token",
    "password": "password",
}


class DeploymentError(ChurnError):
    """A step of the deployment failed; the message says which and why."""


@dataclass(frozen=True)
class Model:
    """One dynamic table as dbt declares it; `file` is relative to the project."""

    name: str
    file: str
    query: str
    target_lag: str
    refresh_mode: str


def declare(settings: Settings, models: Sequence[str] = (), rebuilt: Sequence[str] = ()) -> None:
    """Let dbt declare the dynamic tables (all, or only `models`) and write the manifest and the column lineage.

    On Snowflake dbt does not change the query of an existing dynamic table; the ones in `rebuilt` are recreated.
    """
    only = ["--select", *models] if models else []
    with _dbt_environment(settings), _on(settings), _profiles(settings) as profiles:
        _dbt(profiles, _workshop(settings), "run", *only, rebuilt=rebuilt)
        # `compile` comes second because it writes the SQL of the tests, which become asset checks, into the manifest.
        _dbt(profiles, _workshop(settings), "compile")
    written = _workshop(settings) / "manifest.json"
    store_lineage(settings, json.loads(written.read_text()))
    written.replace(settings.dbt_target_path / "manifest.json")


def compiled(settings: Settings) -> list[Model]:
    """The dynamic tables with their queries, sources before readers. It connects to nothing."""
    with TemporaryDirectory() as folder, _dbt_environment(settings):
        _dbt(DBT_PROJECT, Path(folder), "compile", "--no-populate-cache", "--no-introspect")
        manifest = json.loads(Path(folder, "manifest.json").read_text())
    nodes = {
        key: node for key, node in manifest["nodes"].items() if node["config"].get("materialized") == "dynamic_table"
    }
    order = TopologicalSorter({key: [p for p in manifest["parent_map"][key] if p in nodes] for key in nodes})
    return [
        Model(
            nodes[key]["name"],
            f"dbt/{nodes[key]['original_file_path']}",
            nodes[key]["compiled_code"].strip(),
            nodes[key]["config"]["target_lag"],
            nodes[key]["config"]["refresh_mode"],
        )
        for key in order.static_order()
    ]


def manifest_path(settings: Settings) -> Path:
    """The path of the compiled dbt manifest; `DeploymentError` if nothing was deployed yet."""
    path = settings.dbt_target_path / "manifest.json"
    if not path.exists():
        raise DeploymentError(f"there is no dbt manifest at {path}; run `churn deploy` first")
    return path


def features_query(manifest: Path) -> tuple[str, str]:
    """The compiled query of the live features, and the dialect of the warehouse that dbt compiled it for."""
    compiled = json.loads(manifest.read_text())
    (query,) = [node["compiled_code"] for node in compiled["nodes"].values() if node["name"] == "dyn_customer_features"]
    return query, compiled["metadata"]["adapter_type"]  # sqlglot names the dialects as dbt its adapters


def deployed_score_source(settings: Settings) -> str:
    """Which score the deployed predictions take the risk class from: `model` or `heuristic`."""
    return _deployed(settings, "score_source")


def deployed_rules(settings: Settings) -> dict[str, dict[str, Any]]:
    """The bank's rules of the last deployment, by section and key, as JSON holds them."""
    return _deployed(settings, "rules")


def _deployed(settings: Settings, what: str) -> Any:
    nodes = json.loads(manifest_path(settings).read_text())["nodes"].values()
    (meta,) = [node["config"]["meta"] for node in nodes if node["name"] == "dyn_churn_predictions"]
    if what not in meta:
        raise DeploymentError("the predictions were deployed by an older version; run `churn deploy` again")
    return meta[what]


def _dbt(profiles: Path, folder: Path, command: str, *options: str, rebuilt: Sequence[str] = ()) -> None:
    files_in(DBT_PROJECT, "models/**/*.sql")  # without a model dbt has nothing to do and succeeds
    from dbt.cli.main import dbtRunner  # noqa: PLC0415  # 3 s of imports that only a deployment needs

    folders = [
        "--project-dir", str(DBT_PROJECT),
        "--profiles-dir", str(profiles),
        "--target-path", str(folder),
        "--log-path", str(folder / "logs"),
        "--quiet",
        "--log-level", "none",
    ]  # fmt: skip
    variables = dbt_vars(rules()) | {"rules": rules().model_dump(mode="json"), "rebuilt": list(rebuilt)}
    result = dbtRunner().invoke([command, *folders, "--vars", json.dumps(variables), *options])
    if not result.success:
        raise DeploymentError(f"dbt {command} failed: {_failure(result)}")


def _workshop(settings: Settings) -> Path:
    """dbt's target folder. Not the manifest's own: runs read that at any time, and `dbt run` writes one without test SQL."""
    return settings.dbt_target_path / "workshop"


@contextmanager
def _profiles(settings: Settings) -> Generator[Path]:
    """The folder of dbt's profile: dbt/profiles.yml, completed with the shared lake, or with the Snowflake sign-in.

    dbt takes secrets from its environment, its command line or its profile. The whole process shares one environment, and
    passes it to every child that another thread starts meanwhile; the command line is kept in run_results.json. So the
    secrets go into a profile that only this user can read and that is deleted when dbt ends; dbt keeps no copy.
    """
    if settings.target != "snowflake" and not settings.lake_is_shared:
        yield DBT_PROJECT
        return
    profile = yaml.safe_load((DBT_PROJECT / "profiles.yml").read_text())
    outputs = profile["churn_assets"]["outputs"]
    if settings.target == "snowflake":
        outputs["snowflake"] |= dict.fromkeys(_DBT_CALLS.values(), "") | _sign_in(settings)
    else:
        lake, place = outputs["local"]["attach"][0], lake_place(settings)
        lake["path"] = _verbatim(f"ducklake:{place.catalog.address()}")
        lake["options"] = {
            name: _verbatim(value) if isinstance(value, str) else value
            for name, value in place.options(read_only=False).items()
        }
    with TemporaryDirectory() as folder:
        path = Path(folder, "profiles.yml")
        path.touch(0o600)
        path.write_text(yaml.safe_dump(profile))
        yield Path(folder)


def _sign_in(settings: Settings) -> dict[str, str]:
    """The sign-in fields of dbt's profile."""
    # Snowflake's client takes a second to import, which a deployment on the lake does not need.
    from churn_assets.warehouse.snowflake_connection import connection_parameters  # noqa: PLC0415

    given = connection_parameters(settings)
    if key := given.get("private_key_file"):
        given["private_key_file"] = str(Path(key).absolute())  # dbt works in the folder of its project
    return {field: _verbatim(given[name]) for name, field in _DBT_CALLS.items() if name in given}


def _verbatim(value: Any) -> str:
    """A value that dbt's templates leave as it is."""
    return f"{{{{ {json.dumps(value, ensure_ascii=False)} }}}}"


@contextmanager
def _on(settings: Settings) -> Generator[None]:
    """Let dbt's plugin know the lake."""
    if settings.target == "snowflake":
        yield
        return
    from churn_assets.operations import dbt_plugin  # noqa: PLC0415  (it imports dbt)

    dbt_plugin.deployed.append(lake_place(settings))
    try:
        yield
    finally:
        dbt_plugin.deployed.pop()


def _dbt_environment(settings: Settings) -> AbstractContextManager[None]:
    """The environment that the dbt project and profiles.yml read. No secrets: see `_profiles`."""
    values = {
        "CHURN_TARGET": settings.target,
        "CHURN_LAKE": str(settings.lake_path),
        "CHURN_SCORE_SOURCE": settings.score_source,
    }
    if settings.target == "snowflake":
        names = names_of(settings)
        values |= {
            # dbt requires an account's name even if it does not connect.
            "SNOWFLAKE_ACCOUNT": settings.snowflake_account or "none",
            "SNOWFLAKE_USER": settings.snowflake_user or "none",
            "SNOWFLAKE_ROLE": names.engineer_role,
            "SNOWFLAKE_WAREHOUSE": names.warehouse,
            "SNOWFLAKE_DATABASE": names.database,
            "SNOWFLAKE_SCHEMA": names.schema,
            "SNOWFLAKE_HOST": settings.snowflake_host or "",
            "SNOWFLAKE_PORT": str(settings.snowflake_port),
            "SNOWFLAKE_PROTOCOL": settings.snowflake_protocol,
        }
    return _environment(values)


def _failure(result: object) -> str:
    exception = getattr(result, "exception", None)
    if exception is not None:
        return _one_line(exception)
    return "; ".join(
        f"{run.node.name}: {_one_line(run.message)}"
        for run in getattr(result, "result", [])
        if str(run.status) in {"error", "fail"}
    )


def _one_line(message: object) -> str:
    """dbt's message on one line, without its stack of macros."""
    return " ".join(str(message).split()).split(" > in macro ")[0]


@contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
