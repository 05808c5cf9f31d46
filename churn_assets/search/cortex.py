"""Search on Snowflake, by the Cortex Search services of sql/snowflake/after_dbt: 110_churn_logs_search.sql for every role, and
115_case_texts_search.sql for roles that may read what customers wrote.

Here belong the service's requests and answers. The service runs with its owner's rights, so the caller filters by segment:
first by the service's copy, which is as old as the target lag at most, and then by the customer's current segment.

Written from the documentation, never run on a live account.
https://docs.snowflake.com/en/sql-reference/functions/search_preview-snowflake-cortex
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from churn_assets.search.catalogue import case_title, load_error_codes
from churn_assets.search.grants import Seen
from churn_assets.search.hits import DEFAULT_LIMIT, MAX_LIMIT, Filters, Hit
from churn_assets.search.passages import best_passage
from churn_assets.search.words import MAX_TEXT, clean, plain_words
from churn_assets.warehouse.protocol import Queries, WarehouseError
from churn_assets.warehouse.snowflake_names import Names

SEARCH_PREVIEW = "SELECT SNOWFLAKE.CORTEX.SEARCH_PREVIEW(?, ?) AS answer"
_EXACT = ("kind", "customer_id", "error_code", "device")
_COLUMNS = ("event_id", "kind", "customer_id", "error_code", "device", "happened_at", "document")
_TEXT_COLUMNS = (*_COLUMNS, "category")


class _Row(BaseModel):
    event_id: str
    kind: str
    customer_id: str
    error_code: str | None = None
    device: str | None = None
    happened_at: datetime
    document: str
    category: str | None = None  # of a passage of a case's text


class _Answer(BaseModel):
    results: list[_Row] = Field(default_factory=list[_Row])


class CortexSearch:
    """Implements `Search` for one role."""

    def __init__(self, warehouse: Queries, names: Names, seen: Seen) -> None:
        self._warehouse = warehouse
        self._names = names
        self._seen = seen
        self._titles = {code.error_code: code.title for code in load_error_codes()}

    def search(self, query: str, filters: Filters, limit: int = DEFAULT_LIMIT) -> list[Hit]:
        """See `Search`. A service does not always return its score, so a hit's score is 1 / its best rank in a service."""
        segments = self._seen.segments()
        wanted = max(0, min(limit, MAX_LIMIT))
        if not wanted or segments == frozenset():
            return []
        text = clean(query[:MAX_TEXT]).strip()
        found = self._ranked(text, filters, segments, wanted) if text else self._newest(filters, segments, wanted)
        found = [one for one in found if _is_within(one[0].happened_at, filters)]
        now = self._seen.segments_now({row.customer_id for row, _ in found})
        permitted = [one for one in found if segments is None or now.get(one[0].customer_id) in segments]
        shares = dict.fromkeys(plain_words(text), 1.0)
        return [
            Hit(
                **row.model_dump(exclude={"category"}),
                segment=now.get(row.customer_id),
                title=self._title(row),
                passage=best_passage(row.document, shares, plain_words).text,
                score=score,
            )
            for row, score in permitted[:wanted]
        ]

    def _title(self, row: _Row) -> str:
        if row.category is not None:
            return case_title(row.category)
        return self._titles.get(row.error_code or "", row.document.partition(".")[0])

    def _ranked(
        self, text: str, filters: Filters, segments: frozenset[str] | None, wanted: int
    ) -> list[tuple[_Row, float]]:
        """The rows of the services with their scores, best first and newer ones first among equals; an event is there once."""
        services: list[tuple[str, Sequence[str]]] = [
            (f"{self._names.database}.{self._names.serving_schema}.churn_logs_search", _COLUMNS)
        ]
        if self._seen.texts() and filters.kind != "error":
            # First, so that of two equal places of a case the one with its text is shown.
            services.insert(0, (f"{self._names.database}.{self._names.schema}.case_texts_search", _TEXT_COLUMNS))
        best: dict[tuple[str, str], tuple[_Row, float]] = {}
        for service, columns in services:
            ranked = dict[tuple[str, str], tuple[_Row, float]]()
            for row in self._answer(service, columns, text, filters, segments, wanted):
                ranked.setdefault((row.kind, row.event_id), (row, round(1 / (len(ranked) + 1), 4)))
            for key, one in ranked.items():
                if key not in best or one[1] > best[key][1]:
                    best[key] = one
        return sorted(best.values(), key=lambda one: (-one[1], -one[0].happened_at.timestamp(), one[0].event_id))

    def _answer(
        self,
        service: str,
        columns: Sequence[str],
        text: str,
        filters: Filters,
        segments: frozenset[str] | None,
        wanted: int,
    ) -> list[_Row]:
        # If hits are dropped afterwards, by hour, by current segment or as a further passage, ask for the maximum.
        is_final = segments is None and filters.since is None and filters.until is None and columns == _COLUMNS
        asked = {
            "query": text,
            "columns": columns,
            "filter": json_filter(filters, segments),
            "limit": wanted if is_final else MAX_LIMIT,
        }
        answer = self._warehouse.query(SEARCH_PREVIEW, [service, json.dumps(asked)])["answer"][0].as_py()
        try:
            return _Answer.model_validate_json(answer).results
        except ValidationError as error:
            raise WarehouseError(
                f"the search service {service} gave an unreadable answer: {str(error)[:200]}"
            ) from error

    def _newest(self, filters: Filters, segments: frozenset[str] | None, wanted: int) -> list[tuple[_Row, float]]:
        """The newest events from the service's source, as the service does not answer a query without words."""
        conditions, values = ["TRUE"], list[Any]()
        for name in _EXACT:
            if (value := getattr(filters, name)) is not None:
                conditions.append(f"{name} = ?")
                values.append(clean(value))
        for time, operator in ((filters.since, ">="), (filters.until, "<")):
            if time is not None:
                conditions.append(f"happened_at {operator} ?")
                values.append(time)
        if segments is not None:
            conditions.append(f"segment IN ({', '.join('?' * len(segments))})")
            values += sorted(segments)
        rows = self._warehouse.query(
            f"SELECT {', '.join(_COLUMNS)} FROM {self._names.database}.{self._names.schema}.searchable_events"
            f" WHERE {' AND '.join(conditions)} ORDER BY happened_at DESC NULLS LAST, event_id LIMIT {wanted}",
            values,
        )
        return [(_Row(**row), 0.0) for row in rows.to_pylist()]


def json_filter(filters: Filters, segments: frozenset[str] | None) -> dict[str, Any]:
    """The filter of a search service. It compares whole days, both ends inclusive; the caller checks the hours."""
    found: list[dict[str, Any]] = [
        {"@eq": {name: clean(value)}} for name in _EXACT if (value := getattr(filters, name)) is not None
    ]
    if filters.since is not None:
        found.append({"@gte": {"happened_at": filters.since.date().isoformat()}})
    if filters.until is not None:
        found.append({"@lte": {"happened_at": (filters.until.date() + timedelta(days=1)).isoformat()}})
    if segments is not None:
        found.append({"@or": [{"@eq": {"segment": segment}} for segment in sorted(segments)]})
    return {"@and": found} if found else {}


def _is_within(time: datetime, filters: Filters) -> bool:
    return (filters.since is None or filters.since <= time) and (filters.until is None or time < filters.until)
