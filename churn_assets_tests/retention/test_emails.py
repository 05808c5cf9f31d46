"""What a run of emails does: order, limits, the 7-day rule, what it makes of bad texts and of writers that fail."""

import json
import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from churn_assets.retention import claims
from churn_assets.retention.claims import customers_written_to_twice, eligible_count, intervention_id
from churn_assets.retention.emails import EmailRunResult, emails_with_complaints, next_day, write_emails
from churn_assets.retention.suppressions import suppress
from churn_assets.retention.writing.writer import Answer, EmailRequest
from churn_assets.rules import WRITER_CONCURRENCY, WRITER_IS_DOWN_AFTER, WRITER_PATIENCE_MINUTES, Rules
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets.wiring import open_lake
from churn_assets_tests.retention.bank import (
    DAY,
    HIGH,
    LOW,
    MINUTE,
    NOW,
    TODAY,
    interventions,
    predict,
    rescore,
    waiting,
    written_to,
)
from churn_assets_tests.retention.email_runs import (
    LIMITS,
    TOKENS,
    BrokenWriter,
    FailingWriter,
    SayingWriter,
    SlowWriter,
    StubWriter,
    complaints,
    email_run_of,
    shelf_beside,
    write,
)

PAUSE = Rules().emails.pause_days * DAY
PROCESSES = multiprocessing.get_context("spawn")


@pytest.fixture
def bank_with_three_waiting_customers(lake: LakeWarehouse) -> LakeWarehouse:
    """Ann, Bob and Cat have come into HIGH and wait."""
    rescore(lake, {"Ann": HIGH, "Bob": HIGH, "Cat": HIGH})
    return lake


def statuses(lake: LakeWarehouse) -> dict[str, str]:
    return {line["customer_id"]: line["status"] for line in interventions(lake)}


# Whom a run writes to


def test_a_run_writes_to_the_highest_scores_first_and_the_51st_waits_for_the_next_run(lake: LakeWarehouse):
    rescore(lake, {f"C{number:02}": 0.7 + 0.005 * number for number in range(Rules().emails.per_run + 1)})

    run = write(lake)
    assert (run.claimed, run.written) == (Rules().emails.per_run, Rules().emails.per_run)
    assert waiting(lake) == ["C00"]

    run = write(lake, now=NOW + MINUTE)
    assert (run.claimed, run.written) == (1, 1)
    assert waiting(lake) == []
    assert len(set(written_to(lake))) == Rules().emails.per_run + 1


def test_nobody_is_written_to_again_before_the_pause_is_over(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH})
    write(lake)
    rescore(lake, {"Ann": LOW})
    rescore(lake, {"Ann": HIGH})
    early, late = NOW + PAUSE - MINUTE, NOW + PAUSE

    assert next_day(lake, LIMITS, early) is None, "who was written to a short while ago is no reason for a run"
    assert write(lake, day=early.date(), now=early).claimed == 0
    assert waiting(lake) == ["Ann"]
    assert next_day(lake, LIMITS, late) == late.date()
    assert write(lake, day=late.date(), now=late).written == 1
    assert written_to(lake) == ["Ann", "Ann"]
    assert customers_written_to_twice(lake) == []


def test_who_is_no_longer_high_or_has_left_the_bank_is_dropped_with_a_reason(
    bank_with_three_waiting_customers: LakeWarehouse,
):
    lake = bank_with_three_waiting_customers
    rescore(lake, {"Ann": HIGH, "Bob": LOW})

    assert eligible_count(lake, NOW) == 1
    assert write(lake) == EmailRunResult(claimed=1, dropped=2, written=1, tokens=TOKENS)
    left = lake.query("SELECT customer_id, left_at, left_reason FROM retention_queue").to_pylist()
    assert {row["customer_id"]: row["left_reason"] for row in left} == {
        "Ann": "intervention",
        "Bob": "no longer HIGH",
        "Cat": "left the bank",
    }
    assert {row["left_at"] for row in left} == {NOW}


