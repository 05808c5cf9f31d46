"""What the model learns from: the live features on past days, without a glance at the future, and who left."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.model.training_set import TrainingSetError, cut_offs, extend, features_as_of
from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.rules import FEATURES, Rules
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction

DAY = timedelta(days=1)
TABLES = ("customer_day", "dyn_customer_features")


@pytest.fixture
def bank(lake: LakeWarehouse) -> LakeWarehouse:
    """Half a year of 200 customers, some of whom left."""
    now = utc_now()
    seed(lake, new_bank(200, 180, 3, now), now, lambda ledger, rows: None)
    lake.refresh(TABLES, now)
    return lake


def features_sql(lake: LakeWarehouse) -> str:
    """The live query, as dbt compiled it."""
    return lake.query("SELECT query FROM dynamic_tables WHERE name = 'dyn_customer_features'")["query"][0].as_py()


def features(lake: LakeWarehouse, day: date) -> list[dict[str, Any]]:
    return lake.query(f"FROM ({features_as_of(features_sql(lake), day)}) ORDER BY customer_id").to_pylist()


def test_the_features_of_today_are_the_live_ones(bank: LakeWarehouse):
    live = bank.query("FROM dyn_customer_features ORDER BY customer_id").to_pylist()

    assert features(bank, utc_now().date()) == live
    assert len(live) > 100
    assert {name for row in live for name in row} == {"customer_id", *FEATURES}


def test_nothing_that_happens_after_a_cut_off_changes_its_features(bank: LakeWarehouse):
    cut_off = utc_now().date() - 60 * DAY
    end = cut_off + DAY
    before = features(bank, cut_off)
    assert any(row["total_spend_30d"] for row in before)

    def plant(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO fact_transaction_ledger"
            " (transaction_ref, account_id, posting_date, transaction_code, amount, ingested_at)"
            f" SELECT 'future-' || account_id, account_id, TIMESTAMP '{end}', 'WIRE_OUT', 1e6, now()::TIMESTAMP FROM dim_accounts"
        )
        tx.execute(
            "INSERT INTO support_cases (case_id, customer_id, open_timestamp, category, sentiment_score, ingested_at)"
            f" SELECT 'future-' || customer_id, customer_id, TIMESTAMP '{end}', 'FEES', 0, now()::TIMESTAMP FROM dim_customers"
        )
        tx.execute(
            f"UPDATE dim_accounts SET account_status = 'CLOSED', closed_at = TIMESTAMP '{end}' + INTERVAL 9 DAY"
            f" WHERE account_status <> 'CLOSED' OR closed_at >= TIMESTAMP '{end}'"
        )
        tx.execute(
            "INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, opened_at, updated_at, ingested_at)"
            f" SELECT 'new-' || customer_id, 'new-' || customer_id, 'CHECKING', 'OPEN', TIMESTAMP '{end}', now()::TIMESTAMP,"
            " now()::TIMESTAMP FROM dim_customers"
        )

    bank.transact(plant)
    bank.refresh(TABLES, utc_now())

    assert features(bank, cut_off) == before
    assert features(bank, end) != before, "the day after sees what was planted"


def test_who_closes_the_last_account_within_the_window_has_left_and_nobody_else(lake: LakeWarehouse):
    now = datetime.fromisoformat("2026-06-30T12:00:00")
    cut_off = date(2026, 5, 10)  # a Sunday
    end = datetime(2026, 5, 11)
    closed = {
        "closes on the day after": [end],
        "closes on the last day": [end + Rules().labels.days * DAY - timedelta(seconds=1)],
        "closes a day late": [end + Rules().labels.days * DAY],
        "keeps one account": [end, None],
        "stays": [None],
        "closes both": [end + DAY, end + 2 * DAY],
        "had left before": [end - DAY],
    }

    def write(tx: Transaction) -> None:
        for customer, instants in closed.items():
            tx.execute(
                "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
                " VALUES (?, 'N', 'MASS', DATE '2020-01-01', ?, ?)",
                [customer, now, now],
            )
            for number, at in enumerate(instants):
                tx.execute(
                    "INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, opened_at, closed_at,"
                    " updated_at, ingested_at) VALUES (?, ?, 'CHECKING', ?, TIMESTAMP '2020-01-01', ?, ?, ?)",
                    [f"{customer}-{number}", customer, "CLOSED" if at else "OPEN", at, now, now],
                )
        tx.execute(
            "INSERT INTO app_activity_logs (log_id, customer_id, event_type, event_timestamp, ingested_at)"
            " VALUES ('1', 'stays', 'LOGIN', TIMESTAMP '2026-04-05', ?)",
            [now],
        )

    lake.transact(write)
    lake.refresh(TABLES, now)

    assert extend(lake, features_sql(lake), now, lambda _: None).added > 0

    rows = lake.query("SELECT customer_id, has_left FROM churn_training_set WHERE cut_off = ?", [cut_off]).to_pylist()
    assert {row["customer_id"]: row["has_left"] for row in rows} == {
        "closes on the day after": True,
        "closes on the last day": True,
        "closes a day late": False,
        "keeps one account": False,
        "stays": False,
        "closes both": True,
    }


def test_a_training_set_grows_by_what_is_missing_and_keeps_what_was_learned_from(bank: LakeWarehouse):
    now = utc_now()
    earlier = now - 21 * DAY
    assert extend(bank, features_sql(bank), earlier, lambda _: None).added > 0
    before = bank.query("FROM churn_training_set ORDER BY cut_off, customer_id")

    assert extend(bank, features_sql(bank), earlier, lambda _: None).added == 0
    reported = list[str]()
    assert extend(bank, features_sql(bank), now, reported.append).added > 0

    assert len(reported) == 3
    known = bank.query("FROM churn_training_set WHERE made_at = ? ORDER BY cut_off, customer_id", [earlier])
    assert known == before
    left = bank.query(
        "SELECT avg(has_left::INTEGER) AS share, count(DISTINCT cut_off) AS weeks FROM churn_training_set"
    )
    assert 0 < left["share"][0].as_py() < 0.3
    assert left["weeks"][0].as_py() > 12


@pytest.fixture
def mondays_to_sundays() -> Iterator[date]:
    """Each day of one week."""
    return (date(2026, 1, 5) + number * DAY for number in range(7))


def test_cut_offs_are_sundays_with_a_whole_window_before_and_a_known_label_after(mondays_to_sundays: Iterator[date]):
    now = datetime.fromisoformat("2026-06-30T12:00:00")
    for first_day in mondays_to_sundays:
        found = cut_offs(first_day, now)
        assert all(day.isoweekday() == 7 for day in found)
        assert found[0] - first_day >= 30 * DAY > found[0] - first_day - 7 * DAY
        assert found[-1] == date(2026, 5, 24), "on the 30th of June the 31st of May is not known yet"
        assert all(later - earlier == 7 * DAY for earlier, later in pairwise(found))
    assert cut_offs(now.date() - 40 * DAY, now) == []


@pytest.mark.parametrize(
    ("sql", "missing"),
    [
        ("SELECT customer_id FROM dim_accounts", "clock"),
        ("SELECT customer_id FROM customer_day WHERE event_day < getvariable('as_of_day')", "dim_accounts"),
    ],
)
def test_a_query_that_cannot_be_moved_to_another_day_is_refused(sql: str, missing: str):
    with pytest.raises(TrainingSetError, match=missing):
        features_as_of(sql, date(2026, 1, 1))


def test_the_models_text_has_one_clock_macro_which_is_what_is_moved():
    text = (DBT_PROJECT / "models" / "features" / "dyn_customer_features.sql").read_text()

    assert "as_of_day()" in text
    assert "current_" not in text
