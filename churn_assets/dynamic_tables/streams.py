"""Streams: what changed in a table since the stream was last read."""

from churn_assets.dynamic_tables.catalog import Lake, LakeTransaction, columns_of, current_snapshot
from churn_assets.dynamic_tables.tables import DynamicTableError


def consume_stream(tx: LakeTransaction, stream: str, into: str) -> None:
    """Write the net change of the stream's table since its position into the temporary table `into`; move the position.

    The rows have the table's columns and `change_action`: DELETE for a row as it was, INSERT for a row as it is. They come
    from comparing two snapshots, not from the change feed, whose labels vary between reads. A stream that was never read,
    or whose table's columns have changed since, returns the whole table as INSERT.
    """
    found = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])
    if not found:
        raise DynamicTableError(f"stream {stream} does not exist; run `churn deploy`")
    table, position = found[0]
    now = f"SELECT * FROM {table}"
    if not _written_since(tx, table, position):  # the usual case, which needs no comparison
        changes = f"SELECT *, '' AS change_action FROM {table} WHERE false"
    else:
        before = f"SELECT * FROM {table} AT (VERSION => {position})"
        if position is None or columns_of(tx, before) != columns_of(tx, now):
            before = f"{now} WHERE false"
        changes = (
            f"SELECT *, 'DELETE' AS change_action FROM ({before} EXCEPT ALL {now})"
            f" UNION ALL SELECT *, 'INSERT' AS change_action FROM ({now} EXCEPT ALL {before})"
        )
    tx.execute(f"CREATE OR REPLACE TEMPORARY TABLE {into} AS {changes}")
    tx.execute("UPDATE streams SET position = ? WHERE name = ?", [current_snapshot(tx), stream])


def stream_has_data(tx: LakeTransaction, stream: str) -> bool:
    """Whether the stream's table was written since the stream was last read. May be true without a net change."""
    table, position = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])[0]
    return _written_since(tx, table, position)


def _written_since(tx: LakeTransaction, table: str, position: int | None) -> bool:
    return position is None or Lake.since(tx, position).oldest_change([table], position) is not None
