import base64
import math
from datetime import date, datetime, timedelta

import dagster as dg
import pytest

from churn_assets.assets.effect import intervention_effect as effect_asset
from churn_assets.assets.effect import numbers_of
from churn_assets.assets.pictures.effect import effect_plot
from churn_assets.retention.effect import Effect, effect_by_month, estimate, further_customers, intervention_effect
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction

NOW = datetime.fromisoformat("2026-06-15T12:00:00")
WRITTEN = datetime.fromisoformat("2026-03-10T12:00:00")
BEFORE = datetime.fromisoformat("2025-01-01T00:00:00")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def intervene(lake: LakeWarehouse, customer: str, status: str = "SENT", at: datetime = WRITTEN) -> None:
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
            " partition_day) VALUES (uuid(), ?, 0.9, ?, ?, 'prediction', ?)",
            [customer, at, status, at.date()],
        )
    )


def own(lake: LakeWarehouse, customer: str, *closed_at: datetime | None, opened_at: datetime = BEFORE) -> None:
    """Give a customer an account for each time; None is an open one."""

    def insert(tx: Transaction) -> None:
        for closed in closed_at:
            tx.execute(
                "INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, opened_at, closed_at,"
                " updated_at, ingested_at) VALUES (uuid(), ?, 'CHECKING', ?, ?, ?, ?, ?)",
                [customer, "CLOSED" if closed else "OPEN", opened_at, closed, closed or opened_at, NOW],
            )

    lake.transact(insert)


def treated(lake: LakeWarehouse, now: datetime = NOW) -> tuple[int, int]:
    """How many customers count as treated, and how many of them left."""
    group = intervention_effect(lake, now).treated
    return group.customers, group.left


