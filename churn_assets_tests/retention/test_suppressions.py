from datetime import datetime

import pytest

from churn_assets.retention.suppressions import SUPPRESSED, SuppressionError, lift, suppress
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import DAY, NOW, TODAY
from churn_assets_tests.retention.post import empty, last_note, statuses, write_emails


@pytest.fixture
def bank(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann and Bob each have an email that is READY."""
    empty(lake)
    write_emails(lake, ["Ann", "Bob"])
    return lake


def suppressed(lake: LakeWarehouse, now: datetime = NOW) -> set[str]:
    rows = lake.query(
        f"SELECT customer_id FROM dim_customers WHERE customer_id NOT IN ({SUPPRESSED}) ORDER BY customer_id", [now]
    )
    return {"Ann", "Bob"} - set(rows["customer_id"].to_pylist())


def test_a_suppression_holds_until_its_day_begins_in_utc(bank: LakeWarehouse):
    suppress(bank, "Ann", TODAY + DAY, NOW, None, "boss")

    midnight = datetime.combine(TODAY + DAY, datetime.min.time())
    assert suppressed(bank, midnight - DAY / 24) == {"Ann"}
    assert suppressed(bank, midnight) == set()


def test_a_suppression_without_a_day_holds_until_it_is_lifted(bank: LakeWarehouse):
    suppress(bank, "Ann", None, NOW, None, "boss")
    assert suppressed(bank, NOW + 10_000 * DAY) == {"Ann"}

    assert lift(bank, "Ann", NOW + DAY)
    assert suppressed(bank, NOW + DAY) == set()
    assert not lift(bank, "Ann", NOW + DAY)


@pytest.mark.parametrize("days", [(30, 2), (2, 30), (None, 2), (2, None)])
def test_of_two_suppressions_the_longer_one_holds_and_lifting_ends_both(
    bank: LakeWarehouse, days: tuple[int | None, ...]
):
    for number in days:
        suppress(bank, "Ann", TODAY + number * DAY if number else None, NOW, None, "boss")

    assert suppressed(bank, NOW + 29 * DAY) == {"Ann"}
    lift(bank, "Ann", NOW)
    assert suppressed(bank) == set()


def test_who_refused_emails_is_suppressed_and_stays_so_and_who_was_not_asked_is_not(bank: LakeWarehouse):
    bank.transact(lambda tx: tx.execute("UPDATE dim_customers SET email_consent = FALSE WHERE customer_id = 'Ann'"))
    lift(bank, "Ann", NOW)
    assert suppressed(bank) == {"Ann"}

    bank.transact(lambda tx: tx.execute("UPDATE dim_customers SET email_consent = TRUE WHERE customer_id = 'Ann'"))
    assert suppressed(bank) == set()


@pytest.mark.parametrize(
    ("status", "then"),
    [
        ("READY", "CANCELLED"),
        ("APPROVED", "CANCELLED"),
        ("CLAIMED", "CLAIMED"),
        ("SENDING", "SENDING"),
        ("SENT", "SENT"),
    ],
)
def test_suppressing_cancels_what_waits_to_leave_and_nothing_else(bank: LakeWarehouse, status: str, then: str):
    bank.transact(lambda tx: tx.execute("UPDATE agent_intervention_log SET status = ?", [status]))

    assert suppress(bank, "Ann", None, NOW, "asked by phone", "boss") == (1 if then == "CANCELLED" else 0)

    assert statuses(bank) == {"Ann": then, "Bob": status}
    assert last_note(bank, "Ann") == ("suppressed: asked by phone" if then == "CANCELLED" else None)


def test_an_unknown_customer_or_a_day_that_is_over_is_refused_and_nothing_is_written(bank: LakeWarehouse):
    with pytest.raises(SuppressionError, match="no customer Eve"):
        suppress(bank, "Eve", None, NOW, None, "boss")
    with pytest.raises(SuppressionError, match="no customer Eve"):
        lift(bank, "Eve", NOW)
    with pytest.raises(SuppressionError, match="over already"):
        suppress(bank, "Ann", TODAY, NOW, None, "boss")

    assert bank.query("FROM suppressions").num_rows == 0
    assert suppressed(bank) == set()
