"""Turns message bytes into typed rows and rejects: DuckDB parses the ordinary ones in bulk, Python the others one by one.

This module decides which message is ordinary, and DuckDB's rows of it equal those of Python. What a message may say is
`values`. It neither reads Kafka nor writes to a warehouse.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion import values
from churn_assets.ingestion.events import EVENT_TYPES, EXTRA_FIELDS, LEDGERS, EventType, Field, SqlType
from churn_assets.ingestion.json_text import UnreadableError, parsed
from churn_assets.rules import CLOCK_SKEW_SECONDS, FUTURE_TOLERANCE_HOURS

# One row per message. kafka_time is the broker's or producer's timestamp (UTC); value is NULL for a tombstone.
MESSAGE_SCHEMA = pa.schema(
    [
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("kafka_time", pa.timestamp("us")),
        ("value", pa.binary()),
    ]
)
COORDINATES = ["kafka_partition", "kafka_offset"]
_ARROW: dict[SqlType, pa.DataType] = {
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "DATE": pa.date32(),
}
_FIELDS = {field.name: field for event_type in EVENT_TYPES for field in event_type.fields}
REJECT_SCHEMA = pa.schema(
    [
        *(MESSAGE_SCHEMA.field(n) for n in (*COORDINATES, "kafka_time")),
        ("reason", pa.string()),
        ("original", pa.binary()),
    ]
)
VOID_SCHEMA = pa.schema(
    [("key", pa.string()), *(MESSAGE_SCHEMA.field(n) for n in COORDINATES), ("is_delete", pa.bool_())]
)
# A longer message is not given to DuckDB: some of its functions recurse as deep as a message is nested, others take the square
# of its members.
BULK_BYTES = 4096
# So few messages that are not spelled as usual are read one by one: Python has read them before DuckDB has planned its query.
FEW_MESSAGES = 300


@dataclass(frozen=True)
class Decoded:
    """The rows of each ledger (payload columns, extra fields, Kafka coordinates) and the messages that cannot become rows.

    A ledger without rows is absent. Every message is in exactly one of the tables, unless a mapping makes several rows of it
    or leaves it out on purpose. Rejects have coordinates, kafka_time, `reason` and `original` bytes.
    """

    rows: dict[str, pa.Table]
    rejects: pa.Table
    left_out: int = 0
    """How many messages became nothing, because a mapping skips them."""
    voids: dict[str, pa.Table] = dataclasses.field(default_factory=dict[str, pa.Table])
    """By ledger, keys whose earlier rows no longer hold, with the coordinates of the message that says so (`VOID_SCHEMA`)."""
    further: int = 0
    """How many rows and rejects are of a message that has another one."""


def decode(messages: pa.Table, now: datetime) -> Decoded:
    """Sort messages (`MESSAGE_SCHEMA`) into rows and rejects; an event later than `now` (UTC) + tolerance is impossible."""
    latest = now + timedelta(hours=FUTURE_TOLERANCE_HOURS)
    found: dict[str, list[pa.Table]] = {event_type.ledger: [] for event_type in EVENT_TYPES}
    others = messages
    for is_sure, few in ((_is_spelled_as_usual, 0), (_is_ordinary, FEW_MESSAGES)):
        if others.num_rows > few:
            sure, others = _in_bulk(others, latest, is_sure)
            for event_type in EVENT_TYPES:
                of_type = sure.select(stored_columns(event_type)).filter(pc.equal(sure["kind"], event_type.name))
                found[event_type.ledger].append(of_type)
    rows, rejects = _one_by_one(others, latest)
    for ledger, table in rows.items():
        found[ledger].append(table)
    tables = {ledger: pa.concat_tables(tables) for ledger, tables in found.items() if tables}
    return Decoded({ledger: table for ledger, table in tables.items() if table.num_rows}, rejects)


_Condition: TypeAlias = Callable[[EventType, datetime], str]


def _in_bulk(messages: pa.Table, latest: datetime, is_sure: _Condition) -> tuple[pa.Table, pa.Table]:
    """The typed columns of the messages that meet the condition of their event type, and the other messages."""
    with _engine().cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("messages", messages)
        looked_at = connection.execute(_query(latest, is_sure)).to_arrow_table()
    others = looked_at.filter(pc.invert(looked_at["is_sure"])).select(MESSAGE_SCHEMA.names)
    return (looked_at.filter(looked_at["is_sure"]) if others.num_rows else looked_at), others


def stored_columns(event_type: EventType) -> list[str]:
    """The columns of a table of rows."""
    return [*(field.name for field in event_type.fields), EXTRA_FIELDS, *COORDINATES]


def _one_by_one(messages: pa.Table, latest: datetime) -> tuple[dict[str, pa.Table], pa.Table]:
    """The rows by ledger, and the rejects, of messages of any kind."""
    accepted: dict[str, list[list[Any]]] = {}
    rejected: list[tuple[Any, ...]] = []
    for partition, offset, kafka_time, value in zip(*(c.to_pylist() for c in messages.columns), strict=True):
        try:
            event_type, row, extra = values.event(parsed(value), latest)
        except UnreadableError as unreadable:
            rejected.append((partition, offset, kafka_time, str(unreadable), value))
        else:
            accepted.setdefault(event_type.ledger, []).append([*row, extra, partition, offset, kafka_time])
    rows = {ledger: typed_rows(LEDGERS[ledger], found, latest) for ledger, found in accepted.items()}
    return rows, table_of(rejected, REJECT_SCHEMA)


def typed_rows(event_type: EventType, rows: list[list[Any]], latest: datetime) -> pa.Table:
    """The rows as a table: each is the fields' values, the extra fields, the coordinates and kafka_time.

    For the time of a state, `state_time` holds.
    """
    schema = pa.schema(
        [
            *((field.name, _ARROW[field.type]) for field in event_type.fields),
            (EXTRA_FIELDS, pa.string()),
            *(MESSAGE_SCHEMA.field(name) for name in (*COORDINATES, "kafka_time")),
        ]
    )
    table = table_of(rows, schema)
    if event_type.event_time_is_optional:
        at = schema.get_field_index(event_type.event_time)
        is_known = pc.fill_null(pc.less_equal(table.column(at), _now_at_most(latest)), False)
        table = table.set_column(at, schema.field(at), pc.if_else(is_known, table.column(at), table["kafka_time"]))
    return table.drop_columns("kafka_time")


def table_of(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Rows of Python values as a table."""
    columns = zip(*rows, strict=True) if rows else [()] * len(schema.names)
    return pa.table([pa.array(column, schema.field(n).type) for n, column in enumerate(columns)], schema=schema)


