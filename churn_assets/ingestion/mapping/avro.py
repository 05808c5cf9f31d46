"""Avro messages of a Schema Registry: in bulk by polars, and one by one by fastavro.

Messages of one schema become a container file in memory, whose schema is made simple first: what polars cannot read is told to
it as something that has the same bytes (a map is a list of pairs, an enum a number), and DuckDB makes the texts. After each
message stands a mark that no message can have by chance, so a message that is cut or too long is noticed and does not shift its
neighbours; fastavro then tells which it is. Where a schema has what polars cannot read at all (a union of several types, a type
within itself), or where polars is not installed, all its messages are read one by one.
"""

import base64
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from itertools import count
from typing import Any, TypeAlias, cast
from uuid import UUID

import fastavro
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion.decoding import MESSAGE_SCHEMA
from churn_assets.ingestion.json_text import Number, UnreadableError
from churn_assets.ingestion.mapping.compiling import MappedSource, Projection, WriterSchema
from churn_assets.ingestion.mapping.engine import cursor
from churn_assets.ingestion.mapping.expressions import Path
from churn_assets.ingestion.mapping.fields import DELETE, INSERTS, UPDATE, fields_schema, place_of
from churn_assets.ingestion.mapping.framed import FRAME_BYTES, Framed, payloads
from churn_assets.ingestion.mapping.shapes import is_partly
from churn_assets.warehouse.values import literal

_fastavro: Any = fastavro  # whose types are known in part
_polars: Any = (
    import_module("polars") if find_spec("polars") else None
)  # the image of docker-compose.yml leaves out its 140 MB
_Sql: TypeAlias = Callable[[str], str]
_MARK_BYTES = 16
_SYNC = b"\x00" * 16
_MAX_DIGITS = 38  # of a decimal that Arrow holds
_FEW_DIGITS = 18  # of one in 8 bytes


class _OneByOneError(Exception):
    """The schema has something that polars cannot read."""


@dataclass(frozen=True)
class _Type:
    """A type of a schema: what polars is told that it is, and SQL over what polars makes of it."""

    physical: Any
    """A schema of Avro, or None if it has no bytes."""
    text: _Sql
    """SQL: the value as text."""
    json: _Sql
    """SQL: the value as JSON, or NULL."""
    members: Mapping[str, tuple[str, "_Type"]] = field(default_factory=dict[str, tuple[str, "_Type"]])
    """Of a record, by name, polars' name and the type."""

    def at(self, sql: str, path: Path) -> tuple["_Type", str] | None:
        """The type of the member at a path, and its SQL where this type's is `sql`."""
        if not path:
            return self, sql
        if path[0] not in self.members:
            return None
        name, kind = self.members[path[0]]
        return kind.at(_member(sql, name), path[1:])


def in_bulk(framed: Framed, source: MappedSource) -> tuple[pa.Table, pa.Table]:
    """The fields (`fields_schema`) of the messages that are surely sound, and the other messages."""
    schema, messages, others = fields_schema(source), framed.messages, MESSAGE_SCHEMA.empty_table()
    nothing = schema.empty_table(), messages
    if _polars is None:
        return nothing
    try:
        kind = _type(framed.schema)
    except (_OneByOneError, UnreadableError):
        return nothing
    query = _query(kind, source)
    if query is None:
        return nothing
    originals = payloads(messages).to_pylist()
    table = _read(originals, kind)
    if table is None:
        physical = _fastavro.parse_schema(kind.physical)
        is_whole = pa.array([_is_whole(original, physical) for original in originals])
        messages, others = messages.filter(is_whole), messages.filter(pc.invert(is_whole))
        table = _read(payloads(messages).to_pylist(), kind)
    if table is None:
        return nothing
    for name in table.column_names:
        messages = messages.append_column(name, table[name])
    with cursor() as connection:
        connection.register("messages", messages)
        looked_at = connection.execute(query).to_arrow_table()
    is_sound = looked_at["is_sound"]
    fields = looked_at.filter(is_sound).select(schema.names).cast(schema)
    flawed = looked_at.filter(pc.invert(is_sound)).select(MESSAGE_SCHEMA.names).cast(MESSAGE_SCHEMA)
    return fields, pa.concat_tables([others, flawed])


def reader(number: int, schema: WriterSchema) -> Callable[[bytes], Any]:
    """What reads a framed message of a schema as a value of `json_text.parsed`; it raises `UnreadableError`."""

    def read(original: bytes) -> Any:
        try:
            parsed, _ = _parsed(schema)
        except UnreadableError:
            raise UnreadableError(f"its schema {number} is no Avro schema that can be used") from None
        stream = BytesIO(original)
        stream.seek(FRAME_BYTES)
        try:
            value = _fastavro.schemaless_reader(stream, parsed, None)
        except Exception:  # noqa: BLE001  # of many kinds, and whatever it is, these bytes are to blame
            raise UnreadableError(f"not Avro of schema {number}") from None
        if stream.read(1):
            raise UnreadableError(f"not Avro of schema {number}: it goes on after its end")
        return _plain(value)

    return read


