import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date, datetime
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from churn_assets.retention import emails
from churn_assets.retention.emails import (
    EmailRun,
    customers_written_to_twice,
    eligible_count,
    intervention_id,
    unfinished_days,
    write_emails,
)
from churn_assets.retention.writer import EmailRequest, TemplateWriter
from churn_assets.settings import EMAIL_PAUSE_DAYS, EMAILS_PER_RUN
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.retention.bank import (
    DAY,
    HIGH,
    LOW,
    MINUTE,
    NOW,
    TODAY,
    fill,
    forget_everybody,
    interventions,
    predict,
    rescore,
    waiting,
    written_to,
)

PAUSE = EMAIL_PAUSE_DAYS * DAY
PROCESSES = multiprocessing.get_context("spawn")


class DyingWriter:
    """Writes some texts and then raises."""

    name = "dying"

    def __init__(self, texts: int = 0) -> None:
        self._left = texts

    def write(self, request: EmailRequest) -> str:
        if not self._left:
            raise ConnectionError("the writer dies")
        self._left -= 1
        return request.full_name


class KillingWriter:
    """Takes its process with it."""

    name = "killing"

    def write(self, request: EmailRequest) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return request.full_name


class SlowWriter:
    """So slow that another run comes in between."""

    name = "slow"

    def write(self, request: EmailRequest) -> str:
        time.sleep(0.005)
        return request.full_name


class RecordingWriter:
    """Remembers what it was told."""

    name = "recording"

    def __init__(self) -> None:
        self.requests: list[EmailRequest] = []

    def write(self, request: EmailRequest) -> str:
        self.requests.append(request)
        return f"Dear {request.full_name}"


@pytest.fixture
def bank_with_three_waiting_customers(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann, Bob and Cat have come into HIGH and wait."""
    rescore(lake, {"Ann": HIGH, "Bob": HIGH, "Cat": HIGH})
    return lake


@pytest.fixture
def bank_with_a_customer_who_came_back(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann got her email at NOW, left HIGH, came back and waits again."""
    rescore(lake, {"Ann": HIGH})
    write_emails(lake, TemplateWriter(), TODAY, NOW)
    rescore(lake, {"Ann": LOW})
    rescore(lake, {"Ann": HIGH})
    return lake


def test_a_run_writes_to_the_highest_scores_first_and_the_51st_waits_for_the_next_run(lake: LakeWarehouse):
    rescore(lake, {f"C{number:02}": 0.7 + 0.005 * number for number in range(EMAILS_PER_RUN + 1)})

    assert write_emails(lake, TemplateWriter(), TODAY, NOW) == EmailRun(claimed=EMAILS_PER_RUN, dropped=0, written=50)
    assert waiting(lake) == ["C00"]

    assert write_emails(lake, TemplateWriter(), TODAY, NOW + MINUTE) == EmailRun(claimed=1, dropped=0, written=1)
    assert waiting(lake) == []
    assert len(set(written_to(lake))) == EMAILS_PER_RUN + 1


def test_nobody_is_written_to_again_before_the_pause_is_over(bank_with_a_customer_who_came_back: LakeWarehouse):
    early, late = NOW + PAUSE - MINUTE, NOW + PAUSE

    assert write_emails(bank_with_a_customer_who_came_back, TemplateWriter(), early.date(), early).claimed == 0
    assert waiting(bank_with_a_customer_who_came_back) == ["Ann"]
    assert write_emails(bank_with_a_customer_who_came_back, TemplateWriter(), late.date(), late).written == 1
    assert written_to(bank_with_a_customer_who_came_back) == ["Ann", "Ann"]
    assert customers_written_to_twice(bank_with_a_customer_who_came_back) == []


def test_who_was_written_to_a_short_while_ago_is_no_reason_for_a_run(bank_with_a_customer_who_came_back: LakeWarehouse):
    assert waiting(bank_with_a_customer_who_came_back) == ["Ann"]
    assert eligible_count(bank_with_a_customer_who_came_back, NOW + PAUSE - MINUTE) == 0
    assert eligible_count(bank_with_a_customer_who_came_back, NOW + PAUSE) == 1


def test_who_is_no_longer_high_or_has_left_the_bank_is_dropped_with_a_reason(
    bank_with_three_waiting_customers: LakeWarehouse,
):
    lake = bank_with_three_waiting_customers
    rescore(lake, {"Ann": HIGH, "Bob": LOW})

    assert eligible_count(lake, NOW) == 1
    assert write_emails(lake, TemplateWriter(), TODAY, NOW) == EmailRun(claimed=1, dropped=2, written=1)
    left = lake.query("SELECT customer_id, left_at, left_reason FROM retention_queue").to_pylist()
    assert {row["customer_id"]: row["left_reason"] for row in left} == {
        "Ann": "email",
        "Bob": "no longer HIGH",
        "Cat": "no longer HIGH",
    }
    assert {row["left_at"] for row in left} == {NOW}


def test_a_past_day_is_completed_but_never_extended(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH})
    with pytest.raises(ConnectionError):
        write_emails(lake, DyingWriter(), TODAY, NOW)
    rescore(lake, {"Ann": HIGH, "Bob": HIGH})

    assert write_emails(lake, TemplateWriter(), TODAY, NOW + DAY) == EmailRun(claimed=0, dropped=0, written=1)
    assert written_to(lake) == ["Ann"]
    assert waiting(lake) == ["Bob"]


