"""The commands that deploy, check and monitor the system."""

import json
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from churn_assets.cli.ports import Host
from churn_assets.cli.shown import console, progress, say
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.rules import LATENCY_HOURS
from churn_assets.settings import acting_user, load_settings
from churn_assets.wiring import lake_place, must_be_here, open_lake, open_warehouse, place_of, warehouse_to_write

app = typer.Typer()


class DeployTarget(StrEnum):
    """The warehouse to deploy to."""

    LOCAL = "local"
    SNOWFLAKE = "snowflake"


@app.command(rich_help_panel="System")
def deploy(
    target: Annotated[DeployTarget | None, typer.Option(help="The warehouse; overrides CHURN_TARGET.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Snowflake: show the statements, which are new and the cost; run nothing."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Snowflake: a phase (account, schema, functions, dbt, after_dbt) or a file or pattern such as"
            " 'sql/snowflake/after_dbt/*'; repeat it for several."
        ),
    ] = None,
) -> None:
    """Create the tables, or bring them to this version, and declare the dynamic tables; safe to repeat.

    --dry-run and --only are for Snowflake: on the lake each table is one transaction, with nothing to preview.
    """
    settings = load_settings(**({"CHURN_TARGET": target.value} if target else {}))
    if settings.target == "snowflake":
        from churn_assets.operations import account

        if dry_run:
            typer.echo(account.preview(settings, only or []))
            return
        account.deploy(settings, only or [], say)
        say(f"deployed to {settings.snowflake_database}.{settings.snowflake_schema} of {settings.snowflake_account}")
        return
    if dry_run or only:
        raise typer.BadParameter("--dry-run and --only are for --target snowflake")
    from churn_assets.operations import lake

    lake.deploy(settings, open_lake(lake_place(settings), memory_limit=settings.memory_limit, any_version=True), say)
    say(f"deployed to {place_of(settings).described}")


@app.command(rich_help_panel="System")
def backup(
    to: Annotated[str, typer.Argument(metavar="DIR|s3://BUCKET/FOLDER", help="Where the backup is, or will be.")],
) -> None:
    """Copy the lake to a folder or to S3 while everything runs; the next time, only what is new."""
    from churn_assets.operations.backup import back_up

    settings = load_settings()
    must_be_here(settings, "churn backup")
    with progress("looking at what is there") as show:
        done = back_up(settings, to, utc_now(), show)
    say(f"{done.copied:,} files copied to {to} ({done.bytes / 1024**2:,.1f} MB), {done.known:,} were there already")


@app.command(rich_help_panel="System")
def restore(
    source: Annotated[
        str | None, typer.Argument(metavar="DIR|s3://BUCKET/FOLDER", help="The backup.", show_default=False)
    ] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Let emails leave again after the lake went back; see docs/backup.md.")
    ] = False,
    only_marked: Annotated[
        bool,
        typer.Option(
            "--only-marked",
            help="With --confirm: emails/left.ndjson was not restored, so it knows everybody who was written to.",
        ),
    ] = False,
) -> None:
    """Put a backup into a home without a lake; or, with --confirm, let emails be written and leave again."""
    if (source is None) != confirm or (only_marked and not confirm):
        raise typer.BadParameter("name a backup, or give --confirm, which may have --only-marked")
    settings = load_settings()
    must_be_here(settings, "churn restore")
    if source is not None:
        from churn_assets.operations.backup import restore as restore_backup

        with progress("looking at what is there") as show:
            done = restore_backup(settings, source, show)
        say(f"{done.copied:,} files restored ({done.bytes / 1024**2:,.1f} MB), {done.known:,} were there already")
        say("next: `churn deploy`; then, so that emails leave again, `churn restore --confirm` (docs/backup.md)")
        return
    from churn_assets.operations.setbacks import confirm as confirm_setback

    warehouse = warehouse_to_write(settings)
    went_on = confirm_setback(settings, warehouse, all_are_marked=only_marked, by=acting_user(), now=utc_now())
    if went_on is None:
        say("nothing is held: the lake did not go back")
        return
    say(f"{went_on.brought_back:,} emails are known again to have left, {went_on.cancelled:,} others cancelled")
    say(f"emails are written and leave from {went_on.goes_on_at:%Y-%m-%d %H:%M} UTC on")