@cache
def _engine() -> duckdb.DuckDBPyConnection:
    """This module's own DuckDB, cached because opening it takes longer than decoding a small batch.

    It has one thread: decoding runs beside storing, and a second thread costs more than it gains.
    """
    return duckdb.connect(":memory:", config={"preserve_insertion_order": "false", "threads": "1"})


def _query(latest: datetime, is_sure: _Condition) -> str:
    """SQL: for each message whether it is sure what it says, and then its kind and the typed columns of all kinds.

    DuckDB's JSON is wider than the standard (NaN, a comma before a bracket, the first of two members with one name), and its
    casts are wider than the contract. So a condition must leave no room for either: what it takes, `values` takes alike.
    """
    parsed = (
        f"SELECT *, try(from_json(text, '{_json_shape()}')) AS event FROM (SELECT *,"
        f" CASE WHEN octet_length(value) <= {BULK_BYTES} THEN try(decode(value)) END AS text FROM messages)"
    )
    texts = ", ".join(f"event.payload.{name} AS text_{name}" for name in _FIELDS)
    flat = f"SELECT *, event.event_type AS kind, {texts} FROM ({parsed})"
    typed = f"SELECT *, {', '.join(f'{typed_sql(field)} AS {name}' for name, field in _FIELDS.items())} FROM ({flat})"
    cases = " ".join(f"WHEN '{event_type.name}' THEN ({is_sure(event_type, latest)})" for event_type in EVENT_TYPES)
    looked_at = f"SELECT *, CASE kind {cases} ELSE false END AS is_sure FROM ({typed})"
    otherwise = {e.event_time for e in EVENT_TYPES if e.event_time_is_optional}
    columns = [f"{state_time(name, latest)} AS {name}" if name in otherwise else name for name in _FIELDS]
    return (
        f"SELECT {', '.join(columns)}, NULL::VARCHAR AS {EXTRA_FIELDS}, {', '.join(COORDINATES)}, kafka_time, kind,"
        f" coalesce(is_sure, false) AS is_sure, CASE WHEN is_sure THEN NULL ELSE value END AS value FROM ({looked_at})"
    )


