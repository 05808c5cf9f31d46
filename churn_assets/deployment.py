"""Bringing a warehouse to the state that the code describes: tables from `sql/`, dynamic tables from `dbt/`.

Nothing here knows Dagster. Every step can be repeated, and nothing is ever dropped that holds data.
"""

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.engine import Refresh
from churn_assets.errors import ChurnError
from churn_assets.settings import PROJECT_ROOT, Settings
from churn_assets.warehouse.protocol import Warehouse

DBT_PROJECT = PROJECT_ROOT / "dbt"


class DeploymentError(ChurnError):
    """A step of the deployment failed; the message says which and why."""


def deploy(settings: Settings, warehouse: Warehouse, report: Callable[[str], None]) -> None:
    """Create what is missing, declare the dynamic tables and give new definitions their first refresh."""
    report("tables")
    warehouse.deploy()
    report("dynamic tables (dbt)")
    _declare(settings)
    for result in refresh_new(warehouse):
        report(f"{result.name}: {result.rows_inserted:,} rows")


def refresh_new(warehouse: Warehouse) -> list[Refresh]:
    """The first refresh of every definition that asks for it at once, sources before readers."""
    now = utc_now()
    return warehouse.refresh((table.name for table in warehouse.dynamic_tables(now) if table.is_to_be_initialized), now)


def manifest_path(settings: Settings) -> Path:
    """Where the compiled dbt manifest lies; `DeploymentError` if nothing was deployed yet."""
    path = settings.dbt_target_path / "manifest.json"
    if not path.exists():
        raise DeploymentError(f"there is no dbt manifest at {path}; run `churn deploy` first")
    return path


def deployed_score_source(settings: Settings) -> str:
    """Which score makes the class in the predictions that were deployed last: `model` or `heuristic`."""
    nodes = json.loads(manifest_path(settings).read_text())["nodes"].values()
    (query,) = [node["compiled_code"] for node in nodes if node["name"] == "dyn_churn_predictions"]
    return "model" if "coalesce(model_score, churn_score)" in query else "heuristic"


def _declare(settings: Settings) -> None:
    from dbt.cli.main import dbtRunner  # noqa: PLC0415  # 3 s of imports that only a deployment needs

    # Runs read the manifest at any time, and what `run` writes lacks the SQL of the tests: a whole one takes its place.
    workshop = settings.dbt_target_path / "workshop"
    options = [
        "--project-dir", str(DBT_PROJECT),
        "--profiles-dir", str(DBT_PROJECT),
        "--target-path", str(workshop),
        "--log-path", str(settings.dbt_target_path / "logs"),
        "--quiet",
    ]  # fmt: skip
    environment = {
        "CHURN_TARGET": settings.target,
        "CHURN_LAKE": str(settings.lake_path),
        "CHURN_SCORE_SOURCE": settings.score_source,
    }
    with _environment(environment):
        # `compile` comes second because it writes the SQL of the tests, which become asset checks, into the manifest.
        for command in ("run", "compile"):
            result = dbtRunner().invoke([command, *options])
            if not result.success:
                raise DeploymentError(f"dbt {command} failed: {_failure(result)}")
    (workshop / "manifest.json").replace(settings.dbt_target_path / "manifest.json")


def _failure(result: object) -> str:
    exception = getattr(result, "exception", None)
    if exception is not None:
        return str(exception)
    return "; ".join(
        f"{run.node.name}: {run.message}"
        for run in getattr(result, "result", [])
        if str(run.status) in {"error", "fail"}
    )


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
