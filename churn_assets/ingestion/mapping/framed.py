"""The frame that the serializers of a Schema Registry put around a message: a zero byte, and the id of its schema in 4 bytes.

Here belong the ids and which messages have none that can be read. What stands behind the frame is `avro`, `protobuf` or, with
JSON Schema, `messages`. Where the schemas come from is `ingestion.schema_registry`.
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion.decoding import REJECT_SCHEMA
from churn_assets.ingestion.mapping.compiling import MappedSource, WriterSchema
from churn_assets.rules import MAX_MESSAGE_BYTES

FRAME_BYTES = 5
NO_FRAME = "not in the frame of a Schema Registry (a zero byte, then the id of the schema in 4 bytes)"
_KINDS = {"avro": "AVRO", "protobuf": "PROTOBUF", "json_schema": "JSON"}


@dataclass(frozen=True)
class Framed:
    """Messages (`MESSAGE_SCHEMA`) with one schema, whole."""

    id: int
    schema: WriterSchema
    messages: pa.Table


def schema_ids(messages: pa.Table) -> list[int]:
    """The ids of the schemas of messages, the most frequent first."""
    ids: list[int] = _ids(messages).drop_null().to_pylist()
    return [number for number, _ in Counter(ids).most_common()]


def payloads(messages: pa.Table) -> pa.Array:
    """What stands behind the frames of messages."""
    # With a stop that no message reaches: without one, Arrow 26 fails (apache/arrow, "Negative buffer resize").
    return _one_array(pc.binary_slice(messages["value"], FRAME_BYTES, MAX_MESSAGE_BYTES))


def framed(messages: pa.Table, source: MappedSource) -> tuple[pa.Table, pa.Table, int]:
    """The messages with a frame, the rejects, and how many say nothing (Debezium's tombstones)."""
    value = _one_array(messages["value"])
    length = pc.fill_null(pc.binary_length(value), 0)
    is_silent = pc.is_null(value) if source.form == "debezium" else pa.array([False] * len(value), pa.bool_())
    cases = pc.make_struct(pc.equal(length, 0), pc.greater(length, MAX_MESSAGE_BYTES), pc.is_null(_ids(messages)))
    reason = pc.case_when(
        cases, "empty message", f"too large (limit {MAX_MESSAGE_BYTES:,} bytes)", NO_FRAME, pa.scalar(None, pa.string())
    )
    is_flawed = pc.and_(pc.is_valid(reason), pc.invert(is_silent))
    rejects = _rejects(messages.filter(is_flawed), reason.filter(is_flawed))
    return messages.filter(pc.is_null(reason)), rejects, pc.sum(is_silent).as_py() or 0


def by_schema(messages: pa.Table, source: MappedSource) -> tuple[list[Framed], pa.Table]:
    """Messages with a frame, by the schema that the source has for their id, and the rejects of those that it has none for."""
    ids = _ids(messages)
    groups: list[Framed] = []
    reasons: dict[int, str] = {}
    for number in pc.unique(ids).to_pylist():
        schema = source.schemas[number]
        if isinstance(schema, str):
            reasons[number] = schema
        elif schema.kind != _KINDS[source.encoding]:
            reasons[number] = f"its schema {number} is {schema.kind}, but the mapping says {source.encoding}"
        else:
            groups.append(Framed(number, schema, messages.filter(pc.equal(ids, number))))
    is_refused = pc.is_in(ids, pa.array(list(reasons), pa.int64()))
    refused = [reasons[number] for number in ids.filter(is_refused).to_pylist()]
    return groups, _rejects(messages.filter(is_refused), pa.array(refused, pa.string()))


def _ids(messages: pa.Table) -> pa.Array:
    """The id of each message's schema, or null if it has no frame."""
    heads = _one_array(pc.binary_slice(messages["value"], 0, FRAME_BYTES)).dictionary_encode()
    ids = [
        int.from_bytes(head[1:]) if len(head) == FRAME_BYTES and head[0] == 0 else None
        for head in heads.dictionary.to_pylist()
    ]
    return pa.array(ids, pa.int64()).take(heads.indices)


def _rejects(messages: pa.Table, reasons: pa.Array) -> pa.Table:
    columns = [*messages.select(REJECT_SCHEMA.names[:3]).columns, reasons, messages["value"]]
    return pa.table(columns, schema=REJECT_SCHEMA)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