@app.command(rich_help_panel="System")
def doctor(
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Read every file, and compare it with what it was; SQLite checks the catalog."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Check settings, files, warehouse, Kafka and Dagster, and say how to fix each problem; exit code 1 if there is one."""
    from churn_assets.automation.liveness import checks
    from churn_assets.operations.doctor import examine

    settings = load_settings()
    findings = examine(settings, checks(settings, utc_now()), deep=deep)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))  # noqa: T201
    for finding in [] if as_json else findings:
        console.print(
            f"{'ok  ' if finding.problem is None else 'FAIL'}  {finding.what}: {finding.problem or finding.state}",
            style=None if finding.problem is None else "red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if problems := sum(finding.problem is not None for finding in findings):
        raise ChurnError(f"{problems} of {len(findings)} checks failed")


@app.command(rich_help_panel="System")
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Show rows, lags, risk classes, queue, emails and failures."""
    from churn_assets.operations.status import ALERTS_HOURS
    from churn_assets.operations.status import status as read_status

    settings = load_settings()
    state = read_status(settings, open_warehouse(settings, read_only=True), utc_now())
    if as_json:
        print(json.dumps(state, indent=2))  # noqa: T201
        return
    table = Table("what", "state", box=None)
    for found in state["damage"]:
        table.add_row("[red]damage[/red]", f"[red]{escape(found['in_words'])}[/red]")
    for ledger, rows in state["ledgers"].items():
        table.add_row(ledger, f"{rows:,} rows")
    table.add_row("event_rejects", f"{state['rejects']:,} rows")
    for found in state["unknown_codes"].values():
        if found["unknown"]:
            table.add_row("codes", escape(found["in_words"]))
    table.add_row(
        "kafka",
        escape(state["kafka"]) if state["kafka"] else f"{sum(o['lag'] for o in state['offsets']):,} messages wait",
    )
    for problem in sorted({offset["problem"] for offset in state["offsets"] if offset["problem"]}):
        table.add_row("Kafka", escape(problem))
    for dynamic_table in state["dynamic_tables"]:
        lag, target = dynamic_table["lag_seconds"], dynamic_table["target_lag_seconds"]
        table.add_row(
            dynamic_table["name"],
            f"{lag:.0f} s behind (target {target} s){', ' + action if (action := dynamic_table['refresh_action']) else ''}",
        )
    model = state["model"]
    table.add_row(
        "model", f"version {model['version']}, trained {model['trained_at'][:16]} UTC" if model else "none serves yet"
    )
    table.add_row("risk", ", ".join(f"{name} {count:,}" for name, count in state["risk"].items()))
    table.add_row("queue", f"{state['queue']:,} customers wait")
    table.add_row("emails", f"{state['emails']['total']:,}, {state['emails']['last_7_days']:,} in the last 7 days")
    if erasures := state["unfinished_erasures"]:
        table.add_row("erasures", f"{erasures:,} not finished; run `churn erase CUSTOMER` again")
    failures = state["failures"]
    table.add_row(
        "failures", f"errors {failures['errors']:,}, warnings {failures['warnings']:,} in the last {ALERTS_HOURS} hours"
    )
    for alert in failures["newest"]:
        table.add_row("", escape(f"{alert['when']} UTC {alert['severity']}: {alert['message']} ({alert['link']})"))
    console.print(table)


@app.command(rich_help_panel="System")
def rebuild(
    tables: Annotated[list[str], typer.Argument(help="Dynamic tables; all that are damaged.", show_default=False)],
) -> None:
    """Compute dynamic tables anew from what they read, where their own files are damaged."""
    settings = load_settings()
    must_be_here(settings, "churn rebuild")
    for result in open_lake(lake_place(settings), memory_limit=settings.memory_limit).rebuild(tables, utc_now()):
        say(f"{result.name}: {result.rows_inserted:,} rows")


@app.command(rich_help_panel="System")
def metrics(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the metrics.")] = 9464,
    host: Host = "127.0.0.1",
) -> None:
    """Serve metrics for Prometheus on http://127.0.0.1:9464/metrics until Ctrl-C."""
    from churn_assets.cli.ports import must_be_free
    from churn_assets.cli.stop import StopSignal
    from churn_assets.operations.metrics import serve
    from churn_assets.processes import announce

    settings = load_settings()
    must_be_free(port, "--port")
    stop = StopSignal()
    announce(settings, "metrics server", utc_now())
    with serve(settings, open_warehouse(settings, read_only=True), utc_now, host, port):
        say(f"metrics on http://{host}:{port}/metrics until Ctrl-C")
        while not stop.wait(3600.0):
            pass


@app.command(rich_help_panel="System")
def latency(
    hours: Annotated[float, typer.Option(help="How far to look back.", min=0.0, max=876_000.0)] = LATENCY_HOURS,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, with histograms.")] = False,
) -> None:
    """Show how long events took to reach their ledger, features, score and email."""
    from churn_assets.operations.latency import BOUNDS, SHARES, hops

    found = hops(open_warehouse(load_settings(), read_only=True), utc_now() - timedelta(hours=hours))
    if as_json:
        said = [
            {
                "hop": hop.name,
                "events": hop.events,
                **{f"{name}_seconds": hop.quantile(share) for name, share in SHARES.items()},
                "histogram": [
                    {"up_to_seconds": bound, "events": count}
                    for bound, count in zip([*BOUNDS, None], hop.histogram(), strict=True)
                ],
            }
            for hop in found
        ]
        print(json.dumps(said, indent=2))  # noqa: T201
        return
    table = Table("hop", "events", *(f"{name}, s" for name in SHARES), box=None)
    for hop in found:
        seconds = (hop.quantile(share) for share in SHARES.values())
        table.add_row(hop.name, f"{hop.events:,}", *("" if s is None else f"{s:.2f}" for s in seconds))
    console.print(table)
