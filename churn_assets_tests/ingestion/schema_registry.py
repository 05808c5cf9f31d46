"""A small Schema Registry for tests: it speaks as much of the API as a consumer asks for."""

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any

import fastavro
from pydantic import SecretStr

from churn_assets.ingestion.schema_registry import Registry


class RegistryServer:
    """Schemas by id, and by the subject of those that others refer to; `status` is what it answers to everything, if set."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, dict[str, Any]] = {}
        self.status: int | None = None
        self.authorization: str | None = None
        self.asked: list[str] = []

    def add(self, number: int, schema: object, kind: str = "AVRO", references: tuple[str, ...] = ()) -> None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        listed = [{"name": name, "subject": name, "version": 1} for name in references]
        self.schemas[number] = {"schema": text, "schemaType": kind, "references": listed}

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if self.status is not None:
            return self.status, {"error_code": self.status, "message": f"sorry, {authorization}"}
        if self.authorization is not None and authorization != self.authorization:
            return 401, {"error_code": 401, "message": f"who is {authorization}?"}
        *_, kind, name = path.partition("?")[0].split("/")
        if kind == "ids" and (found := self.schemas.get(int(name))):
            return 200, found
        subject = path.split("/")[2]
        if kind == "versions" and subject in self.subjects:
            return 200, {"subject": subject, "version": 1, "id": 1, **self.subjects[subject]}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def client(self, user_info: str | None = None) -> Registry:
        properties = {"url": SecretStr(self.address)}
        if user_info:
            properties["basic.auth.user.info"] = SecretStr(user_info)
        return Registry(properties.items())


@contextmanager
def registry_server() -> Iterator[RegistryServer]:
    """A registry on this machine while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = registry.answer(self.path, self.headers.get("Authorization"))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = RegistryServer(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


def framed(number: int, payload: bytes) -> bytes:
    return struct.pack(">bI", 0, number) + payload


def avro(number: int, schema: object, value: Mapping[str, Any]) -> bytes:
    """A message as Confluent's Avro serializer writes it."""
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(json.dumps(schema))), value)
    return framed(number, stream.getvalue())


def basic(user_info: str) -> str:
    return f"Basic {base64.b64encode(user_info.encode()).decode()}"
