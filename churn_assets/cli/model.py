"""The commands of `churn model`: trained models, their status, and a trial on your own table."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from churn_assets.cli.shown import console, help_if_alone, progress, say
from churn_assets.clock import utc_now
from churn_assets.settings import acting_user, load_settings
from churn_assets.table_files.source import printable
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.wiring import open_warehouse, warehouse_to_write

app = typer.Typer(help="Train, list, promote and roll back churn models; try one on your own data.")

_MEASURES = {  # by name: the title, and the number of digits to show
    "roc_auc": ("ROC AUC", 3),
    "pr_auc": ("PR AUC", 3),
    "calibration_error": ("calibration error", 4),
    "brier": ("Brier score", 4),
    "lift": ("lift at 50", 1),
}
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded with the version.")]


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    help_if_alone(context)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show every version, newest first: its status, its test results, and who gave it that status."""
    from churn_assets.model import registry

    models = registry.versions(open_warehouse(load_settings(), read_only=True))
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in models], indent=2, default=str))
        return
    table = Table(
        "version",
        Column("family", no_wrap=True),
        Column("status", no_wrap=True),
        "trained (UTC)",
        "ROC AUC",
        "calibration error",
        "gate",
        "since (UTC)",
        "why",
        box=None,
    )
    for model in models:
        found = model.card["evaluations"]["model"]
        table.add_row(
            str(model.version),
            model.family,
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
def labels(as_json: AsJson = False) -> None:
    """Show what leaving means, and how many customers of each cut-off of the training set left."""
    from churn_assets.configuration import rules
    from churn_assets.model import training_set
    from churn_assets.model.labels import problem, without_leavers

    warehouse = open_warehouse(load_settings(), read_only=True)
    rows = training_set.leavers_by_cut_off(warehouse)
    if rows:
        training_set.refuse_other_rule(warehouse)
    said = problem(warehouse)
    if as_json:
        found = [
            {"cut_off": f"{day}", "customers": customers, "leavers": leavers}
            for day, (customers, leavers) in rows.items()
        ]
        typer.echo(
            json.dumps(
                {**rules().labels.model_dump(), "means": rules().labels.in_words, "problem": said, "cut_offs": found}
            )
        )
        return
    say(f"A customer has left if: {rules().labels.in_words}.")
    if said:
        say(said)
    if not rows:
        raise training_set.TrainingSetError("the training set is empty; run `churn model prepare`")
    table = Table("cut-off", "customers", "leavers", "share", box=None)
    for day, (customers, leavers) in rows.items():
        table.add_row(f"{day}", f"{customers:,}", f"{leavers:,}", f"{leavers / customers:.2%}")
    console.print(table)
    if nothing := without_leavers(rows):
        raise training_set.TrainingSetError(nothing)


@app.command()
def prepare(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make all of it anew, after a change of the rules or of history.")
    ] = False,
) -> None:
    """Extend the training set by the cut-offs that are missing, and correct the labels of the others."""
    from churn_assets.model import training_set
    from churn_assets.model.labels import without_leavers
    from churn_assets.operations.dbt import features_query, manifest_path

    settings = load_settings()
    warehouse, now = warehouse_to_write(settings), utc_now()
    query, dialect = features_query(manifest_path(settings))
    with progress("bringing customer_day up to date") as show:
        warehouse.refresh(["customer_day"], now)
        if rebuild:
            training_set.clear(warehouse)
        found = training_set.extend(warehouse, query, now, show, dialect)
    rows = training_set.leavers_by_cut_off(warehouse)
    if not rows:
        raise training_set.TrainingSetError(training_set.why_empty(warehouse, now))
    say(f"{found.added:,} rows added, {found.corrected:,} corrected; {len(rows)} cut-offs, {min(rows)} to {max(rows)}")
    if nothing := without_leavers(rows):
        raise training_set.TrainingSetError(nothing)


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
    card = found.trained.model.card
    losses = ", ".join(f"{family} {loss:.5f}" for family, loss in card["validation_log_loss"].items())
    typer.echo(f"the model is of the family {card['family']}, by the log loss on the validation: {losses}")
    _say_evaluations(found.trained.evaluations)
    for verdict in (found.gate.not_worse, found.gate.calibrated):
        typer.echo(f"{'passed' if verdict.passed else 'FAILED'}  {verdict.finding}")
    if not found.gate.passed:
        typer.echo(f"version {version} stays a challenger; `churn model promote {version} --force` overrides")
        raise typer.Exit(1)
    _promote(warehouse, version, "passed the gate", force=False)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(min=1, max=2**31 - 1, help="The version to serve.")],
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
    _say_serving(registry.rollback(warehouse, utc_now(), acting_user(), reason))


