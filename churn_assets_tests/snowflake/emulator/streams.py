"""Streams: the net difference between a table as it was at the stream's offset and as it is.

The emulator keeps a copy of the rows at the offset. Which deleted and which inserted row are the same row before and after an
update is guessed: where one row with a value of the first column went and one came, they are. Snowflake knows better, and for
dynamic tables may tell of a DELETE and an INSERT instead.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
from duckdb import DuckDBPyConnection

from churn_assets_tests.snowflake.emulator import changes
from churn_assets_tests.snowflake.emulator.errors import StatementError
from churn_assets_tests.snowflake.emulator.names import Name, in_sql, shown
from churn_assets_tests.snowflake.emulator.wire import Rows, fetched


@dataclass
class Stream:
    name: Name
    source: Name
    source_kind: str  # Table or Dynamic Table
    offset: pa.Table  # the source's rows as the stream was last consumed
    owner: str
    text: str
    is_stale: bool = False
    created_on: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Content:
    """What a stream shows, and what its offset becomes once that is consumed."""

    rows: Rows
    next_offset: pa.Table


def content(stream: Stream, connection: DuckDBPyConnection) -> Content:
    """What a stream shows now; the connection must be in no transaction."""
    if stream.is_stale:
        raise StatementError(
            91904,
            "22000",
            f"SQL execution error: Base table '{shown(stream.source)}' dropped, cannot read from stream '{stream.name[-1]}'",
        )
    now = connection.execute(f"SELECT * FROM {in_sql(stream.source)}").to_arrow_table()
    connection.execute("BEGIN")
    try:
        source = in_sql(stream.source)
        connection.register("_offset_rows", stream.offset)
        connection.execute(f"CREATE TEMP TABLE _offset AS SELECT * FROM {source} LIMIT 0")
        connection.execute("INSERT INTO temp.main._offset SELECT * FROM _offset_rows")
        change = changes.between(connection, "temp.main._offset", source)
        rows = _with_metadata(connection, change, shown(stream.source))
    finally:
        connection.execute("ROLLBACK")
    return Content(rows, now)


def _with_metadata(connection: DuckDBPyConnection, change: changes.Change, source: str) -> Rows:
    connection.register("_went", change.gone)
    connection.register("_came_now", change.came)
    key = '"' + change.came.column_names[0].replace('"', '""') + '"'
    connection.execute(f"""
        WITH changed AS (
            SELECT *, 'DELETE' AS "METADATA$ACTION" FROM _went
            UNION ALL
            SELECT *, 'INSERT' AS "METADATA$ACTION" FROM _came_now
        ),
        numbered AS (
            SELECT
                *,
                count(*) FILTER ("METADATA$ACTION" = 'DELETE') OVER (PARTITION BY {key}) AS _went_times,
                count(*) FILTER ("METADATA$ACTION" = 'INSERT') OVER (PARTITION BY {key}) AS _came_times,
                row_number() OVER (PARTITION BY {key}, "METADATA$ACTION") AS _nth
            FROM changed
        )
        SELECT
            * EXCLUDE (_went_times, _came_times, _nth),
            _went_times = 1 AND _came_times = 1 AS "METADATA$ISUPDATE",
            md5('{source.replace("'", "''")}' || CASE WHEN _went_times = 1 AND _came_times = 1 THEN '' ELSE "METADATA$ACTION" END
                || '/' || coalesce(CAST({key} AS VARCHAR), '') || '/' || _nth) AS "METADATA$ROW_ID"
        FROM numbered
    """)
    return fetched(connection)
