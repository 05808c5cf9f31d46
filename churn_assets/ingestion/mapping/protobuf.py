"""A Protobuf message of a Schema Registry, as the values that its JSON would have.

The registry gives the descriptor of the schema's file; which of its messages it is stands behind the frame. Names are those of
the schema, and a field of proto3 that was left at its default has that.
"""

import base64
import binascii
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from churn_assets.ingestion.json_text import Number, UnreadableError
from churn_assets.ingestion.mapping.compiling import WriterSchema
from churn_assets.ingestion.mapping.framed import FRAME_BYTES

_WELL_KNOWN: dict[str, Any] = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
}


def reader(number: int, schema: WriterSchema) -> Callable[[bytes], Any]:
    """What reads a framed message of a schema as a value of `json_text.parsed`; it raises `UnreadableError`."""

    def read(original: bytes) -> Any:
        message_of = _messages(number, schema)
        indexes, begin = _indexes(original)
        try:
            message = message_of(indexes).FromString(original[begin:])
            found = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        except IndexError:
            raise UnreadableError(f"schema {number} has no message at {list(indexes)}") from None
        except Exception:  # noqa: BLE001  # of many kinds, and whatever it is, these bytes are to blame
            raise UnreadableError(f"not Protobuf of schema {number}") from None
        return _plain(found)

    return read


def _indexes(original: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the file it is, from the outer to the inner one, and where it begins."""
    place = FRAME_BYTES

    def number() -> int:
        nonlocal place
        found = shift = 0
        while place < len(original) and shift < 64:
            byte = original[place]
            place += 1
            found |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (found >> 1) ^ -(found & 1)
        raise UnreadableError("not Protobuf of a Schema Registry: it does not say which message it is")

    count = number()
    if not 0 <= count <= len(original):
        raise UnreadableError("not Protobuf of a Schema Registry: it does not say which message it is")
    return (tuple(number() for _ in range(count)) or (0,)), place


@lru_cache(maxsize=100)
def _messages(number: int, schema: WriterSchema) -> Callable[[tuple[int, ...]], type[Message]]:
    """The class of the message at the given indexes of a schema's file, which raises `IndexError`."""
    pool = descriptor_pool.DescriptorPool()
    try:
        for name, text in schema.references:
            _add(pool, name, text)
        # Its own name is of no account, and the registry may give it that of another file.
        name = _add(pool, f"schema {number}", schema.text)
        file: Any = pool.FindFileByName(name)
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(
            f"the Schema Registry gives no descriptor of its schema {number} (format=serialized)"
        ) from error

    @lru_cache(maxsize=100)
    def at(indexes: tuple[int, ...]) -> type[Message]:
        found: Any = None
        for index in indexes:
            inner = list(file.message_types_by_name.values()) if found is None else found.nested_types
            if index < 0:
                raise IndexError(index)
            found = inner[index]
        return message_factory.GetMessageClass(found)

    return at


def _add(pool: Any, name: str, text: str) -> str:
    try:
        content = base64.b64decode(text, validate=True)
        file = FileDescriptorProto.FromString(content)
    except Exception as error:  # DecodeError is of another class in each implementation of Protobuf
        raise ValueError("not a descriptor") from error
    file.name = name
    for dependency in file.dependency:
        if dependency in _WELL_KNOWN:
            pool.AddSerializedFile(_WELL_KNOWN[dependency].serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return name


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            return Number(repr(value))
        case list():
            return [_plain(item) for item in cast("list[Any]", value)]
        case _:
            return {name: _plain(member) for name, member in value.items()}
