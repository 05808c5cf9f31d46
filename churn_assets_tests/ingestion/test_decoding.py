import json
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded, decode
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.fuzz_decoder import fuzz
from churn_assets_tests.ingestion.messages import PAYLOADS, message
from churn_assets_tests.rounds import rounds

NOW = datetime(2026, 6, 1, 12)
KAFKA_TIME = datetime(2026, 5, 31, 8)


def decoded(*values: bytes | None) -> Decoded:
    size = len(values)
    columns = [[0] * size, list(range(size)), [KAFKA_TIME] * size, list(values)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, MESSAGE_SCHEMA, strict=True)]
    return decode(pa.table(arrays, schema=MESSAGE_SCHEMA), NOW)


def test_a_valid_event_becomes_one_row_of_its_ledger_and_nothing_else():
    result = decoded(*[message(event_type.name) for event_type in EVENT_TYPES])

    assert result.rejects.num_rows == 0
    assert sum(rows.num_rows for rows in result.rows.values()) == len(EVENT_TYPES)
    for offset, event_type in enumerate(EVENT_TYPES):
        (row,) = [row for row in result.rows[event_type.ledger].to_pylist() if row["kafka_offset"] == offset]
        for field in event_type.fields:
            sent = PAYLOADS[event_type.name][field.name]
            if field.type == "TIMESTAMP" and sent is not None:
                sent = datetime.fromisoformat(sent).replace(tzinfo=None)
            assert str(row[field.name]) == str(sent), (event_type.name, field.name)


REJECTED = [
    (None, "empty message"),
    (b"{", "not JSON: it ends too early"),
    (b"hello", "not JSON"),
    (b"[]", "not an event but a list"),
    (b"{}", "missing event_type"),
    (b'{"event_type": "REFUND", "payload": {}}', "unknown event_type"),
    (b'{"event_type": 7, "payload": {}}', "unknown event_type"),
    (b'{"event_type": "TXN"}', "missing payload"),
    (b'{"event_type": "TXN", "payload": "text"}', "payload is not an object"),
    (message("TXN", account_id=...), "missing account_id"),
    (message("TXN", account_id=None), "missing account_id"),
    (message("TXN", account_id=""), "missing account_id"),
    (message("TXN", amount="twelve"), "amount is not a number"),
    (message("TXN", amount={"value": 1}), "amount is not a number"),
    (message("TXN", amount=1e13), "amount is out of range"),
    (message("TXN", posting_date="yesterday"), "posting_date is not a time (ISO 8601)"),
    (message("TXN", posting_date="2026-02-30T00:00:00Z"), "posting_date is not a time (ISO 8601)"),
    (message("TXN", posting_date="2026-06-03T00:00:00Z"), "posting_date is an impossible time"),
    (message("TXN", posting_date="1969-12-31T00:00:00Z"), "posting_date is an impossible time"),
    (message("TXN", posting_date="infinity"), "posting_date is not a time (ISO 8601)"),
    (message("TXN", transaction_ref="x" * 256), "transaction_ref is too long (limit 255)"),
    (message("TXN", account_id="A\u0000"), "account_id has a NUL character"),
    (message("CASE", sentiment_score=1.5), "sentiment_score is out of range"),
    (message("USER", email_consent="perhaps"), "email_consent is not true or false"),
    (message("USER", join_date="2020-13-01"), "join_date is not a time (ISO 8601)"),
]


def test_what_cannot_be_a_row_is_rejected_with_its_reason_and_its_bytes():
    result = decoded(*[value for value, _ in REJECTED])

    rejects = sorted(result.rejects.to_pylist(), key=lambda row: row["kafka_offset"])
    assert [(row["original"], row["reason"]) for row in rejects] == REJECTED
    assert result.rows == {}


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


EXTRA_FIELDS = [
    (message("LOG"), None),
    (message("LOG", error_code=..., device=...), None),
    (message("LOG", tier="gold", score=1.5), {"tier": "gold", "score": 1.5}),
    (message("LOG", error_code=..., nested={"a": [1, None]}), {"nested": {"a": [1, None]}}),
    (message("LOG").replace(b'{"event_type"', b'{ "trace_id" :"x", "event_type"'), {"envelope": {"trace_id": "x"}}),
    # A field of another event type is unknown to this one.
    (message("LOG", amount=5), {"amount": 5}),
]


def test_unknown_fields_are_kept_and_known_ones_not_repeated():
    rows = decoded(*[value for value, _ in EXTRA_FIELDS]).rows["app_activity_logs"].to_pylist()

    kept = {row["kafka_offset"]: json.loads(row["extra_fields"]) if row["extra_fields"] else None for row in rows}
    assert [(value, kept[offset]) for offset, (value, _) in enumerate(EXTRA_FIELDS)] == EXTRA_FIELDS


ANY_MESSAGE = st.one_of(
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
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3).map(lambda value: json.dumps(value).encode()),
)


def made(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """Examples of a strategy, to be decoded all at once: what a batch costs hardly depends on its size."""
    found: list[Any] = []

    @settings(max_examples=number, deadline=None, database=None)
    @given(strategy)
    def keep(example: Any) -> None:
        found.append(example)

    keep()
    return found


def test_every_message_becomes_exactly_one_row_or_reject():
    values = made(ANY_MESSAGE, 500)

    for some in (values, values[:1], []):
        result = decoded(*some)
        offsets = [table["kafka_offset"].to_pylist() for table in [*result.rows.values(), result.rejects]]
        times = Counter(offset for found in offsets for offset in found)
        assert {offset: some[offset] for offset in range(len(some)) if times[offset] != 1} == {}
        assert len(times) == len(some)


def test_a_ledgers_columns_are_its_events_fields_and_where_a_row_came_from(lake: LakeWarehouse):
    # Written apart so that a reviewer sees the tables; this holds the two together.
    origin = ["extra_fields", "ingested_at", "kafka_topic", "kafka_partition", "kafka_offset"]

    for ledger, event_type in LEDGERS.items():
        columns = {column.name: column.type for column in lake.columns(ledger)}
        assert list(columns) == [*(field.name for field in event_type.fields), *origin], ledger
        assert all(columns[field.name] == field.type for field in event_type.fields), ledger


@pytest.mark.slow
def test_hostile_messages_harm_neither_the_decoder_nor_their_neighbours(tmp_path: Path):
    assert fuzz(rounds(60), seed=time.time_ns() % 1_000_000, keep=tmp_path, report=lambda _: None).found == []
