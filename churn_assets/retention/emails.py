"""One email to each waiting customer, once: claim, write, check, log.

A run claims customers in one transaction, which takes them from the queue and gives each a line in the intervention log.
Only then does it ask for texts. It keeps each answer on disk as soon as it arrives, and then stores it with its outcome. A run
that dies leaves claims. The next run of that day completes them, without paying again for answers that had arrived. The 7-day
rule counts claims, so nobody is written to twice.

Here belongs what one run does and whether one is due. `claims` decides who may be claimed, `writing` gives and checks texts, and
`outbox` lets ready texts leave.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from threading import Lock
from time import perf_counter

from churn_assets.configuration import rules
from churn_assets.retention.claims import (
    Claim,
    Claims,
    claim,
    due_claims,
    eligible_count,
    give_up_claims,
    has_room,
    is_anybody_waiting,
    oldest_due_day,
)
from churn_assets.retention.journal import AnswerJournal, turn_to_write
from churn_assets.retention.queue import queue_again
from churn_assets.retention.statuses import move
from churn_assets.retention.suppressions import SUPPRESSED
from churn_assets.retention.writing.writer import Answer, EmailRequest, Writer, WriterError
from churn_assets.rules import WRITER_CONCURRENCY, WRITER_IS_DOWN_AFTER, WRITER_PATIENCE_MINUTES
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.setbacks import refuse_if_held
from churn_assets.warehouse.shelf import Shelf
from churn_assets.warehouse.values import as_table, flat

_ATTEMPTS = 2  # texts that a writer may give for one customer; the second knows what was wrong with the first


@dataclass(frozen=True)
class Limits:
    """What one day (UTC) may cost. Tokens are counted before each call, so the last concurrent calls may exceed the limit."""

    emails_per_day: int
    tokens_per_day: int


@dataclass(frozen=True)
class EmailRun:
    """Who writes the emails, by what rules and within what limits.

    `template` writes if `writer` gives no text that passes. `check` says in words what is wrong with a text. `shelf` has
    what a run keeps outside of the warehouse. `concurrency` is how many texts are asked for at once.
    """

    writer: Writer
    template: Writer
    check: Callable[[str, EmailRequest], list[str]]
    shelf: Shelf
    limits: Limits
    control_share: float = field(default_factory=lambda: rules().emails.control_share)
    concurrency: int = WRITER_CONCURRENCY


@dataclass(frozen=True)
class EmailRunResult:
    """What one run of one day did: numbers of customers, tokens paid for, and why it stopped early, if it did.

    `claimed` includes `control`. `written` includes `by_template`, the texts that the template wrote in the writer's place.
    Two numbers count texts that are still owed: `failed`, where the writer gave none, and `unasked`, where the run stopped first.
    """

    claimed: int = 0
    control: int = 0
    dropped: int = 0
    cancelled: int = 0
    written: int = 0
    by_template: int = 0
    failed: int = 0
    unasked: int = 0
    tokens: int = 0
    stopped_by: str | None = None


def next_day(warehouse: Warehouse, limits: Limits, now: datetime) -> date | None:
    """The day that a run is due for at `now` (UTC); None if no run is due or the limits of today are reached.

    It is the oldest day with a text that may be asked for, otherwise today if a customer waits who may be written to.
    """
    if not is_anybody_waiting(warehouse) or _tokens_spent(warehouse, now) >= limits.tokens_per_day:
        return None
    if day := oldest_due_day(warehouse, now):
        return day
    today = now.date()
    return today if has_room(warehouse, today, limits.emails_per_day) and eligible_count(warehouse, now) else None


def write_emails(
    warehouse: Warehouse, email_run: EmailRun, day: date, now: datetime, report: Callable[[str], None] = lambda _: None
) -> EmailRunResult:
    """Complete the claims of `day` and, if it is the day of `now` (UTC), claim and write more: at most 50 texts a run.

    A past day gets no new customers, so running it again changes nothing. `report` is called with the progress in words.
    """
    refuse_if_held(warehouse, now)
    with turn_to_write(email_run.shelf):
        cancelled = warehouse.transact(lambda tx: give_up_claims(tx, now))
        claims = Claims()
        if day == now.date():
            claims = warehouse.transact(
                lambda tx: claim(tx, day, now, email_run.limits.emails_per_day, email_run.control_share)
            )
        owed = due_claims(warehouse, day, now)
        calls = _Calls(email_run, AnswerJournal(email_run.shelf), _tokens_spent(warehouse, now))
        counts = _write_owed(warehouse, calls, owed, now, report)
    return EmailRunResult(
        claimed=claims.claimed,
        control=claims.control,
        dropped=claims.dropped,
        cancelled=cancelled + counts["CANCELLED"],
        written=counts["READY"],
        by_template=counts["by_template"],
        failed=counts["failed"],
        unasked=counts["unasked"],
        tokens=calls.tokens,
        stopped_by=calls.are_over(),
    )


def emails_with_complaints(
    warehouse: Warehouse, check: Callable[[str, EmailRequest], list[str]], day: date
) -> dict[str, list[str]]:
    """By intervention of `day`: what is wrong with a text that has yet to leave. There must be nothing.

    The customer and the offers are read anew, so it also finds a name that was corrected or an offer that was withdrawn since.
    """
    rows = warehouse.query(
        "SELECT log.intervention_id, coalesce(log.generated_email, '') AS text, coalesce(customers.full_name, '') AS full_name,"
        " coalesce(customers.segment, '') AS segment, coalesce(log.reason_codes, '') AS reasons"
        " FROM agent_intervention_log AS log LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id"
        " WHERE log.partition_day = ? AND log.status IN ('READY', 'APPROVED')",
        [day],
    ).to_pylist()
    found = {
        row["intervention_id"]: check(row["text"], EmailRequest(row["full_name"], row["segment"], row["reasons"]))
        for row in rows
    }
    return {intervention: complaints for intervention, complaints in found.items() if complaints}


@dataclass(frozen=True)
class _Draft:
    """The outcome of asking for one text. Without a text, `error` says why the writer gave none, and the text is still owed.
    With neither, nobody could write a text that passes.
    """

    claim: Claim
    writer: str
    prompt_version: str
    answers: Sequence[Answer]
    complaints: Sequence[str]
    seconds: float
    text: str | None = None
    error: str | None = None
    is_fallback: bool = False

    @property
    def is_owed(self) -> bool:
        return self.text is None and self.error is not None and not self.is_fallback


class _Calls:
    """One run's calls to the writer: what they cost, and whether to make another. Several threads draft at once."""

    def __init__(self, email_run: EmailRun, journal: AnswerJournal, tokens_before: int) -> None:
        self.journal = journal
        self.tokens = 0
        self.concurrency = email_run.concurrency
        self._email_run = email_run
        self._tokens_before = tokens_before
        self._failures_in_a_row = 0
        self._lock = Lock()

    def are_over(self) -> str | None:
        """Why the writer may not be asked again; None if it may."""
        limit = self._email_run.limits.tokens_per_day
        if self._tokens_before + self.tokens >= limit:
            return f"the day's {limit:,} tokens are used; go on tomorrow or raise CHURN_TOKENS_PER_DAY"
        if self._failures_in_a_row >= WRITER_IS_DOWN_AFTER:
            return f"the writer failed {WRITER_IS_DOWN_AFTER} times in a row; is it running?"
        return None

    def draft(self, owed: Claim, known: Sequence[Answer]) -> _Draft | None:
        """A text that passes the checks, or why there is none; None if the writer may not be asked.

        `known` are answers that an earlier run paid for.
        """
        request = EmailRequest(owed.full_name, owed.segment, owed.reasons)
        answers: list[Answer] = []
        complaints: list[str] = []
        started = perf_counter()
        for attempt in range(_ATTEMPTS):
            if attempt < len(known):
                answer = known[attempt]
            elif self.are_over():
                return None
            else:
                try:
                    answer = self._ask(owed, request, complaints)
                except WriterError as error:
                    draft = replace(self._drafted(owed, answers, complaints, started), error=str(error))
                    return draft if owed.failed_attempts < len(WRITER_PATIENCE_MINUTES) else self._in_its_place(draft)
            answers.append(answer)
            found = self._email_run.check(answer.text, request)
            if not found:
                return replace(self._drafted(owed, answers, complaints, started), text=answer.text)
            complaints += found
        return self._in_its_place(self._drafted(owed, answers, complaints, started))

    def _drafted(self, owed: Claim, answers: Sequence[Answer], complaints: Sequence[str], started: float) -> _Draft:
        writer = self._email_run.writer
        return _Draft(owed, writer.name, writer.prompt_version, answers, complaints, perf_counter() - started)

    def _ask(self, owed: Claim, request: EmailRequest, complaints: Sequence[str]) -> Answer:
        try:
            answer = self._email_run.writer.write(request, complaints)
        except WriterError:
            with self._lock:
                self._failures_in_a_row += 1
            raise
        self.journal.append(owed.intervention_id, answer)
        with self._lock:
            self._failures_in_a_row = 0
            self.tokens += answer.prompt_tokens + answer.completion_tokens
        return answer

    def _in_its_place(self, draft: _Draft) -> _Draft:
        """The draft with the template's text in place of the writer's; without a text if that does not pass either."""
        request = EmailRequest(draft.claim.full_name, draft.claim.segment, draft.claim.reasons)
        text = self._email_run.template.write(request).text
        found = self._email_run.check(text, request)
        return replace(
            draft,
            writer=self._email_run.template.name,
            prompt_version=self._email_run.template.prompt_version,
            text=None if found else text,
            complaints=[*draft.complaints, *found],
            is_fallback=True,
        )


