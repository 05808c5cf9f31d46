import json
from collections import Counter
from datetime import date, datetime, timedelta

import numpy as np
import pytest

from churn_assets.simulator.bank import Bank
from churn_assets.simulator.live import Event, LiveBank, encode
from churn_assets_tests.simulator.scoring import BANK_EVENTS, as_ledgers, collect, scores

BANK = Bank(
    customers=2_000,
    seed=3,
    first_day=date(2025, 3, 1),
    days=3,
    until=datetime.fromisoformat("2025-03-04T10:17:23.456789"),
)
START = BANK.ends_at
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
IDS = {event_type.name: event_type.key for event_type in BANK_EVENTS if not event_type.is_dimension}


def windows(live: LiveBank, start: datetime, length: timedelta, number: int, count: int) -> list[list[Event]]:
    return [live.events(start + k * length, start + (k + 1) * length, count) for k in range(number)]


def flat(windows_of_events: list[list[Event]]) -> list[Event]:
    return [event for events in windows_of_events for event in events]


def fact_ids(events: list[Event]) -> list[object]:
    return [event.payload[IDS[event.event_type]] for event in events if event.event_type in IDS]


@pytest.fixture(scope="module")
def a_day() -> list[Event]:
    """24 hours at 60 events a minute."""
    return flat(windows(LiveBank(BANK), START, 5 * MINUTE, 24 * 12, 5 * 60))


def test_a_window_has_as_many_events_as_asked_for_in_order_and_within_it():
    for number, events in enumerate(windows(LiveBank(BANK), START, MINUTE, 30, 200)):
        times = [event.event_time for event in events]
        assert len(events) == 200
        assert times == sorted(times)
        assert START + number * MINUTE <= times[0]
        assert times[-1] < START + (number + 1) * MINUTE


def test_what_must_not_be_missed_is_there_however_few_events_are_asked_for():
    live = LiveBank(BANK)
    planned = live.events(START, START + 40 * MINUTE, 0)
    in_small_windows = flat(windows(LiveBank(BANK), START, timedelta(seconds=2), 40 * 30, 0))

    assert Counter(event.event_type for event in planned).keys() == {"TXN", "LOG", "CASE", "USER", "ACCOUNT"}
    assert planned == in_small_windows


def test_a_producer_that_starts_again_continues_the_same_bank():
    later = START + 26 * HOUR
    running = LiveBank(BANK)
    windows(running, START, HOUR, 26, 10)

    assert windows(LiveBank(BANK), later, MINUTE, 20, 200) == windows(running, later, MINUTE, 20, 200)
    assert LiveBank(BANK).events(START, START + MINUTE, 200) == running.events(START, START + MINUTE, 200)


def test_ids_are_unique_for_ever(a_day: list[Event]):
    history = collect(BANK)
    ids = fact_ids(a_day)

    assert len(set(ids)) == len(ids)
    for event_type in BANK_EVENTS:
        if not event_type.is_dimension:
            assert set(history[event_type.ledger][event_type.key].to_pylist()).isdisjoint(ids)


def test_new_customers_get_new_ids_and_accounts_before_they_do_anything(a_day: list[Event]):
    known = set(collect(BANK)["dim_accounts"]["account_id"].to_pylist())
    joined: set[object] = set()
    for event in a_day:
        if event.event_type == "ACCOUNT":
            known.add(event.payload["account_id"])
        elif event.event_type == "USER" and int(event.key[1:]) > BANK.customers:
            joined.add(event.key)
        elif event.event_type == "TXN":
            assert event.payload["account_id"] in known
        if int(event.key[1:]) > BANK.customers:
            assert event.key in joined
    left = {event.key for event in a_day if event.payload.get("account_status") == "CLOSED"}
    assert 700 < len(joined) == pytest.approx(len(left), rel=0.15)


