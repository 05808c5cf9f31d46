"""The commands of `churn outbox`: write, review, export and send emails. `churn_assets.retention.outbox` does the work."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from churn_assets.cli.shown import console, help_if_alone, progress
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.retention.statuses import Status
from churn_assets.settings import acting_user, load_settings
from churn_assets.wiring import open_warehouse, shelf_of, warehouse_to_write

app = typer.Typer(help="Write, list, approve, reject, export and send emails.")

OneId = Annotated[str, typer.Argument(metavar="ID", help="The intervention.")]
SomeIds = Annotated[list[str], typer.Argument(metavar="ID...", help="The interventions.")]


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    help_if_alone(context)


@app.command("list")
def list_(
    status: Annotated[Status | None, typer.Option(case_sensitive=False, help="Only those in this status.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show the emails that need somebody's action, or those in a status. Addresses are masked."""
    from churn_assets.retention.outbox.approval import UNSETTLED, waiting

    entries = waiting(open_warehouse(load_settings(), read_only=True), [status] if status else UNSETTLED)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2, default=str))
        return
    table = Table("intervention", "customer", "email", "status", "since (UTC)", "note", box=None)
    for entry in entries:
        since = f"{entry.moved_at or entry.created_at:%Y-%m-%d %H:%M}"
        texts = (entry.customer_id, entry.email, entry.status, since, entry.note or "")
        table.add_row(entry.intervention_id, *(escape(text) for text in texts))
    table.columns[0].no_wrap = True  # an id is there to be copied
    console.print(table)


@app.command()
def write() -> None:
    """Write the emails that are due to customers in the queue, as a run of Dagster does. None leaves before it is approved."""
    from churn_assets.operations.driver import who_drives_instead
    from churn_assets.operations.setbacks import must_not_have_gone_back
    from churn_assets.retention.emails import next_day, write_emails
    from churn_assets.wiring import limits_of, make_email_run

    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    if problem := who_drives_instead(settings, warehouse):
        raise ChurnError(problem)
    must_not_have_gone_back(settings, warehouse, utc_now())
    day = next_day(warehouse, limits_of(settings), utc_now())
    if day is None:
        typer.echo("nobody waits who may be written to now")
        return
    with progress("writing") as show_progress:
        done = write_emails(warehouse, make_email_run(settings, warehouse), day, utc_now(), show_progress)
    typer.echo(
        f"{done.written:,} written for {day}, {done.control:,} in the control group, {done.dropped:,} dropped,"
        f" {done.cancelled:,} cancelled; {done.failed + done.unasked:,} still owed"
    )
    if done.stopped_by:
        raise ChurnError(f"writing stopped: {done.stopped_by}")


@app.command()
def show(intervention_id: OneId) -> None:
    """Show one email with its full text and its history."""
    from churn_assets.retention.outbox.approval import shown

    entry, text, moves = shown(open_warehouse(load_settings(), read_only=True), intervention_id)
    typer.echo(f"{entry.customer_id}  {entry.full_name or ''}  {entry.email}  {entry.status}")
    for move in moves:
        note = f": {move.note}" if move.note else ""
        typer.echo(f"{move.moved_at:%Y-%m-%d %H:%M:%S} UTC  {move.status_to} by {move.moved_by}{note}")
    typer.echo(f"\n{text}" if text is not None else "\nno text")


@app.command()
def approve(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="The interventions.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every email that is READY.")] = False,
) -> None:
    """Approve READY emails, so that they may be sent."""
    from churn_assets.retention.outbox import approval

    if bool(ids) == everything:
        raise typer.BadParameter("name interventions, or --all")
    warehouse = warehouse_to_write(load_settings())
    if ids:
        approval.approve(warehouse, ids, acting_user(), utc_now())
    count = len(set(ids)) if ids else approval.approve_all(warehouse, acting_user(), utc_now())
    typer.echo(f"{count:,} approved")


@app.command()
def reject(ids: SomeIds, note: Annotated[str | None, typer.Option(help="Why.")] = None) -> None:
    """Reject READY emails, so that they are never sent."""
    from churn_assets.retention.outbox import approval

    approval.reject(warehouse_to_write(load_settings()), ids, acting_user(), utc_now(), note)
    typer.echo(f"{len(set(ids)):,} rejected")


@app.command()
def export(file: Annotated[Path, typer.Argument(help="A CSV file that does not exist yet.")]) -> None:
    """Write every approved email to a CSV file for another system, which must then send them."""
    from churn_assets.operations.setbacks import must_not_have_gone_back
    from churn_assets.retention.outbox import approval, exporting

    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    must_not_have_gone_back(settings, warehouse, utc_now())
    approval.approve_if_automatic(warehouse, settings, utc_now())
    done = exporting.export(warehouse, file, shelf_of(settings), acting_user(), utc_now(), typer.echo)
    cancelled = f"; {done.cancelled:,} cancelled" if done.cancelled else ""
    typer.echo((f"{done.exported:,} exported to {file}" if done.exported else "nothing to export") + cancelled)


@app.command()
def send() -> None:
    """Send every approved email over SMTP. Exit code 1 if the mail server stops it."""
    from churn_assets.operations.setbacks import must_not_have_gone_back
    from churn_assets.retention.outbox import approval, sending
    from churn_assets.retention.outbox.quiet_hours import quiet_hours
    from churn_assets.retention.outbox.smtp import smtp_of

    settings = load_settings()
    smtp, quiet = smtp_of(settings), quiet_hours(settings)
    warehouse = warehouse_to_write(settings)
    must_not_have_gone_back(settings, warehouse, utc_now())
    approval.approve_if_automatic(warehouse, settings, utc_now())
    done = sending.send(warehouse, smtp, shelf_of(settings), quiet, acting_user(), utc_now)
    typer.echo(
        f"{done.sent:,} sent, {done.failed:,} failed, {done.cancelled:,} cancelled, {done.uncertain:,} uncertain;"
        f" {done.waiting:,} wait"
    )
    if done.uncertain:
        typer.echo("look for the uncertain ones in the mail server's log, then `churn outbox resolve`")
    if done.quiet_until:
        typer.echo(f"quiet hours until {done.quiet_until:%Y-%m-%d %H:%M} UTC")
    if done.stopped:
        raise ChurnError(f"sending stopped: {done.stopped}")


@app.command()
def resolve(
    intervention_id: OneId,
    was_sent: Annotated[bool, typer.Option("--sent/--not-sent", help="What the mail server's log says.")],
) -> None:
    """Settle an UNCERTAIN email: it was sent, or it is to be sent again."""
    from churn_assets.retention.outbox import approval

    approval.resolve(warehouse_to_write(load_settings()), intervention_id, was_sent, acting_user(), utc_now())
    typer.echo("sent" if was_sent else "approved, to be sent again")
