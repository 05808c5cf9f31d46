"""Sends the simulated bank's live events to Kafka. The events come from `live`."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from churn_assets.ingestion.publisher import Publisher
from churn_assets.rules import SCORES_TOPIC
from churn_assets.simulator.live import Event, LiveBank, encode
from churn_assets.simulator.scorer import scores

BATCH_EVENTS = 10_000  # per window at full speed


def produce_steadily(
    bank: LiveBank,
    publisher: Publisher,
    *,
    events_per_minute: float,
    since: datetime,
    clock: Callable[[], datetime],
    stopped: Callable[[], bool],
    report: Callable[[int], None],
) -> None:
    """Send `events_per_minute` until `stopped()`, after the events planned between `since` and now (UTC).

    Scores of these events are sent as well, but not counted. `report` gets the number of events sent so far, about once a
    second.
    """
    sent, owed = 0, 0.0
    begin = clock()
    if since < begin:
        _send(bank.events(since, begin, 0), publisher)
    while not stopped():
        time.sleep(1.0)
        end = clock()
        owed += (end - begin).total_seconds() * events_per_minute / 60
        events = bank.events(begin, end, max(0, int(owed)))
        _send([*events, *scores(events)], publisher)
        owed -= len(events)
        sent += len(events)
        report(sent)
        begin = end
    publisher.flush()


def produce_at_once(
    bank: LiveBank, publisher: Publisher, count: int, clock: Callable[[], datetime], report: Callable[[int], None]
) -> None:
    """Send `count` events as fast as the cluster takes them; event times are the times of sending."""
    sent = 0
    begin = clock() - timedelta(milliseconds=1)
    while sent < count:
        end = clock()
        events = bank.events(begin, end, min(BATCH_EVENTS, count - sent))[: count - sent]
        _send(events, publisher)
        sent += len(events)
        report(sent)
        begin = end
    publisher.flush()


def _send(events: list[Event], publisher: Publisher) -> None:
    # Keyed by customer, so that a customer's events keep their order.
    for event in events:
        publisher.send(event.key.encode(), encode(event), SCORES_TOPIC if event.event_type == "SCORE" else None)
    publisher.poll()
