"""Every kind of message that people have sent, and what becomes of it: a row with the right value, or a reject that says why.

The tables are decoded in one call each, so a hostile message also has its neighbours to harm.
"""

import base64
import gzip
import json
import zlib
from datetime import date, datetime
from typing import Any

import pytest

from churn_assets.ingestion import decoding
from churn_assets.ingestion.events import LEDGERS
from churn_assets.rules import MAX_MESSAGE_BYTES, MAX_MESSAGE_DEPTH, MAX_MESSAGE_MEMBERS
from churn_assets_tests.ingestion.messages import PAYLOADS, message
from churn_assets_tests.ingestion.test_decoding import decoded

TXN = message("TXN")
FULL = datetime(2026, 3, 1, 10)
NOT_A_TIME = "posting_date is not a time (ISO 8601)"
FLOAT_ID = "account_id is an id that became a floating-point number (such as 10.0)"


@pytest.fixture(autouse=True)
def _in_bulk_what_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads a few odd messages by itself; here DuckDB has to read what it would read of many."""
    monkeypatch.setattr(decoding, "FEW_MESSAGES", 0)


def raw(field: str, value: str, event_type: str = "TXN") -> bytes:
    """An event in which a value is spelled just so."""
    placeholder = "@@@"
    return message(event_type, **{field: placeholder}).replace(json.dumps(placeholder).encode(), value.encode())


def outcomes(values: list[bytes | None]) -> list[Any]:
    """For each message its row, or the reason of its reject."""
    result = decoded(*values)
    found: dict[int, Any] = {}
    for rows in result.rows.values():
        found |= {row["kafka_offset"]: row for row in rows.to_pylist()}
    rejects = {row["kafka_offset"]: row for row in result.rejects.to_pylist()}
    assert not found.keys() & rejects.keys()
    assert all(row["original"] == values[offset] for offset, row in rejects.items())
    found |= {offset: row["reason"] for offset, row in rejects.items()}
    return [found[offset] for offset in range(len(values))]


# By field: how a value is spelled, and the value of the row or the reason of the reject.
TIMES = [
    # RFC 3339
    ('"2026-03-01T10:00:00Z"', FULL),
    ('"2026-03-01T10:00:00z"', FULL),
    ('"2026-03-01t10:00:00Z"', FULL),
    ('"2026-03-01 10:00:00Z"', FULL),
    ('"2026-03-01T10:00:00.5Z"', datetime(2026, 3, 1, 10, 0, 0, 500_000)),
    ('"2026-03-01T10:00:00.123456789Z"', datetime(2026, 3, 1, 10, 0, 0, 123_456)),
    ('"2026-03-01T10:00:00,25Z"', datetime(2026, 3, 1, 10, 0, 0, 250_000)),
    ('"2026-03-01T12:00:00+02:00"', FULL),
    ('"2026-03-01T06:30:00-03:30"', FULL),
    ('"2026-03-01T10:00:00-00:00"', FULL),
    ('"2026-03-01T10:00:00+00:00"', FULL),
    ('"2025-12-31T23:59:60Z"', datetime(2026, 1, 1)),
    ('"2026-01-01T01:59:60+02:00"', datetime(2026, 1, 1)),
    # ISO 8601 as documented
    ('"2026-03-01T10:00:00"', FULL),
    ('"2026-03-01T10:00Z"', FULL),
    ('"2026-03-01T10:00"', FULL),
    ('"2026-03-01T12:00+02"', FULL),
    ('"2026-03-01T12:00:00+0200"', FULL),
    ('"20260301T100000Z"', FULL),
    ('"20260301T1000Z"', FULL),
    ('"20260301T120000.000+0200"', FULL),
    ('"20260301"', datetime(2026, 3, 1)),
    ('"2026-03-01"', datetime(2026, 3, 1)),
    ('"2026-02-28T24:00:00Z"', datetime(2026, 3, 1)),
    ('"2024-02-29T00:00:00Z"', datetime(2024, 2, 29)),
    ('" 2026-03-01T10:00:00Z\\n"', FULL),
    # and nothing else
    *(
        (f'"{text}"', NOT_A_TIME)
        for text in (
            *(
                "2020-01-01 garbage",
                "2026-03-01T10:00:00 BST",
                "2026-03-01T10:00:00+99:99",
                "2026-03-01T10:00:00+24:00",
            ),
            *("epoch", "infinity", "-infinity", "today", "now", "yesterday", "NaN", "null", "01/03/2026", "1.3.2026"),
            *(
                "2026-02-30T00:00:00Z",
                "2026-02-29",
                "2026-13-01",
                "2026-00-10",
                "2026-3-1",
                "26-03-01",
                "+002026-03-01",
            ),
            *("2026-03-01T10:00:00Z Z", "2026-03-01T10:00:00ZZ", "2026-03-01T25:00:00Z", "2026-03-01T10:60:00Z"),
            *(
                "2026-03-01T10:00:60Z",
                "2026-03-01T23:59:61Z",
                "2026-03-01T10:00:0.Z",
                "2026-03-01T 9:00:00Z",
                "2026-03-01T24:00:01Z",
                "2026-03-01T10:00:00.Z",
            ),
            *(
                "2026-03-01T",
                "2026-03-01T10",
                "2026-03-01T1000Z",
                "20260301T10:00:00Z",
                "2026-W09-7",
                "2026-060",
                "2026-03",
            ),
            *(
                "2026-03-01T10:00:00 +02:00",
                "2026-03-01T10:00:00[UTC]",
                "2026-03-01T10:00:00 UTC",
                "10:00:00",
                "1772359200",
            ),
            *("２０２６-03-01T10:00:00Z", "2026\u201003\u201001", "2026-03-01T10:00:00\u221202:00", "2026-03-01 (BC)"),
        )
    ),
    *((text, NOT_A_TIME) for text in ("1772359200", "1772359200000", "20260301", "true", "[2026,3,1]", '{"$date":0}')),
    *(
        (f'"{text}"', "posting_date is an impossible time")
        for text in ("1999-12-31T23:59:59Z", "0000-01-01", "0001-01-01")
    ),
    *((f'"{text}"', "posting_date is an impossible time") for text in ("2026-06-03", "9999-12-31T23:59:59-05:00")),
    ('""', "missing posting_date"),
    ("null", "missing posting_date"),
]
IDS = [
    ('"A1"', "A1"),
    ("12345", "12345"),
    ("-0", "0"),
    ("12345678901234567890123456789", "12345678901234567890123456789"),
    ('"007"', "007"),
    ('" A1 "', "A1"),
    ('"\\u00a0A1\\u200b\\t"', "A1"),
    ('"A 1"', "A 1"),
    ('"12e5"', "12e5"),
    ('"2024.001"', "2024.001"),
    ('"true"', "true"),
    ('"NaN"', "NaN"),
    *(
        (text, FLOAT_ID)
        for text in ("10.0", '"10.0"', "1e5", "1.0E+2", '"1.0E+2"', '" 10.0 "', '"10."', "-0.0", "1.5", "1e400")
    ),
    *((text, FLOAT_ID) for text in ('"1.23457E+14"', '"1E+05"', "12345678901234567.0")),
    ("true", "account_id is true or false, not text"),
    ('{"id": 1}', "account_id is an object, not text"),
    ("[1]", "account_id is a list, not text"),
    ('"   "', "missing account_id"),
    ('"\\u200b"', "missing account_id"),
    ('"A\\u0000"', "account_id has a NUL character"),
    ('"A\\ud800"', "account_id has half a surrogate pair, which is no character"),
    (f'"{"x" * 255}"', "x" * 255),
    (f'"{"é" * 255}"', "é" * 255),
    (f'"{"x" * 256}"', "account_id is too long (limit 255)"),
]
AMOUNTS = [
    ("1", 1.0),
    ("-0", 0.0),
    ("-1.50", -1.5),
    ("1E2", 100.0),
    ('"12.50"', 12.5),
    ('" 12 "', 12.0),
    ('"+5"', 5.0),
    *((text, "amount is out of range") for text in ("1e400", "1e13", '"1e400"')),
    *(
        (text, "amount is not a number")
        for text in ('"12,5"', '"1_000"', '"0x10"', '"NaN"', '"inf"', "true", "[1]", '"1 000"')
    ),
    *((text, "amount is not a number") for text in ('"\u0661"', '"$5"', '{"value": 1}')),
    *((text, f"not JSON: {text} (send null for a missing number)") for text in ("NaN", "Infinity", "-Infinity")),
    *((text, "not JSON") for text in ("nan", "inf", "+5", ".5", "5.", "01", "0x10", "1_000", "None", "True", "'5'")),
    ("", "not JSON"),
]
OTHERS = {
    ("USER", "email"): [
        ('"ann@example.com "', "ann@example.com"),
        ('"\\tann@example.com\\u00a0"', "ann@example.com"),
        ('"\u3000ann@example.com"', "ann@example.com"),
        ('" "', None),
        ("null", None),
    ],
    ("USER", "full_name"): [
        ('"Jos\\u00e9"', "José"),
        ('"José"', "José"),
        ('"\\ud83d\\ude00"', "😀"),
        ('"cut \\ud83d"', "cut \ufffd"),
        ("true", "full_name is true or false, not text"),
        ("1.5", "full_name is a floating-point number, not text (such as 10.0)"),
        (f'"{"x" * 1000}"', "x" * 1000),
    ],
    ("USER", "join_date"): [
        ('"1987-05-01"', date(1987, 5, 1)),
        ('"1900-01-01"', date(1900, 1, 1)),
        ('"19870501"', date(1987, 5, 1)),
        ('"2020-05-01T23:30:00-05:00"', date(2020, 5, 1)),
        ('"2020-05-01T00:30:00+05:00"', date(2020, 5, 1)),
        ('"1899-12-31"', "join_date is an impossible time"),
        ('"2026-06-03"', "join_date is an impossible time"),
        ('"2020-01-01 garbage"', "join_date is not a time (ISO 8601)"),
        ('"2020-05-01T25:00:00"', "join_date is not a time (ISO 8601)"),
    ],
    ("USER", "email_consent"): [
        *((text, True) for text in ("true", "1", "1.0", '"true"', '"TRUE"', '"yes"', '"Y"', '"1"')),
        *((text, False) for text in ("false", "0", '"False"', '"no"', '"f"')),
        *((text, None) for text in ("null", '""')),
        *((text, "email_consent is not true or false") for text in ("2", '"perhaps"', '"null"', "[true]")),
    ],
    ("ACCOUNT", "opened_at"): [('"1987-05-01"', datetime(1987, 5, 1))],
    ("ACCOUNT", "updated_at"): [('"1998-05-01"', datetime(1998, 5, 1))],
    ("ACCOUNT", "account_status"): [('"closed"', "CLOSED"), ('" Open "', "OPEN")],
    ("ACCOUNT", "closed_at"): [
        ('"2026-03-01"', datetime(2026, 3, 1)),
        ('"1987-05-01"', datetime(1987, 5, 1)),
        *(
            (f'"{text}"', None)
            for text in ("9999-12-31", "9999-12-31T23:59:59.999999-05:00", "2999-12-31", "2099-12-31", "")
        ),
        ('"2030-01-01"', "closed_at is an impossible time"),
    ],
    ("TXN", "transaction_code"): [
        ('"pos"', "POS"),
        ('"CARD_PURCHASE"', "CARD_PURCHASE"),
        ("5411", "5411"),
        ('"ß"', "ß"),
    ],
    ("CASE", "case_text"): [
        ('"Zeile 1\\nZeile 2 [sic] {x}"', "Zeile 1\nZeile 2 [sic] {x}"),
        (f'"{"x" * 20_000}"', "x" * 20_000),
        (f'"{"[" * 20_000}"', "[" * 20_000),
        (f'"{"x" * 20_001}"', "case_text is too long (limit 20,000)"),
    ],
}


TABLES: dict[tuple[str, str], list[tuple[str, Any]]] = {
    ("TXN", "posting_date"): TIMES,
    ("TXN", "account_id"): IDS,
    ("TXN", "amount"): AMOUNTS,
    **OTHERS,
}


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")], ids=["spaces", "compact"])
def test_a_value_is_stored_as_what_it_is_or_refused_by_name(separators):
    spelled = [raw(field, text, event_type) for (event_type, field), table in TABLES.items() for text, _ in table]
    if separators == (",", ":"):
        spelled = [value.replace(b'", "', b'","').replace(b'": ', b'":') for value in spelled]

    outcome = iter(outcomes([*spelled]))

    for (event_type, field), table in TABLES.items():
        found = [next(outcome) for _ in table]
        is_row = [not isinstance(one, str) for one in found]
        assert [
            (text, one[field] if row else one) for (text, _), one, row in zip(table, found, is_row, strict=True)
        ] == table, (event_type, field)
        assert is_row == [not isinstance(one, str) or one in _stored_texts(event_type, field) for _, one in table]


def _stored_texts(event_type: str, field: str) -> set[str]:
    """The texts that a table of values may expect in a row, as against a reason."""
    of_table = {("TXN", "account_id"): IDS, **OTHERS}.get((event_type, field), [])
    return {one for _, one in of_table if isinstance(one, str) and not one.startswith(("missing", field))}


def test_an_ordinary_event_is_read_alike_however_it_is_spelled():
    payload = PAYLOADS["TXN"]
    reordered = {"payload": dict(reversed(payload.items())), "event_type": "TXN"}
    escaped = TXN.replace(b'"amount"', b'"\\u0061mount"').replace(b'"payload"', b'"p\\u0061yload"')
    spelled = [
        TXN,
        json.dumps({"event_type": "TXN", "payload": payload}, separators=(",", ":")).encode(),
        json.dumps({"event_type": "TXN", "payload": payload}, indent=2).encode(),
        json.dumps(reordered).encode(),
        escaped,
        b"\xef\xbb\xbf" + TXN,
        b" \r\n\t" + TXN + b"\n",
        TXN.replace(b'"TXN"', b'" TXN"'),
        TXN.replace(b"12.5", b'"12.50"'),
    ]

    rows = outcomes(spelled)

    assert all({**row, "kafka_offset": 0} == rows[0] for row in rows), [row for row in rows if isinstance(row, str)]


def envelope(members: str) -> bytes:
    """A valid TXN with more members around its payload."""
    return TXN.replace(b'{"event_type"', f'{{{members}, "event_type"'.encode(), 1)


EXTRAS = [
    (raw("amount", '1, "zz": 10.10'), '{"zz":10.10}'),
    (raw("amount", '1, "zz": 12345678901234567890.123'), '{"zz":12345678901234567890.123}'),
    (raw("amount", '1, "zz": [1.0E+2, {"a": -0}, "\\n", null]'), '{"zz":[1.0E+2,{"a":-0},"\\n",null]}'),
    (raw("amount", '1, "zz": "\\u00e9\\ud800"'), '{"zz":"é\ufffd"}'),
    (
        raw("amount", '1, "id": "t-9"').replace(b'{"event', b'{"id":"e-1","event'),
        '{"id":"t-9","envelope":{"id":"e-1"}}',
    ),
    (envelope('"envelope": 1'), '{"envelope":{"envelope":1}}'),
    (raw("amount", '1, "envelope": 2'), '{"_envelope":2}'),
    (
        raw("amount", '1, "envelope": 2, "_envelope": 3').replace(b'{"event', b'{"a":4,"event'),
        '{"_envelope":2,"__envelope":3,"envelope":{"a":4}}',
    ),
    (envelope('"amount": 99'), '{"envelope":{"amount":99}}'),
    (raw("amount", '1, "Amount": 2, "": 3'), '{"Amount":2,"":3}'),
    (raw("amount", '1, "zz": null'), '{"zz":null}'),
    (TXN, None),
]


def test_unknown_members_keep_their_values_with_every_digit():
    assert [row["extra_fields"] for row in outcomes([value for value, _ in EXTRAS])] == [extra for _, extra in EXTRAS]


def members(count: int) -> str:
    return ", ".join(f'"m{n}": {n}' for n in range(count))


def nested(depth: int, opens: str = "[", closes: str = "]") -> str:
    return opens * depth + closes * depth


OBJECTS = '{"a":' * (MAX_MESSAGE_DEPTH - 2) + "1" + "}" * (MAX_MESSAGE_DEPTH - 2)
TOO_DEEP = f"nested too deep (limit {MAX_MESSAGE_DEPTH})"
TOO_MANY = f"has too many members (limit {MAX_MESSAGE_MEMBERS:,})"
SEVERAL = "several JSON documents in one message; send each on its own"
DEBEZIUM = "a Debezium change event; map its topic with format: debezium (docs/mapping.md)"
COMPRESSED = "not JSON; let the producer compress (compression.type)"
KINDS = [
    (None, "empty message"),
    (b"", "empty message"),
    (b" \n", "empty message"),
    # what is no JSON
    (b"hello", "not JSON"),
    (b"{", "not JSON: it ends too early"),
    (TXN[:-20], "not JSON: it ends too early"),
    (TXN[:-1], "not JSON: it ends too early"),
    (TXN + b"}", "not JSON: text after its end"),
    (TXN + b"\0", "not JSON: text after its end"),
    (TXN[:-2] + b",}}", "not JSON"),
    (TXN[:-1] + b" ,\n}", "not JSON"),
    (TXN.replace(b"12.5", b"12.5 /* net */"), "not JSON"),
    (TXN.replace(b"Grocer", b"Gro\tcer"), "not JSON"),
    (TXN.replace(b"Grocer", b"\\x41"), "not JSON"),
    (str(PAYLOADS["TXN"]).encode(), "not JSON: names in single quotes"),
    (b"<?xml version='1.0'?><e/>", "not JSON: XML or HTML"),
    (base64.b64encode(TXN), "not JSON: Base64"),
    (TXN + b"\n" + TXN, SEVERAL),
    (TXN + TXN, SEVERAL),
    (message("LOG") + b"garbage", "not JSON: text after its end"),
    # other encodings
    (TXN.replace(b"Grocer", "José".encode("latin-1")), "not JSON: not UTF-8"),
    (TXN.decode().encode("utf-16"), "UTF-16, not UTF-8"),
    (TXN.decode().encode("utf-16-le"), "UTF-16, not UTF-8"),
    (TXN.decode().encode("utf-16-be"), "UTF-16, not UTF-8"),
    (TXN.decode().encode("utf-32"), "UTF-32, not UTF-8"),
    (TXN.decode().encode("utf-32-be"), "UTF-32, not UTF-8"),
    (b"\xed\xa0\x80", "not JSON: not UTF-8"),
    (TXN.replace(b"Grocer", b"\xc0\xaf"), "not JSON: not UTF-8"),
    # other formats
    (
        b"\0\0\0\0\x07" + TXN,
        "Confluent wire format (schema id 7, JSON Schema), not JSON alone; send plain JSON",
    ),
    (
        b"\0\0\0\x01\x00\x04T1\x04A1",
        "Confluent wire format (schema id 256, Avro or Protobuf), not JSON alone; send plain JSON",
    ),
    (b"Obj\x01\x04\x16avro.schema", "an Avro container file, not JSON"),
    (b"PAR1\x15\x04", "a Parquet file, not JSON"),
    (gzip.compress(TXN), f"compressed with gzip, {COMPRESSED}"),
    (zlib.compress(TXN), "compressed with zlib, not JSON"),
    (b"\x28\xb5\x2f\xfd\x24\x05", f"compressed with zstd, {COMPRESSED}"),
    (b"\xff\x06\x00\x00sNaPpY\x01", f"compressed with Snappy, {COMPRESSED}"),
    (b"\x82SNAPPY\x00\x00", f"compressed with Snappy, {COMPRESSED}"),
    (b"\xac\xed\x00\x05sr", "a serialized Java object, not JSON; set a JSON serializer"),
    (b"\x0a\x02T1\x12\x02A1", "not JSON"),
    # JSON of another shape
    (b"[]", "not an event but a list"),
    (b"[" + TXN + b"]", "not an event but a list"),
    (b"null", "not an event but a single value"),
    (b"12", "not an event but a single value"),
    (json.dumps(TXN.decode()).encode(), "not an event but a text"),
    (b"{}", "missing event_type"),
    (b'{"event_type": null, "payload": {}}', "missing event_type"),
    (b'{"event_type": "REFUND", "payload": {}}', "unknown event_type"),
    (b'{"event_type": "txn", "payload": {}}', "unknown event_type"),
    (b'{"event_type": ["TXN"], "payload": {}}', "unknown event_type"),
    (b'{"event_type": "TXN"}', "missing payload"),
    (b'{"event_type": "TXN", "payload": null}', "missing payload"),
    (b'{"event_type": "TXN", "payload": "{}"}', "payload is not an object"),
    (b'{"event_type": "TXN", "payload": []}', "payload is not an object"),
    (b'{"before": null, "after": {"id": 1}, "op": "c", "ts_ms": 1}', DEBEZIUM),
    (b'{"schema": {}, "payload": {"before": null, "after": {}, "op": "u"}}', DEBEZIUM),
    (
        b'{"schema": {"type": "struct"}, "payload": {"id": 1}}',
        "a Kafka Connect record with its schema and no event_type; map its topic (docs/mapping.md)",
    ),
    (
        b'{"specversion": "1.0", "type": "TXN", "source": "/x", "id": "1", "data": {}}',
        "a CloudEvent without event_type and payload; map its topic with format: cloudevents (docs/mapping.md)",
    ),
    # keys that stand twice
    (raw("amount", '99, "amount": 1.5'), "duplicate key 'amount'"),
    (raw("amount", '99, "\\u0061mount": 1.5'), "duplicate key 'amount'"),
    (raw("amount", '99, "zz": {"a": 1, "b": 2, "a": 1}'), "duplicate key 'a'"),
    (envelope('"payload": {}'), "duplicate key 'payload'"),
    (envelope('"event_type": "TXN"'), "duplicate key 'event_type'"),
    (raw("amount", f'1, "{"k" * 500}": 1, "{"k" * 500}": 2'), f"duplicate key '{'k' * 60}...'"),
    # limits
    (raw("merchant", nested(100_000)), TOO_DEEP),
    (raw("merchant", nested(100_000, '{"a":', "}")), TOO_DEEP),
    (raw("zz", nested(MAX_MESSAGE_DEPTH - 1)), TOO_DEEP),
    (b"[" * 1_000_000, TOO_DEEP),
    (b'{"a":' * 1_000_000, TOO_DEEP),
    (b'{"a":"' + b'\\"' * 1_000_000, "not JSON: it ends too early"),
    (b'{"a":"]' + b"[" * 1_000_000, "not JSON: it ends too early"),
    (b'["\\\\",' + b"[" * 100_000, TOO_DEEP),
    (raw("amount", f'1, "zz": [{", ".join(["1"] * MAX_MESSAGE_MEMBERS)}]'), TOO_MANY),
    (b"{" + members(MAX_MESSAGE_MEMBERS + 1).encode() + b"}", TOO_MANY),
    (b" " * MAX_MESSAGE_BYTES + b"1", f"too large (limit {MAX_MESSAGE_BYTES:,} bytes)"),
    (TXN.replace(b"{", b"\xef\xbb\xbf{"), "not JSON"),
]
STORED = [
    raw("zz", nested(MAX_MESSAGE_DEPTH - 2)),
    raw("zz", OBJECTS),
    raw("zz", json.dumps("[" * 10_000 + '"{,')),
    raw("amount", "1, " + members(45_000)),
    raw("zz", json.dumps("," * MAX_MESSAGE_MEMBERS)),
    raw("zz", "9" * 10_000),
]


def test_whatever_arrives_is_named_and_its_neighbours_are_stored():
    values = [value for one, _ in KINDS for value in (one, TXN)]

    found = outcomes(values)

    assert found[::2] == [reason for _, reason in KINDS]
    assert all(isinstance(row, dict) for row in found[1::2])


def test_what_is_within_the_limits_is_stored_with_all_it_says():
    known = LEDGERS["fact_transaction_ledger"].field_names
    for value, row in zip(STORED, outcomes(list(STORED)), strict=True):
        payload = json.loads(value, parse_int=str)["payload"]
        extra = {name: given for name, given in payload.items() if name not in known}
        assert json.loads(row["extra_fields"], parse_int=str) == extra
