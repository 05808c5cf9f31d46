"""The commands that bring data in: a simulated bank, files, events, rejects, and suppressed customers."""

import getpass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from churn_assets.cli.shown import progress, say, say_stored
from churn_assets.cli.stop import StopSignal
from churn_assets.clock import utc_now
from churn_assets.ingestion.commit import Stored
from churn_assets.settings import load_settings
from churn_assets.wiring import open_warehouse, warehouse_to_write

app = typer.Typer()


@app.command(rich_help_panel="Data")
def seed(
    customers: Annotated[int, typer.Option(min=1, help="How many customers the bank has.")] = 20_000,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How many days of history.")] = 180,
    number: Annotated[int, typer.Option("--seed", min=0, help="A different number gives a different bank.")] = 1,
) -> None:
    """Fill the ledgers with the history of a simulated bank, up to now."""
    from churn_assets.simulator import seeding

    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    bank = seeding.seeded_bank(warehouse) or seeding.new_bank(customers, days, number, utc_now())
    if (bank.customers, bank.days, bank.seed) != (customers, days, number):
        raise seeding.SeedError(
            f"{settings.home} holds a different bank ({bank.customers} customers, {bank.days} days, seed {bank.seed});"
            " set CHURN_HOME to a new folder"
        )
    rows: dict[str, int] = {}
    with progress("seeding") as show:

        def report(ledger: str, count: int) -> None:
            rows[ledger] = rows.get(ledger, 0) + count
            show(f"seeding: {sum(rows.values()):,} rows")

        seeding.seed(warehouse, bank, utc_now(), report)
    say("; ".join(f"{ledger}: {count:,} rows" for ledger, count in rows.items()) or "this bank is seeded already")


@app.command(rich_help_panel="Data")
def broker() -> None:
    """Run the embedded Kafka broker until Ctrl-C. It keeps messages in memory only: for trials, not for production."""
    from churn_assets.ingestion.broker import embedded_broker

    settings = load_settings()
    stop = StopSignal()
    with embedded_broker(settings.broker_file) as cluster:
        say(f"broker on {cluster.bootstrap_servers}; Ctrl-C stops it and deletes its messages")
        while not stop.wait(60):
            pass


@app.command(rich_help_panel="Data")
def produce(
    rate: Annotated[str, typer.Option(help="Events a minute, or 'max'.")] = "200",
    events: Annotated[int | None, typer.Option(min=1, help="How many events, with --rate max.")] = None,
) -> None:
    """Continue the seeded bank live over Kafka until Ctrl-C (with --rate max: until --events are sent)."""
    from churn_assets.ingestion.publisher import Publisher, wait_for_cluster
    from churn_assets.simulator import seeding
    from churn_assets.simulator.live import LiveBank
    from churn_assets.simulator.producer import produce_at_once, produce_steadily

    if (rate == "max") != (events is not None):
        raise typer.BadParameter("--rate max and --events go together")
    if rate != "max" and not (rate.replace(".", "", 1).isdigit() and float(rate) > 0):
        raise typer.BadParameter("--rate is a number of events a minute, or 'max'")
    settings = load_settings()
    warehouse = open_warehouse(settings, read_only=True)
    bank = seeding.seeded_bank(warehouse)
    if bank is None or not seeding.is_complete(warehouse):
        raise seeding.SeedError("there is no bank to continue, or its seeding was interrupted; run `churn seed` first")
    publisher = Publisher(wait_for_cluster(settings, say), settings.topics[0])
    live = LiveBank(bank)
    if events is not None:
        with progress("producing") as show:
            produce_at_once(live, publisher, events, utc_now, lambda sent: show(f"{sent:,} events"))
        say(f"{events:,} events sent")
        return
    stop = StopSignal()
    since = max(seeding.newest_event_time(warehouse), live.start)
    with progress("producing") as show:
        produce_steadily(
            live,
            publisher,
            events_per_minute=float(rate),
            since=since,
            clock=utc_now,
            stopped=stop.is_set,
            report=lambda sent: show(f"{sent:,} events sent"),
        )


@app.command(rich_help_panel="Data")
def load(
    table: Annotated[str, typer.Argument(help="The ledger: fact_transaction_ledger, dim_customers ...")],
    files: Annotated[list[str], typer.Argument(help="Parquet or CSV files, or patterns such as 'history/*.parquet'.")],
) -> None:
    """Load history into a ledger, validated like events. Rows that exist already are skipped, so it is safe to repeat."""
    from churn_assets.ingestion.history import find_files
    from churn_assets.ingestion.history import load as load_files

    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    with progress("loading") as show:

        def report(file: Path, so_far: Stored) -> None:
            show(f"{file.name}: {so_far.messages:,} rows")

        total = load_files(warehouse, table.lower(), find_files(files), utc_now, report)
    say_stored(total)


@app.command(rich_help_panel="Data")
def replay(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="NDJSON: one event a line; - is standard input.")],
) -> None:
    """Publish the events of a file to Kafka, each line unchanged."""
    from churn_assets.ingestion.publisher import Publisher, wait_for_cluster
    from churn_assets.ingestion.publisher import replay as replay_lines

    settings = load_settings()
    publisher = Publisher(wait_for_cluster(settings, say), settings.topics[0])
    with progress("replaying") as show:
        sent = replay_lines(file, publisher, lambda sent: show(f"{sent:,} events"))
    say(f"{sent:,} events sent to {settings.topics[0]}")


@app.command(rich_help_panel="Data")
def replay_rejects(
    reason: Annotated[str | None, typer.Option(help="Only those rejected for this reason.")] = None,
) -> None:
    """Validate rejected events again and store those that the contract accepts now."""
    from churn_assets.ingestion import history

    warehouse = warehouse_to_write(load_settings())
    say_stored(history.replay_rejects(warehouse, reason, utc_now))


@app.command(rich_help_panel="Data")
def suppress(
    customer: Annotated[str, typer.Argument(help="The customer's id.")],
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The first day (UTC) to send emails again; never if unset."),
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
) -> None:
    """Stop all emails to a customer, and cancel those that wait to be sent."""
    from churn_assets.retention import suppressions

    warehouse = warehouse_to_write(load_settings())
    day = until.date() if until else None
    cancelled = suppressions.suppress(warehouse, customer, day, utc_now(), note, getpass.getuser())
    say(f"{customer} is suppressed{f' until {day}' if day else ''}; {cancelled:,} emails cancelled")


@app.command(rich_help_panel="Data")
def unsuppress(customer: Annotated[str, typer.Argument(help="The customer's id.")]) -> None:
    """Allow emails to a customer again. The customer's own refusal of emails stays in force."""
    from churn_assets.retention import suppressions

    warehouse = warehouse_to_write(load_settings())
    was_suppressed = suppressions.lift(warehouse, customer, utc_now())
    say(f"{customer} is no longer suppressed" if was_suppressed else f"{customer} was not suppressed")