def _write_owed(
    warehouse: Warehouse, calls: _Calls, owed: Sequence[Claim], now: datetime, report: Callable[[str], None]
) -> dict[str, int]:
    """Ask for all texts, a few at once, and store them as they arrive; returns counts by outcome."""
    counts = {"READY": 0, "CANCELLED": 0, "by_template": 0, "failed": 0, "unasked": 0}
    known = calls.journal.answers({claim.intervention_id for claim in owed})
    with ThreadPoolExecutor(calls.concurrency, "writer") as pool:
        waiting: set[Future[_Draft | None]] = {
            pool.submit(calls.draft, claim, known.get(claim.intervention_id, [])) for claim in owed
        }
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            errors = [error for error in (future.exception() for future in done) if error is not None]
            results = [future.result() for future in done if future.exception() is None]
            drafts = [draft for draft in results if draft is not None]
            counts["unasked"] += len(results) - len(drafts)
            if drafts:
                stored = warehouse.transact(lambda tx, drafts=drafts: _store(tx, drafts, now))
                for outcome, count in stored.items():
                    counts[outcome] += count
            if errors:  # no WriterError, so a defect of ours: the claims stay until it is repaired
                pool.shutdown(cancel_futures=True)
                raise errors[0]
            report(f"{counts['READY']} of {len(owed)} texts written, {counts['failed']} failed")
    return counts


