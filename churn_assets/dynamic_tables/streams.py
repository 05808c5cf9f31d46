"""Streams: what changed in a table since the stream was last read."""

from churn_assets.dynamic_tables.catalog import Lake, LakeTransaction, columns_of, current_snapshot
from churn_assets.dynamic_tables.difference import came_to, went_from
from churn_assets.dynamic_tables.tables import DynamicTableError


class StreamBehindError(DynamicTableError):
    """A stream cannot be read in the transaction of a refresh, but can be after it."""


def consume_stream(tx: LakeTransaction, stream: str, into: str) -> None:
    """Write the net change of the stream's table since its position into the temporary table `into`; move the position.

    The rows have the table's columns and `change_action`: DELETE for a row as it was, INSERT for a row as it is. They come
    from comparing two snapshots, not from the change feed, whose labels vary between reads. Where a refresh in this transaction
    has written the table, they are the rows that it wrote, and a row as it was lacks its row timestamp; `StreamBehindError` if
    there are other changes, because the lake would give an old state together with what this transaction has written.
    A stream that was never read, or whose table's columns have changed since, returns the whole table as INSERT.
    """
    found = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])
    if not found:
        raise DynamicTableError(f"stream {stream} does not exist; run `churn deploy`")
    table, position = found[0]
    now = f"SELECT * FROM {table}"
    lake = Lake.since(tx, current_snapshot(tx) if position is None else position)
    is_written_here = table in lake.written
    is_behind = position is None or _written_since(lake, table, position)
    if is_written_here and is_behind:
        raise StreamBehindError(f"stream {stream} has more to read than what this transaction has written")
    if is_written_here:
        changes = (
            f"SELECT *, 'DELETE' AS change_action FROM {went_from(table)}"
            f" UNION ALL BY NAME SELECT *, 'INSERT' AS change_action FROM {came_to(table)}"
        )
    elif not is_behind:  # the usual case, which needs no comparison
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
    # What a refresh has written here becomes visible with the next snapshot.
    tx.execute("UPDATE streams SET position = ? WHERE name = ?", [lake.snapshot + is_written_here, stream])


def stream_has_data(tx: LakeTransaction, stream: str) -> bool:
    """Whether the stream's table was written since the stream was last read. May be true without a net change."""
    table, position = tx.rows("SELECT table_name, position FROM streams WHERE name = ?", [stream])[0]
    return position is None or _written_since(Lake.since(tx, position), table, position)


def _written_since(lake: Lake, table: str, position: int) -> bool:
    return lake.oldest_change([table], position) is not None
