"""The commands of `churn gaps`: list and resolve messages that Kafka lost. `churn_assets.ingestion.gaps` does the work."""

import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from churn_assets.cli.shown import console, say
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.ingestion.gaps import KeptGap, kept
from churn_assets.ingestion.gaps import resolve as resolve_gap
from churn_assets.settings import acting_user, load_settings
from churn_assets.wiring import open_warehouse, warehouse_to_write

app = typer.Typer(help="List and resolve gaps: messages that Kafka no longer has as they were.")


@app.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show the open gaps, and what resolving each would do."""
    if context.invoked_subcommand is not None:
        return
    found = kept(open_warehouse(load_settings(), read_only=True), only_open=not everything)
    if as_json:
        typer.echo(json.dumps([_as_object(each) for each in found], indent=2, default=str))
        return
    if not found:
        say("no gaps" if everything else "no open gaps")
        return
    table = Table(
        "topic", "partition", "found (UTC)", "gap", "resolving it" if not everything else "resolution", box=None
    )
    for each in found:
        partition = each.gap.partition
        table.add_row(
            escape(partition.topic), str(partition.number), f"{each.found_at:%Y-%m-%d %H:%M}", escape(str(each.gap)),
            escape(each.gap.resolution if each.resolved_at is None else _resolution(each)),
        )  # fmt: skip
    console.print(table)


@app.command()
def resolve(
    topic: Annotated[str | None, typer.Argument(help="The topic.")] = None,
    partition: Annotated[
        int | None, typer.Argument(help="One of its partitions; without it, all of the topic.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every open gap.")] = False,
    because: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
) -> None:
    """Do what `churn gaps` says about gaps. The next run reads on."""
    if (topic is None) != everything:
        raise typer.BadParameter("name a topic, or --all")
    warehouse = warehouse_to_write(load_settings())
    found = [
        each.gap
        for each in kept(warehouse)
        if everything or (each.gap.partition.topic == topic and partition in (None, each.gap.partition.number))
    ]
    if not found:
        raise ChurnError("no such gap is open; `churn gaps` lists them")
    for gap in found:
        resolve_gap(warehouse, gap, utc_now(), acting_user(), because)
        say(f"{gap.partition}: {gap.resolution}")


def _resolution(gap: KeptGap) -> str:
    return f"{gap.resolved_at:%Y-%m-%d %H:%M} by {gap.resolved_by}{f': {gap.reason}' if gap.reason else ''}"


def _as_object(each: KeptGap) -> dict[str, Any]:
    gap = each.gap
    return {
        "topic": gap.partition.topic,
        "partition": gap.partition.number,
        "epoch": gap.partition.epoch,
        "kind": gap.kind,
        "start": gap.start,
        "end": gap.end,
        "gap": str(gap),
        "resolving_it": gap.resolution,
        "found_at": each.found_at,
        "resolved_at": each.resolved_at,
        "resolved_by": each.resolved_by,
        "reason": each.reason,
    }
