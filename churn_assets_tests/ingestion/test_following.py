"""What a process that lives on stores: everything once, as ranges do, whoever else is at work."""

import random
from collections.abc import Iterator

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import following
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.following import Following
from churn_assets.ingestion.isolation import DIED
from churn_assets.settings import load_settings
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.deadly_decoder import deadly, deadly_decoder
from churn_assets_tests.ingestion.messages import transactions
from churn_assets_tests.ingestion.test_ingest import LEDGER
from churn_assets_tests.rounds import rounds

__all__ = ["deadly_decoder"]


@pytest.fixture
def live(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Following]:
    with_a_tail = follow(stream, monkeypatch)
    yield with_a_tail
    with_a_tail.close()


def follow(stream: Stream, monkeypatch: pytest.MonkeyPatch, *, isolated: bool = False) -> Following:
    monkeypatch.setenv("CHURN_TOPICS", stream.topic)
    return Following(load_settings(), stream.lake, stream.cluster, utc_now, stream.reported.append, isolated=isolated)


def drained(live: Following, count: int) -> int:
    """The messages of batch after batch, until there are `count` of them."""
    stored = 0
    for _ in range(50):
        stored += live.next_batch(0.2).messages
        if stored >= count:
            break
    return stored


def all_is_stored_once(stream: Stream, first: int, last: int) -> None:
    stored = [str(ref) for (ref,) in stream.rows(f"SELECT transaction_ref FROM {LEDGER}")]
    assert sorted(stored) == sorted(f"T{number}" for number in range(first, last))
    assert stream.committed() == stream.high_watermarks()
    assert not broken_ranges(stream.lake)


def test_what_waits_and_what_comes_later_is_stored_batch_by_batch(stream: Stream, live: Following):
    stream.send(transactions(0, 40))
    assert drained(live, 40) == 40
    assert not live.next_batch(0.05).ranges

    stream.send([*transactions(40, 50), b"no event"])

    assert drained(live, 11) == 11
    assert stream.rows("SELECT count(*) FROM event_rejects") == [(1,)]
    all_is_stored_once(stream, 0, 50)


def test_messages_that_another_run_has_stored_meanwhile_are_left_to_it(stream: Stream, live: Following):
    stream.send(transactions(0, 40))
    drained(live, 40)
    stream.send(transactions(40, 80))
    stream.ingest()

    live.next_batch(0.5)
    stream.send(transactions(80, 90))

    assert drained(live, 10) == 10
    assert any("another run stores the same messages" in line for line in stream.reported)
    all_is_stored_once(stream, 0, 90)


def test_a_message_on_which_the_run_before_died_is_found_and_its_neighbours_are_stored(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, deadly_decoder: None
):
    stream.send([*transactions(0, 10), deadly("SIGSEGV"), *transactions(10, 20)])
    live = follow(stream, monkeypatch, isolated=True)

    assert drained(live, 21) == 21
    stream.send(transactions(20, 30))
    assert drained(live, 10) == 10

    live.close()
    assert stream.rows("SELECT reason FROM event_rejects") == [(DIED,)]
    all_is_stored_once(stream, 0, 30)


def test_the_group_in_kafka_follows(stream: Stream, live: Following):
    stream.send(transactions(0, 40))
    drained(live, 40)
    stream.send(transactions(40, 50))
    drained(live, 10)
    live.close()

    told = stream.cluster.group_offsets("churn_assets", [stream.topic], stream.lake.identity())

    assert told == stream.committed()


def test_any_order_of_batches_other_runs_and_restarts_stores_everything_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
):
    for seed in random.sample(range(10**6), rounds(5)):
        luck = random.Random(seed)
        monkeypatch.setattr(following, "LOOK_SECONDS", luck.choice([0.0, 0.2, 10.0]))
        live, sent = follow(stream, monkeypatch), 0
        stream.lake.transact(lambda tx: tx.execute(f"DELETE FROM {LEDGER}"))
        for _ in range(12):
            match luck.choice(["send", "send", "batch", "batch", "range", "restart"]):
                case "send":
                    more = luck.randint(1, 30)
                    stream.send(transactions(sent, sent + more))
                    sent += more
                case "batch":
                    live.next_batch(0.05)
                case "range":
                    stream.ingest()
                case _:
                    live.close()
                    live = follow(stream, monkeypatch, isolated=luck.random() < 0.2)
        while stream.waiting():
            live.next_batch(0.2)
        live.close()
        all_is_stored_once(stream, 0, sent)
