"""Search over the embedded index: which events answer a question, and who may see them.

A million events have few distinct signatures (error code or category, and the circumstances). So the question is compared
with every signature, which is exact and takes a millisecond, and the index then returns the newest events of the best
signatures. The events' own words are searched by BM25, for roles that may read them.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from churn_assets.search.events import Event
from churn_assets.search.grants import granted_segments, reads_texts, segments_now
from churn_assets.search.hits import DEFAULT_LIMIT, MAX_LIMIT, Filters, Hit
from churn_assets.search.index import LogIndex, Reader, Signature
from churn_assets.search.relevance import CIRCUMSTANCE, Catalogue, Question, weighted
from churn_assets.warehouse.protocol import Warehouse

_STEP = 0.2  # share of the best score; scores within one step are equal, and the newest event comes first
_WORTHLESS = 0.35  # share of the best score; events below it are not hits
_CANDIDATES = 5  # candidates from BM25 for each hit that is wanted


class EmbeddedSearch:
    """Implements `Search` for one role, over the index of a lake."""

    def __init__(self, index: LogIndex, lake: Warehouse, catalogue: Catalogue, role: str) -> None:
        self._index = index
        self._lake = lake
        self._catalogue = catalogue
        self._role = role

    def search(self, query: str, filters: Filters, limit: int = DEFAULT_LIMIT) -> list[Hit]:
        """See `Search`; `IndexNotFoundError` if the index was never built."""
        segments = granted_segments(self._lake, self._role)
        reader = self._index.read()
        question = (
            Question(query, self._catalogue, reader.rarity)
            if self._may_read_texts
            else Question(query, self._catalogue)
        )
        wanted = max(0, min(limit, MAX_LIMIT))
        asked_for = wanted
        while True:
            found = self._found(reader, question, filters, segments, asked_for)
            hits = self._permitted(question, found, segments)[:wanted]
            if len(hits) == wanted or len(found) < asked_for:
                return hits
            asked_for *= 2  # some customers have left the segment that the index still has for them

    def _found(
        self, reader: Reader, question: Question, filters: Filters, segments: Iterable[str] | None, wanted: int
    ) -> list[tuple[Event, float]]:
        """Events with their scores, best first and newer ones first among equals."""
        if not wanted:
            return []
        if not question.shares:
            return [(event, 0.0) for event in reader.newest(filters, segments, wanted)]
        scores = {one: self._score(question, one) for one in reader.signatures}
        saying = reader.saying(question.shares, filters, segments, wanted * _CANDIDATES) if self._may_read_texts else []
        found = {event.key: (event, self._score(question, Signature.of(event), event.said)) for event in saying}
        best = max([*scores.values(), *(score for _, score in found.values())], default=0.0)
        if not best:
            return []

        def step(score: float) -> float:
            """The score as it orders and is shown: that of its step below the best, so that no order is hidden in digits."""
            return round(best * (1 - _STEP * int((best - score) / (best * _STEP) + 1e-9)), 2)

        worth_it = sorted((one for one in scores if scores[one] >= best * _WORTHLESS), key=lambda one: -scores[one])
        for this_step, equals in groupby(worth_it, key=lambda one: step(scores[one])):
            if sum(step(score) > this_step for _, score in found.values()) >= wanted:
                break
            for event in reader.newest(filters, segments, wanted, signatures=equals):
                found.setdefault(event.key, (event, scores[Signature.of(event)]))
        ranked = [(event, step(score)) for event, score in found.values() if score >= best * _WORTHLESS]
        ranked.sort(key=lambda pair: (-pair[1], -pair[0].happened_at.timestamp(), pair[0].key))
        return ranked[:wanted]

    def _score(self, question: Question, signature: Signature, said: str = "") -> float:
        entry = self._catalogue.entry(signature.kind, signature.code)
        return question.answered_by(
            signature.kind,
            signature.code,
            entry.weights,
            weighted(signature.circumstances, CIRCUMSTANCE),
            question.said_in(said),
        )

    def _permitted(
        self, question: Question, found: list[tuple[Event, float]], segments: frozenset[str] | None
    ) -> list[Hit]:
        """The hits of the customers whom the role may see, by their current segments."""
        now = segments_now(self._lake, {event.customer_id for event, _ in found})
        return [
            self._hit(question, event, now.get(event.customer_id), score)
            for event, score in found
            if segments is None or now.get(event.customer_id) in segments
        ]

    def _hit(self, question: Question, event: Event, segment: str | None, score: float) -> Hit:
        readable = event if self._may_read_texts else replace(event, said="")
        document = readable.document(self._catalogue)
        passage = question.passage_of(readable.said)
        if not passage.words and (question.shares or not readable.said):
            passage = question.passage_of(replace(readable, said="").document(self._catalogue))
        return Hit(
            event_id=event.event_id,
            kind=event.kind,
            customer_id=event.customer_id,
            segment=segment,
            error_code=event.code if event.kind == "error" else None,
            title=self._catalogue.entry(event.kind, event.code).title,
            device=event.device,
            happened_at=event.happened_at,
            document=document,
            passage=passage.text,
            score=score,
        )

    @property
    def _may_read_texts(self) -> bool:
        return reads_texts(self._role)
