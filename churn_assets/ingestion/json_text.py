"""One message from its bytes: its JSON as Python values with every digit, or the reason why it is none.

Here belong the limits, which are checked before anything recursive sees the bytes, and the names of the formats that are
sent by mistake. What a member means is `values`; messages in bulk are `decoding`.
"""

import json
import re
from json.encoder import encode_basestring
from typing import Any

import numpy as np

from churn_assets.rules import MAX_MESSAGE_BYTES, MAX_MESSAGE_DEPTH, MAX_MESSAGE_MEMBERS


class UnreadableError(Exception):
    """A message that cannot become a row; the text is the reason that its reject gets."""


class Number(str):
    """A number as the message spells it. As a float, 10.10 and 12345678901234567890 would lose digits."""

    __slots__ = ()


def parsed(value: bytes | None) -> Any:
    """The JSON value of a message: dict, list, str, `Number`, bool or None. Raises `UnreadableError`.

    RFC 8259 to the letter, without NaN and without a key that stands twice in an object. A byte order mark is passed over.
    """
    if not value:
        raise UnreadableError("empty message")
    if len(value) > MAX_MESSAGE_BYTES:
        raise UnreadableError(f"too large (limit {MAX_MESSAGE_BYTES:,} bytes)")
    content = value.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise UnreadableError(_format(value) or "not JSON: not UTF-8") from None
    _check_limits(content)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise UnreadableError(_format(value) or _flaw(text, error)) from None


def written(value: Any) -> str:
    """A value of `parsed` as JSON, each number with the digits that it came with. Half a surrogate pair becomes U+FFFD."""
    text = _written(value)
    return text if text.isascii() else whole_characters(text)


def whole_characters(text: str) -> str:
    """The text with U+FFFD in place of half a surrogate pair, which is what is left of a character cut in two."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def shown(text: str) -> str:
    """A name from a message as a reason may show it: printable and short."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


# Within a valid text, a string ends at the first quote that is not escaped. Possessive, so that no text makes it try twice;
# without its closing quote, a string is all the rest.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_OPENS, _CLOSES = np.frombuffer(b"[{", np.uint8), np.frombuffer(b"]}", np.uint8)


def _check_limits(content: bytes) -> None:
    """Refuse what would cost the parser its stack or too long, in linear time and without recursion."""
    opened = content.count(b"{") + content.count(b"[")
    if opened <= MAX_MESSAGE_DEPTH and content.count(b",") < MAX_MESSAGE_MEMBERS:
        return  # what is only in strings may be counted too: the exact count is for the few others
    outside = _STRING.sub(b"", content)
    if outside.count(b",") >= MAX_MESSAGE_MEMBERS:
        raise UnreadableError(f"has too many members (limit {MAX_MESSAGE_MEMBERS:,})")
    marks = np.frombuffer(outside, np.uint8)
    steps = np.isin(marks, _OPENS).astype(np.int32) - np.isin(marks, _CLOSES)
    if steps.cumsum().max(initial=0) > MAX_MESSAGE_DEPTH:
        raise UnreadableError(f"nested too deep (limit {MAX_MESSAGE_DEPTH})")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise UnreadableError(f"duplicate key {shown(name)}")
            seen.add(name)
    return members


def _no_number(name: str) -> Any:
    raise UnreadableError(f"not JSON: {name} (send null for a missing number)")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_no_number)


def _written(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Number():
            return str(value)
        case str():
            return encode_basestring(value)
        case list():
            return f"[{','.join([_written(item) for item in value])}]"  # pyright: ignore[reportUnknownVariableType]
        case _:
            return f"{{{','.join([f'{encode_basestring(name)}:{_written(item)}' for name, item in value.items()])}}}"


# By their first bytes. Most specific first: https://en.wikipedia.org/wiki/List_of_file_signatures
_SIGNATURES = (
    (b"Obj\x01", "an Avro container file, not JSON"),
    (b"PAR1", "a Parquet file, not JSON"),
    (b"\x1f\x8b", "compressed with gzip, not JSON; let the producer compress (compression.type)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd, not JSON; let the producer compress (compression.type)"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed with Snappy, not JSON; let the producer compress (compression.type)"),
    (b"\x82SNAPPY\x00", "compressed with Snappy, not JSON; let the producer compress (compression.type)"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4, not JSON; let the producer compress (compression.type)"),
    (b"BZh", "compressed with bzip2, not JSON"),
    (b"PK\x03\x04", "a ZIP file, not JSON"),
    (b"\xac\xed\x00\x05", "a serialized Java object, not JSON; set a JSON serializer"),
    (b"\x80\x04\x95", "a Python pickle, not JSON"),
)
_WIDE = (
    ("UTF-32", "utf-32", (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")),
    ("UTF-16", "utf-16", (b"\xff\xfe", b"\xfe\xff")),
    ("UTF-32", "utf-32-le", (b"{\x00\x00\x00", b"[\x00\x00\x00")),
    ("UTF-32", "utf-32-be", (b"\x00\x00\x00{", b"\x00\x00\x00[")),
    ("UTF-16", "utf-16-le", (b"{\x00", b"[\x00")),
    ("UTF-16", "utf-16-be", (b"\x00{", b"\x00[")),
)


def _format(value: bytes) -> str | None:
    """What a message is that is no JSON in UTF-8, if its bytes tell."""
    for signature, name in _SIGNATURES:
        if value.startswith(signature):
            return name
    for name, codec, begins in _WIDE:
        if value.startswith(begins) and value.decode(codec, "replace").count("\ufffd") == 0:
            return f"{name}, not UTF-8"
    # https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
    if value[0] == 0 and len(value) > 5:
        schema = int.from_bytes(value[1:5], "big")
        content = "JSON Schema" if value[5:6] in b"{[" else "Avro or Protobuf"
        return f"Confluent wire format (schema id {schema}, {content}), not JSON alone; send plain JSON"
    if value[:1] in b"\x78" and value[1:2] in b"\x01\x5e\x9c\xda":
        return "compressed with zlib, not JSON"
    return None


_FLAWS = (
    ("<", "not JSON: XML or HTML"),
    ("eyJ", "not JSON: Base64"),
    ("{'", "not JSON: names in single quotes"),
    ("---", "not JSON: YAML"),
)


def _flaw(text: str, error: json.JSONDecodeError) -> str:
    begin = text.strip()
    if not begin:
        return "empty message"
    for start, flaw in _FLAWS:
        if begin.startswith(start):
            return flaw
    if not begin.startswith(("{", "[")):
        return "not JSON"
    if error.msg == "Extra data":
        is_another = text[error.pos :].lstrip().startswith(("{", "["))
        more = "several JSON documents in one message; send each on its own"
        return more if is_another else "not JSON: text after its end"
    is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    return "not JSON: it ends too early" if is_cut else "not JSON"