@lru_cache(maxsize=100)
def _parsed(schema: WriterSchema) -> tuple[Any, dict[str, Any]]:
    """fastavro's form of a schema, and of the types in it by their full names; `UnreadableError` if it is none."""
    named: dict[str, Any] = {}
    try:
        for _, text in schema.references:
            _fastavro.parse_schema(json.loads(text), named_schemas=named)
        return _fastavro.parse_schema(json.loads(schema.text), named_schemas=named), named
    except Exception as error:
        raise UnreadableError("no Avro schema") from error


def _plain(value: object) -> Any:
    """A value of fastavro as one of `json_text.parsed`."""
    made = _PLAIN.get(type(value))
    return made(value) if made else value


def _number(value: float) -> str:
    return Number(repr(value)) if math.isfinite(value) else repr(value)


def _moment(value: datetime) -> str:
    moment = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return _trimmed(moment.isoformat()) + ("Z" if value.tzinfo else "")


def _trimmed(text: str) -> str:
    return text.rstrip("0") if "." in text else text


# None, bool and str stay as they are.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: Number,
    float: _number,
    Decimal: lambda value: Number(format(value, "f")),
    bytes: lambda value: base64.b64encode(value).decode(),
    datetime: _moment,
    date: str,
    time: lambda value: _trimmed(value.isoformat()),
    UUID: str,
    list: lambda value: [_plain(item) for item in value],
    dict: lambda value: {name: _plain(one) for name, one in value.items()},
}


def _is_whole(original: bytes, schema: Any) -> bool:
    stream = BytesIO(original)
    try:
        _fastavro.schemaless_reader(stream, schema, None)
    except Exception:  # noqa: BLE001  # of many kinds
        return False
    return not stream.read(1)


def _read(originals: list[bytes], kind: _Type) -> pa.Table | None:
    """polars' columns of messages without their frames, or None if one of them is not sound."""
    mark = os.urandom(_MARK_BYTES)
    end = {"name": "mark", "type": {"type": "fixed", "name": "mark", "size": _MARK_BYTES}}
    body = mark.join([*originals, b""])
    file = BytesIO()
    _fastavro.writer(file, kind.physical | {"fields": [*kind.physical["fields"], end]}, [], sync_marker=_SYNC)
    for number in (len(originals), len(body)):
        _fastavro.schemaless_writer(file, "long", number)
    file.write(body)
    file.write(_SYNC)
    file.seek(0)
    try:
        table = _polars.read_avro(file).to_arrow()
    except (_polars.exceptions.PolarsError, _polars.exceptions.PanicException):
        return None
    if table.num_rows != len(originals) or not pc.all(pc.equal(table["mark"], mark)).as_py():
        return None
    return table.drop_columns("mark")


# What polars is told, and the SQL.


@lru_cache(maxsize=100)
def _type(schema: WriterSchema) -> _Type:
    """A schema for polars; `_OneByOneError` if there is none, `UnreadableError` if it is no schema."""
    parsed, named = _parsed(schema)
    kind = _Compiler(named).of(parsed)
    if not kind.members:
        raise _OneByOneError
    return kind


