"""Erase a customer: every row, copy and trace of them in the warehouse and in the files of the home.

Here belongs what is erased, in which order, and what stays. `traces` finds texts in files; `Warehouse.forget_history` gives up
what the warehouse keeps of deleted rows. docs/erasure.md tells people what this does and what it cannot reach.

The order makes an erasure safe to repeat after a crash. Files beside the warehouse are masked first, while the warehouse still
says who the customer is. Then one transaction deletes the rows and notes that an erasure is to be finished. All that follows
needs no name: it removes what no current row holds, of this customer as of anybody else.
"""

import re
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from re import Pattern
from typing import Any

from churn_assets.errors import ChurnError
from churn_assets.ingestion.events import EVENT_TYPES
from churn_assets.operations.traces import files_that_hold, is_telling, mask_files, objects_that_hold, pattern_of
from churn_assets.retention.addresses import address
from churn_assets.retention.journal import AnswerJournal, turn_to_write
from churn_assets.retention.marks import Marks
from churn_assets.retention.outbox.leaving import turn_to_send
from churn_assets.retention.queue import fill_queue, raise_alerts
from churn_assets.retention.statuses import move
from churn_assets.retention.suppressions import keep_addresses_of
from churn_assets.rules import INGEST_CHUNK_MESSAGES
from churn_assets.search.index import LogIndex
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.wiring import lake_place, shelf_of

# The tables, besides the ledgers, whose rows of a customer are deleted. The dynamic tables follow by a refresh; of
# agent_intervention_log the rows stay without the customer, and of suppressed_addresses the hashes.
DELETED_FROM = ("retention_queue", "suppressions", "high_risk_history", "churn_training_set")
KEPT_WITHOUT_THE_CUSTOMER = ("agent_intervention_log", "suppressed_addresses")


class ErasureError(ChurnError):
    """An erasure that is not possible, or not complete; the message says why and what to do."""


@dataclass
class Erasure:
    """What an erasure did. `left` are files that still hold a trace, `unreachable` says in words what it cannot reach."""

    rows_deleted: int = 0
    rejects_blanked: int = 0
    files_masked: int = 0
    left: list[str] = field(default_factory=list[str])
    unreachable: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class _Person:
    """Who is erased: what the warehouse knows them by. Name and address only where nobody else has the same."""

    customer_id: str
    accounts: list[str]
    texts: list[str]

    @property
    def pattern(self) -> Pattern[bytes] | None:
        return pattern_of([self.customer_id, *self.accounts, *self.texts])


def unfinished(warehouse: Warehouse) -> int:
    """How many erasures deleted their rows and did not finish."""
    return warehouse.query("SELECT count(*) AS unfinished FROM erasures WHERE finished_at IS NULL")["unfinished"][
        0
    ].as_py()


def erase(
    settings: Settings,
    warehouse: Warehouse,
    index: LogIndex | None,
    customer_id: str,
    by: str,
    clock: Callable[[], datetime],
    report: Callable[[str], None] = lambda _: None,
) -> Erasure:
    """Erase a customer, and finish every erasure that was interrupted. Safe to repeat; `ErasureError` for an unknown customer.

    `by` says who asked for it; `clock` gives UTC. An email that is being sent is waited for.
    """
    done = Erasure()
    shelf = shelf_of(settings)
    with ExitStack() as turns:
        report("waiting for emails that are being written or sent")
        turns.enter_context(turn_to_write(shelf))
        turns.enter_context(turn_to_send(shelf))
        person = warehouse.transact(lambda tx: _known(tx, customer_id))
        report("logs and Dagster's storage")
        if person.pattern:
            but = [settings.lake_path, settings.search_path, settings.emails_path]
            done.files_masked = mask_files(settings.home.absolute(), but, person.pattern)
        Marks(shelf).forget(customer_id)
        report("rows")
        done.unreachable += warehouse.transact(lambda tx: _exported_files(tx, customer_id))
        is_new = warehouse.transact(lambda tx: _erase_rows(tx, person, by, clock(), done))
        if not is_new and not unfinished(warehouse):
            raise ErasureError(f"nothing is stored about a customer {customer_id}; the ids are in dim_customers")
        _finish(settings, warehouse, index, clock, report, done)
    report("looking at every file")
    if person.pattern:
        done.left = [str(file) for file in files_that_hold(settings.home.absolute(), person.pattern)]
        if settings.lake_is_shared:
            done.left += objects_that_hold(lake_place(settings).folder, person.pattern)
            done.unreachable.append("logs and Dagster's storage on other hosts are not looked at")
        done.left += _mentions(warehouse, person)
    if not is_telling(customer_id):
        done.unreachable.append(f"the id {customer_id} is too short to be looked for in logs and files")
    return done


