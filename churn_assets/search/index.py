"""The embedded index on disk: one document per event, and the position, which is the lake's snapshot that they reflect.

Here belong the index's format, and how it is built, updated and read. `events` reads the events from the lake; `embedded`
decides which of them answer a question.

Each commit writes documents and position together. So a process that dies leaves the index at the old or the new position,
and the next update continues from there. A full build is written to a new folder, which then replaces the current one by the
exchange of one symbolic link.
"""

import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Literal

import tantivy

from churn_assets.errors import ChurnError
from churn_assets.rules import SEARCH_POSITION_SECONDS
from churn_assets.search.events import (
    STREAMS,
    Changes,
    Event,
    Position,
    all_events,
    changes,
    is_kept,
    position_now,
    with_segment,
)
from churn_assets.search.hits import Filters
from churn_assets.search.words import clean, words
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.turns import turn

FORMAT = 2  # of the documents; an index of another format is rebuilt
WRITER_BYTES = 64 * 1024 * 1024
_EXACT = ("key", "kind", "customer_id", "segment", "error_code", "device", "event_id", "signature")
_POSITION = "position"  # the kind of the one document that is not an event
_POSITION_AGE = timedelta(seconds=SEARCH_POSITION_SECONDS / 2)
_FIRST, _LAST = (
    datetime.fromisoformat("1700-01-01"),
    datetime.fromisoformat("2262-01-01"),
)  # the range of the index's dates, which are nanoseconds in 64 bits
Must, Should, MustNot = tantivy.Occur.Must, tantivy.Occur.Should, tantivy.Occur.MustNot


class IndexNotFoundError(ChurnError):
    """There is no readable index; the message says how to build one."""


@dataclass(frozen=True)
class Signature:
    """What many events have in common: everything that is searched except their own words."""

    kind: str
    code: str
    circumstances: str

    @property
    def term(self) -> str:
        """The signature as a term of the index."""
        return json.dumps([self.kind, self.code, self.circumstances])

    @staticmethod
    def of(event: Event) -> "Signature":
        """The signature of an event."""
        return Signature(event.kind, event.code, event.circumstances)


@dataclass(frozen=True)
class IndexUpdate:
    """The result of an update. `reason` says why it was FULL; `seconds` is its duration."""

    action: Literal["FULL", "INCREMENTAL", "NO_DATA"]
    reason: str
    documents_added: int
    documents_removed: int
    documents: int
    bytes: int
    seconds: float
    position: Position


