"""The commands that bring data in: a simulated bank, files, events, rejects, and suppressed customers."""

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from churn_assets.cli.shown import progress, say, say_stored
from churn_assets.cli.stop import StopSignal
from churn_assets.clock import utc_now
from churn_assets.ingestion.mapping.file import MappingError
from churn_assets.settings import acting_user, load_settings
from churn_assets.wiring import open_warehouse, warehouse_to_write

app = typer.Typer()

# What a bank of the simulator may be, so that a slip of a key does not fill the memory.
MAX_CUSTOMERS, MAX_DAYS, MAX_RATE, MAX_EVENTS = 10_000_000, 3650, 1_000_000, 10**9


@app.command(rich_help_panel="Data")
def seed(
    customers: Annotated[int, typer.Option(min=1, max=MAX_CUSTOMERS, help="How many customers the bank has.")] = 20_000,
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="How many days of history.")] = 180,
    number: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="A different number gives a different bank.")
    ] = 1,
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
        if rows:  # so that what shows first is the bank, and not the tables of before
            show("computing features and scores")
            now = utc_now()
            warehouse.refresh([table.name for table in warehouse.dynamic_tables(now)], now)
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
    events: Annotated[int | None, typer.Option(min=1, max=MAX_EVENTS, help="How many events, with --rate max.")] = None,
) -> None:
    """Continue the seeded bank live over Kafka until Ctrl-C (with --rate max: until --events are sent)."""
    from churn_assets.ingestion.publisher import Publisher, wait_for_cluster
    from churn_assets.simulator import seeding
    from churn_assets.simulator.live import LiveBank
    from churn_assets.simulator.producer import produce_at_once, produce_steadily

    if (rate == "max") != (events is not None):
        raise typer.BadParameter("--rate max and --events go together")
    if rate != "max" and not (re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", rate) and 0 < float(rate) <= MAX_RATE):
        raise typer.BadParameter(f"--rate is a number of events a minute, up to {MAX_RATE:,}, or 'max'")
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
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--map", help="How the files' columns become the ledger's, in place of CHURN_MAPPING (docs/mapping.md)."
        ),
    ] = None,
) -> None:
    """Load history into a ledger, validated like events. Rows that exist already are skipped, so it is safe to repeat.

    A file whose name the mapping has is mapped; of another one, the columns are the ledger's.

    Exit code 0: every row is stored or was known already. 3: some were rejected. 1: no row is in the ledger, or an error.
    """
    from churn_assets.ingestion.history import extra_columns, open_tables
    from churn_assets.ingestion.history import load as load_files
    from churn_assets.ingestion.mapping.compiling import load_mappings
    from churn_assets.model import labels
    from churn_assets.operations.unknown_codes import unknown_codes
    from churn_assets.table_files.source import find_files, printable

    ledger = table.lower()
    settings = load_settings()
    mappings = load_mappings(mapping or settings.mapping_file)
    warehouse = warehouse_to_write(settings)
    found = find_files(files)
    if mapping and not any(mappings.of_file(file, ledger) for file in found):
        raise MappingError(f"no mapping of {mapping} into {ledger} names these files; add them to its `files`")
    with progress("looking at the files"):
        opened = open_tables(ledger, found, mappings)
    for one in opened:
        extra = extra_columns(ledger, one)
        kept = f"; kept in extra_fields: {printable(', '.join(extra))}" if extra else ""
        mapped = f"; mapped by {one.mapped.title}" if one.mapped else ""
        say(f"{one.file.name}: {one.file.found}{mapped}{kept}")
    with progress("loading") as show:
        total = load_files(
            warehouse,
            ledger,
            opened,
            utc_now,
            lambda file, so_far: show(f"{file.name}: {so_far.messages:,} rows"),
        )
    say_stored(total, {reason: f"{file.name}, {file.unit} {place}" for reason, (file, place) in total.examples.items()})
    if total.tallest:
        file, line, lines = total.tallest
        say(
            f"{total.over_lines:,} rows have line ends between quotes; the longest has {lines:,} lines ({file.name}, line {line})"
        )
    for unknown in unknown_codes(warehouse):
        if unknown.rows and unknown.ledger == ledger:
            say(unknown.in_words)
    if missing := labels.problem(warehouse, ledger):
        say(missing)
    if not total.rows.total() + total.duplicates.total():
        raise typer.Exit(1)
    if total.rejected.total():
        raise typer.Exit(3)


