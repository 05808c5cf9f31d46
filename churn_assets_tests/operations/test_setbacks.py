"""A lake that went back: nobody is written to a second time, and nothing is held without need."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from churn_assets.cli.app import run_command
from churn_assets.clock import utc_now
from churn_assets.ingestion import backlog
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.kafka import Cluster
from churn_assets.ingestion.publisher import Publisher
from churn_assets.operations import setbacks
from churn_assets.operations.setbacks import Confirmation, must_not_have_gone_back
from churn_assets.retention.marks import Marks
from churn_assets.retention.outbox import approval, exporting, sending
from churn_assets.retention.outbox.smtp import Smtp, smtp_of
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.setbacks import SetbackError
from churn_assets.wiring import lake_place, open_lake, shelf_of
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.retention.post import Mailbox, approved_emails, mail_server, statuses
from churn_assets_tests.warehouse.processes import heard_from, killed, process

pytestmark = pytest.mark.heavy
CUSTOMERS = [f"C{number:02}" for number in range(43)]
STATE = ("lake", "emails")


def quiet(_: str) -> None:
    pass


def ingest(settings: Settings, lake: LakeWarehouse, cluster: Cluster, *references: str) -> None:
    publisher = Publisher(cluster, EVENTS_TOPIC)
    for reference in references:
        publisher.send(b"key", message("TXN", transaction_ref=reference))
    publisher.flush()
    backlog.ingest_waiting(settings, lake, on_gap="fail", clock=utc_now, report=quiet)


def copied(home: Path, to: Path) -> None:
    for name in STATE:
        shutil.rmtree(to / name, ignore_errors=True)
        if (home / name).exists():
            shutil.copytree(home / name, to / name)


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Smtp]:
    with mail_server(box) as port:
        monkeypatch.setenv("CHURN_SMTP_URL", f"smtp://127.0.0.1:{port}")
        monkeypatch.setenv("CHURN_EMAIL_FROM", "care@bank.example")
        monkeypatch.setenv("CHURN_QUIET_HOURS", "none")
        yield smtp_of(load_settings())


@pytest.mark.in_home
def test_after_yesterdays_home_was_restored_nobody_who_got_an_email_since_gets_it_again(
    settings: Settings, lake: LakeWarehouse, broker: Cluster, box: Mailbox, smtp: Smtp, tmp_path: Path, capsys
):
    approved_emails(lake, CUSTOMERS)
    ingest(settings, lake, broker, "T1")
    copied(settings.home, tmp_path / "yesterday")
    ingest(settings, lake, broker, "T2", "T3")
    assert run_command(["outbox", "export", "today.csv"]) == 0
    assert set(statuses(lake).values()) == {"EXPORTED"}

    copied(tmp_path / "yesterday", settings.home)

    restored = open_lake(lake_place(settings))
    assert set(statuses(restored).values()) == {"APPROVED"}
    capsys.readouterr()
    for command in (["outbox", "send"], ["outbox", "export", "again.csv"], ["outbox", "write"]):
        assert run_command(command) == 1
        said = capsys.readouterr().err
        assert "are older than what the world has seen: they had stored bank_transactions[" in said
        assert "until `churn restore --confirm`" in said
    ingest(settings, restored, broker, "T4")  # it has caught up with Kafka, and still does not know the emails
    assert restored.query("SELECT count(*) AS n FROM fact_transaction_ledger")["n"].to_pylist() == [4]
    with pytest.raises(SetbackError):
        must_not_have_gone_back(settings, restored, utc_now())

    assert run_command(["restore", "--confirm"]) == 0

    assert "0 emails are known again to have left, 43 others cancelled" in capsys.readouterr().out
    assert run_command(["outbox", "send"]) == 1
    assert "whom they had written to is not known" in capsys.readouterr().err
    in_a_week = utc_now() + timedelta(days=7, seconds=1)
    must_not_have_gone_back(settings, restored, in_a_week)
    assert sending.send(restored, smtp, shelf_of(settings), None, "me", lambda: in_a_week).sent == 0
    assert exporting.export(restored, Path("later.csv"), shelf_of(settings), "me", in_a_week, quiet).exported == 0
    assert (box.delivered, Path("again.csv").exists()) == ([], False)


def _approve(connection: Connection, settings: Settings) -> None:
    approved_emails(open_lake(lake_place(settings)), CUSTOMERS)
    connection.send("done")


def _read_and_wait(connection: Connection, catalog: Path) -> None:
    """Keep what others write in the log, as a reader does."""
    with closing(sqlite3.connect(catalog, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ducklake_snapshot").fetchone()
        connection.send("reads")
        connection.recv()


def _send(connection: Connection, settings: Settings, smtp: Smtp) -> None:
    lake = open_lake(lake_place(settings))
    connection.send(sending.send(lake, smtp, shelf_of(settings), None, "me", utc_now).sent)


def test_after_the_catalogs_log_was_deleted_the_emails_that_it_knew_are_known_again(
    settings: Settings, box: Mailbox, smtp: Smtp, capsys
):
    with process(_approve, settings) as (child, connection):
        assert heard_from(connection) == "done"
        child.join()
    catalog = settings.lake_path / "catalog.sqlite"
    with process(_read_and_wait, catalog) as (reader, reading):
        assert heard_from(reading) == "reads"
        with process(_send, settings, smtp) as (child, connection):
            assert heard_from(connection) == len(CUSTOMERS)
            child.join()
        killed(reader)
    for ending in ("-wal", "-shm"):
        catalog.with_name(f"{catalog.name}{ending}").unlink()
    lake = open_lake(lake_place(settings))
    assert set(statuses(lake).values()) == {"APPROVED"}

    assert run_command(["outbox", "send"]) == 1
    assert "43 emails left that they do not know" in capsys.readouterr().err
    assert run_command(["restore", "--confirm", "--only-marked"]) == 0
    assert "43 emails are known again to have left, 0 others cancelled" in capsys.readouterr().out
    assert run_command(["outbox", "send"]) == 0

    assert set(statuses(lake).values()) == {"SENT"}
    assert set(box.count().values()) == {1}
    assert len(box.count()) == len(CUSTOMERS)
    _, _, moves = approval.shown(lake, "to-C00")
    assert [move.status_to for move in moves] == ["APPROVED", "SENDING", "SENT"]
    addressed = lake.query("SELECT count(*) AS n FROM addressed_emails WHERE address_hash IS NOT NULL")
    assert addressed["n"].to_pylist() == [len(CUSTOMERS)]


@pytest.mark.in_home
def test_an_email_that_the_lake_does_not_know_at_all_is_stored_and_its_customer_leaves_the_queue(
    settings: Settings, lake: LakeWarehouse, tmp_path: Path
):
    copied(settings.home, tmp_path / "before")
    approved_emails(lake, ["Ann"])
    exporting.export(lake, tmp_path / "out.csv", shelf_of(settings), "me", utc_now(), quiet)
    shutil.rmtree(settings.lake_path)
    shutil.copytree(tmp_path / "before" / "lake", settings.lake_path)
    restored, now = open_lake(lake_place(settings)), utc_now()
    restored.transact(
        lambda tx: tx.execute(
            "INSERT INTO retention_queue (customer_id, source, churn_score, queued_at) VALUES ('Ann', 'prediction', 0.9, ?)",
            [now],
        )
    )

    done = setbacks.confirm(settings, restored, all_are_marked=True, by="me", now=now)

    assert done == Confirmation(brought_back=1, cancelled=0, goes_on_at=now)
    assert statuses(restored) == {"Ann": "EXPORTED"}
    assert restored.query("SELECT left_reason FROM retention_queue")["left_reason"].to_pylist() == ["intervention"]
    assert setbacks.evidence(settings, restored) == []
    assert setbacks.confirm(settings, restored, all_are_marked=True, by="me", now=now) is None


def test_nothing_is_held_while_all_is_well(
    settings: Settings, lake: LakeWarehouse, broker: Cluster, box: Mailbox, smtp: Smtp, tmp_path: Path
):
    approved_emails(lake, ["Ann", "Bob", "Cat", "Dan"])
    box.recipient_answers["Ann"] = "450 later"
    ingest(settings, lake, broker, "T1")
    for _ in range(2):  # Ann's is deferred and stays approved
        sending.send(lake, smtp, shelf_of(settings), None, "me", utc_now)
        assert setbacks.evidence(settings, lake) == []
    box.recipient_answers.clear()
    box.message_answers["Ann"] = None
    sending.send(lake, smtp, shelf_of(settings), None, "me", utc_now)
    assert statuses(lake)["Ann"] == "UNCERTAIN"
    approval.resolve(lake, "to-Ann", False, "me", utc_now())
    assert setbacks.evidence(settings, lake) == []
    exporting.export(lake, tmp_path / "out.csv", shelf_of(settings), "me", utc_now(), quiet)
    assert statuses(lake) == {"Ann": "EXPORTED", "Bob": "SENT", "Cat": "SENT", "Dan": "SENT"}
    assert setbacks.evidence(settings, lake) == []
    assert len(list(Marks(shelf_of(settings)))) >= 4


def test_neither_another_lake_in_the_same_group_nor_a_broker_that_forgot_all_is_taken_for_a_lake_that_went_back(
    settings: Settings, lake: LakeWarehouse, tmp_path: Path
):
    other = LakeWarehouse(tmp_path / "other" / "lake")
    other.deploy()
    with embedded_broker(settings.broker_file) as cluster:
        ingest(settings, lake, cluster, "T1", "T2")
        assert backlog.went_back(other, cluster, settings.topics, settings.kafka_group) is None
        assert setbacks.evidence(settings, lake) == []
    with embedded_broker(settings.broker_file) as cluster:
        assert setbacks.evidence(settings, lake) == []
        ingest(settings, lake, cluster, "T3")
        assert setbacks.evidence(settings, lake) == []


def test_the_marks_of_an_erased_customer_are_deleted_and_their_absence_holds_nothing(
    settings: Settings, lake: LakeWarehouse, tmp_path: Path
):
    approved_emails(lake, ["Ann", "Bob"])
    exporting.export(lake, tmp_path / "out.csv", shelf_of(settings), "me", utc_now(), quiet)

    assert run_command(["erase", "Bob", "--yes"]) in (0, 3)

    assert [mark.customer_id for mark in Marks(shelf_of(settings))] == ["Ann"]
    assert setbacks.evidence(settings, lake) == []


@pytest.mark.in_home
def test_a_mark_that_a_loss_of_power_cut_off_hides_no_other(settings: Settings, lake: LakeWarehouse, tmp_path: Path):
    approved_emails(lake, ["Ann"])
    marks = Marks(shelf_of(settings))
    exporting.export(lake, tmp_path / "one.csv", shelf_of(settings), "me", utc_now(), quiet)
    with (settings.emails_path / "left.ndjson").open("a") as file:
        file.write('{"intervention_id": "to-B')
    approved_emails(lake, ["Cat"])
    exporting.export(lake, tmp_path / "two.csv", shelf_of(settings), "me", utc_now(), quiet)

    assert [mark.customer_id for mark in marks] == ["Ann", "Cat"]
    assert setbacks.evidence(settings, lake) == []