class _Compiler:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._numbers = count()
        self._open: list[str] = []

    def of(self, schema: Any) -> _Type:
        match schema:
            case list():
                found = self._nullable(cast("list[Any]", schema))
            case str():
                found = _PRIMITIVES[schema] if schema in _PRIMITIVES else self.of(self._named[schema])
            case {"type": "record" | "error"}:
                found = self._record(schema)
            case {"type": "enum", "symbols": symbols}:
                found = _enum(symbols)
            case {"type": "fixed", "size": size}:
                found = _logical(schema, _binary({"type": "fixed", "name": self._name("n"), "size": size}))
            case {"type": "array", "items": items}:
                found = self._list(self.of(items))
            case {"type": "map", "values": values}:
                found = self._map(self.of(values))
            case {"type": str(primitive)} if primitive in _PRIMITIVES:
                found = _logical(schema, _PRIMITIVES[primitive])
            case _:
                found = self.of(schema["type"])
        return found

    def _nullable(self, kinds: list[Any]) -> _Type:
        others = [kind for kind in kinds if kind != "null"]
        if len(kinds) != 2 or len(others) != 1:
            raise _OneByOneError
        found = self.of(others[0])
        return replace(found, physical=[kind if kind == "null" else found.physical for kind in kinds])

    def _record(self, schema: Any) -> _Type:
        name = schema["name"]
        if name in self._open:
            raise _OneByOneError
        self._open.append(name)
        members = {one["name"]: (f"c{place}", self.of(one["type"])) for place, one in enumerate(schema["fields"])}
        self._open.pop()
        fields = [{"name": place, "type": kind.physical} for place, kind in members.values() if kind.physical]
        if not fields:
            raise _OneByOneError

        def written(sql: str) -> str:
            parts = [
                f"{literal(_quoted(name) + ':')} || {_or_null(kind.json(_member(sql, place)))}"
                for name, (place, kind) in members.items()
            ]
            return f"CASE WHEN {sql} IS NOT NULL THEN concat('{{', concat_ws(',', {', '.join(parts)}), '}}') END"

        return _Type({"type": "record", "name": self._name("n"), "fields": fields}, written, written, members)

    def _list(self, item: _Type) -> _Type:
        one = self._name("x")

        def written(sql: str) -> str:
            return (
                f"'[' || array_to_string(list_transform({sql}, lambda {one}: {_or_null(item.json(one))}), ',') || ']'"
            )

        return _Type({"type": "array", "items": item.physical}, written, written)

    def _map(self, value: _Type) -> _Type:
        """A map, whose bytes are those of a list of pairs."""
        one = self._name("x")
        fields = [{"name": "k", "type": "string"}, {"name": "v", "type": value.physical}]
        pair = {"type": "record", "name": self._name("n"), "fields": fields}

        def written(sql: str) -> str:
            member = f"to_json({_member(one, 'k')})::VARCHAR || ':' || {_or_null(value.json(_member(one, 'v')))}"
            return f"'{{' || array_to_string(list_transform({sql}, lambda {one}: {member}), ',') || '}}'"

        return _Type({"type": "array", "items": pair}, written, written)

    def _name(self, begin: str) -> str:
        return f"{begin}{next(self._numbers)}"


def _logical(schema: Any, kind: _Type) -> _Type:
    logical = schema.get("logicalType", "")
    match schema["type"], logical:
        case "bytes" | "fixed", "decimal":
            scale, bare, most = schema.get("scale", 0), {"type": "bytes"}, _MAX_DIGITS
            if schema["type"] == "fixed":
                bare, most = kind.physical, int(math.log10(2) * (8 * schema["size"] - 1))
            if max(schema["precision"], scale, most) > _MAX_DIGITS:
                raise _OneByOneError
            # As many digits as the bytes hold: a number may have more than its schema says, and Arrow would not notice.
            physical = bare | {"logicalType": "decimal", "precision": most, "scale": scale}
            return _bare(physical, partial(_decimal, scale=scale))
        case "fixed", "uuid":
            return _texts(kind.physical, _uuid)
        case "int", "date":
            return _texts("int", lambda v: _or_digits(f"(DATE '1970-01-01' + {v})::VARCHAR", v))
        case ("int", "time-millis") | ("long", "time-micros"):
            unit = "micro" if logical.endswith("micros") else "milli"
            return _texts(kind.physical, lambda v: _or_digits(f"to_{unit}seconds({v})::VARCHAR", v))
        case "long", "timestamp-millis" | "timestamp-micros" | "local-timestamp-millis" | "local-timestamp-micros":
            factor = 1 if logical.endswith("micros") else 1_000
            zone = "" if logical.startswith("local") else " || 'Z'"
            moment = f"replace(make_timestamp({{}} * {factor})::VARCHAR, ' ', 'T'){zone}"
            return _texts("long", lambda v: _or_digits(moment.format(v), v))
        case _:
            return kind


def _member(sql: str, name: str) -> str:
    return f"struct_extract({sql}, '{name}')" if sql else name


def _or_null(sql: str) -> str:
    return f"coalesce({sql}, 'null')"


def _or_digits(text: str, sql: str) -> str:
    """SQL: a text, or where it cannot be made (the end of all times, as some say "never"), the number."""
    return f"coalesce(TRY({text}), {_as_text(sql)})"


def _as_text(sql: str) -> str:
    return f"{sql}::VARCHAR"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _bare(physical: Any, text: _Sql = _as_text) -> _Type:
    """A type whose text is its JSON: numbers, true and false."""
    return _Type(physical, text, text)


def _texts(physical: Any, text: _Sql) -> _Type:
    """A type whose JSON is its text between quotes; the text needs no escapes."""
    return _Type(physical, text, lambda sql: f"'\"' || {text(sql)} || '\"'")


def _binary(physical: Any) -> _Type:
    return _texts(physical, lambda sql: f"to_base64({sql})")


