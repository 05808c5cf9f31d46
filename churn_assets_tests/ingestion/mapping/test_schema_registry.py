"""Topics in Avro, Protobuf and JSON Schema, whose schemas a Schema Registry has."""

import base64
import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.json_format import ParseDict

from churn_assets.clock import utc_now
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded
from churn_assets.ingestion.history import replay_rejects
from churn_assets.ingestion.mapping import avro as avro_reading
from churn_assets.ingestion.mapping import fields, rows
from churn_assets.ingestion.mapping.compiling import MappedSource, Mappings, WriterSchema
from churn_assets.ingestion.mapping.framed import NO_FRAME, Framed
from churn_assets.ingestion.schema_registry import Registry, RegistryUnavailableError
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.mapping.mapped import NOW, POSTING, mappings, postings, reasons
from churn_assets_tests.ingestion.schema_registry import RegistryServer, avro, basic, framed, registry_server

ROW = {
    "type": "record",
    "name": "Posting",
    "namespace": "bank",
    "fields": [
        {"name": "ref", "type": "string"},
        {"name": "account", "type": "string"},
        {"name": "booked", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "kind", "type": ["null", {"type": "enum", "name": "Kind", "symbols": ["POS", "ATM"]}]},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "shop", "type": ["null", {"type": "record", "name": "Shop", "fields": [
            {"name": "city", "type": ["null", "string"]}, {"name": "country", "type": "string"}]}]},
    ],
}  # fmt: skip
NEWER = {**ROW, "fields": [{"name": "device", "type": "string"}, *ROW["fields"]]}
CHANGE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "bank",
    "fields": [
        {"name": "before", "type": ["null", ROW], "default": None},
        {"name": "after", "type": ["null", "bank.Posting"], "default": None},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"]},
    ],
}
VALUE: dict[str, Any] = {
    "ref": "T1",
    "account": "A1",
    "booked": datetime(2026, 3, 1, 10, 0, 0, 500_000, UTC),
    "kind": "POS",
    "amount": Decimal("12.50"),
    "shop": {"city": "Bonn", "country": "DE"},
}
AVRO = mappings(postings({"merchant": "shop.city"}, format="avro"))


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with registry_server() as server:
        server.add(1, ROW)
        server.add(2, NEWER)
        server.add(3, CHANGE)
        yield server


@pytest.fixture
def registry(server: RegistryServer) -> RegistryServer:
    server.status = server.authorization = None
    server.asked.clear()
    return server


def decoded(found: Mappings, registry: Registry, *values: bytes | None) -> Decoded:
    source = found.of_topic("core")
    assert source is not None
    table = as_messages(*values)
    return rows.decode(table, NOW, registry.with_schemas(source, table))


def as_messages(*values: bytes | None) -> pa.Table:
    count = len(values)
    return pa.table([[0] * count, range(count), [NOW] * count, values], schema=MESSAGE_SCHEMA)


def stored(of: Decoded) -> list[dict[str, Any]]:
    return sorted(of.rows["fact_transaction_ledger"].to_pylist(), key=lambda row: row["kafka_offset"])


@pytest.mark.parametrize("has_polars", [True, False])
def test_avro_of_several_schemas_in_one_chunk_becomes_rows(
    registry: RegistryServer, monkeypatch: pytest.MonkeyPatch, has_polars: bool
):
    if not has_polars:
        monkeypatch.setattr(avro_reading, "_polars", None)
    other = {**VALUE, "ref": "T2", "kind": None, "shop": None, "device": "D1"}
    found = decoded(
        AVRO, registry.client(), avro(1, ROW, VALUE), avro(2, NEWER, {**other, "kind": "ATM"}), avro(1, ROW, other)
    )

    first, second = stored(found)
    assert (first["transaction_ref"], first["amount"], first["merchant"]) == ("T1", 12.5, "Bonn")
    assert first["posting_date"] == datetime(2026, 3, 1, 10, 0, 0, 500_000)
    assert json.loads(first["extra_fields"]) == {"shop": {"country": "DE"}}
    assert json.loads(second["extra_fields"]) == {"device": "D1", "shop": None}
    assert reasons(found) == ["missing transaction_code (mapped from kind)"]
    assert registry.asked == ["/schemas/ids/1", "/schemas/ids/2"]


