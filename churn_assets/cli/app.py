"""The `churn` command. Here belong arguments, progress and messages; the work is done by the modules it calls."""

import getpass
import json
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from churn_assets.analyst.answer import Answer
from churn_assets.cli import model as model_cli
from churn_assets.cli import outbox as outbox_cli
from churn_assets.cli.stop import StopSignal
from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.engine import DynamicTableError
from churn_assets.errors import ChurnError
from churn_assets.ingestion.commit import Stored
from churn_assets.rules import ENGINEER_ROLE, LATENCY_HOURS
from churn_assets.search.hits import Filters, Hit
from churn_assets.serving.guard import ROW_LIMIT as ANSWER_ROWS
from churn_assets.settings import load_settings
from churn_assets.wiring import open_agent, open_serving, open_warehouse, place_of, warehouse_to_write

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(outbox_cli.app, name="outbox")
app.add_typer(model_cli.app, name="model")
console = Console()
errors = Console(stderr=True)

QUERY_ROWS = 1000


def main() -> None:
    """Run the command; an error is one line on stderr and exit code 1 (2 for wrong usage)."""
    warnings.formatwarning = lambda message, *_: f"churn: {message}\n"
    try:
        app()
    except (ChurnError, DynamicTableError) as error:
        errors.print(f"churn: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except duckdb.Error as error:
        # Its further lines repeat the statement.
        errors.print(
            f"churn: {str(error).strip().splitlines()[0]}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)


def _say(message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(work: str) -> Generator[Callable[[str], None]]:
    """A line that says how far long work is; it is shown on a terminal only."""
    with console.status(work) as status:
        yield lambda so_far: status.update(escape(so_far))


def _say_stored(total: Stored) -> None:
    _say(
        f"{total.messages:,} rows: {total.rows.total():,} stored, {total.duplicates.total():,} known already,"
        f" {total.rejected.total():,} rejected"
    )
    for reason, count in total.rejected.most_common():
        _say(f"  {count:,} {reason}")


class DeployTarget(StrEnum):
    """Which warehouse a deployment is for."""

    LOCAL = "local"
    SNOWFLAKE = "snowflake"


@app.command()
def deploy(
    target: Annotated[DeployTarget | None, typer.Option(help="Which warehouse, instead of CHURN_TARGET's.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Snowflake: show what would run, what is new and what it costs; run nothing."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Snowflake: a phase (account, schema, functions, dbt, after_dbt) or a file or pattern such as"
            " 'sql/snowflake/after_dbt/*'; repeat it for several."
        ),
    ] = None,
) -> None:
    """Create the tables and declare the dynamic tables; safe to repeat, also after it was interrupted.

    The lake is one transaction a table and has nothing to preview, so it takes neither --dry-run nor --only.
    """
    settings = load_settings(**({"CHURN_TARGET": target.value} if target else {}))
    if settings.target == "snowflake":
        from churn_assets.operations import account

        if dry_run:
            typer.echo(account.preview(settings, only or []))
            return
        account.deploy(settings, only or [], _say)
        _say(f"deployed to {settings.snowflake_database}.{settings.snowflake_schema} of {settings.snowflake_account}")
        return
    if dry_run or only:
        raise typer.BadParameter("--dry-run and --only are for --target snowflake")
    from churn_assets.operations import lake

    lake.deploy(settings, open_warehouse(settings), _say)
    _say(f"deployed to {place_of(settings).described}")


@app.command()
def seed(
    customers: Annotated[int, typer.Option(min=1, help="How many customers the bank has.")] = 20_000,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How many days of history.")] = 180,
    number: Annotated[int, typer.Option("--seed", min=0, help="Another number gives another bank.")] = 1,
) -> None:
    """Fill the ledgers with the history of a simulated bank, up to now."""
    from churn_assets.simulator import seeding

    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    bank = seeding.seeded_bank(warehouse) or seeding.new_bank(customers, days, number, utc_now())
    if (bank.customers, bank.days, bank.seed) != (customers, days, number):
        raise seeding.SeedError(
            f"{settings.home} holds another bank ({bank.customers} customers, {bank.days} days, seed {bank.seed});"
            " set CHURN_HOME to a new folder"
        )
    rows: dict[str, int] = {}
    with _progress("seeding") as progress:

        def report(ledger: str, count: int) -> None:
            rows[ledger] = rows.get(ledger, 0) + count
            progress(f"seeding: {sum(rows.values()):,} rows")

        seeding.seed(warehouse, bank, utc_now(), report)
    _say("; ".join(f"{ledger}: {count:,} rows" for ledger, count in rows.items()) or "this bank is seeded already")


@app.command()
def broker() -> None:
    """Run the embedded Kafka broker until Ctrl-C. It keeps messages in memory only: for trying, not for production."""
    from churn_assets.ingestion.broker import embedded_broker

    settings = load_settings()
    stop = StopSignal()
    with embedded_broker(settings.broker_file) as cluster:
        _say(f"broker on {cluster.bootstrap_servers}; Ctrl-C stops it, and its messages are gone then")
        while not stop.wait(60):
            pass


@app.command()
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
    publisher = Publisher(wait_for_cluster(settings, _say), settings.topics[0])
    live = LiveBank(bank)
    if events is not None:
        with _progress("producing") as progress:
            produce_at_once(live, publisher, events, utc_now, lambda sent: progress(f"{sent:,} events"))
        _say(f"{events:,} events sent")
        return
    stop = StopSignal()
    since = max(seeding.newest_event_time(warehouse), live.start)
    with _progress("producing") as progress:
        produce_steadily(
            live,
            publisher,
            events_per_minute=float(rate),
            since=since,
            clock=utc_now,
            stopped=stop.is_set,
            report=lambda sent: progress(f"{sent:,} events sent"),
        )


@app.command()
def load(
    table: Annotated[str, typer.Argument(help="The ledger: fact_transaction_ledger, dim_customers ...")],
    files: Annotated[list[str], typer.Argument(help="Parquet or CSV files, or patterns such as 'history/*.parquet'.")],
) -> None:
    """Load history into a ledger, validated like events. Rows that are there already are left out: repeat it freely."""
    from churn_assets.ingestion.history import find_files
    from churn_assets.ingestion.history import load as load_files

    settings = load_settings()
    warehouse = warehouse_to_write(settings)
    with _progress("loading") as progress:

        def report(file: Path, so_far: Stored) -> None:
            progress(f"{file.name}: {so_far.messages:,} rows")

        total = load_files(warehouse, table.lower(), find_files(files), utc_now, report)
    _say_stored(total)


@app.command()
def replay(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="NDJSON: one event a line; - is standard input.")],
) -> None:
    """Publish the events of a file to Kafka, each line as it stands."""
    from churn_assets.ingestion.publisher import Publisher, wait_for_cluster
    from churn_assets.ingestion.publisher import replay as replay_lines

    settings = load_settings()
    publisher = Publisher(wait_for_cluster(settings, _say), settings.topics[0])
    with _progress("replaying") as progress:
        sent = replay_lines(file, publisher, lambda sent: progress(f"{sent:,} events"))
    _say(f"{sent:,} events sent to {settings.topics[0]}")


@app.command()
def replay_rejects(
    reason: Annotated[str | None, typer.Option(help="Only those rejected for this reason.")] = None,
) -> None:
    """Check rejected events again and store those that the contract accepts by now."""
    from churn_assets.ingestion import history

    warehouse = warehouse_to_write(load_settings())
    _say_stored(history.replay_rejects(warehouse, reason, utc_now))


@app.command()
def doctor() -> None:
    """Check the settings, the warehouse, the deployment and Kafka, and say what to do about each problem."""
    from churn_assets.operations.doctor import examine

    findings = examine(load_settings())
    for finding in findings:
        console.print(
            f"{'ok  ' if finding.problem is None else 'FAIL'}  {finding.what}: {finding.problem or finding.state}",
            style=None if finding.problem is None else "red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if problems := sum(finding.problem is not None for finding in findings):
        raise ChurnError(f"{problems} of {len(findings)} checks failed")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Show rows, lags, risk classes, queue and emails."""
    from churn_assets.operations.status import status as read_status

    settings = load_settings()
    state = read_status(settings, open_warehouse(settings, read_only=True), utc_now())
    if as_json:
        print(json.dumps(state, indent=2))  # noqa: T201
        return
    table = Table("what", "state", box=None)
    for ledger, rows in state["ledgers"].items():
        table.add_row(ledger, f"{rows:,} rows")
    table.add_row("event_rejects", f"{state['rejects']:,} rows")
    table.add_row("kafka", state["kafka"] or f"{sum(o['lag'] for o in state['offsets']):,} messages wait")
    for gap in sorted({offset["gap"] for offset in state["offsets"] if offset["gap"]}):
        table.add_row("gap", escape(gap))
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
    console.print(table)


@app.command()
def latency(
    hours: Annotated[float, typer.Option(help="How far to look back.", min=0.0)] = LATENCY_HOURS,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, with histograms.")] = False,
) -> None:
    """Show how long events took to their ledger, features, score and email."""
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


@app.command()
def suppress(
    customer: Annotated[str, typer.Argument(help="The customer's id.")],
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The first day (UTC) to write again; never if unset.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
) -> None:
    """Let nobody write to a customer, and cancel what waits to leave."""
    from churn_assets.retention import suppressions

    warehouse = warehouse_to_write(load_settings())
    day = until.date() if until else None
    cancelled = suppressions.suppress(warehouse, customer, day, utc_now(), note, getpass.getuser())
    _say(f"{customer} is suppressed{f' until {day}' if day else ''}; {cancelled:,} emails cancelled")


@app.command()
def unsuppress(customer: Annotated[str, typer.Argument(help="The customer's id.")]) -> None:
    """Let a customer be written to again. A customer's own refusal of emails stays."""
    from churn_assets.retention import suppressions

    warehouse = warehouse_to_write(load_settings())
    was_suppressed = suppressions.lift(warehouse, customer, utc_now())
    _say(f"{customer} is no longer suppressed" if was_suppressed else f"{customer} was not suppressed")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One statement that only reads.")],
    role: Annotated[
        str | None,
        typer.Option(
            help="See only what a role sees of the serving views, such as MARKETING_ANALYST; one SELECT over them."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array of rows.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
) -> None:
    """Run SQL on the warehouse, read-only."""
    settings = load_settings()
    if role is None:
        result = open_warehouse(settings, read_only=True).query(sql)
    else:
        result = open_serving(settings, role).query_from_outside(sql)
    if as_json:
        print(json.dumps(result.to_pylist(), default=str))  # noqa: T201
    elif as_csv:
        print(result.to_pandas().to_csv(index=False), end="")  # noqa: T201
    else:
        _print_rows(result.slice(0, QUERY_ROWS))
        if result.num_rows > QUERY_ROWS:
            _say(f"... {QUERY_ROWS:,} of {result.num_rows:,} rows; --csv prints all")


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="What happened, in your words; '' lists the newest.")] = "",
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="kind=error|case, customer_id=, error_code= or device=; repeat it for several."),
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many hits.")] = 20,
    role: Annotated[str, typer.Option(help="Search as this role, such as MARKETING_ANALYST.")] = "DATA_ENGINEER",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Search the app's errors and the support cases in words, best first, the newest of equals first."""
    from churn_assets.search.hits import parse_filters
    from churn_assets.wiring import open_log_index, open_search

    settings = load_settings()
    wanted = parse_filters(filters or [], since, until)
    found = open_search(settings, role)
    state = "as fresh as the search service"
    if index := open_log_index(settings, open_warehouse(settings)):
        open_warehouse(settings, read_only=True).query("SELECT 1")  # where there is no lake, none shall be made
        with _progress("bringing the search index up to date") as progress:
            update = index.update(lambda so_far: progress(f"building the search index: {so_far:,} events"))
        state = f"in an index of {update.documents:,} errors and cases, up to date"
        if update.reason:
            state += f" (built just now in {update.seconds:.1f} s: {update.reason})"
    hits = found.search(words, wanted, limit)
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], indent=2, default=str))  # noqa: T201
        return
    _print_hits(hits)
    _say(f"{len(hits)} found, {state}")


