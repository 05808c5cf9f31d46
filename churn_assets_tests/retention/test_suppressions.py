from datetime import datetime

import pytest

from churn_assets.retention.suppressions import SUPPRESSED, SuppressionError, lift, suppress
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import DAY, NOW, TODAY
from churn_assets_tests.retention.post import last_note, statuses, write_emails


@pytest.fixture
def bank(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann and Bob each have an email that is READY."""
    write_emails(lake, ["Ann", "Bob"])
    return lake


def suppressed(lake: LakeWarehouse, now: datetime = NOW) -> set[str]:
    allowed = lake.query(f"SELECT customer_id FROM dim_customers WHERE customer_id NOT IN ({SUPPRESSED})", [now])
    everybody = lake.query("SELECT customer_id FROM dim_customers")
    return set(everybody["customer_id"].to_pylist()) - set(allowed["customer_id"].to_pylist())


def test_a_suppression_holds_until_its_day_begins_in_utc(bank: LakeWarehouse):
    suppress(bank, "Ann", TODAY + DAY, NOW, None, "boss")

    midnight = datetime.combine(TODAY + DAY, datetime.min.time())
    assert suppressed(bank, midnight - DAY / 24) == {"Ann"}
    assert suppressed(bank, midnight) == set()


def test_a_suppression_without_a_day_holds_until_it_is_lifted(bank: LakeWarehouse):
    suppress(bank, "Ann", None, NOW, None, "boss")
    assert suppressed(bank, NOW + 10_000 * DAY) == {"Ann"}

    assert lift(bank, "Ann", NOW + DAY).was_listed
    assert suppressed(bank, NOW + DAY) == set()
    assert lift(bank, "Ann", NOW + DAY) == (False, False)


def test_of_two_suppressions_the_longer_one_holds_and_lifting_ends_both(lake: LakeWarehouse):
    orders = {"Ann": (30, 2), "Bob": (2, 30), "Cat": (None, 2), "Dan": (2, None)}
    write_emails(lake, [*orders])
    for name, days in orders.items():
        for number in days:
            suppress(lake, name, TODAY + number * DAY if number else None, NOW, None, "boss")

    assert suppressed(lake, NOW + 29 * DAY) == set(orders)
    for name in orders:
        lift(lake, name, NOW)
    assert suppressed(lake) == set()


def test_who_refused_emails_is_suppressed_and_stays_so_and_who_was_not_asked_is_not(bank: LakeWarehouse):
    bank.transact(lambda tx: tx.execute("UPDATE dim_customers SET email_consent = FALSE WHERE customer_id = 'Ann'"))
    lift(bank, "Ann", NOW)
    assert suppressed(bank) == {"Ann"}

    bank.transact(lambda tx: tx.execute("UPDATE dim_customers SET email_consent = TRUE WHERE customer_id = 'Ann'"))
    assert suppressed(bank) == set()


def test_suppressing_cancels_what_waits_to_leave_and_nothing_else(lake: LakeWarehouse):
    expected: dict[str, str] = {}
    for status, then in (
        ("READY", "CANCELLED"),
        ("APPROVED", "CANCELLED"),
        ("CLAIMED", "CLAIMED"),
        ("SENDING", "SENDING"),
        ("SENT", "SENT"),
    ):
        name, neighbour = status.lower(), f"beside {status.lower()}"
        write_emails(lake, [name, neighbour], status)

        assert suppress(lake, name, None, NOW, "asked by phone", "boss") == (then == "CANCELLED"), status

        expected |= {name: then, neighbour: status}
        assert last_note(lake, name) == ("suppressed: asked by phone" if then == "CANCELLED" else None), status
    assert statuses(lake) == expected


def test_an_unknown_customer_or_a_day_that_is_over_is_refused_and_nothing_is_written(bank: LakeWarehouse):
    with pytest.raises(SuppressionError, match="no customer Eve"):
        suppress(bank, "Eve", None, NOW, None, "boss")
    with pytest.raises(SuppressionError, match="no customer Eve; give an id of dim_customers, or an email address"):
        lift(bank, "Eve", NOW)
    with pytest.raises(SuppressionError, match="over already"):
        suppress(bank, "Ann", TODAY, NOW, None, "boss")

    assert bank.query("FROM suppressions").num_rows == 0
    assert suppressed(bank) == set()


def change(lake: LakeWarehouse, customer: str, **columns: object) -> None:
    assigned = ", ".join(f"{name} = ?" for name in columns)
    lake.transact(
        lambda tx: tx.execute(
            f"UPDATE dim_customers SET {assigned} WHERE customer_id = ?", [*columns.values(), customer]
        )
    )


def test_a_suppressed_customer_covers_whoever_has_the_same_address(lake: LakeWarehouse):
    same = {"as it is": "ann@bank.example", "in capitals": " Ann@BANK.example "}
    other = {
        "with a plus": "ann+bob@bank.example",
        "with a dot": "a.nn@bank.example",
        "longer": "ann@bank.example.org",
        "empty": "",
        "none": None,
    }
    write_emails(lake, ["Ann", *same, *other])
    for name, address in (same | other).items():
        change(lake, name, email=address)

    assert suppress(lake, "Ann", None, NOW, None, "boss") == 1 + len(same)

    assert suppressed(lake) == {"Ann", *same}
    assert statuses(lake) == dict.fromkeys(["Ann", *same], "CANCELLED") | dict.fromkeys(other, "READY")


def test_customers_without_an_address_share_none(bank: LakeWarehouse):
    for name in ("Ann", "Bob"):
        change(bank, name, email=" ")
    suppress(bank, "Ann", None, NOW, None, "boss")

    assert suppressed(bank) == {"Ann"}


def test_a_suppressed_address_stays_covered_when_its_customer_moves_on_and_so_does_the_new_one(bank: LakeWarehouse):
    suppress(bank, "Ann", None, NOW, None, "boss")
    change(bank, "Ann", email="new@bank.example")

    change(bank, "Bob", email="ANN@bank.example")
    assert suppressed(bank) == {"Ann", "Bob"}
    change(bank, "Bob", email="new@bank.example")
    assert suppressed(bank) == {"Ann", "Bob"}
    change(bank, "Bob", email="bob@bank.example")
    assert suppressed(bank) == {"Ann"}


def test_an_address_is_suppressed_and_lifted_by_itself_also_before_anybody_has_it(bank: LakeWarehouse):
    suppress(bank, "later@bank.example", TODAY + 2 * DAY, NOW, None, "boss")
    assert suppressed(bank) == set()

    change(bank, "Bob", email=" Later@bank.example")
    assert suppressed(bank) == {"Bob"}
    assert suppressed(bank, NOW + 3 * DAY) == set()

    assert lift(bank, "LATER@bank.example", NOW) == (True, False)
    assert suppressed(bank) == set()


def test_no_suppressed_address_can_be_read_from_the_list(bank: LakeWarehouse):
    suppress(bank, "Ann", None, NOW, None, "boss")

    rows = bank.query("FROM suppressed_addresses").to_pylist()
    assert len(rows) == 1
    assert "@" not in str(rows)


def test_who_refused_emails_covers_the_address_and_lifting_says_that_it_is_still_stopped(bank: LakeWarehouse):
    change(bank, "Ann", email_consent=False)
    change(bank, "Bob", email="ann@bank.example")
    assert suppressed(bank) == {"Ann", "Bob"}

    suppress(bank, "Bob", None, NOW, None, "boss")
    assert lift(bank, "Bob", NOW) == (True, True)
    assert lift(bank, "ann@bank.example", NOW) == (False, True)
    change(bank, "Ann", email_consent=True)
    assert suppressed(bank) == set()
