"""Emails over random histories: whatever turns, leaves, alerts, dies, fails, shares an address, is suppressed or passes, nobody
is forgotten."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from churn_assets.retention import claims
from churn_assets.retention.claims import customers_written_to_twice
from churn_assets.retention.emails import next_day
from churn_assets.retention.queue import raise_alerts
from churn_assets.retention.suppressions import suppress
from churn_assets.rules import Rules
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import (
    DAY,
    LOW,
    MINUTE,
    NOW,
    fill,
    forget_everybody,
    interventions,
    measure,
    predict,
    waiting,
    written_to,
)
from churn_assets_tests.retention.email_runs import (
    LIMITS,
    BrokenWriter,
    FailingWriter,
    StubWriter,
    clear_journal,
    write,
)
from churn_assets_tests.rounds import rounds

PAUSE = Rules().emails.pause_days * DAY
LIMIT = 1
SCORES = {"Ann": 0.75, "Bob": 0.85, "Cat": 0.95}  # of who is HIGH
SHARED = "shared@bank.example"
ALERTED = 0.9  # the live score of who is CRITICAL


class Step(NamedTuple):
    """Who turns HIGH or back, who leaves the bank or returns, whose metrics are CRITICAL, who is suppressed for how long, who
    takes the shared address or gives it up, whether the refresh job lives to fill the queue, how a run goes; then days pass.
    """

    turn: Sequence[str] = ()
    leave: Sequence[str] = ()
    critical: Sequence[str] = ()
    suppressed: tuple[str, int] | None = None
    moves: str | None = None
    queue_is_filled: bool = True
    run: Literal["completes", "dies", "fails"] | None = None
    days: float = 0


STEPS = st.lists(
    st.builds(
        Step,
        turn=st.lists(st.sampled_from(list(SCORES)), unique=True),
        leave=st.just([]) | st.lists(st.sampled_from(list(SCORES)), max_size=1),
        critical=st.lists(st.sampled_from(list(SCORES)), unique=True),
        suppressed=st.none() | st.tuples(st.sampled_from(list(SCORES)), st.sampled_from([1, 3, 10])),
        moves=st.none() | st.sampled_from(list(SCORES)),
        queue_is_filled=st.sampled_from([True, True, False]),
        run=st.sampled_from([None, "completes", "dies", "fails"]),
        days=st.sampled_from([0, 0.5, 1, Rules().emails.pause_days - 1, Rules().emails.pause_days]),
    ),
    min_size=2,
    max_size=5,
)
COMES_BACK_TOO_EARLY = [
    Step(["Ann"], run="completes"),
    Step(["Ann"]),
    Step(["Ann"], days=Rules().emails.pause_days - 1),
    Step(run="completes"),
]
IS_DROPPED_BEFORE_THE_QUEUE_IS_FILLED = [
    Step(["Ann"]),
    Step(["Ann"], queue_is_filled=False, run="completes"),
    Step(["Ann"]),
]
IS_SUPPRESSED_WHILE_THE_TEXT_IS_OWED = [Step(["Ann"], run="dies"), Step(suppressed=("Ann", 3), run="completes")]
COMES_INTO_HIGH_WHILE_AN_ALERT_WAITS = [Step(critical=["Ann"]), Step(["Ann"], days=1), Step(run="completes")]
THE_SYSTEM_PAUSES_WHILE_AN_ALERT_WAITS = [
    Step(critical=["Ann"]),
    Step(["Ann"], queue_is_filled=False, days=Rules().emails.pause_days),
    Step(run="completes"),
]
IS_SUPPRESSED_WITH_AN_ALERT = [
    Step(critical=["Ann"], run="completes"),
    Step(suppressed=("Ann", 3)),
    Step(["Ann"], days=3),
    Step(run="completes"),
]
LEAVES_WHILE_THE_TEXT_IS_OWED_AND_RETURNS = [
    Step(["Ann"], run="dies"),
    Step(leave=["Ann"], queue_is_filled=False, run="completes"),
    Step(leave=["Ann"]),
]
SHARES_AN_ADDRESS_AND_GIVES_IT_UP = [
    Step(["Ann", "Bob"], moves="Ann"),
    Step(moves="Bob", run="completes"),
    Step(moves="Bob", run="completes"),
    Step(moves="Ann", run="completes"),
]
SHARES_AN_ADDRESS_WITH_WHO_IS_SUPPRESSED = [
    Step(["Ann"], moves="Ann"),
    Step(moves="Bob", suppressed=("Bob", 3)),
    Step(run="completes", moves="Bob"),
    Step(run="completes"),
]
TURNS_WHILE_THE_TEXT_IS_OWED = [Step(["Ann"], run="dies"), Step(["Ann"], run="completes"), Step(["Ann"])]


@pytest.fixture
def at_most_one_email_a_run(with_rules: Callable[[str], None]) -> None:
    with_rules(f"[emails]\nper_run = {LIMIT}\n")


@pytest.mark.slow
@pytest.mark.usefixtures("at_most_one_email_a_run")
@hypothesis_settings(
    max_examples=rounds(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
@example(steps=COMES_BACK_TOO_EARLY)
@example(steps=IS_DROPPED_BEFORE_THE_QUEUE_IS_FILLED)
@example(steps=IS_SUPPRESSED_WHILE_THE_TEXT_IS_OWED)
@example(steps=TURNS_WHILE_THE_TEXT_IS_OWED)
@example(steps=COMES_INTO_HIGH_WHILE_AN_ALERT_WAITS)
@example(steps=THE_SYSTEM_PAUSES_WHILE_AN_ALERT_WAITS)
@example(steps=IS_SUPPRESSED_WITH_AN_ALERT)
@example(steps=LEAVES_WHILE_THE_TEXT_IS_OWED_AND_RETURNS)
@example(steps=SHARES_AN_ADDRESS_AND_GIVES_IT_UP)
@example(steps=SHARES_AN_ADDRESS_WITH_WHO_IS_SUPPRESSED)
def test_whatever_happens_the_rules_hold_and_nobody_waits_for_ever(lake: LakeWarehouse, steps: list[Step]):
    forget_everybody(lake)
    clear_journal(lake)
    now, scores, left = NOW, dict.fromkeys(SCORES, LOW), set[str]()
    suppressed_until = dict.fromkeys(SCORES, NOW.date())
    sharing, shared_suppressed_until, to_shared = set[str](), NOW.date(), dict[str, datetime]()
    shared_until = shared_suppressed_until
    high, high_read, came_in = set[str](), set[str](), dict[str, datetime]()
    predict(lake, scores)
    for step in [*steps, Step(days=10), Step(days=Rules().emails.pause_days), Step()]:
        now += MINUTE
        scores = scores | {name: SCORES[name] if scores[name] == LOW else LOW for name in step.turn}
        left = left ^ set(step.leave)
        high = {name for name in scores if scores[name] != LOW and name not in left}
        predict(lake, {name: score for name, score in scores.items() if name not in left})
        measure(lake, dict.fromkeys(step.critical, ALERTED))
        if step.moves:
            sharing ^= {step.moves}
            move_to(lake, step.moves, SHARED if step.moves in sharing else f"{step.moves}@bank.example")
        if step.suppressed:
            name, days = step.suppressed
            suppress(lake, name, now.date() + days * DAY, now, None, "test")
            suppressed_until[name] = max(suppressed_until[name], now.date() + days * DAY)
            if name in sharing:
                shared_suppressed_until = max(shared_suppressed_until, suppressed_until[name])
        due = next_day(lake, LIMITS, now)
        if step.queue_is_filled:
            fill(lake, now)
            lake.transact(lambda tx, now=now: raise_alerts(tx, now))
            due = next_day(lake, LIMITS, now)
        shared_until = max([shared_suppressed_until, *(suppressed_until[name] for name in sharing)])
        if step.run and due:
            run_once(lake, now, step.run)
            claimed = claimed_at(lake, now, sharing)
            assert shared_until <= now.date() or not claimed
            to_shared |= dict.fromkeys(claimed, now)
        if step.queue_is_filled or (step.run and due == now.date()):
            came_in |= dict.fromkeys(high - high_read, now)
            high_read = high
            assert not forgotten(lake, high, came_in)
        now += step.days * DAY
    while next_day(lake, LIMITS, now):
        now += MINUTE
        assert run_once(lake, now, "completes"), "the sensor asks for a run that has nothing to do"
        to_shared |= dict.fromkeys(claimed_at(lake, now, sharing), now)

    log = [(line["customer_id"], line["created_at"]) for line in interventions(lake) if line["status"] != "CANCELLED"]
    assert len(written_to(lake)) == len(log)
    for name in scores:
        mine = [at for customer, at in log if customer == name]
        assert all(later - earlier >= PAUSE for earlier, later in pairwise(mine))
    stands = {line["intervention_id"] for line in interventions(lake) if line["status"] != "CANCELLED"}
    shared = sorted(at for intervention, at in to_shared.items() if intervention in stands)
    assert all(later - earlier >= PAUSE for earlier, later in pairwise(shared))
    may_wait = sharing if shared_until > now.date() or (shared and now - shared[-1] < PAUSE) else set[str]()
    assert not {name for name in waiting(lake) if name in high - may_wait and suppressed_until[name] <= now.date()}
    assert not forgotten(lake, high, came_in)
    assert customers_written_to_twice(lake) == []
    assert max(Counter(at for _, at in log).values(), default=0) <= LIMIT


def forgotten(lake: LakeWarehouse, high: set[str], came_in: dict[str, datetime]) -> set[str]:
    """Who is HIGH, does not wait, and has no intervention that stands since the queue has seen them come into HIGH."""
    stands = {
        line["customer_id"]
        for line in interventions(lake)
        if line["status"] != "CANCELLED" and line["created_at"] >= came_in.get(line["customer_id"], NOW)
    }
    return high - set(waiting(lake)) - stands


def move_to(lake: LakeWarehouse, name: str, address: str) -> None:
    """A customer has another address from now on."""
    lake.transact(lambda tx: tx.execute("UPDATE dim_customers SET email = ? WHERE customer_id = ?", [address, name]))


def claimed_at(lake: LakeWarehouse, now: datetime, customers: set[str]) -> list[str]:
    """The interventions of these customers that a run at this time has claimed and not cancelled."""
    return [
        line["intervention_id"]
        for line in interventions(lake)
        if line["created_at"] == now and line["customer_id"] in customers and line["status"] != "CANCELLED"
    ]


def run_once(lake: LakeWarehouse, now: datetime, how: str) -> bool:
    """Run as the sensor would; whether anything changed. Who is left waiting has no higher score than who was taken."""
    day, before = next_day(lake, LIMITS, now), (interventions(lake), waiting(lake))
    assert day
    writer = {"completes": StubWriter, "dies": BrokenWriter, "fails": FailingWriter}[how]()
    try:
        write(lake, writer, day=day, now=now)
    except ZeroDivisionError:
        assert how == "dies"
    after = interventions(lake)
    taken = [line["churn_score"] for line in after if line["created_at"] == now]
    left = lake.query(
        "SELECT CASE WHEN queue.source = 'alert' THEN queue.churn_score ELSE predictions.risk_score END AS score"
        f" {claims._ELIGIBLE}",
        claims._eligible_at(now),
    )["score"].to_pylist()
    assert all(score <= min(taken) for score in left if taken)
    return (after, waiting(lake)) != before
