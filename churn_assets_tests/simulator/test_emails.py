from datetime import date

import numpy as np
import pytest

from churn_assets.simulator.bank import Bank
from churn_assets.simulator.behaviour import DAY, NEVER
from churn_assets.simulator.emails import cancelled_departures

EMAILED = np.datetime64("2026-03-10T12:00:00", "us")
SECOND = np.timedelta64(1, "s")
MANY = np.arange(1, 20_001)


def cancelled(number: np.ndarray, left_at: np.datetime64, effect: float, seed: int = 1) -> np.ndarray:
    """Who of these customers, all of whom leave at one time and get an email at EMAILED, stays."""
    return cancelled_departures(seed, number, np.full(len(number), left_at), np.full(len(number), EMAILED), effect)


def test_emails_keep_the_set_part_of_those_who_would_leave_within_30_days():
    kept = cancelled(MANY, EMAILED + 10 * DAY, 0.2)

    assert kept.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / len(MANY)))


@pytest.mark.parametrize("left_at", [NEVER, EMAILED, EMAILED - DAY, EMAILED + 30 * DAY + SECOND])
def test_emails_change_nothing_for_who_does_not_leave_within_30_days(left_at: np.datetime64):
    assert not cancelled(MANY, left_at, 1.0).any()


def test_emails_without_an_effect_keep_nobody_and_with_the_whole_effect_everybody():
    assert not cancelled(MANY, EMAILED + 30 * DAY, 0.0).any()
    assert cancelled(MANY, EMAILED + 30 * DAY, 1.0).all()


def test_whether_a_customer_stays_does_not_depend_on_who_else_gets_an_email():
    alone = [cancelled(MANY[place : place + 1], EMAILED + DAY, 0.2)[0] for place in range(50)]

    assert alone == cancelled(MANY, EMAILED + DAY, 0.2)[:50].tolist()


def test_who_is_kept_by_a_small_effect_is_kept_by_a_larger_one():
    weak, strong = (cancelled(MANY, EMAILED + DAY, effect) for effect in (0.2, 0.5))

    assert not (weak & ~strong).any()


def test_another_seed_keeps_others():
    assert (cancelled(MANY, EMAILED + DAY, 0.2, seed=1) != cancelled(MANY, EMAILED + DAY, 0.2, seed=2)).any()


def test_no_email_keeps_nobody():
    assert len(cancelled(MANY[:0], EMAILED, 1.0)) == 0


def test_a_bank_with_emails_is_the_bank_without_them_but_for_the_departures_that_they_cancel():
    bank = Bank(customers=2_000, seed=5, first_day=date(2026, 1, 1), days=100)
    left_at = bank.courses.left_at.copy()
    kept = cancelled_departures(bank.seed, bank.people.number, left_at, np.full(len(left_at), EMAILED), 1.0)

    assert (left_at == Bank(customers=2_000, seed=5, first_day=date(2026, 1, 1), days=100).courses.left_at).all()
    assert (kept == ((left_at > EMAILED) & (left_at <= EMAILED + 30 * DAY))).all()
    assert 0 < kept.sum() < len(kept) / 10