def _known(tx: Transaction, customer_id: str) -> _Person:
    accounts = tx.rows("SELECT account_id FROM dim_accounts WHERE customer_id = ?", [customer_id])
    names = tx.rows(
        "SELECT DISTINCT mine.full_name FROM dim_customers AS mine LEFT JOIN dim_customers AS others"
        " ON LOWER(others.full_name) = LOWER(mine.full_name) AND others.customer_id <> mine.customer_id"
        " WHERE mine.customer_id = ? AND others.customer_id IS NULL",
        [customer_id],
    )
    addresses = tx.rows(
        "SELECT DISTINCT TRIM(mine.email) FROM dim_customers AS mine LEFT JOIN dim_customers AS others"
        f" ON {address('others.email')} = {address('mine.email')} AND others.customer_id <> mine.customer_id"
        " WHERE mine.customer_id = ? AND others.customer_id IS NULL",
        [customer_id],
    )
    texts = [text for (text,) in [*names, *addresses] if text]
    return _Person(customer_id, [account for (account,) in accounts], texts)


def _erase_rows(tx: Transaction, person: _Person, by: str, now: datetime, done: Erasure) -> bool:
    """Delete the rows of a person and note the erasure; returns whether there was anything."""
    customer = person.customer_id
    keep_addresses_of(tx, customer, now)
    done.rows_deleted = 0
    for event_type in EVENT_TYPES:
        ledger = event_type.ledger
        if any(one.name == "customer_id" for one in event_type.fields):
            continue
        done.rows_deleted += tx.execute(
            f"DELETE FROM {ledger} WHERE account_id IN (SELECT account_id FROM dim_accounts WHERE customer_id = ?)",
            [customer],
        )
    ledgers = [e.ledger for e in EVENT_TYPES if any(one.name == "customer_id" for one in e.fields)]
    for table in (*ledgers, *DELETED_FROM):
        done.rows_deleted += tx.execute(f"DELETE FROM {table} WHERE customer_id = ?", [customer])
    erasure_id = uuid.uuid4().hex
    found = _forget_interventions(tx, customer, f"erased-{erasure_id}", now)
    found += tx.execute("UPDATE suppressed_addresses SET customer_id = NULL WHERE customer_id = ?", [customer])
    done.rejects_blanked = _blank_rejects(tx, person)
    if not done.rows_deleted + found + done.rejects_blanked:
        return False
    tx.execute(
        "INSERT INTO erasures (erasure_id, erased_at, erased_by, rows_deleted, rejects_blanked) VALUES (?, ?, ?, ?, ?)",
        [erasure_id, now, by, done.rows_deleted, done.rejects_blanked],
    )
    return True


def _forget_interventions(tx: Transaction, customer: str, stand_in: str, now: datetime) -> int:
    """Take the person out of the log of interventions, whose counts stay; returns how many there were.

    Text, reasons and scores go, and the time is left as the day. The id of an intervention follows from the customer's id, so
    it is replaced. What had not left is cancelled, and what may have been sent counts as sent.
    """
    rows = tx.rows(
        "SELECT intervention_id, status, partition_day FROM agent_intervention_log WHERE customer_id = ?", [customer]
    )
    by_status: dict[str, list[str]] = {}
    for id_, status, _ in rows:
        by_status.setdefault(status, []).append(id_)
    for status in ("CLAIMED", "READY", "APPROVED"):
        move(tx, by_status.get(status, []), "CANCELLED", now, "erasure")
    move(tx, by_status.get("SENDING", []), "UNCERTAIN", now, "erasure")
    move(tx, [*by_status.get("SENDING", []), *by_status.get("UNCERTAIN", [])], "SENT", now, "erasure")
    for id_, _, day in rows:
        other = str(uuid.uuid4())
        midnight = datetime.combine(day, datetime.min.time())
        tx.execute(
            "UPDATE agent_intervention_log SET intervention_id = ?, customer_id = ?, churn_score = 0, generated_email = NULL,"
            " created_at = ?, reason_codes = NULL, complaints = NULL, writer_error = NULL WHERE intervention_id = ?",
            [other, stand_in, midnight, id_],
        )
        tx.execute(
            "UPDATE intervention_moves SET intervention_id = ?, note = CASE WHEN note LIKE 'unfinished: %' THEN note END"
            " WHERE intervention_id = ?",
            [other, id_],
        )
        tx.execute("UPDATE addressed_emails SET intervention_id = ? WHERE intervention_id = ?", [other, id_])
    return len(rows)


