"""Mappings and messages for tests."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import yaml

from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded
from churn_assets.ingestion.mapping import rows
from churn_assets.ingestion.mapping.compiling import Mappings
from churn_assets.ingestion.mapping.file import parse

NOW = datetime(2026, 12, 1)

POSTINGS: dict[str, Any] = {
    "name": "postings",
    "ledger": "fact_transaction_ledger",
    "topics": ["core"],
    "columns": {
        "transaction_ref": "ref",
        "account_id": "account",
        "posting_date": "booked",
        "transaction_code": "kind",
        "amount": "amount",
    },
}
POSTING = {"ref": "T1", "account": "A1", "booked": "2026-03-01T10:00:00Z", "kind": "POS", "amount": "12.5"}


def mappings(*of: Mapping[str, Any], codes: Mapping[str, Any] | None = None) -> Mappings:
    return Mappings(
        parse(yaml.safe_dump({"mappings": list(of), "codes": dict(codes or {})}).encode(), "mapping.yaml"),
        "mapping.yaml",
    )


def postings(columns: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """The mapping of postings with other columns or members."""
    return {**POSTINGS, **members, "columns": {**POSTINGS["columns"], **(columns or {})}}


def decoded(found: Mappings, *messages: object, topic: str = "core") -> Decoded:
    values = [one if isinstance(one, bytes) or one is None else json.dumps(one).encode() for one in messages]
    count = len(values)
    table = pa.table([[0] * count, range(count), [NOW] * count, values], schema=MESSAGE_SCHEMA)
    source = found.of_topic(topic)
    assert source is not None
    return rows.decode(table, NOW, source)


def reasons(of: Decoded) -> list[str]:
    return of.rejects["reason"].to_pylist()
