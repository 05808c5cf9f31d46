"""One definition of an event, and everything that is made from it."""

import json
import re
from datetime import UTC, date, datetime, timedelta

import jsonschema
from hypothesis import strategies as st

from churn_assets.ingestion import contract
from churn_assets.ingestion.events import EVENT_TYPES, EventType, Field
from churn_assets.ingestion.values import BLANKS, FLOAT_ID
from churn_assets.simulator.live import LiveBank, encode
from churn_assets.simulator.scorer import scores
from churn_assets.simulator.seeding import new_bank
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.ingestion.test_decoding import NOW, decoded, made

VALIDATOR = jsonschema.Draft202012Validator(contract.json_schema(), format_checker=jsonschema.FormatChecker())


def test_the_generated_files_are_those_of_the_code():
    assert contract.MARKDOWN.read_text() == contract.markdown(), "run `make event-docs`"
    assert contract.DBT_SOURCES.read_text() == contract.dbt_sources(), "run `make event-docs`"
    assert json.loads(contract.JSON_SCHEMA.read_text()) == contract.json_schema(), "run `make event-docs`"


def values(field: Field) -> st.SearchStrategy[object]:
    match field.type:
        case "VARCHAR":
            letters = st.characters(codec="utf-8", exclude_characters="\0")
            value = st.text(letters, max_size=field.max_length)
            if field.required:
                value = value.filter(lambda text: text.strip(BLANKS))
            if field.is_id:
                value = value.filter(lambda text: not re.search(FLOAT_ID, text.strip(BLANKS)))
        case "DOUBLE":
            value = st.floats(field.low, field.high) | st.integers(int(field.low), int(field.high))
        case "BOOLEAN":
            value = st.booleans()
        case "TIMESTAMP":
            value = st.datetimes(datetime(2000, 1, 2), NOW, timezones=st.just(UTC)).map(datetime.isoformat)
        case "DATE":
            value = st.dates(date(2000, 1, 1), NOW.date()).map(date.isoformat)
    return value if field.required else st.none() | value


def events(event_type: EventType) -> st.SearchStrategy[dict[str, object]]:
    fields = {field.name: values(field) for field in event_type.fields if field.required}
    optional = {field.name: values(field) for field in event_type.fields if not field.required}
    payload = st.fixed_dictionaries(fields, optional=optional)
    return payload.map(lambda payload: {"event_type": event_type.name, "payload": payload})


def test_what_is_valid_under_the_schema_becomes_rows():
    sent = made(st.one_of([events(event_type) for event_type in EVENT_TYPES]), 400)
    for event in sent:
        VALIDATOR.validate(event)

    result = decoded(*[json.dumps(event).encode() for event in sent])

    assert result.rejects.select(["reason", "original"]).to_pylist() == []
    assert sum(rows.num_rows for rows in result.rows.values()) == len(sent)


def test_what_is_rejected_is_not_valid_under_the_schema():
    wrong = [
        b'{"event_type": "REFUND", "payload": {}}',
        b'{"event_type": "TXN"}',
        message("TXN", account_id=...),
        message("TXN", amount=True),
        message("TXN", transaction_ref="x" * 256),
        message("CASE", sentiment_score=1.5),
        message("USER", join_date="2026-13-01"),
    ]
    assert decoded(*wrong).rows == {}
    assert [one for one in wrong if VALIDATOR.is_valid(json.loads(one))] == []


def test_the_simulated_bank_sends_what_the_schema_says():
    bank = LiveBank(new_bank(200, 10, 1, NOW))
    done = bank.events(NOW, NOW + timedelta(minutes=10), 3000)
    sent = [json.loads(encode(event)) for event in [*done, *scores(done)]]

    assert {event["event_type"] for event in sent} == {event_type.name for event_type in EVENT_TYPES}
    for event in sent:
        VALIDATOR.validate(event)