def test_nobody_does_anything_after_closing_the_accounts(a_day: list[Event]):
    closed_at: dict[str, datetime] = {}
    for event in a_day:
        if event.payload.get("account_status") == "CLOSED":
            closed_at.setdefault(event.key, event.event_time)
        else:
            assert event.key not in closed_at
    closed_in_history = {
        row["customer_id"] for row in collect(BANK)["dim_accounts"].to_pylist() if row["account_status"] == "CLOSED"
    }
    assert closed_in_history.isdisjoint(event.key for event in a_day)


def test_a_departing_customer_reaches_a_high_score_by_live_events_alone_and_most_leave():
    as_of = START + HOUR / 2
    events = LiveBank(BANK, departures_per_hour=600).events(START, START + HOUR, 0)
    cases = [event for event in events if event.event_type == "CASE"]
    departed = {event.key for event in cases if event.event_time < as_of - 2 * MINUTE}
    ledgers = as_ledgers([event for event in events if event.event_time < as_of and event.event_type != "ACCOUNT"])
    ledgers["dim_accounts"] = collect(BANK)["dim_accounts"]
    scored = scores(ledgers, as_of)
    of_departed = scored["score"][scored["customer_id"].isin(list(departed))]
    left = {event.key for event in events if event.payload.get("account_status") == "CLOSED"}

    assert len({str(event.payload["case_id"]).split("-")[0] for event in cases}) == pytest.approx(600, abs=2)
    assert len(of_departed) > 200
    assert (of_departed >= 70).all()
    assert len(left & departed) / len(departed) == pytest.approx(0.65, abs=0.08)


def test_healthy_customers_stay_at_low_risk_however_fast_the_producer_is(a_day: list[Event]):
    ledgers = as_ledgers(a_day)
    ledgers["dim_accounts"] = collect(BANK)["dim_accounts"]
    departing = {event.key for event in a_day if str(event.payload.get("case_id")).startswith("SD")}
    scored = scores(ledgers, START + 24 * HOUR)
    healthy = scored[~scored["customer_id"].isin(list(departing))]

    assert len(healthy) > 500
    assert (healthy["score"] >= 70).mean() < 0.01
    assert (healthy["score"] < 40).mean() > 0.95


def test_a_big_bank_at_a_low_rate_does_the_same_things_less_often():
    bank = Bank(customers=50_000, seed=3, first_day=date(2025, 3, 1), days=3)
    events = LiveBank(bank, departures_per_hour=0).events(bank.ends_at, bank.ends_at + 4 * HOUR, 2_000)
    kinds = Counter(event.event_type for event in events)

    assert len(events) == 2_000
    # Profiles only come with customers who join.
    assert kinds["USER"] < 10
    assert 5 <= kinds["CASE"] < 100


def test_payloads_keep_the_contract(a_day: list[Event]):
    fields_of = {event_type.name: event_type.fields for event_type in BANK_EVENTS}
    for event in a_day[:30_000]:
        message = json.loads(encode(event))
        assert message.keys() == {"event_type", "payload"}
        payload = message["payload"]
        fields = fields_of[message["event_type"]]
        assert payload.keys() == {field.name for field in fields}
        for field in fields:
            value = payload[field.name]
            if value is None:
                assert not field.required
            elif field.type == "DOUBLE":
                assert field.low <= value <= field.high
            elif field.type == "VARCHAR":
                assert 1 <= len(value) <= field.max_length
            elif field.type == "BOOLEAN":
                assert value in (True, False)
            elif field.type == "TIMESTAMP":
                assert value.endswith("Z")
                datetime.fromisoformat(value)
            else:
                date.fromisoformat(value)
        event_type = next(event_type for event_type in BANK_EVENTS if event_type.name == event.event_type)
        assert np.datetime64(payload[event_type.event_time][:-1]) == np.datetime64(event.event_time)


def test_a_window_before_the_start_or_without_length_is_refused():
    live = LiveBank(BANK, start=START + HOUR)
    for from_, to in [(START, START + 2 * HOUR), (START + 2 * HOUR, START + 2 * HOUR)]:
        with pytest.raises(ValueError, match="A window must begin"):
            live.events(from_, to, 1)