def test_bytes_that_are_no_message_are_rejects_with_their_reasons_and_their_neighbours_are_stored(
    registry: RegistryServer,
):
    sound = avro(1, ROW, VALUE)
    odd = {
        b"{}": NO_FRAME,
        b"\x01" + sound[1:]: NO_FRAME,
        b"": "empty message",
        sound[:-3]: "not Avro of schema 1",
        sound + b"x": "not Avro of schema 1: it goes on after its end",
        framed(1, b""): "not Avro of schema 1",
        framed(1, b"\xff" * 30): "not Avro of schema 1",
        framed(404, sound[5:]): "the Schema Registry does not know its schema 404",
    }
    ours = [avro(1, ROW, {**VALUE, "ref": f"T{number}"}) for number in range(len(odd))]

    found = decoded(AVRO, registry.client(), *(one for pair in zip(odd, ours, strict=True) for one in pair))

    assert dict(zip(found.rejects["original"].to_pylist(), reasons(found), strict=True)) == odd
    assert [row["transaction_ref"] for row in stored(found)] == [f"T{number}" for number in range(len(odd))]


TYPES: list[tuple[Any, Any, str | None]] = [
    ("int", -5, "-5"),
    ("long", 2**62, str(2**62)),
    ("float", 12.75, "12.75"),
    ("double", 1e300, "1e+300"),
    ("double", 1234567.25, "1234567.25"),
    ("double", float("nan"), "nan"),
    ("boolean", True, "true"),
    ("bytes", b"\x00\xff", "AP8="),
    ("null", None, None),
    (["null", "float"], 0.5, "0.5"),
    (["string", "null"], "ä\"\\\n\x01/", "ä\"\\\n\x01/"),
    (["string"], "x", "x"),
    (["null", "string", "long"], 7, "7"),
    ({"type": "fixed", "name": "F", "size": 3}, b"abc", "YWJj"),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "B"),
    ({"type": "array", "items": ["null", "string"]}, ["a", None], '["a",null]'),
    ({"type": "array", "items": "long"}, [], "[]"),
    ({"type": "map", "values": "double"}, {'a"': 1.5, "b": 2.0}, '{"a\\"":1.5,"b":2.0}'),
    ({"type": "string", "logicalType": "uuid"}, UUID(int=5), str(UUID(int=5))),
    ({"type": "int", "logicalType": "date"}, date(1959, 2, 3), "1959-02-03"),
    ({"type": "int", "logicalType": "time-millis"}, time(1, 2, 3, 40_000), "01:02:03.04"),
    ({"type": "long", "logicalType": "time-micros"}, time(1, 2, 3), "01:02:03"),
    ({"type": "long", "logicalType": "timestamp-micros"}, datetime(1969, 1, 2, 3, tzinfo=UTC), "1969-01-02T03:00:00Z"),
    ({"type": "long", "logicalType": "local-timestamp-millis"}, datetime(2026, 1, 2), "2026-01-02T00:00:00"),
    ({"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 10, "scale": 2}, Decimal("-0.05"), "-0.05"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2}, Decimal("12345678901234567890.5"),
     "12345678901234567890.50"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 22, "scale": 20}, Decimal("5e-20"),
     "0.00000000000000000005"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 2}, Decimal("1.00"), "1.00"),
    ({"type": "record", "name": "In", "fields": [{"name": "a", "type": "null"}, {"name": "b", "type": "int"}]},
     {"a": None, "b": 1}, '{"a":null,"b":1}'),
]  # fmt: skip


def test_each_type_of_avro_has_one_text_in_bulk_and_one_by_one():
    found = mappings(postings({"merchant": "x"}, format="avro")).of_topic("core")
    assert found is not None
    in_bulk = 0
    for kind, value, text in TYPES:
        again = kind["name"] if isinstance(kind, dict) and "name" in kind else kind
        schema = {
            "type": "record",
            "name": "R",
            "fields": [{"name": "x", "type": kind}, {"name": "rest", "type": again}],
        }
        message = avro(1, schema, {"x": value, "rest": value})
        group = Framed(1, WriterSchema("AVRO", json.dumps(schema)), as_messages(message, message))
        bulk, others = avro_reading.in_bulk(group, found)
        single, rejects, _ = fields.one_by_one(group.messages, found, avro_reading.reader(1, group.schema))

        assert rejects.num_rows == 0, kind
        place = found.paths.index(("x",))
        assert single[f"f{place}"].to_pylist() == [text] * 2, kind
        if bulk.num_rows:
            assert bulk.to_pylist() == single.to_pylist(), kind
            in_bulk += 1
        else:
            assert others.num_rows == 2, kind
    assert in_bulk == len(TYPES) - 4  # null alone has no bytes of its own; two unions; a decimal beyond Arrow's


def test_a_float_of_four_bytes_has_no_more_digits_than_it_needs(registry: RegistryServer):
    schema = {**ROW, "fields": [*ROW["fields"], {"name": "fee", "type": "float"}]}
    registry.add(21, schema)

    (row,) = stored(decoded(AVRO, registry.client(), avro(21, schema, {**VALUE, "fee": 12.99})))

    assert '"fee":12.99' in row["extra_fields"]


