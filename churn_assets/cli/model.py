"""The commands of `churn model`: trained models, their status, and a trial on your own table."""

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from churn_assets.clock import utc_now
from churn_assets.settings import load_settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.wiring import open_warehouse, warehouse_to_write

app = typer.Typer(
    no_args_is_help=True, help="Train, list, promote and roll back churn models; try one on your own data."
)
console = Console()

_MEASURES = {  # by name: the title, and the number of digits to show
    "roc_auc": ("ROC AUC", 3),
    "pr_auc": ("PR AUC", 3),
    "calibration_error": ("calibration error", 4),
    "brier": ("Brier score", 4),
    "lift": ("lift at 50", 1),
}
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded with the version.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show every version, newest first: its status, its test results, and who gave it that status."""
    from churn_assets.model import registry

    models = registry.versions(open_warehouse(load_settings(), read_only=True))
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in models], indent=2, default=str))
        return
    table = Table(
        "version", "status", "trained (UTC)", "ROC AUC", "calibration error", "gate", "since (UTC)", "why", box=None
    )
    for model in models:
        found = model.card["evaluations"]["model"]
        table.add_row(
            str(model.version),
            model.status,
            f"{model.trained_at:%Y-%m-%d %H:%M}",
            f"{found['roc_auc']['value']:.3f}",
            f"{found['calibration_error']['value']:.4f}",
            "passed" if model.passed_gate else "failed",
            f"{model.changed_at:%Y-%m-%d %H:%M}",
            escape(f"{model.changed_by}: {model.reason}"),
        )
    console.print(table)
    if not models:
        console.print("no model was trained yet; run `churn model train`")


@app.command()
def train() -> None:
    """Train a challenger on the current training set and evaluate it. It serves if it passes the gate."""
    from churn_assets.model import registry, training_set
    from churn_assets.model.challenge import challenge

    warehouse = warehouse_to_write(load_settings())
    with console.status("training"):
        rows = training_set.read(warehouse)
        found = challenge(rows, lambda: registry.champion(warehouse), console.print)
        version = registry.register(warehouse, found.trained.model, found.gate, utc_now())
    _say_evaluations(found.trained.evaluations)
    for verdict in (found.gate.not_worse, found.gate.calibrated):
        typer.echo(f"{'passed' if verdict.passed else 'FAILED'}  {verdict.finding}")
    if not found.gate.passed:
        typer.echo(f"version {version} stays a challenger; `churn model promote {version} --force` overrides")
        raise typer.Exit(1)
    _promote(warehouse, version, "passed the gate", force=False)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="The version to serve.")],
    reason: Reason = "by hand",
    force: Annotated[bool, typer.Option("--force", help="Even if it failed the gate.")] = False,
) -> None:
    """Make a version the champion, which serves."""
    _promote(warehouse_to_write(load_settings()), version, reason, force=force)


@app.command()
def rollback(reason: Reason = "by hand") -> None:
    """Go back to the version that served before the current champion."""
    from churn_assets.model import registry

    warehouse = warehouse_to_write(load_settings())
    _say_serving(registry.rollback(warehouse, utc_now(), getpass.getuser(), reason))


@app.command()
def evaluate(
    features: Annotated[Path, typer.Option("--features", exists=True, dir_okay=False, help="Parquet or CSV.")],
    label: Annotated[str, typer.Option("--label", help="The column that marks customers who left.")],
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="A column to leave out; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and cross-validate the same pipeline on your own table. It connects to nothing and keeps nothing."""
    from churn_assets.model.customer_file import read_customers
    from churn_assets.model.training import FOLDS, cross_validate

    rows = read_customers(features, label, ignore or [])
    with console.status(f"training {FOLDS} models on {len(rows.frame):,} rows"):
        found = cross_validate(rows.frame, rows.features)
    if as_json:
        typer.echo(json.dumps({"ignored": rows.ignored, "features": rows.features, **asdict(found)}, indent=2))
        return
    left = float(rows.frame["has_left"].mean())
    typer.echo(
        f"{len(rows.frame):,} rows, {left:.1%} left; {FOLDS} rounds, each row scored by a model that did not see it"
    )
    if rows.ignored:
        typer.echo(f"not used, because they are not numbers: {', '.join(rows.ignored)}")
    _say_evaluations(found.evaluations)
    importances = Table("feature", "ROC AUC lost without it", box=None)
    for name, lost in sorted(found.importances.items(), key=lambda item: -item[1]):
        importances.add_row(escape(name), f"{lost:+.4f}")
    console.print(importances)


def _promote(warehouse: Warehouse, version: int, reason: str, *, force: bool) -> None:
    from churn_assets.model import registry

    registry.promote(warehouse, version, utc_now(), getpass.getuser(), reason, force=force)
    _say_serving(version)


def _say_serving(version: int) -> None:
    typer.echo(f"version {version} serves; the next refresh scores every customer with it")


def _say_evaluations(evaluations: Mapping[str, Any]) -> None:
    table = Table("", *evaluations, box=None)
    for name, (title, digits) in _MEASURES.items():
        measures = [getattr(evaluation, name) for evaluation in evaluations.values()]
        numbers = [[f"{number:.{digits}f}" for number in (found.value, *found.interval)] for found in measures]
        table.add_row(title, *(f"{value} ({low}-{high})" for value, low, high in numbers))
    console.print(table)
