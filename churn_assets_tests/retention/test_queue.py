from datetime import datetime
from typing import Any

import pytest

from churn_assets.retention.queue import ALERT_STREAM, STREAM, fill_queue, raise_alerts
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.retention.bank import (
    DAY,
    HIGH,
    LOW,
    MEDIUM,
    MINUTE,
    NOW,
    TODAY,
    fill,
    interventions,
    measure,
    predict,
    rescore,
    waiting,
    written_to,
)
from churn_assets_tests.retention.desk import write


@pytest.fixture
def bank_with_one_waiting_customer(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann has come into HIGH and waits."""
    rescore(lake, {"Ann": HIGH})
    return lake


@pytest.fixture
def bank_with_one_customer_written_to(bank_with_one_waiting_customer: LakeWarehouse) -> LakeWarehouse:
    """Ann has come into HIGH, got her email, and is HIGH still."""
    write(bank_with_one_waiting_customer)
    return bank_with_one_waiting_customer


def test_only_those_who_come_into_high_wait(lake: LakeWarehouse):
    assert rescore(lake, {"Ann": LOW, "Bob": MEDIUM, "Cat": HIGH}) == 1
    assert waiting(lake) == ["Cat"]

    assert rescore(lake, {"Ann": MEDIUM, "Bob": HIGH, "Cat": MEDIUM, "Dan": HIGH}) == 2
    assert waiting(lake) == ["Bob", "Cat", "Dan"]


def test_who_stays_high_with_another_score_does_not_enter_again(bank_with_one_customer_written_to: LakeWarehouse):
    assert rescore(bank_with_one_customer_written_to, {"Ann": HIGH + 0.05}) == 0
    assert waiting(bank_with_one_customer_written_to) == []


def test_who_leaves_high_and_comes_back_enters_again(bank_with_one_customer_written_to: LakeWarehouse):
    assert rescore(bank_with_one_customer_written_to, {"Ann": MEDIUM}) == 0
    assert rescore(bank_with_one_customer_written_to, {"Ann": HIGH}) == 1
    assert waiting(bank_with_one_customer_written_to) == ["Ann"]


def test_who_leaves_the_bank_and_comes_back_high_enters_again(bank_with_one_customer_written_to: LakeWarehouse):
    assert rescore(bank_with_one_customer_written_to, {}) == 0
    assert rescore(bank_with_one_customer_written_to, {"Ann": HIGH}) == 1


def test_who_waits_already_is_not_queued_twice(bank_with_one_waiting_customer: LakeWarehouse):
    rescore(bank_with_one_waiting_customer, {"Ann": LOW})

    assert rescore(bank_with_one_waiting_customer, {"Ann": HIGH}) == 0
    assert waiting(bank_with_one_waiting_customer) == ["Ann"]


def test_a_failed_transaction_moves_neither_the_stream_nor_the_queue(lake: LakeWarehouse):
    rescore(lake, {"Ann": LOW})
    predict(lake, {"Ann": HIGH})

    def die_after_filling(tx: Transaction) -> None:
        assert fill_queue(tx, NOW) == 1
        raise RuntimeError("the process dies")

    with pytest.raises(RuntimeError, match="the process dies"):
        lake.transact(die_after_filling)

    assert waiting(lake) == []
    assert lake.stream_has_data(STREAM)
    assert fill(lake) == 1
    assert waiting(lake) == ["Ann"]


def test_a_stream_that_was_read_has_nothing_until_the_predictions_change(bank_with_one_waiting_customer: LakeWarehouse):
    assert not bank_with_one_waiting_customer.stream_has_data(STREAM)

    predict(bank_with_one_waiting_customer, {"Ann": LOW})

    assert bank_with_one_waiting_customer.stream_has_data(STREAM)


def test_who_is_dropped_between_two_readings_of_the_stream_and_comes_back_waits(
    bank_with_one_waiting_customer: LakeWarehouse,
):
    lake = bank_with_one_waiting_customer
    predict(lake, {"Ann": LOW})  # and the refresh job dies before it fills the queue
    write(lake, now=NOW + MINUTE)

    rescore(lake, {"Ann": HIGH}, NOW + 2 * MINUTE)
    tomorrow = NOW + DAY
    run = write(lake, day=tomorrow.date(), now=tomorrow)

    assert run.written == 1


# Alerts


def alert(lake: LakeWarehouse, averages: dict[str, float], now: datetime = NOW) -> int:
    """What the refresh job does: new metrics, then the alerts; how many there were."""
    measure(lake, averages)
    return lake.transact(lambda tx: raise_alerts(tx, now))


def alerts(lake: LakeWarehouse) -> list[dict[str, Any]]:
    return lake.query("SELECT * FROM high_risk_history ORDER BY alerted_at, customer_id").to_pylist()


def test_each_time_that_metrics_come_to_critical_is_one_alert_with_its_figures(lake: LakeWarehouse):
    predict(lake, {"Ann": LOW, "Bob": MEDIUM})

    assert alert(lake, {"Ann": 0.9, "Bob": 0.3}) == 1
    assert alert(lake, {"Ann": 0.95, "Bob": 0.3}) == 0, "another score of who is CRITICAL already is none"
    assert alert(lake, {"Bob": 0.85}, NOW + MINUTE) == 1
    assert alert(lake, {"Ann": 0.9, "Bob": 0.85}, NOW + 2 * MINUTE) == 1

    assert [(line["customer_id"], line["avg_churn_score"], line["model_score"]) for line in alerts(lake)] == [
        ("Ann", 0.9, LOW),
        ("Bob", 0.85, MEDIUM),
        ("Ann", 0.9, LOW),
    ]
    assert {(line["declines"], line["spend"]) for line in alerts(lake)} == {(2, 40.0)}
    assert waiting(lake) == ["Ann", "Bob"], "who waits already is not queued twice"


def test_an_alert_goes_through_the_same_queue_and_its_email_stands_beside_the_score(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH, "Bob": MEDIUM, "Cat": LOW})
    alert(lake, {"Bob": 0.99, "Ann": 0.9})

    run = write(lake, now=NOW + MINUTE)

    assert (run.claimed, run.written) == (2, 2)
    assert written_to(lake) == ["Ann", "Bob"]
    emails = {line["customer_id"]: (line["generated_email"], line["model_score"]) for line in alerts(lake)}
    assert emails == {"Ann": ("Dear Name of Ann", HIGH), "Bob": ("Dear Name of Bob", MEDIUM)}
    sources = {line["customer_id"]: (line["source"], line["churn_score"]) for line in interventions(lake)}
    assert sources == {"Ann": ("prediction", HIGH), "Bob": ("alert", 0.99)}
    # The 7-day rule counts both ways alike.
    alert(lake, {}, NOW + DAY)
    alert(lake, {"Ann": 0.9, "Bob": 0.9}, NOW + DAY)
    assert write(lake, day=TODAY + DAY, now=NOW + DAY).claimed == 0


def test_an_alert_about_who_left_the_bank_is_logged_and_nobody_is_written_to(lake: LakeWarehouse):
    predict(lake, {"Ann": LOW})

    assert alert(lake, {"Gone": 0.9, "Ann": 0.9}) == 2
    assert waiting(lake) == ["Ann"]
    predict(lake, {})
    assert write(lake, now=NOW + MINUTE).dropped == 1
    assert written_to(lake) == []
    assert {line["customer_id"]: line["model_score"] for line in alerts(lake)} == {"Gone": None, "Ann": LOW}


def test_an_alert_that_waited_for_a_day_is_too_old(lake: LakeWarehouse):
    predict(lake, {"Ann": LOW})
    alert(lake, {"Ann": 0.9})
    late = NOW + DAY + MINUTE

    assert write(lake, day=late.date(), now=late).dropped == 1

    [row] = lake.query("SELECT left_reason FROM retention_queue").to_pylist()
    assert row["left_reason"] == "the alert is too old"


def test_who_came_into_high_while_an_alert_waited_waits_on_when_it_is_too_old(lake: LakeWarehouse):
    rescore(lake, {"Ann": LOW})
    alert(lake, {"Ann": 0.9})
    rescore(lake, {"Ann": HIGH})
    late = NOW + DAY + MINUTE

    run = write(lake, day=late.date(), now=late)

    assert (run.dropped, run.written) == (1, 1)
    [line] = interventions(lake)
    assert (line["source"], line["churn_score"]) == ("prediction", HIGH)


def test_a_failed_transaction_moves_neither_the_metrics_stream_nor_the_alerts(lake: LakeWarehouse):
    predict(lake, {"Ann": LOW})
    measure(lake, {"Ann": 0.9})

    def die_after_raising(tx: Transaction) -> None:
        assert raise_alerts(tx, NOW) == 1
        raise RuntimeError("the process dies")

    with pytest.raises(RuntimeError, match="the process dies"):
        lake.transact(die_after_raising)

    assert alerts(lake) == []
    assert lake.stream_has_data(ALERT_STREAM)
    assert lake.transact(lambda tx: raise_alerts(tx, NOW)) == 1
