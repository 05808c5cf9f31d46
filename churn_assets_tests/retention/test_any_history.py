"""Emails over random histories: whatever turns, dies, fails, is suppressed or passes, the rules hold and nobody is forgotten."""

from collections import Counter
from collections.abc import Sequence
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
from churn_assets.retention.suppressions import suppress
from churn_assets.rules import EMAIL_PAUSE_DAYS
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import (
    DAY,
    LOW,
    MINUTE,
    NOW,
    fill,
    forget_everybody,
    interventions,
    predict,
    written_to,
)
from churn_assets_tests.retention.desk import (
    LIMITS,
    BrokenWriter,
    FailingWriter,
    StubWriter,
    clear_desk,
    write,
)
from churn_assets_tests.rounds import rounds

PAUSE = EMAIL_PAUSE_DAYS * DAY
LIMIT = 1
SCORES = {"Ann": 0.75, "Bob": 0.85, "Cat": 0.95}  # of who is HIGH


class Step(NamedTuple):
    """Who turns HIGH or back, who is suppressed for how long, whether the refresh job lives to fill the queue, how a run goes,
    and then days pass."""

    turn: Sequence[str] = ()
    suppressed: tuple[str, int] | None = None
    queue_is_filled: bool = True
    run: Literal["completes", "dies", "fails"] | None = None
    days: int = 0


STEPS = st.lists(
    st.builds(
        Step,
        turn=st.lists(st.sampled_from(list(SCORES)), unique=True),
        suppressed=st.none() | st.tuples(st.sampled_from(list(SCORES)), st.sampled_from([1, 3, 10])),
        queue_is_filled=st.sampled_from([True, True, False]),
        run=st.sampled_from([None, "completes", "dies", "fails"]),
        days=st.sampled_from([0, 1, EMAIL_PAUSE_DAYS - 1, EMAIL_PAUSE_DAYS]),
    ),
    min_size=2,
    max_size=5,
)
COMES_BACK_TOO_EARLY = [
    Step(["Ann"], run="completes"),
    Step(["Ann"]),
    Step(["Ann"], days=EMAIL_PAUSE_DAYS - 1),
    Step(run="completes"),
]
IS_DROPPED_BEFORE_THE_QUEUE_IS_FILLED = [
    Step(["Ann"]),
    Step(["Ann"], queue_is_filled=False, run="completes"),
    Step(["Ann"]),
]
IS_SUPPRESSED_WHILE_THE_TEXT_IS_OWED = [Step(["Ann"], run="dies"), Step(suppressed=("Ann", 3), run="completes")]
TURNS_WHILE_THE_TEXT_IS_OWED = [Step(["Ann"], run="dies"), Step(["Ann"], run="completes"), Step(["Ann"])]


@pytest.fixture
def at_most_one_email_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "EMAILS_PER_RUN", LIMIT)


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
def test_whatever_happens_the_rules_hold_and_nobody_waits_for_ever(lake: LakeWarehouse, steps: list[Step]):
    forget_everybody(lake)
    clear_desk(lake)
    now, scores = NOW, dict.fromkeys(SCORES, LOW)
    suppressed_until = dict.fromkeys(SCORES, NOW.date())
    scores_read, came_in = scores, dict[str, datetime]()
    predict(lake, scores)
    for step in [*steps, Step(days=10), Step(days=EMAIL_PAUSE_DAYS), Step()]:
        now += MINUTE
        scores = scores | {name: SCORES[name] if scores[name] == LOW else LOW for name in step.turn}
        predict(lake, scores)
        if step.suppressed:
            name, days = step.suppressed
            suppress(lake, name, now.date() + days * DAY, now, None, "test")
            suppressed_until[name] = max(suppressed_until[name], now.date() + days * DAY)
        due = next_day(lake, LIMITS, now)
        if step.queue_is_filled:
            fill(lake, now)
            due = next_day(lake, LIMITS, now)
        if step.queue_is_filled or (step.run and due == now.date()):
            came_in |= {name: now for name in scores if scores[name] != LOW and scores_read[name] == LOW}
            scores_read = scores
        if step.run and due:
            run_once(lake, now, step.run)
        now += step.days * DAY
    while next_day(lake, LIMITS, now):
        now += MINUTE
        assert run_once(lake, now, "completes"), "the sensor asks for a run that has nothing to do"

    log = [(line["customer_id"], line["created_at"]) for line in interventions(lake) if line["status"] != "CANCELLED"]
    assert len(written_to(lake)) == len(log)
    for name in scores:
        mine = [at for customer, at in log if customer == name]
        assert all(later - earlier >= PAUSE for earlier, later in pairwise(mine))
        if scores[name] != LOW and suppressed_until[name] <= now.date():
            assert any(at >= came_in[name] for at in mine), f"{name} was forgotten"
    assert customers_written_to_twice(lake) == []
    assert max(Counter(at for _, at in log).values(), default=0) <= LIMIT


def run_once(lake: LakeWarehouse, now: datetime, how: str) -> bool:
    """Run as the sensor would; whether anything changed. Who is left waiting has no higher score than who was taken."""
    day, before = next_day(lake, LIMITS, now), interventions(lake)
    assert day
    writer = {"completes": StubWriter, "dies": BrokenWriter, "fails": FailingWriter}[how]()
    try:
        write(lake, writer, day=day, now=now)
    except ZeroDivisionError:
        assert how == "dies"
    after = interventions(lake)
    taken = [line["churn_score"] for line in after if line["created_at"] == now]
    left = lake.query(f"SELECT predictions.churn_score {claims._ELIGIBLE}", [now, now - PAUSE, now.date()])[
        "churn_score"
    ].to_pylist()
    assert all(score <= min(taken) for score in left if taken)
    return after != before
