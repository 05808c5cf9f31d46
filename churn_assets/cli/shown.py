"""The output of the commands: lines, progress and rows. The commands choose the words."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from churn_assets.ingestion.commit import Stored

console = Console()
errors = Console(stderr=True)


def say(message: str) -> None:
    """Print a line as it is, without markup or wrapping."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(work: str) -> Generator[Callable[[str], None]]:
    """Show the progress of long work on one line, on terminals only."""
    with console.status(work) as status:
        yield lambda so_far: status.update(escape(so_far))


def say_stored(total: Stored) -> None:
    """Print how many rows were stored, known already and rejected, and why."""
    say(
        f"{total.messages:,} rows: {total.rows.total():,} stored, {total.duplicates.total():,} known already,"
        f" {total.rejected.total():,} rejected"
    )
    for reason, count in total.rejected.most_common():
        say(f"  {count:,} {reason}")


def print_rows(rows: pa.Table) -> None:
    """Print rows as a table."""
    table = Table(*(escape(name) for name in rows.column_names), box=None)
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        table.add_row(*(escape("NULL" if value is None else str(value)) for value in row))
    console.print(table)
