"""Turns message bytes into typed rows and rejects, in bulk: DuckDB parses, Python never handles a single message.

This module checks bytes against the contract in `events`. It neither reads Kafka nor writes to a warehouse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion.events import EVENT_TYPES, EXTRA_FIELDS, EventType, Field
from churn_assets.rules import EARLIEST_EVENT, FUTURE_TOLERANCE_HOURS

# One row per message. kafka_time is the broker's or producer's timestamp (UTC); value is NULL for a tombstone.
MESSAGE_SCHEMA = pa.schema(
    [
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("kafka_time", pa.timestamp("us")),
        ("value", pa.binary()),
    ]
)
_COORDINATES = ["kafka_partition", "kafka_offset"]
_FIELDS = {field.name: field for event_type in EVENT_TYPES for field in event_type.fields}


@dataclass(frozen=True)
class Decoded:
    """The rows of each ledger (payload columns, extra fields, Kafka coordinates) and the messages that cannot become rows.

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
        checked = connection.execute(_query(latest)).to_arrow_table()
    accepted = checked
    if checked["reason"].null_count < checked.num_rows:
        accepted = checked.filter(pc.is_null(checked["reason"]))
        checked = checked.filter(pc.is_valid(checked["reason"]))
    else:
        checked = checked.slice(0, 0)
    rows: dict[str, pa.Table] = {}
    for event_type in EVENT_TYPES:
        columns = [*(field.name for field in event_type.fields), EXTRA_FIELDS, *_COORDINATES]
        of_type = accepted.select(columns).filter(pc.equal(accepted["kind"], event_type.name))
        if of_type.num_rows:
            rows[event_type.ledger] = of_type
    return Decoded(rows, checked.select([*_COORDINATES, "kafka_time", "reason", "original"]))


@cache
def _engine() -> duckdb.DuckDBPyConnection:
    """This module's own DuckDB, cached because opening it takes longer than decoding a small batch.

    It has one thread: decoding runs beside storing, and a second thread costs more than it gains.
    """
    return duckdb.connect(":memory:", config={"preserve_insertion_order": "false", "threads": "1"})


def _query(latest: datetime) -> str:
    """SQL: every message with its kind, the typed columns of all kinds, and the reason why it cannot become a row, or NULL.

    Most events are valid and have no members beyond the contract. A short condition finds the others, and only for those
    the query works out the reason and the extra fields.
    """
    parsed = (
        f"SELECT *, try(from_json(text, '{_json_shape()}')) AS event, try(json_keys(text, ['$', '$.payload'])) AS keys"
        " FROM (SELECT *, try(decode(value)) AS text FROM messages)"
    )
    texts = ", ".join(f"event.payload.{name} AS text_{name}" for name in _FIELDS)
    flat = f"SELECT *, event.event_type AS kind, event.payload IS NOT NULL AS has_payload, {texts} FROM ({parsed})"
    typed = f"SELECT *, {', '.join(f'{_typed(field)} AS {name}' for name, field in _FIELDS.items())} FROM ({flat})"
    plausible = _by_kind(lambda event_type: " AND ".join(_plausible(field, latest) for field in event_type.fields))
    looked_at = f"SELECT *, has_payload AND {plausible} AS is_plausible, {_by_kind(_may_say_more)} AS may_say_more FROM ({typed})"
    reason = (
        "CASE WHEN is_plausible THEN NULL WHEN value IS NULL THEN 'empty message' WHEN event IS NULL THEN 'not JSON'"
        f" WHEN kind IS NULL THEN 'missing event_type' WHEN {_by_kind(lambda _: 'false', 'true')} THEN 'unknown event_type'"
        " WHEN NOT has_payload THEN 'missing payload'"
        f" ELSE {_by_kind(lambda event_type: _reason(event_type, latest))} END"
    )
    extra = f"CASE WHEN may_say_more THEN {_by_kind(_extra_fields)} END"
    reasoned = f"SELECT *, {reason} AS reason, {extra} AS {EXTRA_FIELDS} FROM ({looked_at})"
    otherwise = {e.event_time for e in EVENT_TYPES if not _FIELDS[e.event_time].required}
    columns = [f"coalesce({name}, kafka_time) AS {name}" if name in otherwise else name for name in _FIELDS]
    return (
        f"SELECT {', '.join([*columns, EXTRA_FIELDS, *_COORDINATES])}, kafka_time, kind, reason,"
        f" CASE WHEN reason IS NOT NULL THEN value END AS original FROM ({reasoned})"
    )