@app.command(rich_help_panel="Data")
def correct(
    table: Annotated[str, typer.Argument(help="The ledger: fact_transaction_ledger, dim_customers ...")],
    files: Annotated[
        list[str], typer.Argument(help="Parquet or CSV files with the right rows, or with --delete the keys.")
    ],
    delete: Annotated[bool, typer.Option("--delete", help="Delete the rows with these keys.")] = False,
) -> None:
    """Replace stored rows by those of files with the same keys, whatever their times; safe to repeat.

    Exit code 0: every row was replaced or right already. 3: some were rejected, such as keys that are not stored.
    """
    from churn_assets.ingestion import corrections
    from churn_assets.table_files.source import find_files

    warehouse = warehouse_to_write(load_settings())
    change = corrections.delete if delete else corrections.correct
    with progress("correcting"):
        done = change(warehouse, table.lower(), find_files(files), acting_user(), utc_now)
    say(
        f"{done.messages:,} rows: {done.replaced:,} replaced, {done.deleted:,} deleted, {done.unchanged:,} right already,"
        f" {done.rejected.total():,} rejected"
    )
    for reason, count in done.rejected.most_common():
        say(f"  {count:,} {reason}")
    if done.rejected:
        raise typer.Exit(3)


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
    mapping: Annotated[
        Path | None, typer.Option("--map", help="The mapping of their topics and files, in place of CHURN_MAPPING.")
    ] = None,
) -> None:
    """Validate rejected events again and store those that the contract and the mapping accept now."""
    from churn_assets.ingestion import history, schema_registry
    from churn_assets.ingestion.mapping.compiling import load_mappings

    settings = load_settings()
    mappings = load_mappings(mapping or settings.mapping_file)
    warehouse = warehouse_to_write(settings)
    registry = schema_registry.connect(settings)
    say_stored(history.replay_rejects(warehouse, reason, utc_now, mappings, registry))


@app.command(rich_help_panel="Data")
def suppress(
    customer: Annotated[str, typer.Argument(help="The customer's id, or an email address.")],
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The first day (UTC) to send emails again; never if unset."),
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
) -> None:
    """Stop all emails to a customer and to everybody with the same address, and cancel those that wait to be sent."""
    from churn_assets.retention import suppressions

    warehouse = warehouse_to_write(load_settings())
    day = until.date() if until else None
    cancelled = suppressions.suppress(warehouse, customer, day, utc_now(), note, acting_user())
    say(f"{customer} is suppressed{f' until {day}' if day else ''}; {cancelled:,} emails cancelled")


@app.command(rich_help_panel="Data")
def unsuppress(customer: Annotated[str, typer.Argument(help="The customer's id, or an email address.")]) -> None:
    """Allow emails to a customer or an address again. A customer's own refusal of emails stays in force."""
    from churn_assets.retention import suppressions

    warehouse = warehouse_to_write(load_settings())
    lifted = suppressions.lift(warehouse, customer, utc_now())
    say(f"{customer} is no longer suppressed" if lifted.was_listed else f"{customer} was not suppressed")
    if lifted.is_still_stopped:
        say("no email leaves yet: this customer, or another one with the address, refused emails or is suppressed")


@app.command(rich_help_panel="Data")
def erase(
    customer: Annotated[str, typer.Argument(help="The customer's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a customer: rows, history, rejects, emails, search index, logs. Exit code 3 if a trace is left."""
    from churn_assets.operations.erasure import erase as erase_customer
    from churn_assets.wiring import open_log_index

    if not yes:
        typer.confirm(f"Erase {customer} for good? Nothing brings the data back", abort=True)
    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    with progress("erasing") as show:
        index = open_log_index(settings, warehouse)
        done = erase_customer(settings, warehouse, index, customer, acting_user(), utc_now, show)
    say(
        f"erased: {done.rows_deleted:,} rows deleted, {done.rejects_blanked:,} rejects blanked,"
        f" {done.files_masked:,} files masked"
    )
    for one in [*done.unreachable, "Kafka keeps its messages until its own retention ends; see docs/erasure.md"]:
        say(f"not reached: {one}")
    for one in done.left:
        say(f"still holds the customer: {one}")
    if done.left:
        raise typer.Exit(3)