def test_running_a_finished_day_again_changes_nothing(bank_with_three_waiting_customers: LakeWarehouse):
    lake = bank_with_three_waiting_customers
    write_emails(lake, TemplateWriter(), TODAY, NOW)
    queue, log = lake.query("FROM retention_queue ORDER BY customer_id"), interventions(lake)

    assert write_emails(lake, RecordingWriter(), TODAY, NOW + MINUTE) == EmailRun(0, 0, 0)
    assert write_emails(lake, RecordingWriter(), TODAY, NOW + DAY) == EmailRun(0, 0, 0)

    assert lake.query("FROM retention_queue ORDER BY customer_id") == queue
    assert interventions(lake) == log


def test_an_intervention_is_identified_by_its_customer_and_day(bank_with_three_waiting_customers: LakeWarehouse):
    write_emails(bank_with_three_waiting_customers, TemplateWriter(), TODAY, NOW)

    ids = {line["customer_id"]: line["intervention_id"] for line in interventions(bank_with_three_waiting_customers)}
    assert ids == {customer: intervention_id(customer, TODAY) for customer in ("Ann", "Bob", "Cat")}
    assert len({*ids.values(), intervention_id("Ann", TODAY + DAY)}) == 4
    # Another process, machine or year must find the same id.
    assert intervention_id("Ann", date.fromisoformat("2026-03-02")) == "28e39860-edd0-5e83-919d-6090843d235c"


@pytest.mark.parametrize("texts", [0, 2])
def test_a_run_whose_writer_fails_leaves_claims_which_the_next_run_completes(
    bank_with_three_waiting_customers: LakeWarehouse, texts: int
):
    lake = bank_with_three_waiting_customers
    with pytest.raises(ConnectionError):
        write_emails(lake, DyingWriter(texts), TODAY, NOW)

    assert [line["status"] for line in interventions(lake)] == ["CLAIMED"] * 3
    assert waiting(lake) == []
    assert unfinished_days(lake) == [TODAY]
    assert write_emails(lake, TemplateWriter(), TODAY, NOW + MINUTE) == EmailRun(claimed=0, dropped=0, written=3)
    assert written_to(lake) == ["Ann", "Bob", "Cat"]
    assert unfinished_days(lake) == []


def die_in_the_writer(path: Path) -> None:
    write_emails(LakeWarehouse(path), KillingWriter(), TODAY, NOW)


def test_a_run_that_is_killed_in_the_writer_loses_nobody_and_writes_to_nobody_twice(
    bank_with_three_waiting_customers: LakeWarehouse, lake_path: Path
):
    lake = bank_with_three_waiting_customers
    run = PROCESSES.Process(target=die_in_the_writer, args=(lake_path,))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert unfinished_days(lake) == [TODAY]

    assert write_emails(lake, TemplateWriter(), TODAY, NOW + MINUTE) == EmailRun(claimed=0, dropped=0, written=3)
    assert written_to(lake) == ["Ann", "Bob", "Cat"]