def _tokens_spent(warehouse: Warehouse, now: datetime) -> int:
    """Tokens of the texts that were stored on the day of `now`."""
    return warehouse.query(
        "SELECT cast(coalesce(sum(log.prompt_tokens + log.completion_tokens), 0) AS bigint) AS tokens"
        " FROM agent_intervention_log AS log INNER JOIN (SELECT DISTINCT intervention_id FROM intervention_moves"
        " WHERE status_from = 'CLAIMED' AND moved_at >= ?) AS stored ON log.intervention_id = stored.intervention_id",
        [datetime.combine(now.date(), datetime.min.time())],
    )["tokens"][0].as_py()


_RESULT = {
    "intervention_id": "VARCHAR",
    "generated_email": "VARCHAR",
    "writer": "VARCHAR",
    "model": "VARCHAR",
    "prompt_version": "VARCHAR",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "latency_seconds": "DOUBLE",
    "complaints": "VARCHAR",
    "writer_error": "VARCHAR",
    "is_fallback": "BOOLEAN",
}
_FAILURE = {
    "intervention_id": "VARCHAR",
    "writer_error": "VARCHAR",
    "failed_attempts": "INTEGER",
    "retry_after": "TIMESTAMP",
}


def _store(tx: Transaction, drafts: Sequence[_Draft], now: datetime) -> dict[str, int]:
    """Store the outcomes of claims that are still owed; returns counts by outcome."""
    owed = {id_ for (id_,) in tx.rows("SELECT intervention_id FROM agent_intervention_log WHERE status = 'CLAIMED'")}
    suppressed = {customer for (customer,) in tx.rows(SUPPRESSED, [now])}
    drafts = [draft for draft in drafts if draft.claim.intervention_id in owed]
    failed = [draft for draft in drafts if draft.is_owed]
    final = [draft for draft in drafts if not draft.is_owed]
    hopeless = [draft.claim.intervention_id for draft in final if draft.text is None]
    late = [d.claim.intervention_id for d in final if d.text is not None and d.claim.customer_id in suppressed]
    ready = [d for d in final if d.text is not None and d.claim.customer_id not in suppressed]
    _note(tx, [_result(draft) for draft in final], _RESULT)
    _note(tx, [_failure(draft, now) for draft in failed], _FAILURE)
    move(tx, [draft.claim.intervention_id for draft in ready], "READY", now, "run")
    move(tx, late, "CANCELLED", now, "run", "suppressed")
    queue_again(tx, late, now)
    move(tx, hopeless, "CANCELLED", now, "run", "no text passes the checks")
    if ready:
        texts = [[draft.claim.intervention_id, draft.text] for draft in ready]
        tx.execute(
            "UPDATE high_risk_history SET generated_email = ready.generated_email"
            f" FROM {as_table(texts, {'intervention_id': 'VARCHAR', 'generated_email': 'VARCHAR'})} AS ready"
            " WHERE high_risk_history.intervention_id = ready.intervention_id",
            flat(texts),
        )
    return {
        "READY": len(ready),
        "CANCELLED": len(late) + len(hopeless),
        "by_template": sum(draft.is_fallback for draft in ready),
        "failed": len(failed),
    }


def _note(tx: Transaction, lines: Sequence[Sequence[object]], columns: Mapping[str, str]) -> None:
    """Update these columns of interventions; the first column is the id."""
    if lines:
        id_, *others = columns
        tx.execute(
            f"UPDATE agent_intervention_log SET {', '.join(f'{name} = noted.{name}' for name in others)}"
            f" FROM {as_table(lines, columns)} AS noted WHERE agent_intervention_log.{id_} = noted.{id_}",
            flat(lines),
        )


def _result(draft: _Draft) -> list[object]:
    return [
        draft.claim.intervention_id,
        draft.text,
        draft.writer,
        draft.answers[-1].model if draft.answers and not draft.is_fallback else draft.writer,
        draft.prompt_version,
        sum(answer.prompt_tokens for answer in draft.answers),
        sum(answer.completion_tokens for answer in draft.answers),
        draft.seconds,
        "; ".join(draft.complaints) or None,
        draft.error,
        draft.is_fallback,
    ]


def _failure(draft: _Draft, now: datetime) -> list[object]:
    failed_before = draft.claim.failed_attempts
    pause = timedelta(minutes=WRITER_PATIENCE_MINUTES[failed_before])
    return [draft.claim.intervention_id, draft.error, failed_before + 1, now + pause]
