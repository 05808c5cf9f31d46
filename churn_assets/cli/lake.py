"""The commands of `churn lake`: move the lake between this machine and a place that many hosts share."""

from typing import Annotated

import typer

from churn_assets.cli.shown import help_if_alone, progress, say
from churn_assets.settings import load_settings
from churn_assets.wiring import must_be_here

app = typer.Typer(help="Move the lake between CHURN_HOME and a place that many hosts share.")


@app.callback(invoke_without_command=True)
def _lake(context: typer.Context) -> None:
    help_if_alone(context)


@app.command()
def move(
    back: Annotated[bool, typer.Option("--back", help="From the shared place to CHURN_HOME.")] = False,
) -> None:
    """Move the lake from CHURN_HOME to where CHURN_LAKE_CATALOG and CHURN_LAKE_DATA say. Stop what writes to it before.

    Where it was, it stays, and can no longer be opened. Repeat the command if it was interrupted.
    """
    from churn_assets.operations.backup import move as move_lake

    settings = load_settings()
    must_be_here(settings, "churn lake move")
    with progress("looking at what is there") as show:
        done = move_lake(settings, back=back, report=show)
    say(f"{done.copied:,} files copied ({done.bytes / 1024**2:,.1f} MB), {done.known:,} were there already")
    if back:
        say("next: unset CHURN_LAKE_CATALOG and CHURN_LAKE_DATA for every process, then `churn deploy`")
    else:
        say("next: set CHURN_LAKE_CATALOG and CHURN_LAKE_DATA for every process, then `churn deploy` on each host")