def test_the_control_group_is_logged_and_never_written_to(lake: LakeWarehouse):
    rescore(lake, {f"C{number:02}": HIGH for number in range(40)})

    run = write(lake, control_share=0.5)

    controls = {line["customer_id"] for line in interventions(lake) if line["status"] == "CONTROL"}
    assert controls == {f"C{n:02}" for n in range(40) if claims.is_in_control_group(f"C{n:02}", 0.5)}
    assert 0 < len(controls) == run.control < run.claimed == 40
    assert run.written == 40 - len(controls)
    assert all(line["generated_email"] is None for line in interventions(lake) if line["status"] == "CONTROL")
    # They count for the 7-day rule like everybody else, so that both groups are counted alike.
    rescore(lake, {f"C{number:02}": LOW for number in range(40)})
    rescore(lake, {f"C{number:02}": HIGH for number in range(40)})
    assert eligible_count(lake, NOW + DAY) == 0


def test_who_may_not_be_written_to_waits_until_it_is_allowed(bank_with_three_waiting_customers: LakeWarehouse):
    lake = bank_with_three_waiting_customers
    suppress(lake, "Ann", TODAY + 2 * DAY, NOW, None, "test")
    lake.transact(lambda tx: tx.execute("UPDATE dim_customers SET email_consent = false WHERE customer_id = 'Bob'"))

    write(lake)

    assert statuses(lake) == {"Cat": "READY"}
    assert waiting(lake) == ["Ann", "Bob"]
    assert next_day(lake, LIMITS, NOW + DAY) is None
    assert next_day(lake, LIMITS, NOW + 2 * DAY) == TODAY + 2 * DAY


def test_a_past_day_is_completed_but_never_extended(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH})
    with pytest.raises(ZeroDivisionError):
        write(lake, BrokenWriter())
    rescore(lake, {"Ann": HIGH, "Bob": HIGH})

    assert next_day(lake, LIMITS, NOW + DAY) == TODAY
    assert write(lake, now=NOW + DAY) == EmailRunResult(written=1, tokens=TOKENS)
    assert written_to(lake) == ["Ann"]
    assert waiting(lake) == ["Bob"]


def test_running_a_finished_day_again_changes_nothing(bank_with_three_waiting_customers: LakeWarehouse):
    lake = bank_with_three_waiting_customers
    write(lake)
    queue, log = lake.query("FROM retention_queue ORDER BY customer_id"), interventions(lake)
    writer = StubWriter()

    assert write(lake, writer, now=NOW + MINUTE) == EmailRunResult()
    assert write(lake, writer, now=NOW + DAY) == EmailRunResult()

    assert writer.requests == []
    assert lake.query("FROM retention_queue ORDER BY customer_id") == queue
    assert interventions(lake) == log


def test_an_intervention_is_identified_by_its_customer_and_day(bank_with_three_waiting_customers: LakeWarehouse):
    write(bank_with_three_waiting_customers)

    ids = {line["customer_id"]: line["intervention_id"] for line in interventions(bank_with_three_waiting_customers)}
    assert ids == {customer: intervention_id(customer, TODAY) for customer in ("Ann", "Bob", "Cat")}
    assert len({*ids.values(), intervention_id("Ann", TODAY + DAY)}) == 4
    # Another process, machine or year must find the same id.
    assert intervention_id("Ann", date.fromisoformat("2026-03-02")) == "28e39860-edd0-5e83-919d-6090843d235c"


def test_a_claim_is_given_up_where_its_customer_left_came_out_of_high_or_was_suppressed(lake: LakeWarehouse):
    rescore(lake, dict.fromkeys(["Ann", "Bob", "Cat", "Dan"], HIGH))
    with pytest.raises(ZeroDivisionError):
        write(lake, BrokenWriter())
    predict(lake, {"Ann": HIGH, "Bob": LOW, "Dan": HIGH})
    suppress(lake, "Dan", None, NOW, None, "test")

    assert write(lake, now=NOW + MINUTE).cancelled == 3
    assert statuses(lake) == {"Ann": "READY", "Bob": "CANCELLED", "Cat": "CANCELLED", "Dan": "CANCELLED"}
    notes = lake.query(
        "SELECT customer_id, note FROM intervention_moves JOIN agent_intervention_log USING (intervention_id)"
        " WHERE status_to = 'CANCELLED'"
    ).to_pylist()
    assert {row["customer_id"]: row["note"] for row in notes} == {
        "Bob": "no longer HIGH",
        "Cat": "left the bank",
        "Dan": "suppressed",
    }
    # No email went out, so coming back the next day is no reason to wait for a week.
    rescore(lake, {"Ann": HIGH, "Bob": HIGH, "Dan": HIGH}, NOW + DAY)
    assert write(lake, day=TODAY + DAY, now=NOW + DAY).written == 1
    assert written_to(lake) == ["Ann", "Bob"]


