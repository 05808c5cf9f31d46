"""The output of the commands: lines, progress and rows. The commands choose the words."""

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from churn_assets.ingestion.commit import Stored

console = Console()
errors = Console(stderr=True)
# Control characters, those that turn the direction of writing, and halves of a surrogate pair.
_STEERING = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff]"
)
_LONGEST = 1000  # characters of a line; a longer one only repeats what the user typed


def say(message: str) -> None:
    """Print lines without markup or wrapping; signs that would steer a terminal are escaped."""
    console.print("\n".join(map(_printable, message.split("\n"))), markup=False, highlight=False, soft_wrap=True)


def one_line(text: str) -> str:
    """A text in one line that a terminal shows as it is: signs that cannot be printed are escaped, its middle may be cut."""
    line = _printable(" ".join(text.split()))
    if len(line) <= _LONGEST:
        return line
    half = _LONGEST // 2
    return f"{line[:half]} … {line[-half:]}"


def _printable(line: str) -> str:
    """Customers, files and arguments may hold anything; a terminal would obey some of it."""
    return _STEERING.sub(lambda sign: sign[0].encode("unicode_escape").decode(), line)


@contextmanager
def progress(work: str) -> Generator[Callable[[str], None]]:
    """Show the progress of long work on one line, on terminals only."""
    with console.status(work) as status:
        yield lambda so_far: status.update(escape(so_far))


def say_stored(total: Stored, examples: Mapping[str, str] | None = None) -> None:
    """Print how many rows were stored, known already and rejected, and why; `examples` has the place of one by reason."""
    say(
        f"{total.messages:,} rows: {total.rows.total():,} stored, {total.duplicates.total():,} known already,"
        f" {total.rejected.total():,} rejected{f', {total.left_out:,} left out by the mapping' if total.left_out else ''}"
    )
    for reason, count in total.rejected.most_common():
        say(f"  {count:,} {reason}{f' (first: {examples[reason]})' if examples else ''}")


def help_if_alone(context: typer.Context) -> None:
    """For a group of commands that is called without one: print its help and exit as for wrong usage."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def print_rows(rows: pa.Table) -> None:
    """Print rows as a table."""
    table = Table(*(escape(name) for name in rows.column_names), box=None)
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        table.add_row(*(escape("NULL" if value is None else _printable(str(value))) for value in row))
    console.print(table)
