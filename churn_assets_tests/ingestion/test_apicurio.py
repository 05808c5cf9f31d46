"""What the small registry of the other tests may get wrong: a real one, and Confluent's serializer."""

import json
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import SecretStr

from churn_assets.clock import utc_now
from churn_assets.ingestion.history import replay_rejects
from churn_assets.ingestion.schema_registry import Registry, RegistryUnavailableError
from churn_assets_tests.ingestion.apicurio import apicurio
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.mapping.mapped import POSTING, mappings, postings, reasons
from churn_assets_tests.ingestion.mapping.test_schema_registry import NEWER, ROW, VALUE, decoded, stored
from churn_assets_tests.ingestion.schema_registry import avro, framed

pytestmark = pytest.mark.kafka

PROTO = 'syntax = "proto3"; package bank; message Posting { string ref = 1; }'


def test_apicurio_has_the_schemas_and_what_waits_for_them_is_not_lost(
    stream: Stream, request: pytest.FixtureRequest, tmp_path: Path
):
    libraries = request.config.invocation_params.dir / str(request.config.getoption("--kafka"))
    stream.mappings = mappings(postings({"merchant": "shop.city"}, format="avro", topics=[stream.topic]))
    with apicurio(libraries, tmp_path) as address:
        client = SchemaRegistryClient({"url": address})
        of_json = client.register_schema("json", Schema(json.dumps({"type": "object", "properties": {}}), "JSON"))
        of_protobuf = client.register_schema("protobuf", Schema(PROTO, "PROTOBUF"))
        serialized = AvroSerializer(client, json.dumps(ROW))(VALUE, SerializationContext("core", MessageField.VALUE))
        assert serialized is not None
        unknown = int.from_bytes(serialized[1:5]) + 1
        stream.send([serialized, avro(unknown, NEWER, {**VALUE, "ref": "T2", "device": "D1"})])
        stream.registry = Registry({"url": SecretStr(address)}.items())

        first = stream.ingest(isolated=True)

        assert (first.rows.total(), [*first.rejected]) == (
            1,
            [f"the Schema Registry does not know its schema {unknown}"],
        )
        assert client.register_schema("core-value", Schema(json.dumps(NEWER), "AVRO")) == unknown
        assert replay_rejects(stream.lake, None, utc_now, stream.mappings, stream.registry).rows.total() == 1

        found = decoded(
            mappings(postings(format="json_schema")), stream.registry, framed(of_json, json.dumps(POSTING).encode())
        )
        assert len(stored(found)) == 1
        # Apicurio has no descriptors to give.
        found = decoded(mappings(postings(format="protobuf")), stream.registry, framed(of_protobuf, b"\x00\x0a\x01T"))
        assert reasons(found) == [
            f"the Schema Registry gives no descriptor of its schema {of_protobuf} (format=serialized)"
        ]

    committed = stream.committed()
    stream.send([avro(unknown + 1, ROW, VALUE)])
    with pytest.raises(RegistryUnavailableError, match=r"does not answer .* wait for the next run") as caught:
        stream.ingest()
    assert "\n" not in str(caught.value)
    assert stream.committed() == committed