def test_who_is_suppressed_while_the_text_is_being_written_gets_none(bank_with_three_waiting_customers: LakeWarehouse):
    lake = bank_with_three_waiting_customers

    class SuppressingWriter(StubWriter):
        def text(self, request: EmailRequest, complaints: object) -> str:
            if request.full_name == "Name of Ann":
                suppress(open_lake(lake.place), "Ann", None, NOW, None, "test")
            return f"Dear {request.full_name}"

    assert write(lake, SuppressingWriter()).cancelled == 1
    assert statuses(lake) == {"Ann": "CANCELLED", "Bob": "READY", "Cat": "READY"}


def test_the_check_finds_who_was_written_to_twice_and_nobody_else(lake: LakeWarehouse):
    times = {
        "almost a pause apart": [NOW, NOW + PAUSE - MINUTE],
        "at once": [NOW, NOW],
        "later only": [NOW, NOW + 2 * PAUSE, NOW + 2 * PAUSE + DAY],
        "once": [NOW],
        "a pause apart": [NOW, NOW + PAUSE, NOW + 2 * PAUSE],
    }
    lines = ", ".join(
        f"(uuid(), '{customer}', 0.9, TIMESTAMP '{at}', 'READY', 'prediction', DATE '{at.date()}')"
        for customer, instants in times.items()
        for at in instants
    )
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO agent_intervention_log"
            f" (intervention_id, customer_id, churn_score, created_at, status, source, partition_day) VALUES {lines}"
        )
    )

    assert customers_written_to_twice(lake) == ["almost a pause apart", "at once", "later only"]


def test_a_name_is_only_text_and_the_writer_sees_no_id_or_score(lake: LakeWarehouse):
    name = "Robert'); DROP TABLE dim_customers;--"
    rescore(lake, {"C1": HIGH})
    lake.transact(lambda tx: tx.execute("UPDATE dim_customers SET full_name = ?, segment = 'STUDENT'", [name]))
    writer = StubWriter()

    write(lake, writer)

    assert writer.requests == [EmailRequest(name, "STUDENT", "many app errors; rarely active")]
    [line] = interventions(lake)
    assert (line["generated_email"], line["writer"]) == (f"Dear {name}", "stub")
    assert lake.query("SELECT full_name FROM dim_customers")["full_name"].to_pylist() == [name]


# What it costs


def test_the_log_says_who_wrote_what_it_cost_and_what_was_wrong_before(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH})

    run = write(lake, SayingWriter("Hello", "Dear Name of Ann"))

    [line] = interventions(lake)
    assert run == EmailRunResult(claimed=1, written=1, tokens=2 * TOKENS)
    assert (line["writer"], line["model"], line["prompt_version"]) == ("stub", "stub-model", "stub-1")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (TOKENS, TOKENS)
    assert line["complaints"] == "it does not greet the customer"
    assert line["latency_seconds"] > 0
    assert not line["is_fallback"]


def test_a_day_has_no_more_emails_than_its_limit(lake: LakeWarehouse):
    rescore(lake, {f"C{number}": HIGH for number in range(5)})

    assert write(lake, emails_per_day=3).written == 3
    assert next_day(lake, replace(LIMITS, emails_per_day=3), NOW) is None
    assert write(lake, now=NOW + MINUTE, emails_per_day=3).claimed == 0
    assert next_day(lake, replace(LIMITS, emails_per_day=3), NOW + DAY) == TODAY + DAY
    assert write(lake, day=TODAY + DAY, now=NOW + DAY, emails_per_day=3).written == 2