@app.command()
def grant(
    role: Annotated[str, typer.Argument(help="MARKETING_ANALYST, or a role of your own.")],
    segments: Annotated[
        list[str] | None, typer.Argument(help="The segments that it sees; '*' is all, none is none.")
    ] = None,
) -> None:
    """Let a role see these segments in the serving views, and no others; it holds from the next query on."""
    from churn_assets.serving.grants import grant_segments

    granted = segments or []
    grant_segments(warehouse_to_write(load_settings()), role.upper(), granted)
    _say(f"{role.upper()} sees {', '.join(granted) or 'nothing'}")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="In words, such as 'How many customers are in each class of risk?'")],
    role: Annotated[str, typer.Option(help="Answer with what a role sees, such as MARKETING_ANALYST.")] = ENGINEER_ROLE,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Answer a question from the figures or by a search over errors and cases, and say how.

    It knows the verified questions of the semantic model and other ways to ask them; CHURN_ANALYST names a language model for
    what is none of them. What cannot be answered is not: exit code 1, the reason, and the questions that come nearest.
    """
    answer = open_agent(load_settings(), role).answer(question)
    if as_json:
        print(json.dumps(_as_json(answer), indent=2, default=str))  # noqa: T201
    else:
        _show_answer(answer)
    if answer.refusal is not None:
        raise ChurnError(answer.refusal)


def _as_json(answer: Answer) -> dict[str, Any]:
    parts = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return {
        **parts,
        "rows": None if answer.rows is None else answer.rows.to_pylist(),
        "filters": answer.filters and asdict(answer.filters),
        "hits": answer.hits and [asdict(hit) for hit in answer.hits],
        "refused": [asdict(refused) for refused in answer.refused],
    }


def _show_answer(answer: Answer) -> None:
    _say(f"{answer.route}: {answer.why}")
    if answer.taken_for is not None:
        sure = "" if answer.confidence is None else f"  ({answer.confidence:.0%} sure that this was asked)"
        _say(f"{answer.taken_for}{sure}")
    for refused in answer.refused:
        _say(f"\n{refused.sql}\n-- refused: {refused.reason}")
    if answer.sql is not None:
        _say(f"\n{answer.sql}\n")
    if answer.rows is not None:
        _print_rows(answer.rows)
        if answer.rows.num_rows == ANSWER_ROWS:
            _say(f"... the first {ANSWER_ROWS:,} rows; there may be more")
    if answer.hits is not None:
        filters = {name: value for name, value in asdict(answer.filters or Filters()).items() if value is not None}
        _say(f"searched for {answer.searched!r}{''.join(f', {name} {value}' for name, value in filters.items())}\n")
        _print_hits(answer.hits)
        _say(f"{len(answer.hits)} found")
    if answer.nearest:
        _say("\n".join(["I can answer these:", *(f"  {answerable}" for answerable in answer.nearest)]))


def _print_hits(hits: Sequence[Hit]) -> None:
    table = Table("score", "when (UTC)", "customer", "segment", "what", box=None)
    for hit in hits:
        what = ", ".join(part for part in (hit.error_code, hit.device) if part)
        table.add_row(
            f"{hit.score:.2f}",
            f"{hit.happened_at:%Y-%m-%d\u00a0%H:%M}",
            escape(hit.customer_id),
            escape(hit.segment or ""),
            escape(f"{hit.title} ({what})" if what else hit.title),
        )
    if hits:
        console.print(table)


def _print_rows(rows: pa.Table) -> None:
    table = Table(*(escape(name) for name in rows.column_names), box=None)
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        table.add_row(*(escape("NULL" if value is None else str(value)) for value in row))
    console.print(table)


@app.command()
def check() -> None:
    """Run the whole graph on a small bank in a temporary home; exit code 1 if an asset check fails."""
    from churn_assets.cli.check import rehearse

    failed = rehearse(_say)
    if failed:
        raise ChurnError(f"{len(failed)} checks failed: {', '.join(failed)}")


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8501,
) -> None:
    """Show the dashboard on http://127.0.0.1:8501 until Ctrl-C: overview, customers, interventions, questions."""
    import os

    from churn_assets.dashboard.serve import command

    sys.stdout.flush()
    os.execv(sys.executable, command(port))


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
    dashboard_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.")] = 8501,
    customers: Annotated[int, typer.Option(min=1, help="Customers of the bank, at the first start.")] = 5000,
    days: Annotated[int, typer.Option(min=1, help="Days of history, at the first start.")] = 180,
    rate: Annotated[float, typer.Option(min=1, help="Events a minute.")] = 200,
) -> None:
    """Run everything on this machine until Ctrl-C: broker, bank, producer, Dagster, dashboard. A second start goes on."""
    from churn_assets.cli.demo import run_demo

    run_demo(
        load_settings(),
        port=port,
        dashboard_port=dashboard_port,
        customers=customers,
        days=days,
        rate=rate,
        say=_say,
    )


if __name__ == "__main__":
    main()