@app.command()
def evaluate(
    features: Annotated[Path, typer.Option("--features", help="Parquet or CSV, read as `churn load` reads it.")],
    label: Annotated[str, typer.Option("--label", help="The column that marks customers who left.")],
    leaver: Annotated[
        str | None,
        typer.Option(
            "--left", help="What the label says of those who left, if it is not yes, true, 1, churned and the like."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="A column to leave out; may be repeated.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="A column to use though it looks like an id or gives away who left."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and cross-validate the same families on your own table. It connects to nothing and keeps nothing."""
    from churn_assets.model.cross_validation import GIVES_AWAY, cross_validate
    from churn_assets.model.customer_file import read_customers

    rows = read_customers(features, label, ignore or [], keep or [], leaver)
    kept = [inner for inner, name in rows.features.items() if name.lower() in {name.lower() for name in keep or []}]
    with console.status("learning") as status:
        found = cross_validate(rows.frame, list(rows.features), rows.categories, kept, report=status.update)
    importances, alone = (
        {rows.features[name]: value for name, value in of.items()} for of in (found.importances, found.alone)
    )
    giveaways = [rows.features[name] for name in found.giveaways]
    if as_json:
        about = {name: getattr(rows, name) for name in ("found", "not_used", "read_as", "missing", "left_out")}
        categories = {rows.features[name]: levels for name, levels in rows.categories.items()}
        measured = asdict(found) | {"importances": importances, "alone": alone, "giveaways": giveaways}
        typer.echo(
            json.dumps(
                {**about, "features": list(rows.features.values()), "categories": categories, **measured}, indent=2
            )
        )
        return
    left = float(rows.frame["has_left"].mean())
    say(rows.found)
    say(f"{len(rows.frame):,} rows, {left:.1%} left; {_rounds(len(found.chosen), rows.frame)}")
    for why, places in rows.left_out.items():
        say(f"left out: {len(places):,} rows, first {places[0]} ({printable(why)})")
    for name, why in rows.not_used.items():
        say(f"not used: {printable(name)} ({why})")
    for name in giveaways:
        say(
            f"GIVES AWAY who left: {printable(name)}. Alone it reaches ROC AUC {alone[name]:.3f}; from {GIVES_AWAY} on it"
            " is taken for what was known only after they had left. The model does without it; --keep uses it"
        )
    for name, how in rows.read_as.items():
        say(f"read as: {printable(name)} ({how})")
    for name, count in rows.missing.items():
        say(f"missing: {printable(name)} in {count:,} rows")
    if rows.categories:
        say(f"categories: {', '.join(printable(rows.features[name]) for name in rows.categories)}")
    families = ", ".join(f"{family} in {found.chosen.count(family)}" for family in dict.fromkeys(found.chosen))
    say(f"the model is, by validation within each round: {families}")
    _say_evaluations(found.evaluations)
    table = Table("feature", "ROC AUC lost without it", "ROC AUC alone", box=None)
    for name, lost in sorted(importances.items(), key=lambda item: -item[1]):
        table.add_row(escape(printable(name)), f"{lost:+.4f}", f"{alone[name]:.3f}")
    console.print(table)


def _rounds(count: int, frame: Any) -> str:
    from churn_assets.model.cross_validation import FOLDS, LEAST_IN_FOLD

    ever = frame.groupby("customer_id")["has_left"].any()
    few, did = min((int(ever.sum()), "left"), (int((~ever).sum()), "stayed"))
    why = f" instead of {FOLDS}, because only {few:,} {did} and each needs {LEAST_IN_FOLD}" if count < FOLDS else ""
    return f"{count} rounds{why}, each row scored by a model that did not see it"


def _promote(warehouse: Warehouse, version: int, reason: str, *, force: bool) -> None:
    from churn_assets.model import registry

    registry.promote(warehouse, version, utc_now(), acting_user(), reason, force=force)
    _say_serving(version)


def _say_serving(version: int) -> None:
    typer.echo(f"version {version} serves; the next refresh scores every customer with it")


def _say_evaluations(evaluations: Mapping[str, Any]) -> None:
    """Every measure of every way; the interval of the first way, the model's, alone, so that all fit into a line."""
    table = Table("", *evaluations, box=None)
    for name, (title, digits) in _MEASURES.items():
        measures = [getattr(evaluation, name) for evaluation in evaluations.values()]
        low, high = (f"{bound:.{digits}f}" for bound in measures[0].interval)
        model, *others = (f"{measure.value:.{digits}f}" for measure in measures)
        table.add_row(title, f"{model} ({low}-{high})", *others)
    console.print(table)
