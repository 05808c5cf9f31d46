"""The `churn` command: its groups of commands, and how errors are shown.

This folder holds arguments, progress and messages; the modules that it calls do the work. A command imports its modules when
it runs, so that no command waits for Dagster or dbt without need.
"""

import sys
import warnings
from importlib.metadata import version as version_of
from typing import Annotated

import duckdb
import typer

from churn_assets.cli import bank, model, outbox, questions, system
from churn_assets.cli.shown import errors, say
from churn_assets.dynamic_tables.tables import DynamicTableError
from churn_assets.errors import ChurnError
from churn_assets.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Near-real-time customer churn: events in, a fresh score and one retention email out.",
)
for group in (system.app, bank.app, questions.app):
    app.add_typer(group)
app.add_typer(outbox.app, name="outbox", rich_help_panel="Groups")
app.add_typer(model.app, name="model", rich_help_panel="Groups")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"churn {version_of('churn-assets')}")
        raise typer.Exit


@app.callback()
def _churn(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; an error is one line on stderr and exit code 1 (2 for wrong usage)."""
    warnings.formatwarning = lambda message, *_: f"churn: {message}\n"
    try:
        app()
    except (ChurnError, DynamicTableError) as error:
        errors.print(f"churn: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except duckdb.Error as error:
        # The other lines repeat the statement.
        errors.print(
            f"churn: {str(error).strip().splitlines()[0]}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)


@app.command(rich_help_panel="Start")
def check() -> None:
    """Run the whole graph on a small bank in a temporary home; exit code 1 if an asset check fails."""
    from churn_assets.cli.check import rehearse

    failed = rehearse(say)
    if failed:
        raise ChurnError(f"{len(failed)} checks failed: {', '.join(failed)}")


@app.command(rich_help_panel="Start")
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8501,
) -> None:
    """Show the dashboard on http://127.0.0.1:8501 until Ctrl-C: overview, customers, interventions, questions."""
    import os

    from churn_assets.dashboard.serve import command

    sys.stdout.flush()
    os.execv(sys.executable, command(port))


@app.command(rich_help_panel="Start")
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
    dashboard_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.")] = 8501,
    customers: Annotated[int, typer.Option(min=1, help="Customers of the bank, at the first start.")] = 5000,
    days: Annotated[int, typer.Option(min=1, help="Days of history, at the first start.")] = 180,
    rate: Annotated[float, typer.Option(min=1, help="Events a minute.")] = 200,
) -> None:
    """Run everything on this machine until Ctrl-C: broker, bank, producer, Dagster, dashboard. The next start continues."""
    from churn_assets.cli.demo import run_demo

    run_demo(
        load_settings(),
        port=port,
        dashboard_port=dashboard_port,
        customers=customers,
        days=days,
        rate=rate,
        say=say,
    )
