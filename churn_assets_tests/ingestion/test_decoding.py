import json
from datetime import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded, decode
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.messages import PAYLOADS, message

NOW = datetime(2026, 6, 1, 12)
KAFKA_TIME = datetime(2026, 5, 31, 8)


def decoded(*values: bytes | None) -> Decoded:
    size = len(values)
    columns = [[0] * size, list(range(size)), [KAFKA_TIME] * size, list(values)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, MESSAGE_SCHEMA, strict=True)]
    return decode(pa.table(arrays, schema=MESSAGE_SCHEMA), NOW)


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda event_type: event_type.name)
def test_a_valid_event_becomes_one_row_of_its_ledger_and_nothing_else(event_type):
    result = decoded(message(event_type.name))

    assert result.rejects.num_rows == 0
    assert {ledger for ledger, rows in result.rows.items() if rows.num_rows} == {event_type.ledger}
    row = result.rows[event_type.ledger].to_pylist()[0]
    for field in event_type.fields:
        sent = PAYLOADS[event_type.name][field.name]
        if field.type == "TIMESTAMP" and sent is not None:
            sent = datetime.fromisoformat(sent).replace(tzinfo=None)
        assert str(row[field.name]) == str(sent)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty message"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"hello", "not JSON"),
        (b"[]", "missing event_type"),
        (b"{}", "missing event_type"),
        (b'{"event_type": "REFUND", "payload": {}}', "unknown event_type"),
        (b'{"event_type": 7, "payload": {}}', "unknown event_type"),
        (b'{"event_type": "TXN"}', "missing payload"),
        (b'{"event_type": "TXN", "payload": "text"}', "missing transaction_ref"),
        (message("TXN", account_id=...), "missing account_id"),
        (message("TXN", account_id=None), "missing account_id"),
        (message("TXN", account_id=""), "missing account_id"),
        (message("TXN", amount="twelve"), "amount is not a number"),
        (message("TXN", amount={"value": 1}), "amount is not a number"),
        (message("TXN", amount=float("nan")), "amount is out of range"),
        (message("TXN", amount=float("inf")), "amount is out of range"),
        (message("TXN", amount=1e13), "amount is out of range"),
        (message("TXN", posting_date="yesterday"), "posting_date is not a time"),
        (message("TXN", posting_date="2026-02-30T00:00:00Z"), "posting_date is not a time"),
        (message("TXN", posting_date="2026-06-03T00:00:00Z"), "posting_date is an impossible time"),
        (message("TXN", posting_date="1969-12-31T00:00:00Z"), "posting_date is an impossible time"),
        (message("TXN", posting_date="infinity"), "posting_date is not a time"),
        (message("TXN", transaction_ref="x" * 101), "transaction_ref is too long"),
        (message("TXN", account_id="A\u0000"), "account_id has a NUL character"),
        (message("CASE", sentiment_score=1.5), "sentiment_score is out of range"),
        (message("USER", email_consent="perhaps"), "email_consent is not true or false"),
        (message("USER", join_date="2020-13-01"), "join_date is not a time"),
    ],
)
def test_what_cannot_be_a_row_is_rejected_with_its_reason_and_its_bytes(value, reason):
    result = decoded(value)

    assert result.rejects.select(["reason", "original"]).to_pylist() == [{"reason": reason, "original": value}]
    assert not any(rows.num_rows for rows in result.rows.values())


def test_times_are_stored_in_utc_whatever_their_offset():
    result = decoded(
        message("TXN", posting_date="2026-03-01T12:00:00+02:00"), message("TXN", posting_date="2026-03-01")
    )

    times = result.rows["fact_transaction_ledger"]["posting_date"].to_pylist()
    assert times == [datetime(2026, 3, 1, 10), datetime(2026, 3, 1)]


def test_a_dimension_without_its_own_time_takes_that_of_the_message():
    assert decoded(message("USER", updated_at=...)).rows["dim_customers"]["updated_at"].to_pylist() == [KAFKA_TIME]


def test_absent_optional_fields_do_not_matter():
    assert decoded(message("LOG", error_code=..., device=...)).rows["app_activity_logs"].num_rows == 1


@pytest.mark.parametrize(
    ("value", "extra"),
    [
        (message("LOG"), None),
        (message("LOG", error_code=..., device=...), None),
        (message("LOG", tier="gold", score=1.5), {"tier": "gold", "score": 1.5}),
        (message("LOG", error_code=..., nested={"a": [1, None]}), {"nested": {"a": [1, None]}}),
        (message("LOG").replace(b'{"event_type"', b'{ "trace_id" :"x", "event_type"'), {"trace_id": "x"}),
        # A field of another event type is unknown to this one.
        (message("LOG", amount=5), {"amount": 5}),
    ],
)
def test_unknown_fields_are_kept_and_known_ones_not_repeated(value, extra):
    (row,) = decoded(value).rows["app_activity_logs"].to_pylist()

    assert (json.loads(row["extra_fields"]) if row["extra_fields"] else None) == extra


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.binary(max_size=40),
            st.sampled_from([message(name) for name in PAYLOADS]),
            st.builds(
                lambda name, field, junk: message(name, **{field: junk}),
                st.sampled_from(sorted(PAYLOADS)),
                st.sampled_from(sorted({field for payload in PAYLOADS.values() for field in payload})),
                st.recursive(
                    st.none() | st.booleans() | st.floats() | st.text(max_size=120),
                    lambda inner: st.lists(inner, max_size=3),
                    max_leaves=4,
                ),
            ),
            st.dictionaries(st.text(max_size=5), st.integers(), max_size=3).map(
                lambda value: json.dumps(value).encode()
            ),
        ),
        max_size=30,
    )
)
def test_every_message_becomes_exactly_one_row_or_reject(values):
    result = decoded(*values)

    offsets = [table["kafka_offset"].to_pylist() for table in [*result.rows.values(), result.rejects]]
    assert sorted(offset for found in offsets for offset in found) == list(range(len(values)))


@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_ledgers_columns_are_its_events_fields_and_where_a_row_came_from(ledger: str, lake: LakeWarehouse):
    # Written apart so that a reviewer sees the tables; this holds the two together.
    origin = ["extra_fields", "ingested_at", "kafka_topic", "kafka_partition", "kafka_offset"]

    columns = {column.name: column.type for column in lake.columns(ledger)}

    assert list(columns) == [*(field.name for field in LEDGERS[ledger].fields), *origin]
    assert all(columns[field.name] == field.type for field in LEDGERS[ledger].fields)
