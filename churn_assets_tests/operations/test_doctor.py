"""What the doctor sees while everything runs, and what to do about it."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from churn_assets.clock import utc_now
from churn_assets.operations import doctor
from churn_assets.operations.doctor import watched
from churn_assets.rules import CLOCK_SKEW_SECONDS
from churn_assets.settings import Settings
from churn_assets.warehouse.lake import LakeWarehouse


@pytest.fixture
def problem(settings: Settings, lake: LakeWarehouse) -> Callable[[str], str]:
    """The problem of one check, or nothing."""

    def of(what: str) -> str:
        return {one.what: one.problem or "" for one in watched(settings, lake, utc_now())}[what]

    return of


def stored(lake: LakeWarehouse, messages: int, ahead: timedelta = timedelta(0)) -> None:
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO ingest_ranges VALUES ('e', 't', 0, 0, ?, 'STORED', ?, NULL, NULL)",
            [messages, utc_now() + ahead],
        )
    )


def test_a_commit_of_the_future_is_a_clock_that_is_wrong(lake: LakeWarehouse, problem: Callable[[str], str]):
    stored(lake, 10, timedelta(seconds=CLOCK_SKEW_SECONDS / 2))
    assert problem("clock") == ""
    stored(lake, 10, timedelta(days=2))

    assert "172,8" in problem("clock")
    assert "set the clocks by NTP" in problem("clock")


def test_many_rejects_are_a_problem_and_a_few_or_replayed_ones_are_none(
    lake: LakeWarehouse, problem: Callable[[str], str]
):
    stored(lake, 300)

    def reject(count: int) -> None:
        lake.transact(
            lambda tx: tx.execute(
                f"INSERT INTO event_rejects SELECT 'e', 't', 0, i, NULL, 'not JSON', NULL, ?, NULL FROM range({count}) AS n (i)",
                [utc_now()],
            )
        )

    reject(3)
    assert problem("rejects") == ""
    reject(1)
    assert "4 of 300 messages" in problem("rejects")
    lake.transact(lambda tx: tx.execute("UPDATE event_rejects SET replayed_at = ? WHERE kafka_offset = 0", [utc_now()]))
    assert problem("rejects") == ""


def test_a_late_table_an_email_in_doubt_and_a_full_disk_are_named(
    settings: Settings, lake: LakeWarehouse, problem: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    now = utc_now()
    lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
    assert [problem(what) for what in ("freshness", "outbox", "disk", "files")] == [""] * 4
    lake.transact(
        lambda tx: [
            tx.execute(
                "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
                " partition_day) VALUES ('I1', 'C1', 0.9, ?, 'UNCERTAIN', 'prediction', current_date)",
                [now],
            ),
            tx.execute(
                "INSERT INTO app_activity_logs (log_id, customer_id, event_type, event_timestamp, ingested_at)"
                " VALUES ('L1', 'C1', 'LOGIN', ?, ?)",
                [now, now],
            ),
        ]
    )
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 60)

    later = {one.what: one.problem or "" for one in watched(settings, lake, utc_now() + timedelta(hours=1))}
    assert "dyn_churn_predictions by 3,6" in later["freshness"]
    assert "`churn outbox resolve ID --sent`" in later["outbox"]
    assert "C1" not in later["outbox"], "an alert names no customer"
    assert "are free" in later["disk"]