def _by_kind(sql: Callable[[EventType], str], otherwise: str = "NULL") -> str:
    cases = " ".join(f"WHEN '{event_type.name}' THEN {sql(event_type)}" for event_type in EVENT_TYPES)
    return f"(CASE kind {cases} ELSE {otherwise} END)"


def _json_shape() -> str:
    # Everything is read as text first: a value of the wrong type must not make its whole message unreadable.
    payload = ", ".join(f'"{name}": "VARCHAR"' for name in _FIELDS)
    return f'{{"event_type": "VARCHAR", "payload": {{{payload}}}}}'


def _may_say_more(event_type: EventType) -> str:
    """SQL: whether an event may have members beyond the contract. Also true if a member of the contract is null."""
    found = " + ".join(f"(text_{field.name} IS NOT NULL)::INTEGER" for field in event_type.fields)
    # Most producers send every field, in the order of the contract, with null for a missing value.
    return f"len(keys[1]) > 2 OR (len(keys[2]) > {found} AND keys[2] <> {[field.name for field in event_type.fields]})"


def _extra_fields(event_type: EventType) -> str:
    """SQL: the members of an event beyond the contract, as a JSON object, or NULL."""
    names = [field.name for field in event_type.fields]
    is_known = f"list_has_all(['event_type', 'payload'], keys[1]) AND list_has_all({names}, keys[2])"
    # A merge patch of null removes a member. Extra members of the envelope are added to those of the payload.
    without = ", ".join(f'"{name}": null' for name in names)
    of_payload = f"json_merge_patch(json_extract(text, '$.payload'), '{{{without}}}')"
    of_envelope = """json_merge_patch(text, '{"event_type": null, "payload": null}')"""
    return f"CASE WHEN {is_known} THEN NULL ELSE json_merge_patch({of_payload}, {of_envelope})::VARCHAR END"


def _typed(field: Field) -> str:
    text = f"text_{field.name}"
    if field.type == "VARCHAR":
        return text
    if field.type == "TIMESTAMP":
        # In a cast straight to TIMESTAMP, DuckDB drops the offset ('12:00+02:00' becomes 12:00 instead of 10:00 UTC).
        return f"make_timestamp(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"
    return f"try_cast({text} AS {field.type})"


def _bounds(field: Field, latest: datetime) -> str:
    if field.type == "DOUBLE":
        return f"{field.low} AND {field.high}"
    if field.type == "BOOLEAN":
        return "false AND true"
    return f"TIMESTAMP '{EARLIEST_EVENT}' AND TIMESTAMP '{latest.isoformat(sep=' ')}'"


def _plausible(field: Field, latest: datetime) -> str:
    text, name = f"text_{field.name}", field.name
    if field.type == "VARCHAR":
        # strlen counts bytes: a text has at least as many of them as characters.
        fits = f"strlen({text}) BETWEEN {int(field.required)} AND {field.max_length} AND NOT contains({text}, chr(0))"
    else:
        fits = f"{name} BETWEEN {_bounds(field, latest)}"
    return f"({fits})" if field.required else f"({text} IS NULL OR ({fits}))"


def _reason(event_type: EventType, latest: datetime) -> str:
    """SQL: the first thing that is wrong with an event, or NULL."""
    return f"CASE {' '.join(case for field in event_type.fields for case in _cases(field, latest))} END"


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
        case "BOOLEAN":
            cases.append(f"WHEN {text} IS NOT NULL AND {name} IS NULL THEN '{name} is not true or false'")
        case "TIMESTAMP" | "DATE":
            cases.append(f"WHEN {text} IS NOT NULL AND {name} IS NULL THEN '{name} is not a time'")
            cases.append(f"WHEN NOT ({name} BETWEEN {_bounds(field, latest)}) THEN '{name} is an impossible time'")
    return cases
