"""Generates documents from the event contract in `events`: `docs/events.md` and `docs/events.schema.json` for producers,
the descriptions of the ledgers' columns for dbt, and the JSON Schema of `mapping.yaml`.

`python -m churn_assets.ingestion.contract` writes all of them (`make event-docs`); a test compares them with the code.
"""

import json
from typing import Any

import yaml

from churn_assets.ingestion.events import EVENT_TYPES, EXTRA_FIELDS, STORED_COLUMNS, EventType, Field
from churn_assets.ingestion.mapping import file as mapping_file
from churn_assets.ingestion.values import ENVELOPE, FLOAT_ID
from churn_assets.project_files import PROJECT_FILES
from churn_assets.rules import (
    EARLIEST_EVENT,
    EARLIEST_LIFE,
    EVENTS_TOPIC,
    FUTURE_TOLERANCE_HOURS,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_DEPTH,
    MAX_MESSAGE_MEMBERS,
    NO_END_FROM,
    SCORES_TOPIC,
)

DOCS = PROJECT_FILES / "docs"
MARKDOWN, JSON_SCHEMA = DOCS / "events.md", DOCS / "events.schema.json"
MAPPING_SCHEMA = DOCS / "mapping.schema.json"
DBT_SOURCES = PROJECT_FILES / "dbt" / "models" / "staging" / "sources.yml"

_EXAMPLES = {"VARCHAR": "...", "DOUBLE": 0.5, "TIMESTAMP": "2026-03-01T10:00:00Z", "DATE": "2026-03-01"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one message. A valid message is accepted, unless it has an impossible time.

    Ingestion is more lenient than the schema: it also accepts numbers in quotes and times without seconds.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A message on {EVENTS_TOPIC} or {SCORES_TOPIC}",
        "oneOf": [_type_schema(event_type) for event_type in EVENT_TYPES],
    }


def markdown() -> str:
    """The contract as a page for people."""
    sections = "\n".join(_section(event_type) for event_type in EVENT_TYPES)
    return f"""# Events

Generated from `churn_assets/ingestion/events.py` by `make event-docs`. As JSON Schema: [events.schema.json](events.schema.json).

A message is one JSON object in UTF-8, `{{"event_type": "...", "payload": {{...}}}}`. Its key should be the customer's id, so that
a customer's events keep their order. Late and out-of-order events are welcome.

- **JSON** is that of RFC 8259. `NaN` and `Infinity` are not, and a key that stands twice in an object makes the message a
  reject. A byte order mark at the beginning is passed over. Half of a surrogate pair becomes U+FFFD; in an id it is a
  reject.
- **Limits** of a message: {MAX_MESSAGE_BYTES:,} bytes, {MAX_MESSAGE_DEPTH} objects or lists within each other,
  {MAX_MESSAGE_MEMBERS:,} members of objects and items of lists.
- **Times** are those of RFC 3339 and these of ISO 8601: calendar dates and times of day, extended (`2026-01-31T10:00:00Z`)
  or basic (`20260131T100000Z`), with or without seconds, with a fraction of any length after a point or comma (what is
  finer than a microsecond is cut off). `T` and `Z` may be small, and a space may stand for the `T`. Offsets are `+02`,
  `+0200` or `+02:00`; a time without one is UTC, and a date alone is its midnight. `24:00` is the next midnight, and so is
  the leap second `23:59:60` UTC. Weeks, ordinal dates, names of zones and numbers of seconds are rejects.
- No event is before {EARLIEST_EVENT} or more than {FUTURE_TOLERANCE_HOURS} hours ahead. The dates of a life (`join_date`,
  `opened_at`, `closed_at`, `updated_at`) may be of {EARLIEST_LIFE} or later. A `closed_at` of {NO_END_FROM} or later, such
  as 9999-12-31, says that there is no end: the account is open.
- A day (`join_date`) that is sent as a time is the day that it says, whatever its offset.
- **Text** loses the white space around it; what is then empty counts as absent. A whole number is taken as its digits.
  `transaction_code` and `account_status` are stored in capitals.
- **Ids** (`..._id`, `..._ref`) that became floating-point numbers (`10.0`, `1e5`, `"1.0E+2"`) are rejects, because they may
  have lost digits.
- **Numbers** may be in quotes. **true and false** may be 1 and 0, or in quotes `"true"`, `"t"`, `"yes"`, `"y"`, `"1"` and
  their opposites.
- **Other members** are kept in the column `{EXTRA_FIELDS}`, a JSON object, with every digit of their numbers: those of the
  payload by their names, those around the payload under `{ENVELOPE}`. A payload's own member `{ENVELOPE}` is kept as
  `_{ENVELOPE}`, `_{ENVELOPE}` as `__{ENVELOPE}`, and so on.
- A fact whose key is stored already is a duplicate and is dropped. It is looked for on the days of its batch only.
  A dimension keeps the latest state of each key, by `updated_at`.
- A message that cannot be a row goes to `event_rejects`, with the reason and its original bytes. `churn replay-rejects`
  tries again.

A file of history has the same fields as columns ([your own bank](your-bank.md)); [Kafka](kafka.md) says how to connect.

{sections}"""


