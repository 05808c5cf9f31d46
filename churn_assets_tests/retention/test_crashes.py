"""A run of emails that is killed, again and again, at every boundary: nobody twice, nobody forgotten, nothing paid for twice.

Kills are held off the moment between an answer's arrival and its line on disk: no program can make these two one.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from threading import RLock
from typing import Any

import pytest

from churn_assets.retention import emails
from churn_assets.retention.claims import customers_written_to_twice
from churn_assets.retention.emails import next_day, write_emails
from churn_assets.retention.journal import AnswerJournal
from churn_assets.retention.writing.writer import Answer, EmailRequest
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets.wiring import open_lake
from churn_assets_tests.retention.bank import DAY, HIGH, MINUTE, NOW, fill, interventions, predict, waiting
from churn_assets_tests.retention.email_runs import LIMITS, StubWriter, email_run_of
from churn_assets_tests.rounds import rounds
from churn_assets_tests.warehouse.processes import FORKS, preload

BOUNDARIES = (
    "after the claim",
    "during the call",
    "after the answer",
    "before the write",
    "in the write",
    "after the write",
)
KILLS = max(rounds(100), len(BOUNDARIES))
answering = RLock()


class PaidWriter(StubWriter):
    """Notes each answer that it has finished, as the provider's bill would, one line a customer."""

    def __init__(self, bill: Path, dies_in_call: int | None) -> None:
        super().__init__()
        self._bill = bill
        self._dies_in_call = dies_in_call

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        if self._dies_in_call == len(self.requests):
            os.kill(os.getpid(), signal.SIGKILL)
        answer = super().write(request, complaints)
        with self._bill.open("a") as bill:
            bill.write(f"{request.full_name}\n")
        return answer


def die_at(boundary: str, passes: int) -> None:
    """Kill this process when it has passed a boundary that many times and comes to it again."""
    left = passes

    def pass_or_die() -> None:
        nonlocal left
        with answering:
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    if boundary == "after the claim":
        due_claims = emails.due_claims
        emails.due_claims = lambda *arguments: (pass_or_die(), due_claims(*arguments))[1]
    elif boundary == "after the answer":
        append = AnswerJournal.append
        AnswerJournal.append = lambda *arguments: (append(*arguments), pass_or_die())[0]
    elif boundary in ("before the write", "in the write"):
        store, is_before = emails._store, boundary == "before the write"
        emails._store = lambda *arguments: (
            is_before and pass_or_die(),
            store(*arguments),
            is_before or pass_or_die(),
        )[1]
    elif boundary == "after the write":
        write_owed = emails._write_owed
        emails._write_owed = lambda *arguments: (write_owed(*arguments), pass_or_die())[0]


def run(path: Path, bill: Path, day: date, now: datetime, boundary: str, passes: int, threads: int) -> None:
    emails.WRITER_CONCURRENCY = threads  # type: ignore[misc]
    die_at(boundary, passes if boundary not in ("after the claim", "after the write") else 0)
    ask = emails._Calls._ask

    def ask_undisturbed(*arguments: Any) -> Answer:
        with answering:
            return ask(*arguments)

    emails._Calls._ask = ask_undisturbed
    writer = PaidWriter(bill, passes if boundary == "during the call" else None)
    lake = open_lake(path)
    write_emails(lake, email_run_of(lake, writer), day, now)


@pytest.mark.slow
def test_many_kills_write_to_nobody_twice_forget_nobody_and_pay_for_no_answer_twice(
    lake: LakeWarehouse, where: LakePlace, tmp_path: Path
):
    preload("churn_assets_tests.retention.test_crashes")
    rng, bill = random.Random(5), tmp_path / "bill"
    now, customers, killed = NOW, list[str](), Counter[str]()
    while sum(killed.values()) < KILLS:
        now += MINUTE if rng.random() < 0.9 else DAY
        customers += [f"C{len(customers) + number:04}" for number in range(rng.randrange(2, 7))]
        predict(lake, dict.fromkeys(customers, HIGH))
        fill(lake, now)
        day = next_day(lake, LIMITS, now) or now.date()
        boundary = BOUNDARIES[sum(killed.values()) % len(BOUNDARIES)]
        process = FORKS.Process(
            target=run, args=(where, bill, day, now, boundary, rng.randrange(2), rng.choice([1, 1, 4]))
        )
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        killed[boundary] += process.exitcode == -signal.SIGKILL
    while day := next_day(lake, LIMITS, now):
        now += MINUTE
        write_emails(lake, email_run_of(lake, PaidWriter(bill, None)), day, now)

    assert set(killed) == set(BOUNDARIES)
    log = interventions(lake)
    assert sorted(line["customer_id"] for line in log) == customers
    assert {line["status"] for line in log} == {"READY"}
    assert waiting(lake) == []
    assert customers_written_to_twice(lake) == []
    assert Counter(bill.read_text().splitlines()) == Counter(f"Name of {customer}" for customer in customers)
