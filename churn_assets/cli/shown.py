"""How the commands speak: lines, progress, rows. What they say is theirs."""

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
    """A line as it is: nothing in it is markup, and it is never wrapped."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(work: str) -> Generator[Callable[[str], None]]:
    """A line that says how far long work is; it is shown on a terminal only."""
    with console.status(work) as status:
        yield lambda so_far: status.update(escape(so_far))


def say_stored(total: Stored) -> None:
    """What became of rows: stored, known already, rejected and why."""
    say(
        f"{total.messages:,} rows: {total.rows.total():,} stored, {total.duplicates.total():,} known already,"
        f" {total.rejected.total():,} rejected"
    )
    for reason, count in total.rejected.most_common():
        say(f"  {count:,} {reason}")


def print_rows(rows: pa.Table) -> None:
    """Rows as a table."""
    table = Table(*(escape(name) for name in rows.column_names), box=None)
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        table.add_row(*(escape("NULL" if value is None else str(value)) for value in row))
    console.print(table)
