"""From message bytes to typed rows and rejects, in bulk: the engine parses, Python never sees a single message.

Here belongs how bytes are checked against the contract in `events`. Nothing is read from Kafka or written to a warehouse.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

import duckdb
import pyarrow as pa

from churn_assets.ingestion.events import EVENT_TYPES, EXTRA_FIELDS, EventType, Field
from churn_assets.settings import EARLIEST_EVENT, FUTURE_TOLERANCE_HOURS

# One row a message. kafka_time is the broker's or producer's time stamp (UTC); value is NULL for a tombstone.
MESSAGE_SCHEMA = pa.schema(
    [
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("kafka_time", pa.timestamp("us")),
        ("value", pa.binary()),
    ]
)
_COORDINATES = "kafka_partition, kafka_offset"
_NO_REJECTS = pa.schema(
    [
        *(MESSAGE_SCHEMA.field(name) for name in ("kafka_partition", "kafka_offset", "kafka_time")),
        ("reason", pa.string()),
        ("original", pa.binary()),
    ]
).empty_table()


@dataclass(frozen=True)
class Decoded:
    """The rows of each ledger (payload columns, extra fields, Kafka coordinates) and the messages that cannot be rows.

    A ledger without rows is absent. Every message is in exactly one of the tables. Rejects have coordinates,
    kafka_time, `reason` and `original` bytes.
    """

    rows: dict[str, pa.Table]
    rejects: pa.Table


def decode(messages: pa.Table, now: datetime) -> Decoded:
    """Sort messages (`MESSAGE_SCHEMA`) into rows and rejects; an event later than `now` (UTC) + tolerance is impossible."""
    latest = now + timedelta(hours=FUTURE_TOLERANCE_HOURS)
    with _engine().cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("messages", messages)
        connection.execute(
            f"CREATE TEMP TABLE parsed AS SELECT {_COORDINATES}, kafka_time, value,"
            f" try(from_json(text, '{_json_shape()}')) AS event,"
            " coalesce(len(keys[1]), 0) + coalesce(len(keys[2]), 0) AS members"
            " FROM (SELECT *, try(json_keys(text, ['$', '$.payload'])) AS keys"
            " FROM (SELECT *, try(decode(value)) AS text FROM messages))"
        )
        types = "SELECT event.event_type, count(*) FROM parsed WHERE event.payload IS NOT NULL GROUP BY 1"
        counts = dict(connection.execute(types).fetchall())
        present = [event_type for event_type in EVENT_TYPES if event_type.name in counts]
        rejects = [_NO_REJECTS]
        if sum(counts[event_type.name] for event_type in present) < messages.num_rows:
            rejects.append(_without_type(connection))
        rows: dict[str, pa.Table] = {}
        for event_type in present:
            accepted, refused = _check(connection, event_type, latest)
            if accepted.num_rows:
                rows[event_type.ledger] = accepted
            rejects.append(refused)
        return Decoded(rows, pa.concat_tables(rejects))


def _without_type(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Rejects of messages that are no event at all."""
    known = ", ".join(f"'{event_type.name}'" for event_type in EVENT_TYPES)
    reason = (
        "CASE WHEN value IS NULL THEN 'empty message' WHEN event IS NULL THEN 'not JSON'"
        " WHEN event.event_type IS NULL THEN 'missing event_type'"
        f" WHEN event.event_type NOT IN ({known}) THEN 'unknown event_type'"
        " WHEN event.payload IS NULL THEN 'missing payload' END"
    )
    return connection.execute(
        f"SELECT {_COORDINATES}, kafka_time, {reason} AS reason, value AS original FROM parsed WHERE reason IS NOT NULL"
    ).to_arrow_table()


def _check(connection: duckdb.DuckDBPyConnection, event_type: EventType, latest: datetime) -> tuple[pa.Table, pa.Table]:
    """The events of one type in `parsed`: typed rows, and rejects of those that cannot be rows.

    Most events are good and say what the contract knows, so a short condition looks for the others, and only these are
    asked what is wrong or what more they say.
    """
    names = [field.name for field in event_type.fields]
    texts = ", ".join(f"event.payload.{name} AS text_{name}" for name in names)
    typed = ", ".join(f"{_typed(field)} AS {field.name}" for field in event_type.fields)
    events = (
        f"(SELECT *, {typed} FROM (SELECT {_COORDINATES}, kafka_time, value, members, {texts} FROM parsed"
        f" WHERE event.event_type = '{event_type.name}' AND event.payload IS NOT NULL))"
    )
    plausible = " AND ".join(_plausible(field, latest) for field in event_type.fields)
    # event_type and payload are members too; one more than the fields that were found may be an unknown one.
    found = " + ".join(f"(text_{name} IS NOT NULL)::INTEGER" for name in names)
    says_more = f"members > 2 + {found}"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE checked AS SELECT {_COORDINATES}, kafka_time, {', '.join(names)},"
        f" {plausible} AS is_plausible, {says_more} AS says_more FROM {events}"
    )
    implausible, more = connection.execute(
        "SELECT count(*) FILTER (is_plausible IS NOT TRUE), count(*) FILTER (says_more) FROM checked"
    ).fetchall()[0]
    refused = _NO_REJECTS
    accepted, extra = "checked", "NULL::VARCHAR"
    if implausible:
        cases = " ".join(case for field in event_type.fields for case in _cases(field, latest))
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE refused AS SELECT {_COORDINATES}, kafka_time, CASE {cases} END AS reason,"
            f" value AS original FROM {events} WHERE ({plausible}) IS NOT TRUE AND reason IS NOT NULL"
        )
        refused = connection.execute("FROM refused").to_arrow_table()
        accepted += f" ANTI JOIN refused USING ({_COORDINATES})"
    if more:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE extra AS SELECT {_COORDINATES}, {_extra_fields(names)} AS {EXTRA_FIELDS}"
            f" FROM {events} WHERE {says_more}"
        )
        accepted += f" LEFT JOIN extra USING ({_COORDINATES})"
        extra = f"extra.{EXTRA_FIELDS}"
    columns = ", ".join(
        field.name
        if field.name != event_type.event_time or field.required
        else f"coalesce({field.name}, kafka_time) AS {field.name}"
        for field in event_type.fields
    )
    rows = connection.execute(
        f"SELECT {columns}, {extra} AS {EXTRA_FIELDS}, {_COORDINATES} FROM {accepted}"
    ).to_arrow_table()
    return rows, refused


