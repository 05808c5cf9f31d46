"""Search on Snowflake, by the Cortex Search service of sql/snowflake/after_dbt/110_churn_logs_search.sql.

Here belong the service's requests and answers. The service runs with its owner's rights, so the caller filters by segment:
first by the service's copy, which is as old as the target lag at most, and then by the customer's current segment.

Written from the documentation, never run on a live account.
https://docs.snowflake.com/en/sql-reference/functions/search_preview-snowflake-cortex
"""

import json
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from churn_assets.search.catalogue import load_error_codes
from churn_assets.search.grants import Seen
from churn_assets.search.hits import DEFAULT_LIMIT, MAX_LIMIT, Filters, Hit
from churn_assets.search.words import MAX_TEXT, clean
from churn_assets.warehouse.protocol import Queries, WarehouseError
from churn_assets.warehouse.snowflake_names import Names

SEARCH_PREVIEW = "SELECT SNOWFLAKE.CORTEX.SEARCH_PREVIEW(?, ?) AS answer"
_EXACT = ("kind", "customer_id", "error_code", "device")
_COLUMNS = ("event_id", "kind", "customer_id", "error_code", "device", "happened_at", "document")


class _Row(BaseModel):
    event_id: str
    kind: str
    customer_id: str
    error_code: str | None = None
    device: str | None = None
    happened_at: datetime
    document: str


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
        """See `Search`. The service does not always return its score, so a hit's score is 1 / its rank."""
        segments = self._seen.segments()
        wanted = max(0, min(limit, MAX_LIMIT))
        if not wanted or segments == frozenset():
            return []
        text = clean(query[:MAX_TEXT]).strip()
        rows = self._ranked(text, filters, segments, wanted) if text else self._newest(filters, segments, wanted)
        rows = [row for row in rows if _is_within(row.happened_at, filters)]
        now = self._seen.segments_now({row.customer_id for row in rows})
        permitted = [row for row in rows if segments is None or now.get(row.customer_id) in segments]
        return [
            Hit(
                **row.model_dump(),
                segment=now.get(row.customer_id),
                title=self._titles.get(row.error_code or "", row.document.partition(".")[0]),
                score=1 / rank if text else 0.0,
            )
            for rank, row in enumerate(permitted[:wanted], 1)
        ]

    def _ranked(self, text: str, filters: Filters, segments: frozenset[str] | None, wanted: int) -> list[_Row]:
        # If hits are dropped afterwards, by hour or by current segment, ask for the maximum.
        is_final = segments is None and filters.since is None and filters.until is None
        asked = {
            "query": text,
            "columns": _COLUMNS,
            "filter": json_filter(filters, segments),
            "limit": wanted if is_final else MAX_LIMIT,
        }
        service = f"{self._names.database}.{self._names.serving_schema}.churn_logs_search"
        answer = self._warehouse.query(SEARCH_PREVIEW, [service, json.dumps(asked)])["answer"][0].as_py()
        try:
            return _Answer.model_validate_json(answer).results
        except ValidationError as error:
            raise WarehouseError(
                f"the search service {service} gave an unreadable answer: {str(answer)[:200]}"
            ) from error

    def _newest(self, filters: Filters, segments: frozenset[str] | None, wanted: int) -> list[_Row]:
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
            f" WHERE {' AND '.join(conditions)} ORDER BY happened_at DESC NULLS LAST LIMIT {wanted}",
            values,
        )
        return [_Row(**row) for row in rows.to_pylist()]


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