def test_a_chunk_without_one_sound_message_is_all_rejects(registry: RegistryServer):
    found = decoded(AVRO, registry.client(), framed(1, b"\xff" * 30), framed(1, b""))

    assert reasons(found) == ["not Avro of schema 1"] * 2
    assert not found.rows


def test_a_time_that_no_calendar_has_is_its_digits(registry: RegistryServer):
    never = 2**63 - 1
    times = {"type": "record", "name": "T", "fields": [
        {"name": "x", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "y", "type": {"type": "int", "logicalType": "date"}},
    ]}  # fmt: skip
    schema = {**ROW, "fields": [*ROW["fields"], {"name": "times", "type": times}]}
    registry.add(20, schema)

    found = decoded(AVRO, registry.client(), avro(20, schema, {**VALUE, "times": {"x": never, "y": 2**31 - 1}}))

    (row,) = stored(found)
    assert json.loads(row["extra_fields"])["times"] == {"x": str(never), "y": str(2**31 - 1)}


def test_hostile_bytes_are_read_in_bulk_as_one_by_one_or_not_at_all():
    source = AVRO.of_topic("core")
    assert source is not None
    chance = random.Random(5)
    sound = avro(1, ROW, VALUE)
    mutated: list[bytes] = []
    for _ in range(600):
        content = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            content[chance.randrange(5, len(content))] = chance.choice([0, 1, 2, 127, 128, 255, chance.randrange(256)])
        mutated.append(bytes(content))
    group = Framed(1, WriterSchema("AVRO", json.dumps(ROW)), as_messages(*mutated))

    bulk, _ = avro_reading.in_bulk(group, source)
    single, _, _ = fields.one_by_one(group.messages, source, avro_reading.reader(1, group.schema))

    alike = {row["kafka_offset"]: row for row in single.to_pylist()}
    kind = f"f{source.paths.index(('kind',))}"
    # fastavro counts an enum below zero from the end.
    both = [row for row in bulk.to_pylist() if row["kafka_offset"] in alike and row[kind] in (None, "POS", "ATM")]
    assert len(both) > 20
    for row in both:
        assert row == alike[row["kafka_offset"]]


def test_change_events_of_debezium_in_avro_insert_update_and_delete(registry: RegistryServer):
    found = decoded(
        mappings(postings({"merchant": "shop.city"}, format="debezium", encoding="avro")),
        registry.client(),
        avro(3, CHANGE, {"before": None, "after": VALUE, "op": "c", "ts_ms": 5}),
        avro(3, CHANGE, {"before": VALUE, "after": {**VALUE, "amount": Decimal(1)}, "op": "u", "ts_ms": 6}),
        avro(3, CHANGE, {"before": VALUE, "after": None, "op": "d", "ts_ms": 7}),
        avro(3, CHANGE, {"before": None, "after": None, "op": "d", "ts_ms": 7}),
        None,
    )

    assert [row["amount"] for row in stored(found)] == [12.5, 1.0]
    assert found.voids["fact_transaction_ledger"]["is_delete"].to_pylist().count(True) == 1
    assert reasons(found) == ["a change event of Debezium without the row in before"]
    assert found.left_out == 1


def test_a_schema_may_refer_to_another_subject(registry: RegistryServer):
    registry.subjects["bank.Posting"] = {"schema": json.dumps(ROW), "schemaType": "AVRO"}
    whole = {"type": "record", "name": "Sent", "fields": [{"name": "row", "type": "bank.Posting"}]}
    registry.add(7, whole, references=("bank.Posting",))
    inlined = {**whole, "fields": [{"name": "row", "type": ROW}]}
    columns = {"transaction_ref": "row.ref", "account_id": "row.account", "posting_date": "row.booked"}
    columns |= {"transaction_code": "row.kind", "amount": "row.amount"}

    found = decoded(mappings(postings(columns, format="avro")), registry.client(), avro(7, inlined, {"row": VALUE}))

    assert [row["transaction_ref"] for row in stored(found)] == ["T1"]


