from datetime import datetime, timedelta

import pytest

from churn_assets.operations.latency import BOUNDS, FEATURES, PREDICTIONS, Hop, hops
from churn_assets.warehouse.lake import LakeWarehouse

NOON = datetime(2100, 3, 1, 12)  # after the refreshes of the deployment


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def stored(lake: LakeWarehouse, when: float, oldest: float | None, newest: float | None, messages: int = 1) -> None:
    sent = [None if moment is None else at(moment) for moment in (oldest, newest)]
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO ingest_ranges VALUES ('e', 't', 0, 0, ?, ?, ?, CAST(? AS TIMESTAMP), CAST(? AS TIMESTAMP))",
            [messages, "SKIPPED" if oldest is None else "STORED", at(when), *sent],
        )
    )


def refreshed(lake: LakeWarehouse, name: str, when: float, seconds: float) -> None:
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO dynamic_table_refresh_history"
            " VALUES (?, 'INCREMENTAL', NULL, ?, ?, 1, 0, 0, 0.0, 1, 1, DATE '2100-03-01')",
            [name, at(when), seconds],
        )
    )


def found(lake: LakeWarehouse) -> dict[str, Hop]:
    return {hop.name: hop for hop in hops(lake, NOON)}


def test_each_hop_of_one_event_is_the_time_between_its_ends(lake: LakeWarehouse):
    stored(lake, 3.0, 1.0, 1.0)
    refreshed(lake, FEATURES, 2.0, 9.0)  # it began before the event was stored
    refreshed(lake, FEATURES, 3.5, 0.25)
    refreshed(lake, PREDICTIONS, 3.75, 0.5)
    refreshed(lake, PREDICTIONS, 60.0, 0.5)
    assert {name: (hop.events, hop.quantile(0.5)) for name, hop in found(lake).items()} == {
        "message to ledger": (1, 2.0),
        "ledger to features": (1, 0.75),
        "features to score": (1, 0.5),
        "message to score": (1, 3.25),
        "score to email": (0, None),
    }


def test_what_no_refresh_has_seen_yet_and_what_was_skipped_has_no_score(lake: LakeWarehouse):
    refreshed(lake, PREDICTIONS, 1.0, 0.1)
    stored(lake, 3.0, 1.0, 1.0)
    stored(lake, 4.0, None, None)
    assert {name: hop.events for name, hop in found(lake).items()} == {
        "message to ledger": 1,
        "ledger to features": 0,
        "features to score": 0,
        "message to score": 0,
        "score to email": 0,
    }


def test_the_messages_of_a_range_lie_evenly_between_its_first_and_its_last_one(lake: LakeWarehouse):
    stored(lake, 101.0, 1.0, 101.0, messages=1000)
    stored(lake, 102.0, 1.0, 1.0, messages=10)
    hop = found(lake)["message to ledger"]
    assert hop.events == 1010
    assert hop.quantile(1.0) == 101.0
    assert hop.quantile(0.5) == pytest.approx(50.0, abs=3.0)
    assert sum(hop.histogram()) == 1010
    assert len(hop.histogram()) == len(BOUNDS) + 1


def test_a_bound_belongs_to_the_bucket_below_it_and_a_clock_that_is_ahead_gives_no_negative_time(lake: LakeWarehouse):
    stored(lake, 2.0, 1.0, 1.0)
    stored(lake, 2.0, 2.5, 2.5)
    counts = dict(zip(BOUNDS, found(lake)["message to ledger"].histogram(), strict=False))
    assert counts[0.5] == 1
    assert counts[1.0] == 1
    assert sum(counts.values()) == 2


def test_an_email_is_counted_from_when_its_customer_was_queued_last(lake: LakeWarehouse):
    def write(tx):
        for queued in (-500.0, 10.0):
            tx.execute("INSERT INTO retention_queue VALUES ('c', 'prediction', 0.9, NULL, ?, NULL, NULL)", [at(queued)])
        tx.execute(
            "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
            " partition_day) VALUES ('i', 'c', 0.9, ?, 'READY', 'prediction', DATE '2100-03-01')",
            [at(11.0)],
        )
        for status, moved in (("CLAIMED", 11.0), ("READY", 14.0)):
            tx.execute("INSERT INTO intervention_moves VALUES ('i', NULL, ?, ?, 'run', NULL)", [status, at(moved)])

    lake.transact(write)
    assert found(lake)["score to email"].quantile(0.5) == 4.0
