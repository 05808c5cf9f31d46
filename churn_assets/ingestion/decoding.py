"""From message bytes to typed rows and rejects, in bulk: the engine parses, Python never sees a single message.

Here belongs how bytes are checked against the contract in `events`. Nothing is read from Kafka or written to a warehouse.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from churn_assets.ingestion.events import EVENT_TYPES, EventType, Field
from churn_assets.settings import EARLIEST_EVENT, FUTURE_TOLERANCE_HOURS

# One row a message. kafka_time is the broker's or producer's time stamp (UTC); value is NULL for a tombstone.
MESSAGE_SCHEMA = pa.schema(
    [
        ("kafka_topic", pa.string()),
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("kafka_time", pa.timestamp("us")),
        ("value", pa.binary()),
    ]
)
_COORDINATES = "kafka_topic, kafka_partition, kafka_offset"


@dataclass(frozen=True)
class Decoded:
    """The rows of each ledger (payload columns and Kafka coordinates) and the messages that cannot be rows.

    Every message is in exactly one of the tables. Rejects have coordinates, kafka_time, `reason` and `original` bytes.
    """

    rows: dict[str, pa.Table]
    rejects: pa.Table


def decode(messages: pa.Table, now: datetime) -> Decoded:
    """Sort messages (`MESSAGE_SCHEMA`) into rows and rejects; an event later than `now` (UTC) + tolerance is impossible."""
    latest = now + timedelta(hours=FUTURE_TOLERANCE_HOURS)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("messages", messages)
        connection.execute(
            f"CREATE TEMP TABLE parsed AS SELECT {_COORDINATES}, kafka_time, value,"
            f" try(from_json(try(decode(value)), '{_json_shape()}')) AS event FROM messages"
        )
        rows = {event_type.ledger: _accept(connection, event_type, latest) for event_type in EVENT_TYPES}
        known = ", ".join(f"'{event_type.name}'" for event_type in EVENT_TYPES)
        problems = " ".join(
            f"WHEN event.event_type = '{event_type.name}' THEN {_problem(event_type, latest)}"
            for event_type in EVENT_TYPES
        )
        rejects = connection.execute(
            f"SELECT {_COORDINATES}, kafka_time, reason, value AS original FROM (SELECT *, CASE"
            " WHEN value IS NULL THEN 'empty message'"
            " WHEN event IS NULL THEN 'not JSON'"
            " WHEN event.event_type IS NULL THEN 'missing event_type'"
            f" WHEN event.event_type NOT IN ({known}) THEN 'unknown event_type'"
            f" WHEN event.payload IS NULL THEN 'missing payload' {problems} END AS reason FROM parsed)"
            " WHERE reason IS NOT NULL ORDER BY kafka_topic, kafka_partition, kafka_offset"
        ).to_arrow_table()
    return Decoded(rows, rejects)


def _json_shape() -> str:
    # Everything is read as text first: a value of the wrong type must not make its whole message unreadable.
    names = sorted({field.name for event_type in EVENT_TYPES for field in event_type.fields})
    payload = ", ".join(f'"{name}": "VARCHAR"' for name in names)
    return f'{{"event_type": "VARCHAR", "payload": {{{payload}}}}}'


def _accept(connection: duckdb.DuckDBPyConnection, event_type: EventType, latest: datetime) -> pa.Table:
    columns = ", ".join(
        f"{_typed(field)} AS {field.name}"
        if field.name != event_type.event_time or field.required
        else f"coalesce({_typed(field)}, kafka_time) AS {field.name}"
        for field in event_type.fields
    )
    return connection.execute(
        f"SELECT {columns}, {_COORDINATES} FROM parsed"
        f" WHERE event.event_type = '{event_type.name}' AND event.payload IS NOT NULL"
        f" AND {_problem(event_type, latest)} IS NULL"
    ).to_arrow_table()


def _typed(field: Field) -> str:
    text = f"event.payload.{field.name}"
    if field.type == "VARCHAR":
        return text
    if field.type == "TIMESTAMP":
        # Straight to TIMESTAMP, DuckDB drops the offset ('12:00+02:00' becomes 12:00 instead of 10:00 UTC).
        return f"make_timestamp(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"
    return f"try_cast({text} AS {field.type})"


def _problem(event_type: EventType, latest: datetime) -> str:
    """An SQL expression: why the payload cannot be a row, the first field's reason, or NULL."""
    cases = " ".join(case for field in event_type.fields for case in _field_cases(field, latest))
    return f"CASE {cases} END"


def _field_cases(field: Field, latest: datetime) -> list[str]:
    text, typed, name = f"event.payload.{field.name}", _typed(field), field.name
    cases: list[str] = []
    if field.required:
        cases.append(f"WHEN {text} IS NULL OR {text} = '' THEN 'missing {name}'")
    match field.type:
        case "VARCHAR":
            cases.append(f"WHEN length({text}) > {field.max_length} THEN '{name} is too long'")
            cases.append(f"WHEN contains({text}, chr(0)) THEN '{name} has a NUL character'")
        case "DOUBLE":
            cases.append(f"WHEN {text} IS NOT NULL AND {typed} IS NULL THEN '{name} is not a number'")
            cases.append(f"WHEN NOT ({typed} BETWEEN {field.low} AND {field.high}) THEN '{name} is out of range'")
        case "TIMESTAMP" | "DATE":
            cases.append(f"WHEN {text} IS NOT NULL AND {typed} IS NULL THEN '{name} is not a time'")
            window = f"TIMESTAMP '{EARLIEST_EVENT}' AND TIMESTAMP '{latest.isoformat(sep=' ')}'"
            cases.append(f"WHEN NOT ({typed} BETWEEN {window}) THEN '{name} is an impossible time'")
    return cases
