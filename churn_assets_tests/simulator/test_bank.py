import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from churn_assets.simulator.bank import Bank
from churn_assets_tests.simulator.scoring import BANK_EVENTS, Ledgers, collect, scores

Query = Callable[[str], list[tuple[Any, ...]]]

SMALL = Bank(customers=300, seed=3, first_day=date(2025, 3, 1), days=20)


def test_the_same_parameters_give_the_same_history_and_another_seed_another():
    again = Bank.from_parameters(json.loads(json.dumps(SMALL.parameters())))
    history = collect(SMALL)

    assert again == SMALL
    assert all(rows.equals(history[ledger]) for ledger, rows in collect(again).items())
    for ledger, rows in collect(replace(SMALL, seed=4)).items():
        assert not rows.equals(history[ledger])


def test_a_history_until_an_instant_ends_there_and_is_otherwise_the_same():
    until = datetime.fromisoformat("2025-03-21T11:30:00")
    whole, cut = collect(SMALL), collect(replace(SMALL, until=until))

    for event_type in BANK_EVENTS:
        latest = np.max(cut[event_type.ledger][event_type.event_time].to_numpy())
        assert latest < np.datetime64(until)
    postings = whole["fact_transaction_ledger"]
    assert cut["fact_transaction_ledger"].num_rows > postings.num_rows
    assert cut["fact_transaction_ledger"].slice(0, postings.num_rows).equals(postings)


@pytest.mark.parametrize("until", ["2025-03-20T23:00:00", "2025-03-22T00:00:00", "2025-03-21T11:30:00+00:00"])
def test_an_until_outside_the_day_after_the_whole_days_or_with_an_offset_is_refused(until: str):
    with pytest.raises(ValueError, match="until must be"):
        replace(SMALL, until=datetime.fromisoformat(until))


def test_facts_come_in_order_of_time_after_the_dimensions():
    chunks = list(replace(SMALL, days=70).history())

    assert [ledger for ledger, _ in chunks[:2]] == ["dim_customers", "dim_accounts"]
    assert len(chunks) > 5
    for ledger, time in [("fact_transaction_ledger", "posting_date"), ("app_activity_logs", "event_timestamp")]:
        times = np.concatenate([rows[time].to_numpy() for name, rows in chunks if name == ledger])
        assert (np.diff(times) >= np.timedelta64(0)).all()


@pytest.mark.parametrize("event_type", BANK_EVENTS, ids=lambda event_type: event_type.name)
def test_every_ledger_keeps_the_contract(event_type, query: Query):
    ledger = event_type.ledger
    assert [name for name, *_ in query(f"describe {ledger}")] == [field.name for field in event_type.fields]
    assert query(f"select count(distinct {event_type.key}) = count(*) from {ledger}") == [(True,)]
    for field in event_type.fields:
        assert query(f"select typeof({field.name}) from {ledger} limit 1") == [(field.type,)]
        if field.required:
            assert query(f"select count(*) from {ledger} where {field.name} is null") == [(0,)]
        if field.type == "DOUBLE":
            assert query(
                f"select bool_and({field.name} between {field.low} and {field.high} and isfinite({field.name}))"
                f" from {ledger}"
            ) == [(True,)]
        if field.type == "VARCHAR":
            assert query(f"select bool_and(length({field.name}) between 1 and {field.max_length}) from {ledger}") == [
                (True,)
            ]


def test_every_fact_belongs_to_a_customer_who_has_joined_and_not_left(query: Query):
    assert query("select count(*) from dim_accounts anti join dim_customers using (customer_id)") == [(0,)]
    assert query("select count(*) from dim_customers anti join dim_accounts using (customer_id)") == [(0,)]
    assert query("select count(*) from dim_accounts where account_status = 'CLOSED'") > [(100,)]
    assert query("select count(*) from dim_accounts where (account_status = 'CLOSED') <> (closed_at is not null)") == [
        (0,)
    ]
    assert query("select count(*) from dim_customers where join_date >= '2025-01-01'") > [(50,)]
    assert query("select bool_and(amount > 0) from fact_transaction_ledger") == [(True,)]
    for facts, key, time in [
        ("fact_transaction_ledger", "account_id", "posting_date"),
        ("app_activity_logs", "customer_id", "event_timestamp"),
        ("support_cases", "customer_id", "open_timestamp"),
    ]:
        owners = (
            f"(select {key}, min(opened_at) as opened_at, max(closed_at) as closed_at from dim_accounts group by 1)"
        )
        assert query(f"select count(*) from {facts} anti join {owners} using ({key})") == [(0,)]
        assert query(
            f"select count(*) from {facts} join {owners} using ({key}) where {time} <= opened_at or {time} >= closed_at"
        ) == [(0,)]


@pytest.mark.parametrize("days", [70, 95, 120])
def test_at_any_time_one_to_three_percent_are_at_high_risk_and_most_at_low(bank: Bank, history: Ledgers, days: int):
    as_of = bank.first_day + timedelta(days=days)
    scored = scores(history, as_of)
    drifts_from = bank.courses.drift_from[scored["customer_id"].str[1:].astype(int).to_numpy() - 1]
    engaged = scored["active_days"].to_numpy()[drifts_from > np.datetime64(as_of)]

    assert 0.01 <= (scored["score"] >= 70).mean() <= 0.03
    assert (scored["score"] < 40).mean() > 0.85
    assert 12 <= np.median(engaged) <= 20


def test_four_to_eight_percent_leave_in_half_a_year():
    bank = Bank(customers=20_000, seed=5, first_day=date(2025, 1, 1), days=180)
    assert 0.04 <= (bank.courses.left_at < np.datetime64(bank.ends_at)).mean() <= 0.08


def test_who_leaves_is_predictable_but_not_certain_even_for_who_knows_all_that_is_hidden():
    bank = Bank(customers=40_000, seed=5, first_day=date(2025, 1, 1), days=120)
    as_of = date(2025, 4, 1)
    chance = bank.chance_of_leaving(as_of, days=30)
    there = ~np.isnan(chance)
    leaves = (bank.courses.left_at < np.datetime64(as_of) + 30)[there]
    ranks = chance[there].argsort().argsort() + 1
    auc = (ranks[leaves].sum() - leaves.sum() * (leaves.sum() + 1) / 2) / (leaves.sum() * (~leaves).sum())

    assert 0.75 <= auc <= 0.92
    assert chance[there].sum() == pytest.approx(leaves.sum(), rel=0.15)


def test_shopping_has_a_daily_and_a_weekly_rhythm(query: Query):
    ((night, evening),) = query(
        "select count(*) filter (hour(posting_date) = 3), count(*) filter (hour(posting_date) = 18)"
        " from fact_transaction_ledger"
    )
    assert evening > 5 * night
    ((weekday, weekend),) = query(
        "select count(*) filter (isodow(posting_date) <= 5) / 5, count(*) filter (isodow(posting_date) > 5) / 2"
        " from fact_transaction_ledger join dim_accounts using (account_id) join dim_customers using (customer_id)"
        " where segment = 'SMB' and transaction_code = 'POS'"
    )
    assert weekday > 2 * weekend