# Interval of the first share less the second, by method 10: RG Newcombe 1998, table II.
@pytest.mark.parametrize(
    ("control", "treated", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_is_newcombes(control: tuple[int, int], treated: tuple[int, int], low: float, high: float):
    found = estimate(treated[1], treated[0], control[1], control[0])

    assert found.interval == pytest.approx((low, high), abs=5.1e-5)


def test_the_customers_needed_are_those_of_the_textbook():
    # Chow, Shao and Wang 2008, 4.2: 65 % against 85 % with equal groups takes 70 in each.
    assert further_customers(0.2, 0.65 * 0.35, 0.85 * 0.15, share=0.5) == 140


def test_customers_who_are_there_need_not_come_again():
    assert further_customers(0.2, 0.65 * 0.35, 0.85 * 0.15, control=50, treated=50, share=0.5) == 40
    assert further_customers(0.2, 0.65 * 0.35, 0.85 * 0.15, control=70, treated=70, share=0.5) == 0


def test_with_the_customers_needed_a_difference_is_told_from_zero_with_a_power_of_80_percent():
    # A control group that is too small for its share is filled up at that share.
    control, treated, share = 30, 700, 0.1
    further = further_customers(0.05, 0.2 * 0.8, 0.15 * 0.85, control, treated, share)

    error = math.sqrt(0.2 * 0.8 / (control + share * further) + 0.15 * 0.85 / (treated + 0.9 * further))
    assert 0.05 / error == pytest.approx(1.959964 + 0.841621, abs=1e-3)


def test_emails_that_keep_customers_have_a_positive_effect():
    found = estimate(treated=900, treated_left=90, control=100, control_left=20)

    assert found.difference == pytest.approx(0.1)
    assert found.relative_reduction == pytest.approx(0.5)
    assert found.is_told_from_zero
    assert found.conclusion.startswith("Emails keep between 3.0 and 19.1 of 100 customers")


def test_emails_that_drive_customers_away_are_called_so():
    found = estimate(treated=900, treated_left=270, control=100, control_left=15)

    assert found.difference == pytest.approx(-0.15)
    assert found.conclusion.startswith("Emails drive away between")


def test_a_small_difference_says_how_many_customers_are_missing():
    found = estimate(treated=90, treated_left=17, control=10, control_left=2)

    assert not found.is_told_from_zero
    assert found.still_needed == 48_192
    assert found.conclusion == "Not yet distinguishable from zero; about 48,192 more customers are needed."


def test_without_a_difference_nobody_can_say_how_many_customers_are_missing():
    found = estimate(treated=90, treated_left=18, control=10, control_left=2)

    assert (found.difference, found.still_needed) == (0.0, None)
    assert found.conclusion == "Not yet distinguishable from zero."


@pytest.mark.parametrize(("control", "missing"), [(0, "the control group"), (5, "those chosen for an email")])
def test_an_empty_group_is_not_known_yet(control: int, missing: str):
    found = estimate(treated=0, treated_left=0, control=control, control_left=0)

    assert found.treated.churn is found.treated.interval is None
    assert found.difference is found.interval is found.relative_reduction is found.still_needed is None
    assert found.conclusion == f"Not known yet: nobody of {missing} has been watched for 30 days."


def test_no_numbers_make_a_crash_or_something_that_is_no_number():
    for n in range(4):
        for m in (0, 1, 40):
            for left, gone in ((left, gone) for left in range(n + 1) for gone in {0, m // 2, m}):
                found = estimate(m, gone, n, left)
                bounds = [bound for interval in (found.interval, found.control.interval) for bound in interval or ()]
                assert all(map(math.isfinite, bounds))
                assert found.still_needed != 0 or found.is_told_from_zero


def test_more_customers_cannot_have_left_than_there_are():
    with pytest.raises(ValueError, match="3 of 2 customers"):
        estimate(2, 3, 10, 1)


def test_an_empty_bank_is_not_known_yet(lake: LakeWarehouse):
    assert intervention_effect(lake, NOW) == estimate(0, 0, 0, 0)
    assert effect_by_month(lake, NOW) == {}


@pytest.mark.parametrize(
    ("closed_at", "left"),
    [
        pytest.param([WRITTEN + SECOND], 1, id="at once"),
        pytest.param([WRITTEN + 30 * DAY], 1, id="as the 30 days end"),
        pytest.param([WRITTEN + 30 * DAY + SECOND], 0, id="on day 31"),
        pytest.param([WRITTEN - 9 * DAY, WRITTEN + 9 * DAY], 1, id="the last account within 30 days"),
        pytest.param([WRITTEN + 9 * DAY, WRITTEN + 31 * DAY], 0, id="the last account on day 31"),
        pytest.param([WRITTEN + 9 * DAY, None], 0, id="one account still open"),
        pytest.param([None], 0, id="nothing closed"),
    ],
)
def test_a_customer_has_left_who_closed_all_accounts_within_30_days(
    lake: LakeWarehouse, closed_at: list[datetime | None], left: int
):
    intervene(lake, "Ann")
    own(lake, "Ann", *closed_at)

    assert treated(lake) == (1, left)


def test_who_left_and_came_back_after_the_30_days_had_left(lake: LakeWarehouse):
    intervene(lake, "Ann")
    own(lake, "Ann", WRITTEN + DAY)
    own(lake, "Ann", None, opened_at=WRITTEN + 40 * DAY)

    assert treated(lake) == (1, 1)


def test_who_opened_another_account_within_the_30_days_has_not_left(lake: LakeWarehouse):
    intervene(lake, "Ann")
    own(lake, "Ann", WRITTEN + DAY)
    own(lake, "Ann", None, opened_at=WRITTEN + 2 * DAY)

    assert treated(lake) == (1, 0)


def test_who_had_left_before_the_intervention_does_not_count(lake: LakeWarehouse):
    intervene(lake, "Ann")
    own(lake, "Ann", WRITTEN - DAY, WRITTEN)

    assert intervention_effect(lake, NOW) == estimate(0, 0, 0, 0)


def test_a_customer_without_a_known_account_does_not_count(lake: LakeWarehouse):
    intervene(lake, "Ann")

    assert treated(lake) == (0, 0)


def test_an_intervention_counts_once_it_is_30_days_old(lake: LakeWarehouse):
    intervene(lake, "Ann")
    own(lake, "Ann", WRITTEN + DAY)

    early = intervention_effect(lake, WRITTEN + 30 * DAY - SECOND)
    assert (early.treated.customers, early.maturing) == (0, 1)
    due = intervention_effect(lake, WRITTEN + 30 * DAY)
    assert (due.treated.customers, due.treated.left, due.maturing) == (1, 1, 0)


def test_only_the_first_intervention_of_a_customer_counts(lake: LakeWarehouse):
    intervene(lake, "Ann", at=WRITTEN)
    intervene(lake, "Ann", at=WRITTEN + 20 * DAY)
    own(lake, "Ann", WRITTEN + 35 * DAY)

    assert treated(lake) == (1, 0)


def test_the_control_group_is_who_is_logged_as_such_and_everybody_else_is_treated(lake: LakeWarehouse):
    for customer, status in {"Ann": "CONTROL", "Bob": "REJECTED", "Cat": "FAILED", "Dan": "CANCELLED"}.items():
        intervene(lake, customer, status)
        own(lake, customer, WRITTEN + DAY)

    assert intervention_effect(lake, NOW) == estimate(treated=3, treated_left=3, control=1, control_left=1)


def test_months_are_those_of_the_first_intervention(lake: LakeWarehouse):
    for customer, at in {"Ann": WRITTEN, "Bob": WRITTEN + 31 * DAY, "Cat": NOW - DAY}.items():
        intervene(lake, customer, at=at)
        own(lake, customer, None)

    by_month = effect_by_month(lake, NOW)
    assert [(month, there.treated.customers, there.maturing) for month, there in by_month.items()] == [
        (date(2026, 3, 1), 1, 0),
        (date(2026, 4, 1), 1, 0),
        (date(2026, 6, 1), 0, 1),
    ]


def test_the_asset_shows_every_number_and_a_plot(lake: LakeWarehouse):
    intervene(lake, "Ann", "CONTROL")
    own(lake, "Ann", WRITTEN + DAY)
    intervene(lake, "Bob")
    own(lake, "Bob", None)

    metadata = (
        dg.materialize([effect_asset], resources={"warehouse": lake})
        .asset_materializations_for_node("intervention_effect")[0]
        .metadata
    )

    assert metadata["control_left"].value == 1
    assert metadata["difference"].value == 1.0
    assert metadata["plot"].value.endswith(metadata["conclusion"].value)


@pytest.mark.parametrize("months", [0, 1, 2, 14])
@pytest.mark.parametrize("found", [estimate(9, 1, 0, 0), estimate(900, 150, 100, 20), estimate(9, 0, 1, 1)])
def test_a_plot_is_a_small_png_however_little_is_known(found: Effect, months: int):
    by_month = {date(2026 + month // 12, month % 12 + 1, 1): found for month in range(months)}
    picture = base64.b64decode(effect_plot(found, by_month).value.partition("base64,")[2].partition(")")[0])

    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 60_000


def test_where_nothing_is_known_there_are_words_and_no_empty_picture():
    unknown = estimate(0, 0, 0, 0)

    assert effect_plot(unknown, {}).value == unknown.conclusion


def test_numbers_that_are_not_known_yet_are_null():
    numbers = numbers_of(estimate(0, 0, 0, 0))

    assert numbers["difference"] is numbers["treated_churn"] is numbers["still_needed"] is None
