"""The `churn` command: its groups of commands.

This folder holds arguments, progress and messages; the modules that it calls do the work. A command imports its modules when
it runs, so that no command waits for Dagster or dbt without need.
"""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from churn_assets.cli import bank, gaps, lake, mapping, model, outbox, questions, system
from churn_assets.cli.bank import MAX_CUSTOMERS, MAX_DAYS, MAX_RATE
from churn_assets.cli.endings import ended
from churn_assets.cli.ports import Host
from churn_assets.cli.shown import help_if_alone, one_line, progress, say
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.settings import acting_user, load_settings

# Bytes that are no text arrive as lone surrogates, which neither DuckDB nor a file in UTF-8 takes. Names of files may have them.
_NO_TEXT = re.compile(r"[\ud800-\udfff\0]")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Near-real-time customer churn: events in, a fresh score and one retention email out.",
)
for group in (system.app, bank.app, questions.app):
    app.add_typer(group)
app.add_typer(outbox.app, name="outbox", rich_help_panel="Groups")
app.add_typer(model.app, name="model", rich_help_panel="Groups")
app.add_typer(mapping.app, name="map", rich_help_panel="Groups")
app.add_typer(gaps.app, name="gaps", rich_help_panel="Groups")
app.add_typer(lake.app, name="lake", rich_help_panel="Groups")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"churn {version_of('churn-assets')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _churn(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    help_if_alone(context)


def run_command(arguments: Sequence[str]) -> int:
    """Run `churn` with these arguments and return its exit code. An error is one line on stderr."""
    warnings.formatwarning = lambda message, *_: f"churn: {one_line(str(message))}\n"
    return ended(lambda: app(_readable(arguments), prog_name="churn", standalone_mode=False))


def _readable(arguments: Sequence[str]) -> list[str]:
    for argument in arguments:
        if _NO_TEXT.search(argument) and ("\0" in argument or not os.path.lexists(argument)):
            raise ChurnError(
                f"the argument {argument} is no text in {sys.getfilesystemencoding()}; type it in that encoding, or rename"
                " the file that it names"
            )
    return list(arguments)


@app.command(rich_help_panel="Start")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder; it is made if it is missing.", show_default=False)],
) -> None:
    """Begin a project for a bank of your own: churn.toml, mapping.yaml, .env, a compose file, a README with the next steps."""
    from churn_assets.operations.project import make_project

    for path in make_project(folder):
        say(f"  {path}")
    say(f"next: cd {folder}, then see README.md there")


@app.command(rich_help_panel="Start")
def run() -> None:
    """Bring everything up to date once, without Dagster: events, features, labels, a model if one is due, scores, the queue."""
    from churn_assets.operations.run_once import run_once
    from churn_assets.wiring import warehouse_to_write

    settings = load_settings()
    with progress("looking at what there is") as show:
        run_once(settings, warehouse_to_write(settings), acting_user(), utc_now, say, show)
    say("`churn status` shows the result, `churn outbox write` writes the emails")


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
    host: Host = "127.0.0.1",
) -> None:
    """Show the dashboard on http://127.0.0.1:8501 until Ctrl-C: overview, customers, interventions, questions."""
    from churn_assets.cli.ports import must_be_free
    from churn_assets.dashboard.serve import command

    load_settings()  # a wrong setting is said here rather than in the browser
    must_be_free(port, "--port")
    sys.stdout.flush()
    os.execv(sys.executable, command(port, host))


@app.command(rich_help_panel="Start")
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
    host: Host = "127.0.0.1",
    print_logs: Annotated[
        bool,
        typer.Option("--print-logs", help="Print what its processes write instead of writing files, as in containers."),
    ] = False,
) -> None:
    """Run Dagster for your own bank until Ctrl-C, and start its processes again when they die."""
    from churn_assets.cli.up import run_up

    run_up(load_settings(), host=host, port=port, prints_logs=print_logs, say=say)


@app.command(rich_help_panel="Start")
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
    dashboard_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.")] = 8501,
    customers: Annotated[
        int, typer.Option(min=1, max=MAX_CUSTOMERS, help="Customers of the bank, at the first start.")
    ] = 5000,
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="Days of history, at the first start.")] = 180,
    rate: Annotated[float, typer.Option(min=1, max=MAX_RATE, help="Events a minute.")] = 200,
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