def _json_shape() -> str:
    # Everything is read as text first: a value of the wrong type must not make its whole message unreadable.
    payload = ", ".join(f'"{name}": "VARCHAR"' for name in _FIELDS)
    return f'{{"event_type": "VARCHAR", "payload": {{{payload}}}}}'


def _is_spelled_as_usual(event_type: EventType, latest: datetime) -> str:
    """SQL: whether a message is, byte for byte, what most JSON encoders make of these values in the order of the contract.

    Then it has no other member, none twice, no escape, and each value is of its type. Members that have no value may be null
    or absent. A space may stand after each colon and comma, as Python writes it.
    """

    def spelled(colon: str, comma: str, *, with_null: bool) -> str:
        parts = [f'{{"event_type"{colon}"{event_type.name}"{comma}"payload"{colon}{{']
        pieces: list[str] = []
        for number, field in enumerate(event_type.fields):
            text, quote = f"text_{field.name}", "" if field.type in ("DOUBLE", "BOOLEAN") else '"'
            name = f'{comma if number else ""}"{field.name}"{colon}'
            if field.required:
                parts[-1] += f"{name}{quote}"
                pieces += [f"'{parts[-1]}'", text]
                parts.append(quote)
            else:
                absent = f"{name}null" if with_null else ""
                pieces += [f"'{parts[-1]}'", f"coalesce('{name}{quote}' || {text} || '{quote}', '{absent}')"]
                parts.append("")
        return f"concat({', '.join(pieces)}, '{parts[-1]}}}}}')"

    def either(colon: str, comma: str) -> str:
        spellings = [spelled(colon, comma, with_null=with_null) for with_null in (True, False)]
        return f"CASE WHEN contains(text, '{colon}null') THEN {spellings[0]} ELSE {spellings[1]} END"

    as_usual = (
        f"""text = CASE WHEN prefix(text, '{{"event_type":"') THEN {either(":", ",")} ELSE {either(": ", ", ")} END"""
    )
    return all_of([as_usual, has_no_wide_blank("text"), *(fits_sql(field, latest) for field in event_type.fields)])


def _is_ordinary(event_type: EventType, latest: datetime) -> str:
    """SQL: whether a message has members of the contract only, each once, in any order, and escapes in texts at most."""
    names = [field.name for field in event_type.fields]
    keys = "json_keys(text, ['$', '$.payload'])"
    found = " + ".join(f"(text_{name} IS NOT NULL)::INTEGER" for name in names)
    return all_of(
        [
            # A comma before a bracket, which DuckDB passes over.
            "NOT regexp_matches(text, ',\\s*}')",
            f"len({keys}[1]) = 2",
            f"(len({keys}[2]) = {found}"
            f" OR (list_has_all({names}, {keys}[2]) AND len(list_distinct({keys}[2])) = len({keys}[2])))",
            has_no_wide_blank("text"),
            *(_is_of_its_type(field) for field in event_type.fields),
            *(fits_sql(field, latest) for field in event_type.fields),
        ]
    )


def all_of(conditions: list[str]) -> str:
    """SQL: whether all conditions hold."""
    # In a CASE, unlike in an AND alone, DuckDB asks the next condition only of those that met the ones before.
    return f"CASE WHEN {' AND '.join(conditions)} THEN true ELSE false END"


# White space that is not ASCII may stand around a value.
_BLANKS = "".join(f"\\x{{{ord(blank):X}}}" for blank in values.BLANKS)
_WIDE_BLANKS = "".join(f"\\x{{{ord(blank):X}}}" for blank in values.BLANKS if not blank.isascii())


def has_no_wide_blank(text: str) -> str:
    """SQL: whether a text has no white space but that of ASCII."""
    return f"(strlen({text}) = length({text}) OR NOT regexp_matches({text}, '[{_WIDE_BLANKS}]'))"


