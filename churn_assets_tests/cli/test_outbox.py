import csv
import getpass
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_assets import wiring
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.cli.conftest import Churn, Outcome, fails_in_one_line, opened_once
from churn_assets_tests.retention.post import Mailbox, mail_server, statuses, write_emails


@pytest.fixture
def bank(deployed_home: Path, tmp_path: Path) -> Iterator[LakeWarehouse]:
    """Ann and Bob each have an email that is READY."""
    shutil.copytree(deployed_home, tmp_path / "home")
    with opened_once(tmp_path / "home"):
        lake = wiring.open_lake(load_settings().lake_path)
        write_emails(lake, ["Ann", "Bob"])
        yield lake


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch):
    """What arrives at the mail server that is set."""
    box = Mailbox()
    with mail_server(box) as port:
        monkeypatch.setenv("CHURN_SMTP_URL", f"smtp://127.0.0.1:{port}")
        monkeypatch.setenv("CHURN_EMAIL_FROM", "care@bank.example")
        monkeypatch.setenv("CHURN_QUIET_HOURS", "none")
        yield box


def said(outcome: Outcome, *lines: str) -> bool:
    return (outcome.code, outcome.out.splitlines(), outcome.err) == (0, list(lines), "")


def test_emails_are_listed_read_approved_rejected_and_sent(churn: Churn, bank: LakeWarehouse, box: Mailbox):
    table, shown = churn("outbox", "list"), churn("outbox", "show", "to-Ann")
    assert all(words in table.out for words in ("to-Ann", "to-Bob", "a***@bank.example", "READY"))
    assert "Dear Ann Müller," in shown.out
    assert "ann@bank.example" not in table.out + shown.out

    assert said(churn("outbox", "approve", "to-Ann"), "1 approved")
    assert said(churn("outbox", "reject", "to-Bob", "--note", "too familiar"), "1 rejected")
    assert said(churn("outbox", "send"), "1 sent, 0 failed, 0 cancelled, 0 uncertain; 0 wait")

    assert box.count() == {"Ann": 1}
    assert json.loads(churn("outbox", "list", "--json").out) == []
    [rejected] = json.loads(churn("outbox", "list", "--json", "--status", "REJECTED").out)
    assert (rejected["note"], rejected["moved_by"], rejected["email"]) == (
        "too familiar", getpass.getuser(), "b***@bank.example",
    )  # fmt: skip
    assert fails_in_one_line(churn("outbox", "approve", "to-Ann"), "to-Ann is SENT", "APPROVED")


def test_what_stops_the_sending_is_an_error_after_the_summary(churn: Churn, bank: LakeWarehouse, box: Mailbox):
    box.message_answers = {"Ann": None}
    churn("outbox", "approve", "--all")

    outcome = churn("outbox", "send")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "no answer to the message" in outcome.err
    assert outcome.out.startswith("0 sent, 0 failed, 0 cancelled, 1 uncertain; 1 wait")

    assert said(churn("outbox", "resolve", "to-Ann", "--not-sent"), "approved, to be sent again")
    box.message_answers = {}
    assert said(churn("outbox", "send"), "2 sent, 0 failed, 0 cancelled, 0 uncertain; 0 wait")


def test_emails_that_need_no_approval_are_exported_at_once(
    churn: Churn, bank: LakeWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CHURN_APPROVAL", "auto")

    assert said(churn("outbox", "export", "x.csv"), "2 exported to x.csv")
    assert said(churn("outbox", "export", "y.csv"), "nothing to export")
    assert fails_in_one_line(churn("outbox", "export", "x.csv"), "x.csv exists already")

    with (tmp_path / "x.csv").open(newline="") as lines:
        assert [row["customer_id"] for row in csv.DictReader(lines)] == ["Ann", "Bob"]


def test_suppressing_cancels_and_lifting_does_not_bring_back(churn: Churn, bank: LakeWarehouse):
    until = churn("suppress", "Ann", "--until", "2999-01-01", "--note", "asked by phone")
    assert said(until, "Ann is suppressed until 2999-01-01; 1 emails cancelled")
    assert statuses(bank) == {"Ann": "CANCELLED", "Bob": "READY"}
    assert said(churn("unsuppress", "Ann"), "Ann is no longer suppressed")
    assert said(churn("unsuppress", "Ann"), "Ann was not suppressed")
    assert fails_in_one_line(churn("suppress", "Eve"), "no customer Eve")


def test_without_a_mail_server_send_says_what_to_set_and_makes_nothing(churn: Churn):
    assert fails_in_one_line(churn("outbox", "send"), "CHURN_SMTP_URL", "CHURN_EMAIL_FROM")
    assert fails_in_one_line(churn("outbox", "list"), "churn deploy")
    assert not load_settings().home.exists()


@pytest.mark.parametrize(
    "arguments", [["approve"], ["approve", "x", "--all"], ["resolve", "x"], ["list", "--status", "x"]]
)
def test_wrong_usage_exits_with_2(churn: Churn, arguments: list[str]):
    assert churn("outbox", *arguments).code == 2
