"""`churn map`: mappings of a bank's own topics and files, tried and suggested."""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from churn_assets.cli.shown import print_rows, say
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="How topics and files of your own become rows of the ledgers.")

_ROWS_SHOWN = 3
_DATA = "A table as `churn load` reads it, or JSON messages, one a line."


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The mapping, mapping.yaml.")],
    sample: Annotated[Path | None, typer.Option(help=_DATA)] = None,
    mapping: Annotated[
        str | None, typer.Option(help="The name of the mapping to try, if several could be meant.")
    ] = None,
) -> None:
    """Check a mapping, and what it makes of a sample. Nothing is stored.

    Exit code 0: it is right, and each row of the sample fits. 3: some rows would be rejected. 1: it is wrong.
    """
    from churn_assets.ingestion import trial
    from churn_assets.ingestion.mapping.compiling import load_mappings

    mappings = load_mappings(file)
    say(f"{file} is right; its mappings: {', '.join(mappings.names) or 'none yet'}")
    if unread := [topic for topic in mappings.topics if topic not in load_settings().topics]:
        say(f"CHURN_TOPICS does not name {', '.join(unread)}, so nothing is read from there")
    for line in trial.codes_without_meaning(mappings):
        say(line)
    if sample is None:
        return
    tried = trial.check(mappings, sample, mapping, utc_now())
    for ledger, table in tried.rows.items():
        say(f"{ledger}: {table.num_rows:,} rows")
        print_rows(_by_column(table.slice(0, _ROWS_SHOWN)))
    for column, codes in tried.codes.items():
        say(f"{column}: {', '.join(f'{code} {count:,} ({what})' for code, (count, what) in codes.items())}")
    stored = sum(table.num_rows for table in tried.rows.values())
    rejected = sum(count for count, _ in tried.rejects.values())
    say(
        f"{tried.messages:,} of {sample.name} by {tried.title}: {stored:,} rows, {rejected:,} rejects,"
        f" {tried.left_out:,} left out"
    )
    for reason, (count, line) in sorted(tried.rejects.items(), key=lambda reject: -reject[1][0]):
        say(f"  {count:,} {reason} (first: {line})")
    if rejected:
        raise typer.Exit(3 if stored else 1)


def _by_column(rows: pa.Table) -> pa.Table:
    """Rows of a ledger as a table with a row for each of its columns, which has more room for values."""
    names = [name for name in rows.column_names if not name.startswith("kafka_")]
    values = {
        f"row {number + 1}": pa.array([None if row[name] is None else str(row[name]) for name in names], pa.string())
        for number, row in enumerate(rows.to_pylist())
    }
    return pa.table({"column": names, **values})


@app.command()
def suggest(
    data: Annotated[Path, typer.Argument(help=_DATA)],
    ledger: Annotated[
        str | None, typer.Option(help="The ledger that it feeds; the one that fits best if unset.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="The topic that messages come from.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="The file to write; it must not exist. Standard output if unset.")
    ] = None,
) -> None:
    """Propose a mapping from the names and values of data, with comments. Read it before you use it."""
    from churn_assets.ingestion import trial
    from churn_assets.ingestion.events import LEDGERS
    from churn_assets.ingestion.mapping.suggesting import suggest as suggested

    if ledger is not None and ledger not in LEDGERS:
        raise ChurnError(f"there is no ledger {ledger}; the ledgers are {', '.join(LEDGERS)}")
    text = suggested(trial.sample_of(data, topic), ledger)
    if to is None:
        typer.echo(text, nl=False)
        return
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ChurnError(f"{to} exists already; name another file with --to") from None
    say(f"{to} written; read its comments, then run: churn map check {to} --sample {data}")
