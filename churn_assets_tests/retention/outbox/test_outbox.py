import csv
import os
import signal
import smtplib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, time
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from churn_assets.retention.outbox import approval, exporting, sending
from churn_assets.retention.outbox.approval import masked
from churn_assets.retention.outbox.exporting import Export
from churn_assets.retention.outbox.leaving import OutboxError
from churn_assets.retention.outbox.quiet_hours import QuietHours
from churn_assets.retention.outbox.sending import Sending
from churn_assets.retention.outbox.smtp import Smtp, smtp_of
from churn_assets.retention.statuses import StatusError
from churn_assets.retention.suppressions import suppress
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets.warehouse.shelf import Shelf
from churn_assets.wiring import open_lake, shelf_of
from churn_assets_tests.ports import free_port
from churn_assets_tests.retention.bank import MINUTE, NOW
from churn_assets_tests.retention.post import (
    Mailbox,
    approved_emails,
    last_note,
    mail_server,
    statuses,
    write_emails,
)
from churn_assets_tests.warehouse.processes import process

LATER = NOW + MINUTE


@pytest.fixture
def bank(lake: LakeWarehouse) -> LakeWarehouse:
    """Nobody and nothing to send."""
    return lake


@pytest.fixture
def three_approved(bank: LakeWarehouse) -> LakeWarehouse:
    """Ann, Bob and Cat each have an approved email, to leave in this order."""
    approved_emails(bank, ["Ann", "Bob", "Cat"])
    return bank


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp(box: Mailbox) -> Iterator[Smtp]:
    """The way to a mail server that delivers to `box`."""
    with mail_server(box) as port:
        yield smtp_on(port)


@pytest.fixture
def shelf(settings: Settings) -> Shelf:
    return shelf_of(settings)


def smtp_on(port: int) -> Smtp:
    return smtp_of(
        load_settings(CHURN_SMTP_URL=f"smtp://127.0.0.1:{port}", CHURN_EMAIL_FROM="Bank <care@bank.example>")
    )


def send(lake: LakeWarehouse, smtp: Smtp, shelf: Shelf, quiet: QuietHours | None = None) -> Sending:
    return sending.send(lake, smtp, shelf, quiet, "sender", lambda: LATER)


def export(lake: LakeWarehouse, file: Path, shelf: Shelf, say: Callable[[str], None] = lambda _: None) -> Export:
    return exporting.export(lake, file, shelf, "exporter", LATER, say)