def test_json_with_a_schema_becomes_rows_and_rejects_have_the_whole_message(registry: RegistryServer):
    registry.add(9, {"type": "object"}, "JSON")
    sound = json.dumps(POSTING).encode()
    odd = [framed(9, b"{"), framed(50, sound), framed(1, sound), sound]
    found = decoded(
        mappings(postings(format="json_schema")),
        registry.client(),
        *(framed(9, json.dumps(POSTING | {"ref": f"T{n}"}).encode()) for n in range(3)),
        *odd,
    )

    assert [(row["transaction_ref"], row["kafka_offset"]) for row in stored(found)] == [("T0", 0), ("T1", 1), ("T2", 2)]
    rejects = sorted(found.rejects.to_pylist(), key=lambda reject: reject["kafka_offset"])
    assert [reject["original"] for reject in rejects] == odd
    assert [reject["reason"] for reject in rejects][1:] == [
        "the Schema Registry does not know its schema 50",
        "its schema 1 is AVRO, but the mapping says json_schema",
        NO_FRAME,
    ]


def postings_in_protobuf() -> tuple[FileDescriptorProto, Any]:
    file = FileDescriptorProto(
        name="p.proto", package="bank", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    file.message_type.add(name="Other")
    outer = file.message_type.add(name="Bank")
    message = outer.nested_type.add(name="Posting")
    for number, name in enumerate(("ref", "account", "kind"), 1):
        message.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING, label=1)
    message.field.add(name="amount", number=4, type=FieldDescriptorProto.TYPE_DOUBLE, label=1)
    of_time = ".google.protobuf.Timestamp"
    message.field.add(name="booked", number=5, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=of_time, label=1)
    message.field.add(name="terminal", number=6, type=FieldDescriptorProto.TYPE_INT64, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return file, message_factory.GetMessageClass(pool.FindMessageTypeByName("bank.Bank.Posting"))


def test_protobuf_is_read_by_the_message_that_its_indexes_name(registry: RegistryServer):
    file, message_of = postings_in_protobuf()
    registry.add(11, base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF")
    registry.add(12, "syntax = 'proto3';", "PROTOBUF")
    content = ParseDict(POSTING | {"amount": 12.5, "terminal": "5"}, message_of()).SerializeToString()
    found = decoded(
        mappings(postings(format="protobuf")),
        registry.client(),
        framed(11, b"\x04\x02\x00" + content),  # two indexes: 1, 0
        framed(11, b"\x04\x02\x08" + content),
        framed(11, b"\x04\x02\x00" + content[:-1]),
        framed(11, b""),
        framed(12, b"\x00" + content),
        framed(1, content),
    )

    (row,) = stored(found)
    assert (row["transaction_ref"], row["amount"], json.loads(row["extra_fields"])) == ("T1", 12.5, {"terminal": "5"})
    assert sorted(reasons(found)) == [
        "its schema 1 is AVRO, but the mapping says protobuf",
        "not Protobuf of a Schema Registry: it does not say which message it is",
        "not Protobuf of schema 11",
        "schema 11 has no message at [1, 4]",
        "the Schema Registry gives no descriptor of its schema 12 (format=serialized)",
    ]
    assert registry.asked[0] == "/schemas/ids/11?format=serialized"


def test_a_registry_that_is_away_stops_the_run_before_anything_is_stored_and_an_unknown_schema_can_be_replayed(
    stream: Stream, registry: RegistryServer
):
    source = postings({"merchant": "shop.city"}, format="avro", topics=[stream.topic])
    stream.mappings = mappings(source)
    stream.registry = registry.client()
    stream.send([avro(1, ROW, VALUE), avro(50, ROW, {**VALUE, "ref": "T2"})])
    registry.status = 503
    with pytest.raises(RegistryUnavailableError, match=r"fails \(status 503\).*wait for the next run") as caught:
        stream.ingest()
    assert "\n" not in str(caught.value)
    assert not stream.committed()

    registry.status = None
    result = stream.ingest()
    assert (result.rows.total(), dict(result.rejected)) == (1, {"the Schema Registry does not know its schema 50": 1})

    registry.add(50, ROW)
    again = replay_rejects(stream.lake, None, utc_now, stream.mappings, stream.registry)
    assert again.rows.total() == 1
    assert stream.rows("SELECT count(*) FROM fact_transaction_ledger") == [(2,)]


def test_credentials_are_sent_and_never_shown(registry: RegistryServer):
    registry.authorization = basic("ann:right")
    message = as_messages(avro(1, ROW, VALUE))
    source: MappedSource | None = AVRO.of_topic("core")
    assert source is not None

    assert registry.client("ann:right").with_schemas(source, message).schemas
    with pytest.raises(RegistryUnavailableError, match="refuses the credentials") as caught:
        registry.client("ann:s3cret").with_schemas(source, message)
    assert "s3cret" not in str(caught.value)
    assert basic("ann:s3cret") not in str(caught.value)
    with pytest.raises(RegistryUnavailableError, match="SCHEMA_REGISTRY_URL is not set"):
        Registry().with_schemas(source, message)