@cache
def _engine() -> duckdb.DuckDBPyConnection:
    """An engine of this module's own, kept because it takes longer to make than a small batch to decode.

    Each call works on a cursor, whose temporary tables nobody else sees.
    """
    return duckdb.connect(":memory:", config={"preserve_insertion_order": "false"})


def _json_shape() -> str:
    # Everything is read as text first: a value of the wrong type must not make its whole message unreadable.
    names = sorted({field.name for event_type in EVENT_TYPES for field in event_type.fields})
    payload = ", ".join(f'"{name}": "VARCHAR"' for name in names)
    return f'{{"event_type": "VARCHAR", "payload": {{{payload}}}}}'


def _extra_fields(names: list[str]) -> str:
    """SQL: what an event says beyond the fields with these names, as a JSON object, or NULL."""
    is_known = (
        "list_has_all(['event_type', 'payload'], json_keys(decode(value)))"
        f" AND list_has_all({names}, json_keys(decode(value), '$.payload'))"
    )
    # A merge patch of null removes a member. What the envelope says beside the payload is added to what the payload says.
    without = ", ".join(f'"{name}": null' for name in names)
    of_payload = f"json_merge_patch(json_extract(decode(value), '$.payload'), '{{{without}}}')"
    of_envelope = """json_merge_patch(decode(value), '{"event_type": null, "payload": null}')"""
    patched = f"json_merge_patch({of_payload}, {of_envelope})"
    return f"CASE WHEN {is_known} THEN NULL ELSE {patched}::VARCHAR END"


def _typed(field: Field) -> str:
    text = f"text_{field.name}"
    if field.type == "VARCHAR":
        return text
    if field.type == "TIMESTAMP":
        # Straight to TIMESTAMP, DuckDB drops the offset ('12:00+02:00' becomes 12:00 instead of 10:00 UTC).
        return f"make_timestamp(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"
    return f"try_cast({text} AS {field.type})"


def _bounds(field: Field, latest: datetime) -> str:
    if field.type == "DOUBLE":
        return f"{field.low} AND {field.high}"
    return f"TIMESTAMP '{EARLIEST_EVENT}' AND TIMESTAMP '{latest.isoformat(sep=' ')}'"


def _plausible(field: Field, latest: datetime) -> str:
    text, name = f"text_{field.name}", field.name
    if field.type == "VARCHAR":
        # A text has at least as many bytes as characters.
        fits = f"strlen({text}) BETWEEN {int(field.required)} AND {field.max_length} AND NOT contains({text}, chr(0))"
    else:
        fits = f"{name} BETWEEN {_bounds(field, latest)}"
    return f"({fits})" if field.required else f"({text} IS NULL OR ({fits}))"


def _cases(field: Field, latest: datetime) -> list[str]:
    text, name = f"text_{field.name}", field.name
    cases: list[str] = []
    if field.required:
        cases.append(f"WHEN {text} IS NULL OR {text} = '' THEN 'missing {name}'")
    match field.type:
        case "VARCHAR":
            cases.append(f"WHEN length({text}) > {field.max_length} THEN '{name} is too long'")
            cases.append(f"WHEN contains({text}, chr(0)) THEN '{name} has a NUL character'")
        case "DOUBLE":
            cases.append(f"WHEN {text} IS NOT NULL AND {name} IS NULL THEN '{name} is not a number'")
            cases.append(f"WHEN NOT ({name} BETWEEN {_bounds(field, latest)}) THEN '{name} is out of range'")
        case "TIMESTAMP" | "DATE":
            cases.append(f"WHEN {text} IS NOT NULL AND {name} IS NULL THEN '{name} is not a time'")
            cases.append(f"WHEN NOT ({name} BETWEEN {_bounds(field, latest)}) THEN '{name} is an impossible time'")
    return cases