def test_only_approved_emails_are_sent_each_once_and_again_none(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    write_emails(bank, ["Ann", "Bob", "Cat"])
    approval.approve(bank, ["to-Ann", "to-Bob", "to-Ann"], "boss", NOW)

    assert send(bank, smtp, shelf) == Sending(sent=2, failed=0, cancelled=0, uncertain=0, waiting=0)
    assert send(bank, smtp, shelf).sent == 0

    assert box.count() == {"Ann": 1, "Bob": 1}
    assert statuses(bank) == {"Ann": "SENT", "Bob": "SENT", "Cat": "READY"}
    _, _, moves = approval.shown(bank, "to-Ann")
    assert [(move.status_to, move.moved_by) for move in moves if move.status_to == "APPROVED"] == [("APPROVED", "boss")]


def test_an_email_says_who_sends_it_and_how_to_end_it_and_its_id_is_that_of_the_intervention(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    approved_emails(bank, ["Ann"])

    send(bank, smtp, shelf)

    [message] = box.delivered
    assert message["From"] == "Bank <care@bank.example>"
    assert message["To"] == "ann@bank.example"
    assert message["Message-ID"] == "<to-Ann@bank.example>"
    assert message["Date"].datetime == LATER.replace(tzinfo=UTC)
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Unsubscribe"] == "<mailto:care@bank.example?subject=unsubscribe>"
    assert message["Subject"]
    assert message.get_content().splitlines() == ["Dear Ann Müller,", "", ".A dot begins this line."]


def test_whom_the_server_refuses_for_good_is_failed_and_the_others_are_sent(
    three_approved: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    box.recipient_answers["Ann"] = "550 5.1.1 nobody of this name"
    box.message_answers["Bob"] = "554 looks like spam"

    assert send(three_approved, smtp, shelf) == Sending(sent=1, failed=2, cancelled=0, uncertain=0, waiting=0)

    assert statuses(three_approved) == {"Ann": "FAILED", "Bob": "FAILED", "Cat": "SENT"}
    assert last_note(three_approved, "Ann") == "the recipient was refused: 550 5.1.1 nobody of this name"
    assert last_note(three_approved, "Bob") == "the message was refused: 554 looks like spam"


def test_a_sender_who_is_refused_for_good_costs_one_email_and_not_all(
    three_approved: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    box.sender_answer = "553 not your address"

    sending = send(three_approved, smtp, shelf)

    assert (sending.failed, sending.waiting) == (0, 3)
    assert sending.stopped == "the sender was refused: 553 not your address"


def test_who_has_no_address_that_can_be_written_to_is_failed(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    addresses = {
        "No": None,
        "Empty": "",
        "Short": "ann",
        "Eve": "ann@bank.example\r\nBcc: eve@evil.example",
        "Foreign": "änn@bank.example",
    }
    approved_emails(bank, [*addresses, "Zoe"])
    bank.transact(
        lambda tx: [
            tx.execute("UPDATE dim_customers SET email = ? WHERE customer_id = ?", [address, customer])
            for customer, address in addresses.items()
        ]
    )

    assert send(bank, smtp, shelf).failed == len(addresses)

    assert statuses(bank) == {**dict.fromkeys(addresses, "FAILED"), "Zoe": "SENT"}
    assert box.count() == {"Zoe": 1}


@pytest.mark.parametrize("place", ["sender", "recipient", "message"])
def test_a_server_that_is_busy_stops_the_sending_and_holds_up_no_other_email_the_next_time(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf, place: str
):
    approved_emails(bank, ["Ann", "Bob"])
    busy = "451 try again later"
    if place == "sender":
        box.sender_answer = busy
    else:
        (box.recipient_answers if place == "recipient" else box.message_answers)["Ann"] = busy  # type: ignore[index]

    sending = send(bank, smtp, shelf)
    assert (sending.sent, sending.waiting) == (0, 2)
    assert sending.stopped == f"the {place} was refused: {busy}"
    assert set(statuses(bank).values()) == {"APPROVED"}

    box.sender_answer = "250 OK"
    send(bank, smtp, shelf)
    assert "Bob" in box.count()


def test_a_server_that_cannot_be_reached_changes_nothing_and_is_named(three_approved: LakeWarehouse, shelf: Shelf):
    port = free_port()

    sending = send(three_approved, smtp_on(port), shelf)

    assert sending.waiting == 3
    assert f"127.0.0.1:{port} cannot be reached" in (sending.stopped or "")
    assert set(statuses(three_approved).values()) == {"APPROVED"}


def test_a_message_without_an_answer_is_uncertain_until_a_person_finds_out(
    three_approved: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    box.message_answers = {"Ann": None}

    sending = send(three_approved, smtp, shelf)
    assert (sending.sent, sending.uncertain, sending.waiting) == (0, 1, 2)
    assert "no answer to the message" in (sending.stopped or "")
    assert send(three_approved, smtp, shelf).sent == 2
    assert statuses(three_approved)["Ann"] == "UNCERTAIN"

    approval.resolve(three_approved, "to-Ann", False, "boss", LATER)
    box.message_answers = {}
    assert send(three_approved, smtp, shelf).sent == 1
    assert box.count() == {"Ann": 1, "Bob": 1, "Cat": 1}


def test_the_line_is_opened_again_where_the_server_has_hung_up_between_two_emails(
    three_approved: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    conclude = sending._conclude

    def hang_up(*arguments: Any) -> None:
        for connection in connections:
            connection.close()
        conclude(*arguments)

    connections: list[smtplib.SMTP] = []
    connect = smtplib.SMTP.connect
    monkeypatch.setattr(smtplib.SMTP, "connect", lambda self, *rest: connections.append(self) or connect(self, *rest))
    monkeypatch.setattr(sending, "_conclude", hang_up)

    assert send(three_approved, smtp, shelf).sent == 3
    assert len(connections) == 3


@pytest.mark.parametrize("way", ["send", "export"])
def test_who_was_suppressed_refused_emails_or_left_after_the_approval_is_cancelled(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf, tmp_path: Path, way: str
):
    approved_emails(bank, ["Ann", "Bob", "Cat", "Dan"])
    bank.transact(
        lambda tx: [
            tx.execute("INSERT INTO suppressions (customer_id, suppressed_at) VALUES ('Ann', ?)", [NOW]),
            tx.execute("UPDATE dim_customers SET email_consent = FALSE WHERE customer_id = 'Bob'"),
            tx.execute("UPDATE dim_accounts SET account_status = 'CLOSED' WHERE customer_id = 'Cat'"),
        ]
    )

    if way == "send":
        assert send(bank, smtp, shelf) == Sending(sent=1, failed=0, cancelled=3, uncertain=0, waiting=0)
        assert box.count() == {"Dan": 1}
    else:
        assert export(bank, tmp_path / "x.csv", shelf) == Export(exported=1, cancelled=3)

    assert list(statuses(bank).values())[:3] == ["CANCELLED"] * 3
    assert [last_note(bank, name) for name in ("Ann", "Bob", "Cat")] == [
        "the customer is suppressed",
        "the customer refused emails",
        "the customer has no open account",
    ]


def test_in_the_quiet_hours_nothing_is_sent_and_the_end_is_named(
    three_approved: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    minutes = count()
    quiet = QuietHours(time(12, 2), time(13), ZoneInfo("UTC"))  # NOW is 12:00

    done = sending.send(three_approved, smtp, shelf, quiet, "sender", lambda: NOW + next(minutes) * MINUTE / 2)
    assert (done.sent, done.waiting) == (1, 2)
    assert done.quiet_until == datetime.combine(NOW.date(), time(13))

    assert send(three_approved, smtp, shelf, QuietHours(time(13), time(12), ZoneInfo("UTC"))).sent == 2


def test_an_email_that_was_left_while_it_was_sent_is_never_sent_again_by_itself(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf
):
    write_emails(bank, ["Ann"], "SENDING")

    assert send(bank, smtp, shelf).uncertain == 1
    assert send(bank, smtp, shelf) == Sending(sent=0, failed=0, cancelled=0, uncertain=0, waiting=0)
    assert statuses(bank) == {"Ann": "UNCERTAIN"}

    approval.resolve(bank, "to-Ann", True, "boss", LATER)
    assert (statuses(bank), box.delivered) == ({"Ann": "SENT"}, [])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def send_two_and_die_at_the_second(_: Connection, path: Path, port: int, shelf: Shelf, place: str) -> None:
    """Send, and be killed at a place of the second email."""
    turns = count(1)
    original = {"before": sending._hand_over, "in": smtplib.SMTP.data, "after": sending._conclude}[place]

    def die_the_second_time(*arguments: Any) -> Any:
        if next(turns) < 2:
            return original(*arguments)
        if place == "in":
            connection, content = arguments
            connection.docmd("DATA")
            connection.send(content[: len(content) // 2])
        return die()

    if place == "in":
        smtplib.SMTP.data = die_the_second_time  # type: ignore[method-assign]
    else:
        setattr(sending, "_hand_over" if place == "before" else "_conclude", die_the_second_time)
    send(open_lake(path), smtp_on(port), shelf)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "in", "after"])
def test_a_sender_that_is_killed_leaves_one_email_in_doubt_and_sends_none_twice(
    three_approved: LakeWarehouse, where: LakePlace, box: Mailbox, smtp: Smtp, shelf: Shelf, place: str
):
    lake = three_approved
    with process(send_two_and_die_at_the_second, where, smtp.port, shelf, place) as (sender, _):
        sender.join(60)
        assert sender.exitcode == -signal.SIGKILL
    assert statuses(lake) == {"Ann": "SENT", "Bob": "SENDING", "Cat": "APPROVED"}

    assert send(lake, smtp, shelf) == Sending(sent=1, failed=0, cancelled=0, uncertain=1, waiting=0)

    assert statuses(lake) == {"Ann": "SENT", "Bob": "UNCERTAIN", "Cat": "SENT"}
    was_sent = place == "after"
    assert box.count() == {"Ann": 1, "Cat": 1} | ({"Bob": 1} if was_sent else {})
    approval.resolve(lake, "to-Bob", was_sent, "boss", LATER)
    send(lake, smtp, shelf)
    assert box.count() == {"Ann": 1, "Bob": 1, "Cat": 1}
    assert set(statuses(lake).values()) == {"SENT"}


def test_while_one_sends_nobody_else_sends_or_exports(
    three_approved: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf, tmp_path: Path
):
    box.may_answer.clear()
    first = Thread(target=send, args=(three_approved, smtp, shelf))
    first.start()
    try:
        assert box.was_asked.wait(60)
        with pytest.raises(OutboxError, match="another process"):
            send(three_approved, smtp, shelf)
        with pytest.raises(OutboxError, match="another process"):
            export(three_approved, tmp_path / "x.csv", shelf)
    finally:
        box.may_answer.set()
        first.join()

    assert box.count() == {"Ann": 1, "Bob": 1, "Cat": 1}


def test_even_without_the_lock_two_senders_at_once_send_each_email_once(
    bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    names = [f"C{number}" for number in range(4)]
    approved_emails(bank, names)
    monkeypatch.setattr(sending, "alone", lambda _: nullcontext())

    senders = [Thread(target=send, args=(bank, smtp, shelf)) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert box.count() == dict.fromkeys(names, 1)
    assert set(statuses(bank).values()) == {"SENT"}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_an_export_has_the_approved_emails_once_and_a_second_one_has_none(
    bank: LakeWarehouse, shelf: Shelf, tmp_path: Path
):
    write_emails(bank, ["Ann", "Bob"])
    approval.approve(bank, ["to-Ann"], "boss", NOW)

    assert export(bank, tmp_path / "x.csv", shelf) == Export(exported=1, cancelled=0)
    assert export(bank, tmp_path / "y.csv", shelf) == Export(exported=0, cancelled=0)

    assert rows(tmp_path / "x.csv") == [
        {
            "intervention_id": "to-Ann",
            "customer_id": "Ann",
            "email": "ann@bank.example",
            "full_name": "Ann Müller",
            "text": "Dear Ann Müller,\n\n.A dot begins this line.\n",
            "approved_at": "2026-03-02 12:00:00",
        }
    ]
    assert [path.name for path in tmp_path.glob("*.csv*")] == ["x.csv"]
    assert statuses(bank) == {"Ann": "EXPORTED", "Bob": "READY"}
    assert last_note(bank, "Ann") == str(tmp_path / "x.csv")


def test_a_name_that_a_spreadsheet_would_run_is_only_text(bank: LakeWarehouse, shelf: Shelf, tmp_path: Path):
    names = dict(zip("ABCDEF", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"], strict=True))
    approved_emails(bank, [*names])
    bank.transact(
        lambda tx: [
            tx.execute("UPDATE dim_customers SET full_name = ? WHERE customer_id = ?", [name, customer])
            for customer, name in names.items()
        ]
    )

    export(bank, tmp_path / "x.csv", shelf)

    exported = {row["customer_id"]: row["full_name"] for row in rows(tmp_path / "x.csv")}
    assert exported == {customer: f"'{name}" for customer, name in names.items()}


def test_an_export_overwrites_no_file_and_makes_no_folder(three_approved: LakeWarehouse, shelf: Shelf, tmp_path: Path):
    (tmp_path / "x.csv").write_text("mine")

    for file, words in (("x.csv", "exists already"), ("nowhere/x.csv", "no folder")):
        with pytest.raises(OutboxError, match=words):
            export(three_approved, tmp_path / file, shelf)

    assert (tmp_path / "x.csv").read_text() == "mine"
    assert set(statuses(three_approved).values()) == {"APPROVED"}


def test_what_changes_while_it_is_exported_is_not_exported(
    three_approved: LakeWarehouse, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = exporting._write

    def suppress_and_write(*arguments: Any) -> None:
        suppress(three_approved, "Ann", None, NOW, None, "boss")
        write(*arguments)

    monkeypatch.setattr(exporting, "_write", suppress_and_write)

    with pytest.raises(OutboxError, match="try again"):
        export(three_approved, tmp_path / "x.csv", shelf)

    assert list(tmp_path.glob("**/*x.csv*")) == []
    assert statuses(three_approved) == {"Ann": "CANCELLED", "Bob": "APPROVED", "Cat": "APPROVED"}


def export_and_die(_: Connection, path: Path, file: Path, shelf: Shelf, place: str) -> None:
    if place == "before it is marked":
        exporting.move = lambda *_: die()  # type: ignore[assignment]
    elif place == "before it has its name":
        exporting._publish = lambda *_: die()
    else:
        exporting._note_finished = lambda *_: die()
    export(open_lake(path), file, shelf)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "exported", "said"),
    [
        ("before it is marked", 3, []),
        ("before it has its name", 0, ["that was interrupted is finished"]),
        ("before it is noted", 0, ["see that the file was not lost"]),
    ],
)
def test_an_export_that_is_killed_is_finished_or_named_by_the_next_and_no_email_is_in_two_files(
    three_approved: LakeWarehouse,
    where: LakePlace,
    shelf: Shelf,
    tmp_path: Path,
    place: str,
    exported: int,
    said: list[str],
):
    first, second, told = tmp_path / "x.csv", tmp_path / "y.csv", list[str]()
    with process(export_and_die, where, first, shelf, place) as (exporter, _):
        exporter.join(60)
        assert exporter.exitcode == -signal.SIGKILL
    assert first.exists() == (place == "before it is noted")

    assert export(three_approved, second, shelf, told.append).exported == exported

    assert len(told) == len(said)
    assert all(words in line and str(first) in line for words, line in zip(said, told, strict=True))
    files = [file for file in (first, second) if file.exists()]
    assert [row["customer_id"] for file in files for row in rows(file)] == ["Ann", "Bob", "Cat"]
    assert set(statuses(three_approved).values()) == {"EXPORTED"}
    export(three_approved, tmp_path / "z.csv", shelf, told.append)
    assert len(told) == len(said)


def test_only_what_is_ready_can_be_approved_or_rejected_and_only_what_is_uncertain_resolved(bank: LakeWarehouse):
    others = ("CLAIMED", "APPROVED", "SENDING", "UNCERTAIN", "SENT", "EXPORTED", "CONTROL")
    write_emails(bank, ["Ann"])
    for status in others:
        write_emails(bank, [status.lower()], status)

    for status in others:
        for decide in (approval.approve, approval.reject):
            with pytest.raises(StatusError, match=f"to-{status.lower()} is {status}"):
                decide(bank, ["to-Ann", f"to-{status.lower()}"], "boss", NOW)
    with pytest.raises(StatusError, match="to-Ann is READY"):
        approval.resolve(bank, "to-Ann", False, "boss", NOW)
    with pytest.raises(StatusError, match="no intervention to-Eve"):
        approval.approve(bank, ["to-Eve"], "boss", NOW)

    assert statuses(bank) == {"Ann": "READY"} | {status.lower(): status for status in others}


def test_a_rejected_email_never_leaves_and_says_why(bank: LakeWarehouse, box: Mailbox, smtp: Smtp, shelf: Shelf):
    write_emails(bank, ["Ann"])

    approval.reject(bank, ["to-Ann"], "boss", NOW, "too familiar")

    assert send(bank, smtp, shelf).sent == 0
    entry, text, _ = approval.shown(bank, "to-Ann")
    assert (entry.status, entry.moved_by, entry.note) == ("REJECTED", "boss", "too familiar")
    assert text is not None


def test_emails_are_approved_by_themselves_only_where_that_is_set(bank: LakeWarehouse):
    write_emails(bank, ["Ann"])

    for setting, approved, status, by in (("hand", 0, "READY", None), ("auto", 1, "APPROVED", "auto")):
        assert approval.approve_if_automatic(bank, load_settings(CHURN_APPROVAL=setting), NOW) == approved
        [entry] = approval.waiting(bank)
        assert (entry.status, entry.moved_by) == (status, by)


def test_a_list_has_what_waits_for_somebody_and_no_address(bank: LakeWarehouse):
    write_emails(bank, ["Ann"])
    write_emails(bank, ["Bob"], "SENT")

    assert [(entry.customer_id, entry.email) for entry in approval.waiting(bank)] == [("Ann", "a***@bank.example")]
    assert [entry.customer_id for entry in approval.waiting(bank, ["SENT"])] == ["Bob"]
    assert [masked(email) for email in (None, "", "ann", "@x", '"a@b"@x')] == ["", "", "***", "***@x", '"***@x']