def typed_sql(field: Field) -> str:
    """SQL: the value of a field from its text, text_NAME; NULL if it has none."""
    text = f"text_{field.name}"
    if field.type == "VARCHAR":
        return text
    if field.type == "TIMESTAMP":
        # In a cast straight to TIMESTAMP, DuckDB drops the offset ('12:00+02:00' becomes 12:00 instead of 10:00 UTC).
        with_offset = f"make_timestamp(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"
        return f"CASE WHEN suffix({text}, 'Z') THEN try_cast({text} AS TIMESTAMP) ELSE {with_offset} END"
    return f"try_cast({text} AS {field.type})"


def _is_of_its_type(field: Field) -> str:
    """SQL: whether a field's text cannot come from a value of another type; DuckDB gives the JSON of what is no text."""
    text = f"text_{field.name}"
    if field.type == "DOUBLE":
        return f"({text} IS NULL OR NOT contains({text}, '_'))"
    if field.type == "BOOLEAN":
        return "true"
    # A text may be the JSON of another type by its first letter.
    other = r"^([\[{]|[0-9+-]+[.eE]|(?i:true|false|[+-]?(nan|inf(inity)?))$)"
    is_text = f"(({text} >= 'A' AND {text} < 'I') OR ({text} >= 'O' AND {text} < '[') OR NOT regexp_matches({text}, '{other}'))"
    # An escape may spell a NUL, or a blank that the other conditions do not look for.
    spelled = f"^[{_BLANKS}]|[{_BLANKS}]$|\\x00" if field.type == "VARCHAR" else "[^!-~]"
    has_no_odd_escape = f"(NOT contains(text, '\\') OR NOT regexp_matches({text}, '{spelled}'))"
    return f"({text} IS NULL OR ({is_text} AND {has_no_odd_escape}))"


# Exact, as DuckDB's casts also take blanks and shorter numbers.
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"


def fits_sql(field: Field, latest: datetime) -> str:
    """SQL: whether a field's text is within its bounds and as the contract stores it, or is absent though it may be."""
    text = f"text_{field.name}"
    match field.type:
        case "VARCHAR":
            fits = _text_fits(field)
        case "DOUBLE":
            fits = is_possible(field, latest)
        case "BOOLEAN":
            fits = f"{text} IN ('true', 'false')"
        case "TIMESTAMP":
            fits = f"regexp_full_match({text}, '{_DAY}({_CLOCK})?') AND {is_possible(field, latest)}"
        case "DATE":
            fits = f"regexp_full_match({text}, '{_DAY}') AND {is_possible(field, latest)}"
    return f"({fits})" if field.required else f"({text} IS NULL OR ({fits}))"


def is_possible(field: Field, latest: datetime) -> str:
    """SQL: whether the typed value of a field, a number or a time, is within its bounds."""
    if field.type == "DOUBLE":
        return f"{field.name} BETWEEN {field.low} AND {field.high}"
    return f"{field.name} BETWEEN TIMESTAMP '{field.earliest}' AND TIMESTAMP '{latest.isoformat(sep=' ')}'"


def state_time(name: str, latest: datetime) -> str:
    """SQL: since when a state holds: its time, or that of its message if it has none or a later one than now.

    A source whose clock is ahead, or that sends local times as UTC, would otherwise hide the states that come after. `latest`
    is the end of what is possible.
    """
    return f"CASE WHEN {name} <= TIMESTAMP '{_now_at_most(latest).isoformat(sep=' ')}' THEN {name} ELSE kafka_time END"


def _now_at_most(latest: datetime) -> datetime:
    return latest - timedelta(hours=FUTURE_TOLERANCE_HOURS) + timedelta(seconds=CLOCK_SKEW_SECONDS)


def _text_fits(field: Field) -> str:
    text = f"text_{field.name}"
    conditions = [
        # strlen counts bytes: a text has at least as many of them as characters.
        f"strlen({text}) BETWEEN 1 AND {field.max_length}",
        f"{text} > '!'",
        f"NOT suffix({text}, ' ')",
    ]
    if field.is_id:
        conditions.append(f"({text} >= ':' OR NOT contains({text}, '.') AND NOT contains({text}, '+'))")
    if field.is_upper_case:
        conditions.append(f"{text} = upper({text})")
    return " AND ".join(conditions)
