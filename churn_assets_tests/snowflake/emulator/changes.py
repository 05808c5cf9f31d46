"""What a transaction or a refresh changes in a table: the rows that go and the rows that come, each with how often.

Nothing here knows whose changes they are. A changed row is one that goes and one that comes.
"""

from dataclasses import dataclass

import pyarrow as pa
from duckdb import DuckDBPyConnection

# Rows that a transaction of DuckDB has added and not yet committed are numbered from here on.
_FIRST_OWN_ROW = 36028797018960000


@dataclass(frozen=True)
class Change:
    gone: pa.Table
    came: pa.Table


def between(connection: DuckDBPyConnection, before: str, after: str) -> Change:
    """What makes the rows of one relation those of another."""
    return Change(
        connection.execute(f"SELECT * FROM {before} EXCEPT ALL SELECT * FROM {after}").to_arrow_table(),
        connection.execute(f"SELECT * FROM {after} EXCEPT ALL SELECT * FROM {before}").to_arrow_table(),
    )


def with_own_rows(connection: DuckDBPyConnection, table: str, earlier: Change | None) -> Change:
    """The change of a transaction that has only added rows since `earlier`, which has been applied in it."""
    came = connection.execute(f"SELECT * FROM {table} WHERE rowid >= {_FIRST_OWN_ROW}").to_arrow_table()
    return Change(earlier.gone if earlier else came.slice(0, 0), came)


def apply(connection: DuckDBPyConnection, table: str, change: Change) -> None:
    """Make a change of a table, whose rows may be others by now except for those that go."""
    if change.gone.num_rows:
        _typed(connection, "_gone", table, change.gone)
        connection.execute(f"""
            DELETE FROM {table} WHERE rowid IN (
                SELECT here.id FROM (
                    SELECT rowid AS id, here AS content, row_number() OVER (PARTITION BY here) AS nth FROM {table} AS here
                ) AS here
                INNER JOIN (SELECT gone AS content, count(*) AS times FROM _gone AS gone GROUP BY gone) AS gone
                    ON here.content = gone.content
                WHERE here.nth <= gone.times
            )
        """)
        connection.execute("DROP TABLE temp.main._gone")
    if change.came.num_rows:
        connection.register("_came", change.came)
        connection.execute(f"INSERT INTO {table} SELECT * FROM _came")
        connection.unregister("_came")


def _typed(connection: DuckDBPyConnection, name: str, table: str, rows: pa.Table) -> None:
    """A temporary table of these rows with the very types of `table`, which a way through Arrow may have changed."""
    connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM {table} LIMIT 0")
    connection.register("_rows", rows)
    connection.execute(f"INSERT INTO temp.main.{name} SELECT * FROM _rows")
    connection.unregister("_rows")
