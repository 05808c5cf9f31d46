"""The lake's catalog: what is left in it of rows and values that are no longer there, and whether its file is sound.

Here belong the two places that DuckLake does not clean: the smallest and largest values of whole tables, which only ever
widen, and the free pages and the log of an SQLite file. The lake calls this while it gives up its history.
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
_CLOSE = """
import sqlite3, sys
catalog = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]))
reason = sys.argv[3].replace("'", "''")
when = "CREATE TRIGGER IF NOT EXISTS lake_was_moved BEFORE INSERT ON ducklake_snapshot"
catalog.execute(f"{when} BEGIN SELECT RAISE(ABORT, '{reason}'); END")
"""
_CHECK_SECONDS = 600.0
_INTEGRITY = """
import sqlite3, sys
catalog = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=30)
for (found,) in catalog.execute("PRAGMA integrity_check(5)"):
    print(" ".join(found.split()))
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
    _run(_VACUUM, catalog, "written anew")


def close(catalog: Path, reason: str) -> None:
    """Refuse each commit from now on, with a reason; `WarehouseError` if others keep the file busy."""
    _run(_CLOSE, catalog, "closed", reason)


def _run(script: str, catalog: Path, what: str, *arguments: str) -> None:
    command = [sys.executable, "-c", script, str(catalog), str(_PATIENCE_SECONDS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise WarehouseError(
            f"the catalog {catalog} could not be {what} ({''.join(said)}); stop what reads it and try again"
        )


def problem(catalog: Path) -> str | None:
    """What SQLite finds wrong with the file, in one line, or None."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _INTEGRITY, str(catalog)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"SQLite's check did not end within {_CHECK_SECONDS:g} s"
    said = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode == 0 and said == ["ok"]:
        return None
    return f"SQLite's check says: {'; '.join(said[:3] if done.returncode == 0 else said[-1:]) or 'nothing'}"
