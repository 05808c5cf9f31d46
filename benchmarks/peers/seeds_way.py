# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "duckdb==1.5.5", "duckdb-extensions==1.5.5", "duckdb-extension-ducklake==1.5.5",
#   "duckdb-extension-sqlite-scanner==1.5.5", "kafka-python==3.0.12", "zstandard==0.25.0",
# ]
# ///
"""What many tutorials do: one message at a time into Python, rows in buffers of 500, `executemany` into the same lake.

    uv run --no-project --script seeds_way.py SERVERS TOPIC EVENTS

Measured: from connecting to Kafka until the commit of the last buffer. Left out, though `churn_assets` does it: validation
and rejects, recognising what was stored before (a message that is read twice is two rows), offsets in the transaction of
the rows, resuming, and the extra fields of an event. The tables have the contract's columns and no primary keys, which
would make it slower.
"""

import json
import sys
import tempfile
from itertools import islice
from time import perf_counter

import duckdb
from duckdb_extensions import import_extension
from kafka import KafkaConsumer

BUFFER_ROWS = 500
TABLES = {  # event type: table and columns
    "TXN": (
        "fact_transaction_ledger",
        "transaction_ref VARCHAR, account_id VARCHAR, posting_date TIMESTAMP, transaction_code VARCHAR, amount DOUBLE,"
        " channel_id VARCHAR, merchant VARCHAR",
    ),
    "LOG": (
        "app_activity_logs",
        "log_id VARCHAR, customer_id VARCHAR, event_type VARCHAR, event_timestamp TIMESTAMP, error_code VARCHAR, device VARCHAR",
    ),
    "USER": (
        "dim_customers",
        "customer_id VARCHAR, full_name VARCHAR, email VARCHAR, segment VARCHAR, join_date DATE,"
        " risk_profile_score DOUBLE, updated_at TIMESTAMP",
    ),
    "ACCOUNT": (
        "dim_accounts",
        "account_id VARCHAR, customer_id VARCHAR, product_code VARCHAR, available_balance DOUBLE,"
        " account_status VARCHAR, opened_at TIMESTAMP, closed_at TIMESTAMP, updated_at TIMESTAMP",
    ),
    "CASE": (
        "support_cases",
        "case_id VARCHAR, customer_id VARCHAR, open_timestamp TIMESTAMP, category VARCHAR, sentiment_score DOUBLE",
    ),
}
FIELDS = {kind: [column.split()[0] for column in columns.split(",")] for kind, (_, columns) in TABLES.items()}


def main() -> None:
    """Read EVENTS messages, print the time, check the number of rows."""
    servers, topic, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(":memory:") as database:
        for extension in ("ducklake", "sqlite_scanner"):
            import_extension(extension)
            database.load_extension(extension)
        database.execute(
            f"ATTACH 'ducklake:sqlite:{folder}/catalog.sqlite' AS lake"
            f" (DATA_PATH '{folder}/data', META_JOURNAL_MODE 'WAL', DATA_INLINING_ROW_LIMIT 500)"
        )
        database.execute("USE lake")
        for table, columns in TABLES.values():
            database.execute(f"CREATE TABLE {table} ({columns})")
        begin = perf_counter()
        _load(servers, topic, events, database)
        seconds = perf_counter() - begin
        rows = [database.table(table).shape[0] for table, _ in TABLES.values()]
    assert sum(rows) == events, f"{rows} rows of {events} events"
    print(json.dumps({"events": events, "seconds": seconds}))  # noqa: T201


def _load(servers: str, topic: str, events: int, database: duckdb.DuckDBPyConnection) -> None:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=None, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    buffers: dict[str, list[list[object]]] = {kind: [] for kind in TABLES}
    for message in islice(consumer, events):
        event = json.loads(message.value)
        kind, payload = event["event_type"], event["payload"]
        buffers[kind].append([payload.get(field) for field in FIELDS[kind]])
        if len(buffers[kind]) == BUFFER_ROWS:
            _flush(database, kind, buffers[kind])
    for kind in filter(buffers.get, buffers):
        _flush(database, kind, buffers[kind])


def _flush(database: duckdb.DuckDBPyConnection, kind: str, rows: list[list[object]]) -> None:
    database.begin()
    database.executemany(f"INSERT INTO {TABLES[kind][0]} VALUES ({', '.join('?' * len(FIELDS[kind]))})", rows)
    database.commit()
    rows.clear()


if __name__ == "__main__":
    main()