def test_a_run_stops_cleanly_where_the_days_tokens_are_used_and_goes_on_the_next_day(lake: LakeWarehouse):
    customers = [f"C{number:02}" for number in range(14)]
    rescore(lake, dict.fromkeys(customers, HIGH))
    limit = 5 * TOKENS

    run = write(lake, tokens_per_day=limit)

    assert limit <= run.tokens < limit + WRITER_CONCURRENCY * TOKENS
    assert run.written == run.tokens // TOKENS
    assert run.unasked == 14 - run.written
    assert run.stopped_by
    assert "CHURN_TOKENS_PER_DAY" in run.stopped_by
    assert next_day(lake, replace(LIMITS, tokens_per_day=limit), NOW) is None
    now = NOW
    while written_to(lake) != customers:
        assert now < NOW + 14 * DAY
        now += DAY
        if day := next_day(lake, replace(LIMITS, tokens_per_day=limit), now):
            assert day == TODAY
            write(lake, day=day, now=now, tokens_per_day=limit)


# Writers that write badly, or not at all


def test_a_bad_text_is_asked_for_once_more_and_then_replaced_by_the_template_and_marked(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH})

    run = write(lake, SayingWriter("Hello", "Goodbye", "Dear Name of Ann"))

    [line] = interventions(lake)
    assert (run.written, run.by_template, run.tokens) == (1, 1, 2 * TOKENS)
    assert (line["status"], line["generated_email"], line["writer"]) == ("READY", "Dear Name of Ann", "template")
    assert line["is_fallback"]
    assert line["complaints"].count("it does not greet the customer") == 2


def test_a_customer_for_whom_no_text_passes_is_cancelled_and_said_so(bank_with_three_waiting_customers: LakeWarehouse):
    def check(text: str, request: EmailRequest) -> list[str]:
        return ["never"] if request.full_name == "Name of Bob" else []

    run = write(bank_with_three_waiting_customers, check=check)

    assert (run.written, run.cancelled) == (2, 1)
    assert statuses(bank_with_three_waiting_customers) == {"Ann": "READY", "Bob": "CANCELLED", "Cat": "READY"}
    assert next_day(bank_with_three_waiting_customers, LIMITS, NOW) is None


def test_a_writer_that_fails_for_one_customer_costs_only_that_one(bank_with_three_waiting_customers: LakeWarehouse):
    lake, writer = bank_with_three_waiting_customers, FailingWriter("Name of Bob")
    pauses = [MINUTE * minutes for minutes in WRITER_PATIENCE_MINUTES]

    run = write(lake, writer)
    assert (run.written, run.failed, run.stopped_by) == (2, 1, None)
    assert statuses(lake) == {"Ann": "READY", "Bob": "CLAIMED", "Cat": "READY"}
    [error] = [line["writer_error"] for line in interventions(lake) if line["customer_id"] == "Bob"]
    assert error == "the server is down"

    now = NOW
    for number, pause in enumerate(pauses, 1):
        assert next_day(lake, LIMITS, now + pause - MINUTE) is None, "it is asked again too soon"
        now += pause
        assert next_day(lake, LIMITS, now) == TODAY
        run = write(lake, writer, now=now)
        assert (run.failed, run.by_template) == ((1, 0) if number < len(pauses) else (0, 1))
    [line] = [line for line in interventions(lake) if line["customer_id"] == "Bob"]
    assert (line["status"], line["writer"], line["writer_error"]) == ("READY", "template", "the server is down")


def test_a_run_asks_no_more_where_the_writer_is_down_and_loses_nobody(lake: LakeWarehouse):
    customers = [f"C{number:02}" for number in range(30)]
    rescore(lake, dict.fromkeys(customers, HIGH))
    writer = FailingWriter()

    run = write(lake, writer)

    assert WRITER_IS_DOWN_AFTER <= len(writer.requests) < WRITER_IS_DOWN_AFTER + WRITER_CONCURRENCY
    assert (run.written, run.failed, run.unasked) == (0, len(writer.requests), 30 - len(writer.requests))
    assert run.stopped_by
    assert written_to(lake) == []
    assert write(lake, now=NOW + MINUTE).written == run.unasked
    assert write(lake, now=NOW + 10 * MINUTE).written == run.failed
    assert written_to(lake) == customers