class LogIndex:
    """The index in a folder, over the events of a lake."""

    def __init__(self, folder: Path, lake: Warehouse) -> None:
        self._folder = folder
        self._lake = lake

    @property
    def _current(self) -> Path:
        return self._folder / "current"

    def read(self) -> "Reader":
        """The current index, or `IndexNotFoundError`."""
        for patience in (0.01, 0.1, 0.0):
            try:
                return Reader(self._opened())
            except (ValueError, OSError, LookupError) as error:
                found = error
            time.sleep(patience)  # a full build may just have replaced it
        raise IndexNotFoundError(
            f"there is no search index in {self._folder}; `churn search` or Dagster's job index_log_search builds it"
        ) from found

    def _opened(self) -> tantivy.Index:
        name = os.readlink(self._current)
        if not name.startswith(_prefix()):
            raise LookupError("the index has another format")
        return tantivy.Index.open(str(self._folder / name))

    def is_behind(self) -> bool:
        """Whether the index lacks events, or has to be built."""
        return self._last_position()[0] is None or self._ledgers_were_written()

    def _ledgers_were_written(self) -> bool:
        return any(self._lake.stream_has_data(stream) for stream in STREAMS)

    def update(self, report: Callable[[int], None] = lambda _: None) -> IndexUpdate:
        """Bring the index up to date; `report` receives the number of documents written so far.

        One process at a time does this; others wait.
        """
        started = perf_counter()
        with turn(self._folder / "writer.lock"):
            until = position_now(self._lake)
            after, why_not = self._last_position()
            action, added, removed = "NO_DATA", 0, 0
            if after is None:
                action, added = "FULL", self._build(until, report)
            elif found := changes(self._lake, after, until):
                action, (added, removed) = "INCREMENTAL", self._catch_up(found, until)
            elif self._ledgers_were_written() or until.taken_at - after.taken_at > _POSITION_AGE:
                self._catch_up(found, until)  # otherwise it would stay behind for ever, or keep an old snapshot alive
            else:
                until = after  # noting a snapshot without events would itself make a new snapshot
            self._note(until)
            self._clean()
            return IndexUpdate(
                action=action,
                reason=why_not,
                documents_added=added,
                documents_removed=removed,
                documents=self.read().documents,
                bytes=sum(file.stat().st_size for file in self._current.resolve().iterdir()),
                seconds=perf_counter() - started,
                position=until,
            )

    def build_anew(self) -> None:
        """Write the index anew from the ledgers: an update leaves deleted documents in its files."""
        with turn(self._folder / "writer.lock"):
            until = position_now(self._lake)
            self._build(until, lambda _: None)
            self._note(until)
            self._clean()

    def _last_position(self) -> tuple[Position | None, str]:
        """The snapshot up to which the index is complete; None and the reason if it needs a full build."""
        if not self._current.is_symlink():
            return None, "there was no index"
        if not os.readlink(self._current).startswith(_prefix()):
            return None, "the index has another format"
        try:
            position = self.read().position
        except IndexNotFoundError:
            return None, "the index is damaged"
        if not is_kept(self._lake, position):
            return None, "the lake no longer has, or never had, the snapshot that the index reflects"
        return position, ""

    def _build(self, at: Position, report: Callable[[int], None]) -> int:
        path = Path(tempfile.mkdtemp(prefix=_prefix(), dir=self._folder))
        index = tantivy.Index(_schema(), path=str(path))
        writer = index.writer(heap_size=WRITER_BYTES, num_threads=1)
        added = 0
        for events in all_events(self._lake, at):
            for event in events:
                writer.add_document(_document(event))
            added += len(events)
            report(added)
        _commit(writer, at)
        link = self._folder / "next"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(self._current)
        return added

    def _catch_up(self, found: Changes, until: Position) -> tuple[int, int]:
        events = list(found.events)
        if found.segments:
            reader = self.read()
            for event in reader.events_of(found.segments):
                if event.key not in found.touched:
                    events.append(with_segment(event, found.segments[event.customer_id]))
        index = self._opened()
        before = index.searcher().num_docs
        writer = index.writer(heap_size=WRITER_BYTES, num_threads=1)
        for kind, event_id in found.touched | {event.key for event in events}:
            writer.delete_documents_by_term("key", _key(kind, event_id))
        for event in events:
            writer.add_document(_document(event))
        _commit(writer, until)
        index.reload()
        return len(events), before + len(events) - index.searcher().num_docs

    def _note(self, position: Position) -> None:
        """Move the streams' position forward, so that the lake can expire older snapshots."""
        names = ", ".join(f"'{name}'" for name in STREAMS)
        known = self._lake.query(f"SELECT DISTINCT position FROM streams WHERE name IN ({names})")[
            "position"
        ].to_pylist()
        if known != [position.snapshot]:
            sql = f"UPDATE streams SET position = ? WHERE name IN ({names})"
            self._lake.transact(lambda tx: tx.execute(sql, [position.snapshot]))

    def _clean(self) -> None:
        """Remove the folders of earlier builds, which no new reader opens."""
        current = os.readlink(self._current)
        for path in self._folder.iterdir():
            if path.is_dir() and not path.is_symlink() and path.name != current:
                shutil.rmtree(path)


