"""What a mapping makes of messages: rows by the contract's own checks, and rejects that say why."""

import base64
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn_assets_tests.ingestion.mapping.mapped import POSTING, decoded, mappings, postings, reasons

LEDGER = "fact_transaction_ledger"
WITH_MINUTES = "2026-03-01 09:00"


def one_row(mapping: dict[str, Any], message: object, codes: dict[str, Any] | None = None) -> dict[str, Any]:
    found = decoded(mappings(mapping, codes=codes), message)
    assert reasons(found) == []
    return found.rows[LEDGER].to_pylist()[0]


@pytest.mark.parametrize(
    ("text", "options", "time"),
    [
        ("01.03.2026 10:00", {"date_format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"}, WITH_MINUTES),
        ("01.07.2026 10:00", {"date_format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"}, "2026-07-01 08:00"),
        (
            "01.03.2026",
            {"date_format": ["%d.%m.%Y %H:%M", "%d.%m.%Y"], "timezone": "Europe/Berlin"},
            "2026-03-01 00:00",
        ),
        ("2026-03-01T10:00:00", {"timezone": "Europe/Berlin"}, WITH_MINUTES),
        ("2026-03-01 10:00", {"timezone": "Europe/Berlin"}, WITH_MINUTES),
        ("20260301T1000", {"timezone": "Europe/Berlin"}, WITH_MINUTES),
        ("2026-03-01T10:00:00+03:00", {"timezone": "Europe/Berlin"}, "2026-03-01 07:00"),
        ("2026-03-01", {"timezone": "America/New_York"}, "2026-03-01 00:00"),
        # The hour that comes twice is the later one, and the one that is skipped is moved by the gap.
        ("2025-10-26 02:30", {"timezone": "Europe/Berlin"}, "2025-10-26 01:30"),
        ("2026-03-29 02:30", {"timezone": "Europe/Berlin"}, "2026-03-29 01:30"),
        ("1772355600", {"date_format": "unix_seconds", "timezone": "Europe/Berlin"}, WITH_MINUTES),
        (1772355600000, {"date_format": "unix_milliseconds"}, WITH_MINUTES),
        (1772355600000000, {"date_format": "unix_microseconds"}, WITH_MINUTES),
        (20513, {"date_format": "unix_days"}, "2026-03-01 00:00"),
        ("03/01/2026 09:00:00 AM", {"date_format": "%m/%d/%Y %I:%M:%S %p"}, WITH_MINUTES),
        ("01.03.2026 10:00 +0100", {"date_format": "%d.%m.%Y %H:%M %z", "timezone": "Asia/Tokyo"}, WITH_MINUTES),
    ],
)
def test_times_are_read_by_their_pattern_and_zone(text: object, options: dict[str, Any], time: str):
    row = one_row(postings({"posting_date": {"sql": "booked", **options}}), POSTING | {"booked": text})

    assert row["posting_date"] == datetime.fromisoformat(time)


