"""A stand-in for another system that scores customers by their recent actions, with its own rules, not with our model."""

from collections.abc import Iterable

from churn_assets.simulator.live import Event, Payload

BASE_SCORE = 0.05
PER_DECLINE, PER_CASE, PER_WIRE = 0.15, 0.30, 0.35
HIGHEST_SCORE = 0.99
_MONEY_OUT = ("POS", "ATM", "BILL_PAY", "WIRE_OUT", "FEE")


def scores(events: Iterable[Event]) -> list[Event]:
    """One SCORE event for each customer with events in a window, at the time of the customer's last event."""
    by_customer: dict[str, list[Event]] = {}
    for event in events:
        by_customer.setdefault(event.key, []).append(event)
    return [_score(customer, done) for customer, done in by_customer.items()]


def _score(customer: str, done: list[Event]) -> Event:
    declines = sum(event.event_type == "LOG" and event.payload["error_code"] is not None for event in done)
    cases = sum(event.event_type == "CASE" for event in done)
    postings = [event.payload for event in done if event.event_type == "TXN"]
    wires = sum(posting["transaction_code"] == "WIRE_OUT" for posting in postings)
    spend = sum(float(p["amount"] or 0) for p in postings if p["transaction_code"] in _MONEY_OUT)
    at = max(event.event_time for event in done)
    payload: Payload = {
        "score_id": f"{customer}-{at.isoformat()}",
        "customer_id": customer,
        "scored_at": f"{at.isoformat()}Z",
        "churn_score": min(HIGHEST_SCORE, BASE_SCORE + PER_DECLINE * declines + PER_CASE * cases + PER_WIRE * wires),
        "declines": float(declines),
        "spend": round(spend, 2),
    }
    return Event(customer, "SCORE", payload, at)
