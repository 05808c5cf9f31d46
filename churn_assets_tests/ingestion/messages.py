"""Messages as a bank would send them."""

import json
from typing import Any

PAYLOADS: dict[str, dict[str, Any]] = {
    "TXN": {
        "transaction_ref": "T1",
        "account_id": "A1",
        "posting_date": "2026-03-01T10:00:00Z",
        "transaction_code": "POS",
        "amount": 12.5,
        "channel_id": "CARD",
        "merchant": "Grocer",
    },
    "LOG": {
        "log_id": "L1",
        "customer_id": "C1",
        "event_type": "LOGIN",
        "event_timestamp": "2026-03-01T10:00:00Z",
        "error_code": None,
        "device": "IOS",
    },
    "USER": {
        "customer_id": "C1",
        "full_name": "Ada Example",
        "email": "ada@example.com",
        "segment": "MASS",
        "join_date": "2020-01-01",
        "risk_profile_score": 0.3,
        "email_consent": True,
        "updated_at": "2026-03-01T10:00:00Z",
    },
    "ACCOUNT": {
        "account_id": "A1",
        "customer_id": "C1",
        "product_code": "CHECKING",
        "available_balance": 100.0,
        "account_status": "OPEN",
        "opened_at": "2020-01-01T09:00:00Z",
        "closed_at": None,
        "updated_at": "2026-03-01T10:00:00Z",
    },
    "CASE": {
        "case_id": "K1",
        "customer_id": "C1",
        "open_timestamp": "2026-03-01T10:00:00Z",
        "category": "FEES",
        "sentiment_score": 0.2,
        "case_text": "Why was I charged twice?",
    },
    "SCORE": {
        "score_id": "S1",
        "customer_id": "C1",
        "scored_at": "2026-03-01T10:00:00Z",
        "churn_score": 0.4,
        "declines": 1.0,
        "spend": 12.5,
    },
}


def message(event_type: str, /, **changes: Any) -> bytes:
    """A valid event with some of its payload changed; a value of ... leaves the field out."""
    payload = {name: value for name, value in (PAYLOADS[event_type] | changes).items() if value is not ...}
    return json.dumps({"event_type": event_type, "payload": payload}).encode()


def transactions(first: int, last: int) -> list[bytes]:
    """Transactions with the references T`first` up to, but not including, T`last`."""
    return [message("TXN", transaction_ref=f"T{number}") for number in range(first, last)]