def _real(physical: str, text: _Sql) -> _Type:
    def written(sql: str) -> str:
        return f"CASE WHEN isfinite({sql}) THEN {text(sql)} ELSE '\"' || {text(sql)} || '\"' END"

    return _Type(physical, text, written)


def _decimal(sql: str, scale: int) -> str:
    """SQL: a decimal as text. Few digits go the short way, which takes a quarter of the time."""
    if scale > _FEW_DIGITS:
        return _as_text(sql)
    return f"coalesce(TRY_CAST({sql} AS DECIMAL({_FEW_DIGITS}, {scale}))::VARCHAR, {_as_text(sql)})"


def _enum(symbols: list[str]) -> _Type:
    listed = ", ".join(map(literal, symbols))
    return _texts("int", lambda v: _or_digits(f"list_extract([{listed}], greatest({v} + 1, 0))", v))


def _uuid(sql: str) -> str:
    return f"regexp_replace(lower(hex({sql})), '^(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})$', '\\1-\\2-\\3-\\4-\\5')"


_PRIMITIVES: dict[str, _Type] = {
    "null": _Type(None, lambda _: "NULL", lambda _: "'null'"),
    "boolean": _bare("boolean"),
    "int": _bare("int"),
    "long": _bare("long"),
    # A float of 4 bytes by its own digits, which as a double would be more.
    "float": _real("float", lambda sql: f"{sql}::VARCHAR::DOUBLE::VARCHAR"),
    "double": _real("double", _as_text),
    "bytes": _binary("bytes"),
    "string": _Type("string", lambda sql: sql, lambda sql: f"to_json({sql})::VARCHAR"),
}


def _query(kind: _Type, source: MappedSource) -> str | None:
    """SQL: for each message whether it is sound, and then its fields; None if the schema has not the form of the source."""
    roots: list[Path] = [()]
    op = "NULL"
    is_sound = "true"
    if source.form == "debezium":
        told = kind.at("", ("op",))
        roots = [root for root in (("before",), ("after",)) if (found := kind.at("", root)) and found[0].members]
        if told is None or told[0].members or len(roots) < 2:
            return None
        op = told[0].text(told[1])
        before, after = (_member("", kind.members[root[0]][0]) for root in roots)
        inserts = ", ".join(map(literal, (*INSERTS, UPDATE)))
        is_sound = f"CASE WHEN {op} = '{DELETE}' THEN {before} IS NOT NULL ELSE {op} IN ({inserts}) AND {after} IS NOT NULL END"

    def by_root(of: list[str]) -> str:
        return of[0] if len(set(of)) == 1 else f"CASE WHEN {op} = '{DELETE}' THEN {of[0]} ELSE {of[1]} END"

    columns: list[str] = []
    for path in source.paths:
        places = [place_of(path, (), root, source) for root in roots]
        if not all(places):  # all that is around the row
            return None
        found = [kind.at("", place) for place in places]
        columns.append(by_root([one[0].text(one[1]) if one else "NULL" for one in found]))
    extras = [by_root([_rest(kind, root, one) for root in roots]) for one in source.projections]
    names = ", ".join(MESSAGE_SCHEMA.names)
    return (
        f"SELECT {names}, coalesce({is_sound}, false) AS is_sound, ({op})::VARCHAR AS op"
        + "".join(f", ({sql})::VARCHAR AS f{number}" for number, sql in enumerate(columns))
        + "".join(f", ({sql})::VARCHAR AS extra{number}" for number, sql in enumerate(extras))
        + " FROM messages"
    )


def _rest(kind: _Type, root: Path, projection: Projection) -> str:
    """SQL: the JSON of the members of the record at `root` that are not used, or NULL if there is none."""
    found = kind.at("", root)
    if found is None or not projection.keeps_extra:
        return "NULL"
    parts = list(_rest_parts(*found, (), projection.paths))
    return f"'{{' || nullif(concat_ws(',', {', '.join(parts)}), '') || '}}'" if parts else "NULL"


def _rest_parts(kind: _Type, sql: str, begin: Path, used: frozenset[Path]) -> Iterator[str]:
    for name, (place, member) in kind.members.items():
        path = (*begin, name)
        if path in used:
            continue
        head, value = literal(f"{_quoted(name)}:"), _member(sql, place)
        if not member.members or not is_partly(path, used):
            yield f"{head} || {_or_null(member.json(value))}"
            continue
        inner = list(_rest_parts(member, value, path, used))
        rest = f"'{{' || nullif(concat_ws(',', {', '.join(inner)}), '') || '}}'" if inner else "NULL"
        yield f"CASE WHEN {value} IS NULL THEN {head} || 'null' ELSE {head} || {rest} END"