def run_when_both_are_ready(
    path: Path, ready: Barrier, done: "multiprocessing.Queue[EmailRun]", limit: int, turns: bool
):
    lake = LakeWarehouse(path)
    emails.EMAILS_PER_RUN = limit  # type: ignore[misc]
    if not turns:
        lake._turn_to_write = nullcontext  # type: ignore[method-assign]
    lake.query("SELECT 1")  # opens the lake
    ready.wait()
    done.put(write_emails(lake, SlowWriter(), TODAY, NOW))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("waiting_customers", "limit", "turns"),
    [(80, EMAILS_PER_RUN, True), (5, 3, False)],
    ids=["taking turns to write", "overtaking each other"],
)
def test_two_runs_of_one_day_at_once_write_to_each_customer_once(
    lake: LakeWarehouse, lake_path: Path, waiting_customers: int, limit: int, turns: bool
):
    customers = [f"C{number:02}" for number in range(waiting_customers)]
    rescore(lake, dict.fromkeys(customers, HIGH))

    done = PROCESSES.Queue()
    arguments = (lake_path, PROCESSES.Barrier(2), done, limit, turns)
    processes = [PROCESSES.Process(target=run_when_both_are_ready, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    runs = [done.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(run.claimed for run in runs) == [waiting_customers - limit, limit]
    assert sum(run.written for run in runs) == waiting_customers
    assert written_to(lake) == customers
    assert len(interventions(lake)) == waiting_customers
    assert waiting(lake) == []


def test_the_check_finds_who_was_written_to_twice_and_nobody_else(lake: LakeWarehouse):
    times = {
        "almost a pause apart": [NOW, NOW + PAUSE - MINUTE],
        "at once": [NOW, NOW],
        "later only": [NOW, NOW + 2 * PAUSE, NOW + 2 * PAUSE + DAY],
        "once": [NOW],
        "a pause apart": [NOW, NOW + PAUSE, NOW + 2 * PAUSE],
    }
    lines = ", ".join(
        f"(uuid(), '{customer}', 0.9, TIMESTAMP '{at}', 'READY', DATE '{at.date()}')"
        for customer, instants in times.items()
        for at in instants
    )
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO agent_intervention_log"
            f" (intervention_id, customer_id, churn_score, created_at, status, partition_day) VALUES {lines}"
        )
    )

    assert customers_written_to_twice(lake) == ["almost a pause apart", "at once", "later only"]


def test_a_name_is_only_text_and_the_writer_sees_no_id_or_score(lake: LakeWarehouse):
    name = "Robert'); DROP TABLE dim_customers;--"
    rescore(lake, {"C1": HIGH})
    lake.transact(lambda tx: tx.execute("UPDATE dim_customers SET full_name = ?, segment = 'STUDENT'", [name]))
    writer = RecordingWriter()

    write_emails(lake, writer, TODAY, NOW)

    assert writer.requests == [EmailRequest(name, "STUDENT", "many app errors; rarely active")]
    [line] = interventions(lake)
    assert (line["generated_email"], line["writer"]) == (f"Dear {name}", "recording")
    assert lake.query("SELECT full_name FROM dim_customers")["full_name"].to_pylist() == [name]


LIMIT = 1


class Step(NamedTuple):
    """Who turns HIGH or back, whether the refresh job lives to fill the queue, how a run goes, and then days pass."""

    turn: Sequence[str] = ()
    queue_is_filled: bool = True
    run: Literal["completes", "dies"] | None = None
    days: int = 0


STEPS = st.lists(
    st.builds(
        Step,
        turn=st.sampled_from([[], ["Ann"], ["Bob"], ["Ann", "Bob"]]),
        queue_is_filled=st.sampled_from([True, True, False]),
        run=st.sampled_from([None, "completes", "dies"]),
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


@pytest.fixture
def at_most_one_email_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emails, "EMAILS_PER_RUN", LIMIT)


@pytest.mark.slow
@pytest.mark.usefixtures("at_most_one_email_a_run")
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(steps=COMES_BACK_TOO_EARLY)
@example(steps=IS_DROPPED_BEFORE_THE_QUEUE_IS_FILLED)
def test_whatever_happens_nobody_gets_two_emails_within_the_pause_and_nobody_waits_for_ever(
    lake: LakeWarehouse, steps: list[Step]
):
    forget_everybody(lake)
    now, scores = NOW, {"Ann": LOW, "Bob": LOW}
    scores_read, came_in = scores, dict[str, datetime]()
    for step in [*steps, Step(days=EMAIL_PAUSE_DAYS), Step()]:
        now += MINUTE
        scores = scores | {name: LOW if scores[name] == HIGH else HIGH for name in step.turn}
        if step.turn:
            predict(lake, scores)
        if step.queue_is_filled:
            fill(lake, now)
        if step.queue_is_filled or (step.run and day_of_the_next_run(lake, now) == now.date()):
            came_in |= {name: now for name in scores if scores[name] == HIGH != scores_read[name]}
            scores_read = scores
        if step.run:
            run_as_the_sensor_would(lake, now, dies=step.run == "dies")
        now += step.days * DAY
    while unfinished_days(lake) or eligible_count(lake, now):
        now += MINUTE
        assert run_as_the_sensor_would(lake, now), "the sensor asks for a run that has nothing to do"

    log = [(line["customer_id"], line["created_at"]) for line in interventions(lake)]
    assert len(written_to(lake)) == len(log)
    for name in scores:
        mine = [at for customer, at in log if customer == name]
        assert all(later - earlier >= PAUSE for earlier, later in pairwise(mine))
        if scores[name] == HIGH:
            assert any(at >= came_in[name] for at in mine), f"{name} was forgotten"
    assert customers_written_to_twice(lake) == []
    assert max(Counter(at for _, at in log).values(), default=0) <= LIMIT


def day_of_the_next_run(lake: LakeWarehouse, now: datetime) -> date:
    """The oldest unfinished day, else today, as the sensor chooses."""
    return next(iter(unfinished_days(lake)), now.date())


def run_as_the_sensor_would(lake: LakeWarehouse, now: datetime, *, dies: bool = False) -> bool:
    """Whether the run did anything."""
    day = day_of_the_next_run(lake, now)
    try:
        return write_emails(lake, DyingWriter() if dies else TemplateWriter(), day, now) != EmailRun(0, 0, 0)
    except ConnectionError:
        return True