@pytest.mark.parametrize(
    ("decimal", "numbers"),
    [
        (",", {"1.234,50": 1234.5, "-1.234.567,8": -1234567.8, "12,50-": -12.5, "(12,50)": -12.5, "1 234,5": 1234.5,
               ",5": 0.5, "−3": -3, "5": 5, "-7,25": -7.25, " 5,5 ": 5.5, "1.23": None, "1.2345,0": None, "1,2,3": None,
               "5,-": None, "-": None, "x": None, "nan": None, "1e3": None}),
        (".", {"1'234.5": 1234.5, "1,234.50": 1234.5, "1,23": None}),
        (None, {"1e3": 1000, "1,234.50": None, "1_000": None}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sql", ["amount", "amount + 0"])
def test_numbers_are_read_by_their_decimal_sign(decimal: str | None, numbers: dict[str, float | None], sql: str):
    mapping = postings({"amount": sql}, **({"decimal": decimal} if decimal else {}))
    found = decoded(mappings(mapping), *(POSTING | {"ref": text, "amount": text} for text in numbers))

    rows = found.rows[LEDGER].to_pylist()
    rejected = [json.loads(original)["amount"] for original in found.rejects["original"].to_pylist()]
    read = {row["transaction_ref"]: row["amount"] for row in rows} | dict.fromkeys(rejected)
    assert read == {text.strip(): number for text, number in numbers.items()}


@pytest.mark.parametrize(
    ("options", "code", "outcome"),
    [
        ({}, "LS", "BILL_PAY"),
        ({}, " LS ", "BILL_PAY"),
        ({}, "XX", "transaction_code: the code XX is not in the code table kinds"),
        ({}, "", "NONE"),
        ({}, None, "NONE"),
        ({"others": "keep"}, "XX", "XX"),
        ({"default": "OTHER"}, "XX", "OTHER"),
    ],
)
def test_codes_are_translated_and_one_that_the_table_leaves_out_is_never_silent(
    options: dict[str, str], code: str | None, outcome: str
):
    codes = {"kinds": {"values": {"LS": "BILL_PAY", "": "NONE"}, **options}}
    found = decoded(
        mappings(postings({"transaction_code": {"sql": "kind", "codes": "kinds"}}), codes=codes),
        POSTING | {"kind": code},
    )

    stored = [row["transaction_code"] for table in found.rows.values() for row in table.to_pylist()]
    assert [*stored, *reasons(found)] == [outcome]


@pytest.mark.parametrize(
    ("mapping", "changed", "reason"),
    [
        (postings(), {"account": None}, "missing account_id (mapped from account)"),
        (postings({"account_id": "acount"}), {}, "missing account_id (mapped from acount)"),
        (postings(), {"booked": "1990-01-01"}, "posting_date is an impossible time"),
        (postings(), {"ref": "1.0E+2"}, "transaction_ref is an id that became a floating-point number (such as 10.0)"),
        (postings({"amount": "CAST(ref AS DOUBLE)"}), {}, "the expression for amount failed: CAST(ref AS DOUBLE)"),
        (postings({"amount": "nullif(amount, amount)"}), {}, "missing amount (mapped from nullif(amount, amount))"),
        (postings(date_format="%d.%m.%Y"), {"booked": "Infinity"}, "posting_date fits no date_format: %d.%m.%Y"),
        (postings(where="kind = 'ATM'"), {}, "no mapping takes it"),
        (postings(where="amount > 5"), {"amount": "x"}, "no mapping takes it"),
        (postings(skip="amount > 5"), {"amount": "x"}, "the condition skip failed"),
    ],
)
def test_a_message_that_fits_no_row_is_a_reject_that_says_why(
    mapping: dict[str, Any], changed: dict[str, object], reason: str
):
    message = POSTING | changed
    found = decoded(mappings(mapping), POSTING | {"ref": "T0"}, message)

    assert reason in reasons(found)
    at = reasons(found).index(reason)
    assert json.dumps(message).encode() in found.rejects["original"].to_pylist()[at:]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b'{"ref":"T1","ref":"T2"}', "duplicate key 'ref'"),
        (b'{"ref":"T1","x":{"a":1,"a":2}}', "duplicate key 'a'"),
        (b'{"ref":"T1","x":[{"a":1,"a":2}]}', "duplicate key 'a'"),
        (b'{"ref":NaN}', "not JSON: NaN (send null for a missing number)"),
        (b'{"ref":"T1",}', "not JSON"),
        (b"[1]", "not an object but a list"),
        (b"\xff", "not JSON: not UTF-8"),
        (b"", "empty message"),
        (None, "empty message"),
    ],
)
def test_a_message_is_read_as_exactly_as_those_of_the_contract(message: bytes | None, reason: str):
    assert reasons(decoded(mappings(postings()), message)) == [reason]


def test_what_a_mapping_skips_is_counted_and_what_it_does_not_use_is_kept():
    found = decoded(
        mappings(postings(skip="state = 'pending'")),
        POSTING | {"state": "pending"},
        POSTING | {"ref": "T2", "state": "ok", "note": "é", "more": {"a": [1, None], "b": None}},
    )

    assert found.left_out == 1
    (row,) = found.rows[LEDGER].to_pylist()
    assert json.loads(row["extra_fields"]) == {"note": "é", "more": {"a": [1, None], "b": None}}


def test_several_mappings_may_read_one_topic_and_one_message_may_feed_two_ledgers():
    customers = {
        "name": "customers", "ledger": "dim_customers", "topics": ["core"], "where": "kind = 'NEW'",
        "columns": {"customer_id": "account", "full_name": "name", "segment": {"constant": "MASS"}, "join_date": "booked"},
    }  # fmt: skip
    accounts = {
        "name": "accounts", "ledger": "dim_accounts", "topics": ["core"], "where": "kind = 'NEW'",
        "columns": {"account_id": "account", "customer_id": "account", "product_code": {"constant": "CHECKING"},
                    "account_status": {"constant": "OPEN"}},
    }  # fmt: skip
    found = decoded(
        mappings(customers, accounts, postings(where="kind = 'POS'")),
        POSTING,
        {"account": "A1", "kind": "NEW", "name": "Ann", "booked": "2026-01-01"},
        {"account": "A2", "kind": "NEW", "booked": "2026-01-01"},
        {"account": "A3", "kind": "OLD"},
    )

    assert {ledger: table.num_rows for ledger, table in found.rows.items()} == {
        "dim_customers": 1,
        "dim_accounts": 2,
        LEDGER: 1,
    }
    assert sorted(reasons(found)) == ["missing full_name (mapped from name)", "no mapping takes it"]
    outcomes = sum(table.num_rows for table in found.rows.values()) + found.rejects.num_rows + found.left_out
    assert outcomes - found.further == 4


