"""The client of a Schema Registry: the schemas of the ids that messages have.

A schema never changes under its id, so the client keeps it. An id that the registry does not know is a reason for rejects; a
registry that does not answer is an error, before anything is stored. What a schema means is in `mapping.avro` and
`mapping.protobuf`.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import SecretStr

from churn_assets.errors import ChurnError
from churn_assets.ingestion.mapping.compiling import MappedSource, WriterSchema
from churn_assets.ingestion.mapping.framed import schema_ids
from churn_assets.settings import Settings

if TYPE_CHECKING:  # it takes long to import, and few banks need it
    from confluent_kafka.schema_registry import SchemaRegistryClient

TIMEOUT_SECONDS = 5.0  # for one request; those that fail in passing are repeated twice
_MAX_UNKNOWN = 100  # of one chunk that are asked for: each costs a request, and bytes that are no id may look like one
_SCHEMA_NOT_FOUND = 40403


class RegistryUnavailableError(ChurnError):
    """The registry cannot be used; the message is one line that names its address, without secrets, and what to do."""


class Registry:
    """A registry, which is asked when the first message needs it. `properties` are those of confluent-kafka's client."""

    def __init__(self, properties: Iterable[tuple[str, SecretStr]] = ()) -> None:
        self._properties = dict(properties)
        # By the form in which they ask for schemas, because a client keeps the first form that it gets of one.
        self._clients: dict[str | None, SchemaRegistryClient] = {}

    def with_schemas(self, source: MappedSource, messages: pa.Table) -> MappedSource:
        """The source with the schemas of these messages, or why there is none. Raises `RegistryUnavailableError`."""
        if source.encoding == "json":
            return source
        found: dict[int, WriterSchema | str] = {}
        unknown = 0
        for number in schema_ids(messages):
            if unknown >= _MAX_UNKNOWN:
                found[number] = f"its schema {number} was not looked for, after {_MAX_UNKNOWN} that nobody knows"
                continue
            schema = self._schema(number, "serialized" if source.encoding == "protobuf" else None)
            if schema is None:
                unknown += 1
                found[number] = f"the Schema Registry does not know its schema {number}"
            else:
                found[number] = schema
        return replace(source, schemas=found)

    @property
    def address(self) -> str:
        """Where it is, without user, password and query."""
        if "url" not in self._properties:
            return ""
        try:
            parts = urlsplit(self._properties["url"].get_secret_value().split(",")[0])
        except ValueError:
            return "the address of SCHEMA_REGISTRY_URL"
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _schema(self, number: int, form: str | None) -> WriterSchema | None:
        from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415

        client = self._client(form)
        try:
            schema = client.get_schema(number, fmt=form)
            references: dict[str, str] = {}
            self._add_references(client, schema, form, references)
        except SchemaRegistryError as error:
            if error.error_code == _SCHEMA_NOT_FOUND:
                return None
            problem = _refusal(error.http_status_code)
        except Exception as error:  # noqa: BLE001  # whatever the client raises, there is no schema for now
            problem = f"does not answer ({type(error).__name__}); is it running, and is SCHEMA_REGISTRY_URL right?"
        else:
            kind = schema.schema_type or "AVRO"
            return WriterSchema(kind, schema.schema_str or "", tuple(references.items()))
        # Outside of the handlers: an error of the client may hold the address with its password, and would be chained.
        raise RegistryUnavailableError(
            f"the Schema Registry at {self.address} {problem} The messages wait for the next run"
        )

    def _add_references(self, client: Any, schema: Any, form: str | None, found: dict[str, str]) -> None:
        references: list[Any] = schema.references or []
        for reference in references:
            if reference.name not in found:
                referred = client.get_version(reference.subject, reference.version, fmt=form).schema
                self._add_references(client, referred, form, found)
                found[reference.name] = referred.schema_str or ""

    def _client(self, form: str | None) -> "SchemaRegistryClient":
        if form not in self._clients:
            if "url" not in self._properties:
                raise RegistryUnavailableError(
                    "messages of a Schema Registry wait, but SCHEMA_REGISTRY_URL is not set; set it in .env"
                )
            properties: dict[str, Any] = {name: value.get_secret_value() for name, value in self._properties.items()}
            limits = {"timeout": TIMEOUT_SECONDS, "max.retries": 2, "retries.wait.ms": 200, "retries.max.wait.ms": 1000}
            from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415

            with suppress(ValueError, TypeError, OSError):  # its message may show the password
                self._clients[form] = SchemaRegistryClient(properties | limits)
            if form not in self._clients:
                raise RegistryUnavailableError(
                    "wrong setting: the client of the Schema Registry refuses SCHEMA_REGISTRY_URL (https://host:port),"
                    " SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO (user:password) or SCHEMA_REGISTRY_SSL_CA_LOCATION (a PEM file)"
                )
        return self._clients[form]


def connect(settings: Settings) -> Registry:
    """The registry that the settings name. It is kept for the next call in this process, with its schemas."""
    return _registry(tuple(settings.schema_registry.items()))


@lru_cache(maxsize=1)
def _registry(properties: tuple[tuple[str, SecretStr], ...]) -> Registry:
    return Registry(properties)


def _refusal(status: int) -> str:
    match status:
        case 401 | 403:
            return f"refuses the credentials (status {status}); correct SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO."
        case _ if status >= 500:
            return f"fails (status {status}); look into its log."
        case _:
            return f"refuses the request (status {status}); does SCHEMA_REGISTRY_URL name a Schema Registry?"