def test_a_fault_of_ours_fails_the_run_and_leaves_claims_which_the_next_run_completes(
    bank_with_three_waiting_customers: LakeWarehouse,
):
    lake = bank_with_three_waiting_customers
    with pytest.raises(ZeroDivisionError):
        write(lake, BrokenWriter(texts=2))

    assert waiting(lake) == []
    assert next_day(lake, LIMITS, NOW) == TODAY
    write(lake, now=NOW + MINUTE)
    assert written_to(lake) == ["Ann", "Bob", "Cat"]
    assert next_day(lake, LIMITS, NOW) is None


def test_an_answer_that_was_paid_for_is_used_by_the_next_run_though_the_first_never_stored_it(lake: LakeWarehouse):
    rescore(lake, {"Ann": HIGH, "Bob": HIGH})
    with pytest.raises(ZeroDivisionError):
        write(lake, BrokenWriter())
    answer = Answer("Dear Name of Ann, kept", "m", 3, 4)
    journal = shelf_beside(lake).lines("answers.ndjson")
    entry = {"intervention_id": intervention_id("Ann", TODAY), **answer.__dict__}
    journal.append([json.dumps(entry), '{"intervention_id": "torn'])
    writer = StubWriter()

    write(lake, writer, now=NOW + MINUTE)

    assert [request.full_name for request in writer.requests] == ["Name of Bob"]
    texts = {line["customer_id"]: (line["generated_email"], line["completion_tokens"]) for line in interventions(lake)}
    assert texts == {"Ann": ("Dear Name of Ann, kept", 4), "Bob": ("Dear Name of Bob", TOKENS // 2)}
    write(lake, now=NOW + 2 * MINUTE)
    assert journal.read() == [], "what is stored is not kept here"


def test_a_text_that_no_longer_passes_is_found(bank_with_three_waiting_customers: LakeWarehouse):
    lake = bank_with_three_waiting_customers
    write(lake)
    assert emails_with_complaints(lake, complaints, TODAY) == {}

    lake.transact(
        lambda tx: tx.execute("UPDATE agent_intervention_log SET generated_email = 'Hi' WHERE customer_id = 'Bob'")
    )

    assert emails_with_complaints(lake, complaints, TODAY) == {
        intervention_id("Bob", TODAY): ["it does not greet the customer"]
    }


# Two runs at once


def run_when_both_are_ready(
    path: Path, ready: Barrier, done: "multiprocessing.Queue[EmailRunResult]", day: date, turns: bool
):
    lake = open_lake(path)
    if not turns:
        lake._turn_to_write = nullcontext  # type: ignore[method-assign]
    lake.query("SELECT 1")  # opens the lake
    ready.wait()
    now = NOW + (day - TODAY)
    done.put(write_emails(lake, email_run_of(lake, SlowWriter()), day, now))


@pytest.mark.slow
@pytest.mark.parametrize("days", [[TODAY, TODAY], [TODAY, TODAY + DAY]], ids=["the same day", "neighbouring days"])
@pytest.mark.parametrize(
    ("waiting_customers", "limit", "turns"),
    [(80, Rules().emails.per_run, True), (5, 3, False)],
    ids=["taking turns to write", "overtaking each other"],
)
def test_two_runs_at_once_write_to_each_customer_once(
    lake: LakeWarehouse,
    where: LakePlace,
    with_rules: Callable[[str], None],
    waiting_customers: int,
    limit: int,
    turns: bool,
    days: list[date],
):
    with_rules(f"[emails]\nper_run = {limit}\n")
    customers = [f"C{number:02}" for number in range(waiting_customers)]
    rescore(lake, dict.fromkeys(customers, HIGH))

    done, ready = PROCESSES.Queue(), PROCESSES.Barrier(2)
    processes = [
        PROCESSES.Process(target=run_when_both_are_ready, args=(where, ready, done, day, turns)) for day in days
    ]
    for process in processes:
        process.start()
    runs = [done.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(run.claimed for run in runs) == [waiting_customers - limit, limit]
    assert sum(run.written for run in runs) == waiting_customers
    assert sum(run.tokens for run in runs) == waiting_customers * TOKENS, "a text was paid for twice"
    assert written_to(lake) == customers
    assert len(interventions(lake)) == waiting_customers
    assert waiting(lake) == []