def change(op: str, before: object, after: object, *, wrapped: bool = False) -> dict[str, object]:
    payload = {"before": before, "after": after, "source": {"table": "t", "ts_ms": 1}, "op": op, "ts_ms": 1772355600000}
    return {"schema": {"type": "struct"}, "payload": payload} if wrapped else payload


@pytest.mark.parametrize("wrapped", [False, True])
def test_change_events_of_debezium_are_inserts_updates_and_deletes(wrapped: bool):
    mapping = postings(
        {"posting_date": {"sql": "envelope.ts_ms", "date_format": "unix_milliseconds"}}, format="debezium"
    )
    row = {name: value for name, value in POSTING.items() if name != "booked"}
    found = decoded(
        mappings(mapping),
        *(change(op, None, row | {"ref": op}, wrapped=wrapped) for op in "cr"),
        change("u", {"ref": "u"}, row | {"ref": "u", "note": 1}, wrapped=wrapped),
        change("d", {"ref": "gone"}, None, wrapped=wrapped),
        None,
        change("t", None, None, wrapped=wrapped),
        change("d", None, None, wrapped=wrapped),
        change("d", {"ref": ""}, None, wrapped=wrapped),
        {"a": 1},
    )

    rows = found.rows[LEDGER].sort_by("kafka_offset").to_pylist()
    assert [(row["transaction_ref"], row["posting_date"], row["extra_fields"]) for row in rows] == [
        (ref, datetime(2026, 3, 1, 9), extra) for ref, extra in (("c", None), ("r", None), ("u", '{"note":1}'))
    ]
    voids = found.voids[LEDGER].sort_by("kafka_offset").to_pylist()
    assert [(void["key"], void["is_delete"]) for void in voids] == [("u", False), ("gone", True)]
    assert found.left_out == 1
    assert sorted(reasons(found)) == [
        "a TRUNCATE of the table; delete its rows with `churn correct --delete` if they are to go",
        "a change event of Debezium without the row in before",
        "missing transaction_ref (mapped from ref)",
        "not a change event of Debezium: no op",
    ]


def test_cloud_events_are_read_with_what_is_around_their_data():
    event = {"specversion": "1.0", "id": "E1", "type": "posted", "source": "/core", "time": "2026-03-01T09:00:00Z"}
    mapping = postings(
        {"transaction_ref": "envelope.id", "posting_date": "envelope.time"},
        format="cloudevents",
        where="envelope.type = 'posted'",
    )
    found = decoded(
        mappings(mapping),
        event | {"data": POSTING},
        event | {"id": "E2", "data_base64": base64.b64encode(json.dumps(POSTING).encode()).decode()},
        event | {"data": [1]},
        event,
        event | {"data_base64": "%"},
        POSTING,
    )

    assert found.rows[LEDGER]["transaction_ref"].to_pylist() == ["E1", "E2"]
    assert [json.loads(extra) for extra in found.rows[LEDGER]["extra_fields"].to_pylist()] == [
        {"ref": "T1", "booked": POSTING["booked"]}
    ] * 2
    assert sorted(reasons(found)) == [
        "not a CloudEvent: no specversion",
        "the CloudEvent's data is missing",
        "the CloudEvent's data is not an object",
        "the CloudEvent's data_base64 is not Base64",
    ]


@settings(max_examples=6, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"ref": st.text(min_size=1, max_size=5)},
            optional={
                "amount": st.floats(-1e6, 1e6)
                | st.integers(-1000, 1000)
                | st.text("0123456789.,-+e", max_size=6)
                | st.none(),
                "kind": st.text(max_size=4) | st.none() | st.booleans(),
                "note": st.text(max_size=4)
                | st.lists(st.integers(), max_size=2)
                | st.none()
                | st.fixed_dictionaries(
                    {}, optional={"used": st.just("x"), "rest": st.none() | st.just("y"), "deep": st.just({})}
                ),
            },
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    st.booleans(),
)
def test_a_message_means_the_same_whatever_its_neighbours_and_its_spelling(
    messages: list[dict[str, object]], separators: tuple[str, str], ascii_only: bool
):
    found = mappings(
        postings(
            {"posting_date": {"constant": "2026-03-01"}, "account_id": {"constant": "A"}, "merchant": "note.used"},
            decimal=",",
        )
    )
    whole = [POSTING | message for message in messages]
    written = [json.dumps(message, separators=separators, ensure_ascii=ascii_only).encode() for message in whole]
    together, alone = decoded(found, *written), [decoded(found, json.dumps(message).encode()) for message in whole]

    def outcomes(of: Any) -> list[str]:
        rows = [row | {"extra_fields": json.loads(row["extra_fields"] or "null")} for table in of.rows.values()
                for row in table.drop_columns("kafka_offset").to_pylist()]  # fmt: skip
        return sorted(map(repr, [*rows, *reasons(of)]))

    assert outcomes(together) == sorted(outcome for one in alone for outcome in outcomes(one))
