"""Customers who share an address get one email within the pause: in one batch, from two senders, and after one has moved."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from threading import Thread

import pytest

from churn_assets.retention.emails import next_day
from churn_assets.retention.outbox import sending
from churn_assets.retention.outbox.exporting import export
from churn_assets.retention.outbox.leaving import was_written_to
from churn_assets.retention.outbox.sending import send
from churn_assets.rules import Rules
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import (
    DAY,
    HIGH,
    MINUTE,
    NOW,
    interventions,
    predict,
    rescore,
    waiting,
    written_to,
)
from churn_assets_tests.retention.email_runs import LIMITS, shelf_beside, write
from churn_assets_tests.retention.outbox.test_outbox import smtp_on
from churn_assets_tests.retention.post import Mailbox, approved_emails, last_note, mail_server, statuses

SHARED = "shared@bank.example"


def gets(lake: LakeWarehouse, address: str | None, *customers: str) -> None:
    """These customers have this address now."""
    for customer in customers:
        lake.transact(
            lambda tx, of=customer: tx.execute(
                "UPDATE dim_customers SET email = ? WHERE customer_id = ?", [address, of]
            )
        )


@pytest.fixture
def three(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann, Bob and Cat have approved emails; Ann and Bob share an address, written in two ways."""
    approved_emails(lake, ["Ann", "Bob", "Cat"])
    gets(lake, SHARED, "Ann")
    gets(lake, f" {SHARED.upper()} ", "Bob")
    return lake


def sent(lake: LakeWarehouse, box: Mailbox, now: object = NOW) -> Counter[str]:
    with mail_server(box) as port:
        send(lake, smtp_on(port), shelf_beside(lake), None, "boss", lambda: now)
    return Counter(str(message["To"]).lower() for message in box.delivered)


def test_of_one_batch_one_email_is_sent_to_an_address_and_the_other_customer_waits_again(three: LakeWarehouse):
    assert sent(three, Mailbox()) == {SHARED: 1, "cat@bank.example": 1}

    assert statuses(three) == {"Ann": "SENT", "Bob": "CANCELLED", "Cat": "SENT"}
    assert last_note(three, "Bob") == f"the customer {was_written_to()}"
    assert waiting(three) == ["Bob"]


def test_two_senders_at_once_without_the_lock_send_one_email_to_an_address(
    lake: LakeWarehouse, monkeypatch: pytest.MonkeyPatch
):
    names = [f"C{number}" for number in range(4)]
    approved_emails(lake, names)
    gets(lake, SHARED, *names)
    monkeypatch.setattr(sending, "alone", lambda _: nullcontext())
    box = Mailbox()

    with mail_server(box) as port:
        work = (lake, smtp_on(port), shelf_beside(lake), None, "boss", lambda: NOW)
        senders = [Thread(target=send, args=work) for _ in range(2)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()

    assert len(box.delivered) == 1
    assert Counter(statuses(lake).values()) == {"SENT": 1, "CANCELLED": 3}


def test_of_one_export_one_email_goes_to_an_address(three: LakeWarehouse, tmp_path: Path):
    assert export(three, tmp_path / "out.csv", shelf_beside(three), "boss", NOW, print).exported == 2
    assert (tmp_path / "out.csv").read_text().lower().count(f",{SHARED},") == 1
    assert statuses(three) == {"Ann": "EXPORTED", "Bob": "CANCELLED", "Cat": "EXPORTED"}


def test_an_address_is_written_to_again_after_the_pause_even_if_its_first_reader_has_moved(three: LakeWarehouse):
    def has(status: str, *customers: str) -> None:
        three.transact(
            lambda tx: [
                tx.execute("UPDATE agent_intervention_log SET status = ? WHERE customer_id = ?", [status, customer])
                for customer in customers
            ]
        )

    has("READY", "Bob", "Cat")
    sent(three, Mailbox())
    gets(three, "elsewhere@bank.example", "Ann")
    gets(three, SHARED, "Bob", "Cat")

    has("APPROVED", "Bob")
    assert sent(three, Mailbox(), NOW + (Rules().emails.pause_days - 0.01) * DAY) == {}
    has("APPROVED", "Cat")
    assert sent(three, Mailbox(), NOW + Rules().emails.pause_days * DAY) == {SHARED: 1}


def test_customers_without_an_address_do_not_share_one(three: LakeWarehouse, tmp_path: Path):
    gets(three, None, "Ann", "Bob", "Cat")
    assert export(three, tmp_path / "out.csv", shelf_beside(three), "boss", NOW, print).exported == 3


def test_a_refused_email_keeps_nobody_else_from_the_address(three: LakeWarehouse):
    box = Mailbox()
    box.recipient_answers["Shared"] = "550 no such user"
    sent(three, box)
    assert statuses(three) == {"Ann": "FAILED", "Bob": "FAILED", "Cat": "SENT"}


def test_one_run_writes_to_one_customer_of_an_address_and_later_runs_to_the_other_after_the_pause(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH, "Bob": HIGH + 0.05, "Cat": HIGH})
    gets(lake, SHARED, "Ann", "Bob")

    assert write(lake).claimed == 2
    assert written_to(lake) == ["Bob", "Cat"]
    assert next_day(lake, LIMITS, NOW + MINUTE) is None

    later = NOW + Rules().emails.pause_days * DAY
    predict(lake, {"Ann": HIGH, "Bob": HIGH, "Cat": HIGH})
    assert next_day(lake, LIMITS, later) == later.date()
    write(lake, day=later.date(), now=later)
    assert "Ann" in written_to(lake)


def test_the_control_group_takes_no_address(lake: LakeWarehouse, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("churn_assets.retention.claims.is_in_control_group", lambda customer, share: customer == "Bob")
    rescore(lake, {"Ann": HIGH, "Bob": HIGH + 0.05})
    gets(lake, SHARED, "Ann", "Bob")

    write(lake)
    write(lake, now=NOW + MINUTE)

    assert {line["customer_id"]: line["status"] for line in interventions(lake)} == {"Ann": "READY", "Bob": "CONTROL"}