def dbt_sources() -> str:
    """The ledgers as sources of the dbt project, every column with its description."""
    ledgers = [
        {
            "name": event_type.ledger,
            "description": event_type.description,
            "columns": [
                *({"name": field.name, "description": field.description} for field in event_type.fields),
                *({"name": name, "description": description} for name, description in STORED_COLUMNS.items()),
            ],
        }
        for event_type in EVENT_TYPES
    ]
    bank = {
        "name": "bank",
        "description": "The ledgers that ingestion writes; their definition is in sql/010_ledgers.sql.",
        "database": "{{ target.database }}",
        "schema": "{{ target.schema }}",
        "tables": ledgers,
    }
    text = yaml.safe_dump({"version": 2, "sources": [bank]}, sort_keys=False, width=120)
    return f"# Generated from churn_assets/ingestion/events.py by `make event-docs`.\n{text}"


def write() -> None:
    """Write all files."""
    DBT_SOURCES.write_text(dbt_sources())
    MARKDOWN.write_text(markdown())
    JSON_SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n")
    MAPPING_SCHEMA.write_text(json.dumps(mapping_file.json_schema(), indent=2) + "\n")


def _type_schema(event_type: EventType) -> dict[str, Any]:
    payload = {
        "type": "object",
        "required": [field.name for field in event_type.fields if field.required],
        "properties": {field.name: _field_schema(field) for field in event_type.fields},
    }
    return {
        "type": "object",
        "title": event_type.description,
        "required": ["event_type", "payload"],
        "properties": {"event_type": {"const": event_type.name}, "payload": payload},
    }


def _field_schema(field: Field) -> dict[str, Any]:
    limits: dict[str, Any]
    match field.type:
        case "VARCHAR":
            kind, limits = "string", {"maxLength": field.max_length}
            if field.required:
                limits["pattern"] = r"\S"
            if field.is_id:
                limits["not"] = {"type": "string", "pattern": FLOAT_ID}
        case "DOUBLE":
            kind, limits = "number", {"minimum": field.low, "maximum": field.high}
        case "BOOLEAN":
            kind, limits = "boolean", {}
        case "TIMESTAMP":
            kind, limits = "string", {"format": "date-time"}
        case "DATE":
            kind, limits = "string", {"format": "date"}
    return {"description": field.description, "type": kind if field.required else [kind, "null"], **limits}


def _section(event_type: EventType) -> str:
    rows = "\n".join(
        f"| `{field.name}` | {_type_words(field)} | {'yes' if field.required else ''} | {field.description} |"
        for field in event_type.fields
    )
    payload = {field.name: _EXAMPLES[field.type] for field in event_type.fields if field.required}
    example = json.dumps({"event_type": event_type.name, "payload": payload})
    return f"""## {event_type.name}

{event_type.description} Ledger `{event_type.ledger}`, key `{event_type.key}`, time `{event_type.event_time}`;
expected on the topic `{event_type.topic}`.

| field | type | required | meaning |
|---|---|---|---|
{rows}

```json
{example}
```
"""


def _type_words(field: Field) -> str:
    match field.type:
        case "VARCHAR":
            return f"text, at most {field.max_length} characters"
        case "DOUBLE":
            return f"number, {field.low:g} to {field.high:g}"
        case "BOOLEAN":
            return "true or false"
        case "TIMESTAMP":
            return "time"
        case "DATE":
            return "day"


if __name__ == "__main__":
    write()
