# /// script
# requires-python = ">=3.11"
# dependencies = ["pathway==0.33.0"]
# ///
"""Pathway: the topic's JSON into columns, one row for each primary key kept by its engine, into a sink that forgets it.

    uv run --no-project --script pathway_dedup.py SERVERS TOPIC EVENTS

Measured: from connecting to Kafka until the time at which EVENTS messages or a little more (that many are reported) have
gone through the engine. Left out, though `churn_assets` does it: storing anything at all, validation and rejects, times
and dates (they stay text), the order of a key's states by event time, offsets kept with the rows and resuming from them,
and the extra fields of an event. It needs no license key, and its telemetry is off by default.
"""

import json
import os
import sys
from time import perf_counter

os.environ.setdefault("PATHWAY_THREADS", str(min(8, os.cpu_count() or 1)))  # before the import

import pathway as pw

NUMBERS = ("amount", "risk_profile_score", "available_balance", "sentiment_score")
COLUMNS = {  # event type: columns; the first is the primary key
    "TXN": "transaction_ref account_id posting_date transaction_code amount channel_id merchant",
    "LOG": "log_id customer_id event_type event_timestamp error_code device",
    "USER": "customer_id full_name email segment join_date risk_profile_score updated_at",
    "ACCOUNT": "account_id customer_id product_code available_balance account_status opened_at closed_at updated_at",
    "CASE": "case_id customer_id open_timestamp category sentiment_score",
}
FIELDS = sorted({column for columns in COLUMNS.values() for column in columns.split()})
DIMENSIONS = {"USER", "ACCOUNT"}  # of these the latest row of a key is kept, of the others the first: as they arrive


def main() -> None:
    """Build the graph and run it until enough messages were seen."""
    servers, topic, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    begin = perf_counter()
    messages = pw.io.kafka.read(
        {"bootstrap.servers": servers, "group.id": "pathway", "auto.offset.reset": "earliest"},
        topic,
        schema=pw.schema_builder({"kind": pw.column_definition(dtype=str)} | {name: _column(name) for name in FIELDS}),
        format="json",
        mode="static",
        autocommit_duration_ms=100,
        json_field_paths={"kind": "/event_type"} | {name: f"/payload/{name}" for name in FIELDS},
    )
    counts = [messages.reduce(what="messages", rows=pw.reducers.count())]
    for kind, columns in COLUMNS.items():
        keep = pw.reducers.latest if kind in DIMENSIONS else pw.reducers.earliest
        key, *others = columns.split()
        rows = messages.filter(pw.this.kind == kind).groupby(pw.this[key])
        rows = rows.reduce(pw.this[key], **{name: keep(pw.this[name]) for name in others})
        pw.io.null.write(rows)
        counts.append(rows.reduce(what=kind, rows=pw.reducers.count()))
    seen: dict[str, int] = {}

    def note(key: pw.Pointer, row: dict[str, object], time: int, is_addition: bool) -> None:
        if is_addition:
            seen[row["what"]] = row["rows"]

    def stop_if_enough(time: int) -> None:  # all that follows from the messages up to `time` has been counted
        seconds = perf_counter() - begin
        if seen["messages"] >= events:
            print(f"rows: {seen}")  # noqa: T201
            print(json.dumps({"events": seen["messages"], "seconds": seconds}), flush=True)  # noqa: T201
            os._exit(0)

    pw.io.subscribe(pw.Table.concat_reindex(*counts), note, on_time_end=stop_if_enough)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    raise SystemExit(f"the topic ended after {seen.get('messages', 0)} of {events} messages")


def _column(name: str) -> object:
    return pw.column_definition(dtype=float | None if name in NUMBERS else str | None, default_value=None)


if __name__ == "__main__":
    main()
