# /// script
# requires-python = ">=3.11"
# dependencies = ["confluent-kafka==2.16.1", "dlt[duckdb]==1.31.0", "duckdb==1.5.5", "pyarrow==26.0.1"]
# ///
"""dlt into a DuckDB file the fast way: Arrow tables, merged by primary key, one load per 50,000 messages.

    uv run --no-project --script dlt_merge.py SERVERS TOPIC EVENTS

Measured: from connecting to Kafka until dlt has committed the last batch. Left out, though `churn_assets` does it:
validation and rejects, offsets in the transaction of the rows and resuming from them, order (the state of a customer is
whichever row dlt keeps, not the latest) and the extra fields of an event. dlt's own tables of loads stay on.
Its strategies `upsert` and `insert-only` are no answer: a key that comes twice in one load is there twice.
"""

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from time import perf_counter

import dlt
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from dlt.sources import DltResource

BATCH_MESSAGES = 50_000
TABLES = {  # event type: table and columns; the first is the primary key
    "TXN": "ledger: transaction_ref account_id posting_date transaction_code amount channel_id merchant",
    "LOG": "logs: log_id customer_id event_type event_timestamp error_code device",
    "USER": "customers: customer_id full_name email segment join_date risk_profile_score updated_at",
    "ACCOUNT": "accounts: account_id customer_id product_code available_balance account_status opened_at closed_at updated_at",
    "CASE": "cases: case_id customer_id open_timestamp category sentiment_score",
}
NAMES = {kind: columns.split(":")[0] for kind, columns in TABLES.items()}
COLUMNS = {kind: columns.split()[1:] for kind, columns in TABLES.items()}
TYPES = dict.fromkeys((column for columns in COLUMNS.values() for column in columns), pa.string())
TYPES |= dict.fromkeys(("amount", "risk_profile_score", "available_balance", "sentiment_score"), pa.float64())
TIMES = ("posting_date", "event_timestamp", "updated_at", "opened_at", "closed_at", "open_timestamp")
TYPES |= dict.fromkeys(TIMES, pa.timestamp("us", "UTC"))
SHAPE = pj.ParseOptions(
    explicit_schema=pa.schema({"event_type": pa.string(), "payload": pa.struct(TYPES)}),
    unexpected_field_behavior="ignore",
)


def main() -> None:
    """Read EVENTS messages, print the time, check that the row of every key is there once."""
    servers, topic, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/warehouse.duckdb"
        begin = perf_counter()
        pipeline, loads = dlt.pipeline("bank", folder, None, dlt.destinations.duckdb(file), dataset_name="bank"), []
        for values in _batches(servers, topic, events):
            loads.append(_decode(values))
            pipeline.run([_resource(kind, rows) for kind, rows in loads[-1].items()])
        seconds = perf_counter() - begin
        sent = {kind: [key for load in loads if kind in load for key in load[kind][0].to_pylist()] for kind in TABLES}
        with duckdb.connect(file) as database:
            rows = {kind: database.table(f"bank.{NAMES[kind]}").shape[0] for kind in TABLES if sent[kind]}
    assert rows == {kind: len(set(keys)) for kind, keys in sent.items() if keys}, rows
    assert sum(map(len, sent.values())) == events, "a message is missing"
    print(json.dumps({"events": events, "seconds": seconds}))  # noqa: T201


def _batches(servers: str, topic: str, events: int) -> Iterator[list[bytes]]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "dlt", "fetch.queue.backoff.ms": 5})
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    for start in range(0, events, BATCH_MESSAGES):
        values: list[bytes] = []
        while missing := min(BATCH_MESSAGES, events - start) - len(values):
            values += [message.value() for message in consumer.consume(min(5_000, missing), timeout=0.1)]
        yield values
    consumer.close()


def _decode(values: list[bytes]) -> dict[str, pa.Table]:
    parsed = pj.read_json(io.BytesIO(b"\n".join(values)), pj.ReadOptions(block_size=16 << 20), SHAPE)
    tables: dict[str, pa.Table] = {}
    for kind in parsed["event_type"].unique().to_pylist():
        payload = parsed["payload"].filter(pc.equal(parsed["event_type"], kind))
        tables[kind] = pa.table({column: pc.struct_field(payload, column) for column in COLUMNS[kind]})
    return tables


def _resource(kind: str, rows: pa.Table) -> DltResource:
    return dlt.resource(rows, NAMES[kind], write_disposition="merge", primary_key=COLUMNS[kind][0])


if __name__ == "__main__":
    main()
