"""The fields of a source: the table of them, where each stands in a message of any form, and messages read one by one.

Here belongs what holds however the bytes are written: what stands around a row in CloudEvents and in Debezium's change events.
`messages` chooses who reads the bytes.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any, cast

import pyarrow as pa

from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, REJECT_SCHEMA, table_of
from churn_assets.ingestion.json_text import Number, UnreadableError, parsed, whole_characters, written
from churn_assets.ingestion.mapping.compiling import MappedSource
from churn_assets.ingestion.mapping.expressions import Path
from churn_assets.ingestion.mapping.file import ENVELOPE
from churn_assets.ingestion.mapping.shapes import is_partly

DELETE, UPDATE = "d", "u"
INSERTS = ("c", "r")  # created, and read for the first snapshot


def fields_schema(source: MappedSource) -> pa.Schema:
    """The table of a source's fields: the message's coordinates, time and bytes, `op`, the fields as text, f0 ..., and extra0 ...

    `op` is that of Debezium, or NULL for a row that is simply there. A field that the message does not have is NULL. `extra0` is
    the JSON of the fields that the first mapping does not use, or NULL if there are none or it keeps none.
    """
    names = ["op", *(f"f{number}" for number in range(len(source.paths)))]
    names += [f"extra{number}" for number in range(len(source.projections))]
    return pa.schema([*MESSAGE_SCHEMA, *((name, pa.string()) for name in names)])


def place_of(path: Path, base: Path, root: Path, source: MappedSource) -> Path:
    """Where a field stands in the message: in the row at `root`, or in the object at `base` around it."""
    return (*base, *path[1:]) if _is_around(path, source) else (*root, *path)


def one_by_one(
    messages: pa.Table, source: MappedSource, read: Callable[[bytes], Any]
) -> tuple[pa.Table, pa.Table, int]:
    """The fields of messages, the rejects, and how many say nothing. `read` makes what `json_text.parsed` does."""
    fields: list[tuple[Any, ...]] = []
    rejects: list[tuple[Any, ...]] = []
    silent = 0
    for partition, offset, kafka_time, original in zip(*(c.to_pylist() for c in messages.columns), strict=True):
        if source.form == "debezium" and original is None:
            silent += 1  # a tombstone, which follows a delete and lets Kafka forget the key
            continue
        try:
            around, row, op = _in_form(read(original), source)
        except UnreadableError as unreadable:
            rejects.append((partition, offset, kafka_time, str(unreadable), original))
            continue
        texts = [
            _text_at(path[1:], around) if _is_around(path, source) else _text_at(path, row) for path in source.paths
        ]
        extras = [_rest(row, (), one.paths) if one.keeps_extra else {} for one in source.projections]
        fields.append(
            (partition, offset, kafka_time, original, op, *texts, *(written(one) if one else None for one in extras))
        )
    return table_of(fields, fields_schema(source)), table_of(rejects, REJECT_SCHEMA), silent


def _text_at(path: Path, row: Any) -> str | None:
    """A member as text: a number's digits, an object's JSON; None if it is null or absent."""
    found = row
    for name in path:
        found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
    if found is None or isinstance(found, Number):
        return found
    return whole_characters(found) if isinstance(found, str) else written(found)


def _rest(row: dict[str, Any], begin: Path, used: frozenset[Path]) -> dict[str, Any]:
    """The members that are not used, without an object whose members were all used."""
    found: dict[str, Any] = {}
    for name, member in row.items():
        place = (*begin, name)
        if place in used:
            continue
        if not isinstance(member, dict) or not is_partly(place, used):
            found[name] = member
        elif rest := _rest(cast("dict[str, Any]", member), place, used):
            found[name] = rest
    return found


def _in_form(message: Any, source: MappedSource) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """What is around the row, the row, and Debezium's op; `UnreadableError` if the message has not the form of its source."""
    if not isinstance(message, dict):
        kind = "a list" if isinstance(message, list) else "a text" if type(message) is str else "a single value"
        raise UnreadableError(f"not an object but {kind}")
    whole = cast("dict[str, Any]", message)
    match source.form:
        case "plain":
            return {}, whole, None
        case "cloudevents":
            return _cloud_event(whole)
        case "debezium":
            return _change(whole)


def _cloud_event(event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], None]:
    """A CloudEvent (JSON format 1.0)."""
    if "specversion" not in event:
        raise UnreadableError("not a CloudEvent: no specversion")
    data, encoded = event.get("data"), event.get("data_base64")
    if data is None and encoded is not None:
        try:
            data = parsed(base64.b64decode(str(encoded), validate=True))
        except (binascii.Error, ValueError):
            raise UnreadableError("the CloudEvent's data_base64 is not Base64") from None
    if not isinstance(data, dict):
        raise UnreadableError(f"the CloudEvent's data is {'missing' if data is None else 'not an object'}")
    return event, cast("dict[str, Any]", data), None


def _change(message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A change event of Debezium, with or without the schema of Kafka Connect around it."""
    found: Any = message if "op" in message else message.get("payload")
    if not isinstance(found, dict) or "op" not in found:
        raise UnreadableError("not a change event of Debezium: no op")
    change = cast("dict[str, Any]", found)
    op = change["op"]
    if op == "t":
        raise UnreadableError(
            "a TRUNCATE of the table; delete its rows with `churn correct --delete` if they are to go"
        )
    if op not in (*INSERTS, UPDATE, DELETE):
        raise UnreadableError("a change event of Debezium with another op than c, r, u and d")
    place = "before" if op == DELETE else "after"
    row = change.get(place)
    if not isinstance(row, dict):
        raise UnreadableError(f"a change event of Debezium without the row in {place}")
    return change, cast("dict[str, Any]", row), op


def _is_around(path: Path, source: MappedSource) -> bool:
    return source.form != "plain" and path[0] == ENVELOPE