def _blank_rejects(tx: Transaction, person: _Person) -> int:
    """Delete the original bytes of rejects that mention a person; reason and place stay. Returns how many."""
    ids = b"|".join(re.escape(one.encode()) for one in (person.customer_id, *person.accounts))
    as_member = re.compile(rb'"(?:customer_id|account_id)"\s*:\s*"?(?:' + ids + rb')"?\s*[,}]', re.IGNORECASE)
    pattern = person.pattern
    blanked, place = 0, ("", "", -1, -1)
    while True:
        rows = tx.rows(
            "SELECT epoch, kafka_topic, kafka_partition, kafka_offset, original FROM event_rejects"
            " WHERE original IS NOT NULL AND (epoch > ? OR (epoch = ? AND (kafka_topic > ? OR (kafka_topic = ?"
            " AND (kafka_partition > ? OR (kafka_partition = ? AND kafka_offset > ?))))))"
            f" ORDER BY epoch, kafka_topic, kafka_partition, kafka_offset LIMIT {INGEST_CHUNK_MESSAGES}",
            [place[0], place[0], place[1], place[1], place[2], place[2], place[3]],
        )
        if not rows:
            return blanked
        for *where, original in rows:
            if as_member.search(original) or (pattern and pattern.search(original)):
                blanked += tx.execute(
                    "UPDATE event_rejects SET original = NULL WHERE epoch = ? AND kafka_topic = ? AND kafka_partition = ?"
                    " AND kafka_offset = ?",
                    where,
                )
        place = rows[-1][:4]


def _exported_files(tx: Transaction, customer_id: str) -> list[str]:
    files = tx.rows(
        "SELECT DISTINCT moves.note FROM intervention_moves AS moves INNER JOIN agent_intervention_log AS log"
        " ON moves.intervention_id = log.intervention_id WHERE moves.status_to = 'EXPORTED' AND log.customer_id = ?",
        [customer_id],
    )
    return [f"the exported file {note.removeprefix('unfinished: ')} names the customer" for (note,) in files if note]


def _finish(
    settings: Settings,
    warehouse: Warehouse,
    index: LogIndex | None,
    clock: Callable[[], datetime],
    report: Callable[[str], None],
    done: Erasure,
) -> None:
    """Remove what is left of erased rows, and mark all erasures as finished."""
    pending = warehouse.query("SELECT erasure_id FROM erasures WHERE finished_at IS NULL")["erasure_id"].to_pylist()
    report("answers of language models")
    owed = warehouse.query("SELECT intervention_id FROM agent_intervention_log WHERE status = 'CLAIMED'")
    AnswerJournal(shelf_of(settings)).answers(set(owed["intervention_id"].to_pylist()))

    def refresh() -> None:
        now = clock()
        warehouse.refresh(
            [table.name for table in warehouse.dynamic_tables(now) if table.refreshed_at is not None], now
        )
        warehouse.transact(lambda tx: fill_queue(tx, now))
        warehouse.transact(lambda tx: raise_alerts(tx, now))

    def catch_up() -> None:
        refresh()
        if index is not None:
            report("search index")
            index.build_anew()
        report("old snapshots and files")

    def mark(tx: Transaction) -> None:
        for erasure in pending:
            tx.execute("UPDATE erasures SET finished_at = ? WHERE erasure_id = ?", [clock(), erasure])

    report("features and scores")
    refresh()
    report("files")
    if kept := warehouse.forget_history(catch_up):
        done.unreachable.append(kept)
    warehouse.transact(mark)


def _mentions(warehouse: Warehouse, person: _Person) -> list[str]:
    """The ledgers with rows of other people that mention a person in a free text."""
    found: list[str] = []
    for event_type in EVENT_TYPES:
        texts = ["extra_fields", *(one.name for one in event_type.fields if one.type == "VARCHAR")]
        telling = [text for text in (person.customer_id, *person.accounts, *person.texts) if is_telling(text)]
        conditions = " OR ".join(f"LOWER({text}) LIKE ?" for text in texts for _ in telling)
        parameters: list[Any] = [f"%{one.lower()}%" for _ in texts for one in telling]
        if not telling:
            continue
        rows = warehouse.query(f"SELECT count(*) AS mentions FROM {event_type.ledger} WHERE {conditions}", parameters)[
            "mentions"
        ][0].as_py()
        if rows:
            found.append(f"{event_type.ledger}: {rows:,} rows of others mention the customer; see `churn correct`")
    return found