class Reader:
    """The index at one moment, without later writes."""

    def __init__(self, index: tantivy.Index) -> None:
        self._schema = index.schema
        self._searcher = index.searcher()
        found = self._searcher.search(self._term("kind", _POSITION), limit=1).hits
        if not found:
            raise LookupError("the index has no position")
        row = json.loads(self._stored(found[0][1]))
        self.position = Position(row["snapshot"], datetime.fromisoformat(row["taken_at"]))
        self.signatures = [
            Signature(*json.loads(term)) for term, _ in self._searcher.terms_with_prefix("signature", "")
        ]

    @property
    def documents(self) -> int:
        """The number of events."""
        return self._searcher.num_docs - 1

    def newest(
        self,
        filters: Filters,
        segments: Iterable[str] | None,
        limit: int,
        signatures: Iterable[Signature] | None = None,
    ) -> list[Event]:
        """Events that pass the filters, newest first; None for `segments` or `signatures` means all."""
        query = self._filtered(filters, segments)
        if signatures is not None:
            wanted = [one.term for one in signatures]
            query.append((Must, tantivy.Query.term_set_query(self._schema, "signature", wanted)))
        found = self._searcher.search(
            tantivy.Query.boolean_query(query), limit=limit, count=False, order_by_field="order"
        )
        return [Event.from_json(self._stored(address)) for _, address in found.hits]

    def saying(self, asked: Iterable[str], filters: Filters, segments: Iterable[str] | None, limit: int) -> list[Event]:
        """Events that pass the filters and say at least one of the words `asked`, ranked by BM25."""
        said = tantivy.Query.boolean_query([(Should, self._term("said", word)) for word in asked])
        query = [(Must, said), *self._filtered(filters, segments)]
        found = self._searcher.search(tantivy.Query.boolean_query(query), limit=limit, count=False)
        return [Event.from_json(self._stored(address)) for _, address in found.hits]

    def rarity(self, word: str) -> float:
        """The inverse document frequency of a word in the events' own texts, as a share of that of a word in none."""
        having, events = self._searcher.doc_freq("said", word), max(self.documents, 1)
        return math.log(1 + (events - having + 0.5) / (having + 0.5)) / math.log(1 + (events + 0.5) / 0.5)

    def events_of(self, customers: Iterable[str]) -> list[Event]:
        """All events of these customers."""
        query = tantivy.Query.term_set_query(self._schema, "customer_id", list(customers))
        found = self._searcher.search(query, limit=max(self.documents, 1), count=False)
        return [Event.from_json(self._stored(address)) for _, address in found.hits]

    def _filtered(self, filters: Filters, segments: Iterable[str] | None) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        exact = {
            "kind": filters.kind,
            "customer_id": filters.customer_id,
            "error_code": filters.error_code,
            "device": filters.device,
        }
        query = [(Must, self._term(field, clean(value))) for field, value in exact.items() if value is not None]
        if segments is not None:
            query.append((Must, tantivy.Query.term_set_query(self._schema, "segment", list(segments))))
        if filters.since is not None or filters.until is not None:
            between = tantivy.Query.range_query(
                self._schema,
                "happened_at",
                tantivy.FieldType.Date,
                _utc(min(max(filters.since or _FIRST, _FIRST), _LAST)),
                _utc(min(max(filters.until or _LAST, _FIRST), _LAST)),
                include_upper=False,
            )
            query.append((Must, between))
        query += [(Must, tantivy.Query.all_query()), (MustNot, self._term("kind", _POSITION))]
        return [(occur, tantivy.Query.const_score_query(one, 0.0)) for occur, one in query]

    def _term(self, field: str, value: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, field, value)

    def _stored(self, address: tantivy.DocAddress) -> bytes:
        return self._searcher.doc(address)["event"][0]


def _prefix() -> str:
    return f"format-{FORMAT}-"


def _key(kind: str, event_id: str) -> str:
    return f"{kind}:{event_id}"


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for field in _EXACT:
        builder.add_text_field(field, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("said", tokenizer_name="whitespace", index_option="freq")
    builder.add_date_field("happened_at", indexed=True)
    builder.add_unsigned_field("order", fast=True)
    builder.add_bytes_field("event", stored=True)
    return builder.build()


def _document(event: Event) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text("key", _key(event.kind, event.event_id))
    document.add_text("signature", Signature.of(event).term)
    attributes = {
        "kind": event.kind,
        "event_id": event.event_id,
        "customer_id": event.customer_id,
        "segment": event.segment,
        "error_code": event.code if event.kind == "error" else None,
        "device": event.device,
    }
    for field, value in attributes.items():
        if value is not None:
            document.add_text(field, value)
    if said := " ".join(words(event.said)):
        document.add_text("said", said)
    document.add_date("happened_at", _utc(event.happened_at))
    document.add_unsigned("order", _order(event))
    document.add_bytes("event", event.as_json().encode())
    return document


def _order(event: Event) -> int:
    """The time in microseconds, and then bits of the key: events of one moment keep their order when the index is merged."""
    micros = (min(max(event.happened_at, _FIRST), _LAST) - _FIRST) // timedelta(microseconds=1)
    return micros << 9 | zlib.crc32(_key(*event.key).encode()) & 0x1FF


def _commit(writer: tantivy.IndexWriter, position: Position) -> None:
    """Commit the written documents together with the position that they reflect."""
    document = tantivy.Document()
    document.add_text("kind", _POSITION)
    stored = {"snapshot": position.snapshot, "taken_at": position.taken_at.isoformat()}
    document.add_bytes("event", json.dumps(stored).encode())
    writer.delete_documents_by_term("kind", _POSITION)
    writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC)
