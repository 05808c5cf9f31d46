import pytest

from churn_assets.retention.emails import write_emails
from churn_assets.retention.queue import STREAM, fill_queue
from churn_assets.retention.writer import TemplateWriter
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
    predict,
    rescore,
    waiting,
)


@pytest.fixture
def bank_with_one_waiting_customer(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann has come into HIGH and waits."""
    rescore(lake, {"Ann": HIGH})
    return lake


@pytest.fixture
def bank_with_one_customer_written_to(bank_with_one_waiting_customer: LakeWarehouse) -> LakeWarehouse:
    """Ann has come into HIGH, got her email, and is HIGH still."""
    write_emails(bank_with_one_waiting_customer, TemplateWriter(), TODAY, NOW)
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
    write_emails(lake, TemplateWriter(), TODAY, NOW + MINUTE)

    rescore(lake, {"Ann": HIGH}, NOW + 2 * MINUTE)
    tomorrow = NOW + DAY
    run = write_emails(lake, TemplateWriter(), tomorrow.date(), tomorrow)

    assert run.written == 1
