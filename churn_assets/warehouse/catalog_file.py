"""The lake's catalog as a file: what is left in it of rows and values that are no longer there.

Here belong the two places that DuckLake does not clean: the smallest and largest values of whole tables, which only ever
widen, and the free pages and the log of the SQLite file. The lake calls this while it gives up its history.
"""

import subprocess
import sys
from pathlib import Path

from churn_assets.dynamic_tables.difference import quoted
from churn_assets.warehouse.protocol import Transaction, WarehouseError

_PATIENCE_SECONDS = 60
# In a process of its own: a second SQLite library in one process would break the locks of the first when it closes the file.
# VACUUM writes every page anew; emptying the log waits for readers.
_VACUUM = """
import sqlite3, sys, time
ends = time.monotonic() + float(sys.argv[2])
catalog = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)
catalog.execute("PRAGMA temp_store = MEMORY")
catalog.execute("PRAGMA secure_delete = ON")
catalog.execute("VACUUM")
while catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
    if time.monotonic() > ends:
        sys.exit("another process has been reading it all the time")
    time.sleep(0.1)
"""
_METADATA = "__ducklake_metadata_lake"


def narrow_statistics(tx: Transaction, table: str) -> None:
    """Set the smallest and largest text of each column of a table to those of the rows that it has now.

    They must never be narrower than the rows: queries skip what lies outside. Numbers and times stay as they are.
    """
    columns = tx.rows(
        f"SELECT columns.table_id, columns.column_id, columns.column_name FROM {_METADATA}.ducklake_column AS columns"
        f" INNER JOIN {_METADATA}.ducklake_table AS named ON named.table_id = columns.table_id"
        f" INNER JOIN {_METADATA}.ducklake_table_column_stats AS stats ON stats.table_id = columns.table_id"
        " AND stats.column_id = columns.column_id WHERE named.end_snapshot IS NULL AND columns.end_snapshot IS NULL"
        " AND columns.column_type = 'varchar' AND columns.parent_column IS NULL AND named.table_name = ?"
        " AND stats.max_value IS NOT NULL",
        [table],
    )
    if not columns:
        return
    # Of an expression, because the smallest value of a bare column may be taken from these very statistics.
    bounds = ", ".join(f"min({quoted(name)} || ''), max({quoted(name)} || '')" for _, _, name in columns)
    [found] = tx.rows(f"SELECT {bounds} FROM {quoted(table)}")
    for place, (table_id, column_id, _) in enumerate(columns):
        tx.execute(
            f"UPDATE {_METADATA}.ducklake_table_column_stats SET min_value = ?, max_value = ?"
            " WHERE table_id = ? AND column_id = ?",
            [found[2 * place], found[2 * place + 1], table_id, column_id],
        )


def vacuum(catalog: Path) -> None:
    """Write the file anew and empty its log; `WarehouseError` if others keep it busy. Nobody may write meanwhile."""
    done = subprocess.run(
        [sys.executable, "-c", _VACUUM, str(catalog), str(_PATIENCE_SECONDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise WarehouseError(
            f"the catalog {catalog} could not be written anew ({''.join(said)}); stop what reads it and try again"
        )
