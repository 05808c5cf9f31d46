"""From messages to the fields that a source's mappings use, however they are written.

DuckDB reads the messages of JSON that are written like others (`shapes`) in bulk, and those of Avro are read in bulk by `avro`.
All other ones are read one by one, with the same fields (`fields`). A decoder of another format makes a table of
`fields.fields_schema` of its own and goes on with `rows.rows_of`.
"""

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion.decoding import BULK_BYTES, FEW_MESSAGES, MESSAGE_SCHEMA
from churn_assets.ingestion.json_text import UnreadableError, parsed
from churn_assets.ingestion.mapping.compiling import MappedSource, Projection
from churn_assets.ingestion.mapping.engine import cursor
from churn_assets.ingestion.mapping.expressions import Path
from churn_assets.ingestion.mapping.fields import DELETE, INSERTS, UPDATE, fields_schema, one_by_one, place_of
from churn_assets.ingestion.mapping.framed import Framed, by_schema, framed, payloads
from churn_assets.ingestion.mapping.shapes import Leaf, Shape, shape_of, value
from churn_assets.warehouse.values import literal

_MAX_SHAPES = 6  # that are learned from one chunk of messages


def fields_of(messages: pa.Table, source: MappedSource) -> tuple[pa.Table, pa.Table, int]:
    """The fields of messages (`MESSAGE_SCHEMA`), the rejects, and how many messages say nothing (Debezium's tombstones)."""
    if source.encoding == "json":
        return _of_json(messages, source)
    sound, rejects, silent = framed(messages, source)
    groups, unknown = by_schema(sound, source)
    found = [_of_schema(group, source) for group in groups]
    fields = [fields_schema(source).empty_table(), *(fields for fields, _ in found)]
    return pa.concat_tables(fields), pa.concat_tables([rejects, unknown, *(more for _, more in found)]), silent


def _of_schema(group: Framed, source: MappedSource) -> tuple[pa.Table, pa.Table]:
    """The fields and rejects of messages of one schema."""
    if source.encoding == "json_schema":
        return _behind_frames(group.messages, source)
    bulk, others = fields_schema(source).empty_table(), group.messages
    # Their libraries take long to import, and few banks need both.
    if source.encoding == "avro":
        from churn_assets.ingestion.mapping import avro  # noqa: PLC0415

        bulk, others = avro.in_bulk(group, source)
        read = avro.reader(group.id, group.schema)
    else:
        from churn_assets.ingestion.mapping import protobuf  # noqa: PLC0415

        read = protobuf.reader(group.id, group.schema)
    fields, rejects, _ = one_by_one(others, source, read)
    return pa.concat_tables([bulk, fields]), rejects


def _behind_frames(messages: pa.Table, source: MappedSource) -> tuple[pa.Table, pa.Table]:
    """The fields and rejects of JSON with a frame; both have the whole messages."""
    numbers = pa.array(range(messages.num_rows), pa.int64())
    columns = [messages["kafka_partition"], numbers, messages["kafka_time"], payloads(messages)]
    fields, rejects, _ = _of_json(pa.table(columns, schema=MESSAGE_SCHEMA), source)

    def whole(table: pa.Table, original: str) -> pa.Table:
        places = table["kafka_offset"]
        for name, column in (("kafka_offset", "kafka_offset"), (original, "value")):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(at), messages[column].take(places))
        return table

    return whole(fields, "value"), whole(rejects, "original")


def _of_json(messages: pa.Table, source: MappedSource) -> tuple[pa.Table, pa.Table, int]:
    found = [fields_schema(source).empty_table()]
    others = messages
    for number in range(_MAX_SHAPES):
        if others.num_rows <= (FEW_MESSAGES if number else 0):
            break
        # Not always the first one: it may be the one that is like no other.
        known = others["value"][others.num_rows * number // _MAX_SHAPES].as_py()
        if query := _query(source, known):
            sound, others = _asked(source, others, query)
            found.append(sound)
    fields, rejects, silent = one_by_one(others, source, parsed)
    return pa.concat_tables([*found, fields]), rejects, silent


def _asked(source: MappedSource, messages: pa.Table, query: str) -> tuple[pa.Table, pa.Table]:
    """The fields of the messages that a query finds sound, and the other messages."""
    with cursor() as connection:
        connection.register("messages", messages)
        looked_at = connection.execute(query).to_arrow_table()
    sound = looked_at["is_sound"]
    fields = looked_at.filter(sound).select(fields_schema(source).names).cast(fields_schema(source))
    return fields, messages.filter(pc.invert(sound))


def _query(source: MappedSource, known: bytes | None) -> str | None:
    """SQL: for each message whether it is written like the known one, and then its fields; None if that one has no shape."""
    if known is None or len(known) > BULK_BYTES:
        return None
    try:
        shape = shape_of(known)
    except UnreadableError:
        return None
    if shape is None:
        return None
    base: Path = ()
    roots: list[Path] = [()]
    op, ops = "NULL", list[str]()
    if source.form == "cloudevents":
        roots = [("data",)] if isinstance(shape.at(("specversion",)), Leaf) else []
    elif source.form == "debezium":
        base = () if "op" in shape.members else ("payload",)
        op = value((*base, "op"))
        roots = [(*base, "before"), (*base, "after")] if isinstance(shape.at((*base, "op")), Leaf) else []
    roots = [root for root in roots if isinstance(shape.at(root), Shape)]
    if not roots:
        return None
    if source.form == "debezium":
        ops = [one for root in roots for one in ([DELETE] if root[-1] == "before" else [*INSERTS, UPDATE])]

    def by_root(of: list[str]) -> str:
        if len(set(of)) == 1:
            return of[0]
        before, after = of
        return f"CASE WHEN {op} = '{DELETE}' THEN {before} ELSE {after} END"

    columns: list[str] = []
    for path in source.paths:
        members = [shape.at(place) for place in (place_of(path, base, root, source) for root in roots)]
        if any(isinstance(member, Shape) for member in members):
            return None
        columns.append(
            by_root([
                value(place_of(path, base, root, source)) if member else "NULL"
                for root, member in zip(roots, members, strict=True)
            ])
        )  # fmt: skip
    extras = [by_root([_rest_sql(shape, root, one) for root in roots]) for one in source.projections]
    is_sound = shape.is_spelled()
    if ops:
        is_sound += f" AND {op} IN ({', '.join(map(literal, ops))})"
    names = ", ".join(MESSAGE_SCHEMA.names)
    text = f"CASE WHEN octet_length(value) <= {BULK_BYTES} THEN try(decode(value)) END"
    return (
        f"SELECT {names}, coalesce({is_sound}, false) AS is_sound, ({op})::VARCHAR AS op"
        + "".join(f", ({sql})::VARCHAR AS f{number}" for number, sql in enumerate(columns))
        + "".join(f", ({sql})::VARCHAR AS extra{number}" for number, sql in enumerate(extras))
        + f" FROM (SELECT *, try(from_json(text, {literal(shape.json_type())})) AS event"
        f" FROM (SELECT {names}, {text} AS text FROM messages))"
    )


def _rest_sql(shape: Shape, root: Path, projection: Projection) -> str:
    return (
        shape.rest(root, frozenset((*root, *path) for path in projection.paths)) if projection.keeps_extra else "NULL"
    )
