"""The searchable events of the lake: all of them, or the changes since a snapshot.

Here belong the queries over the ledgers and the fields of an event. `relevance` weights its words, `index` stores it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from churn_assets.configuration import rules
from churn_assets.search.relevance import Catalogue
from churn_assets.search.words import clean
from churn_assets.warehouse.protocol import Warehouse

# Streams that are never consumed. They hold the index's position, so that later snapshots are not expired.
STREAMS = ("search_of_app_activity_logs", "search_of_support_cases", "search_of_dim_customers")
_BATCH = 10_000  # events per batch
MAX_EXTRA = 500  # characters of what an event says beyond the contract; the text of a case is read in full

_ERROR = (
    "'error' AS kind, {0}.log_id AS event_id, {0}.customer_id, {0}.error_code AS code, {0}.event_type,"
    " {0}.device, {0}.event_timestamp AS happened_at, false AS unhappy, CAST(NULL AS VARCHAR) AS case_text,"
    " {0}.extra_fields"
)
_CASE = (
    "'case' AS kind, {0}.case_id AS event_id, {0}.customer_id, {0}.category AS code, CAST(NULL AS VARCHAR) AS event_type,"
    " CAST(NULL AS VARCHAR) AS device, {0}.open_timestamp AS happened_at,"
    " coalesce({0}.sentiment_score < {unhappy_below}, false) AS unhappy, {0}.case_text, {0}.extra_fields"
)
# By ledger: the columns of an event, its key, its time, and which rows are events.
_LEDGERS = {
    "app_activity_logs": (_ERROR, "log_id", "event_timestamp", "error_code IS NOT NULL"),
    "support_cases": (_CASE, "case_id", "open_timestamp", "true"),
}


@dataclass(frozen=True)
class Event:
    """An error of the app or a support case. `code` is the error code or the category; `said` holds its own words: the text
    of the case, in full, and what it said beyond the contract."""

    kind: str
    event_id: str
    customer_id: str
    code: str
    event_type: str | None
    device: str | None
    happened_at: datetime
    unhappy: bool
    said: str
    segment: str | None

    @property
    def key(self) -> tuple[str, str]:
        """The unique key: kind and id."""
        return self.kind, self.event_id

    @property
    def circumstances(self) -> str:
        """What happened, without the catalogue's text and the event's own words."""
        if self.kind == "case":
            return f"{self.code}{' unhappy' if self.unhappy else ''}"
        return f"{self.code} {self.event_type}{f' {self.device}' if self.device else ''}"

    def document(self, catalogue: Catalogue) -> str:
        """The searchable text: that of sql/snowflake/after_dbt/110_churn_logs_search.sql, and the event's own words."""
        entry = catalogue.entry(self.kind, self.code)
        in_other_words = f" In other words: {entry.words}." if entry.words else ""
        said = f' "{self.said}"' if self.said else ""
        if self.kind == "case":
            unhappy = " The customer was unhappy." if self.unhappy else ""
            return f"{entry.title}.{unhappy}{in_other_words}{said}"
        known = f"{entry.title}. {entry.description}" if entry.title != self.code else entry.description
        return f"{known}{in_other_words} {self.circumstances_in_words()}{said}"

    def circumstances_in_words(self) -> str:
        """Where an error happened."""
        return f"{self.code} at {self.event_type}{f' on {self.device}' if self.device else ''}"

    def as_json(self) -> str:
        """The event as JSON."""
        return json.dumps({**vars(self), "happened_at": self.happened_at.isoformat()}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> "Event":
        """The event that `as_json` wrote."""
        row = json.loads(text)
        return Event(**{**row, "happened_at": datetime.fromisoformat(row["happened_at"])})


@dataclass(frozen=True)
class Position:
    """A snapshot of the lake. The time (UTC) distinguishes it from a snapshot of the same number in another lake."""

    snapshot: int
    taken_at: datetime


@dataclass(frozen=True)
class Changes:
    """The changes between two snapshots: the keys (kind, id) of changed events, their new versions, and the new segments of
    customers whose segment changed."""

    touched: set[tuple[str, str]]
    events: list[Event]
    segments: dict[str, str | None]

    def __bool__(self) -> bool:
        return bool(self.touched or self.segments)


_TAKEN_AT = "make_timestamp(epoch_us(CAST(snapshot_time AS TIMESTAMPTZ)))"
_SNAPSHOTS = "__ducklake_metadata_lake.ducklake_snapshot"


def position_now(lake: Warehouse) -> Position:
    """The lake's latest snapshot."""
    row = lake.query(
        f"SELECT snapshot_id, {_TAKEN_AT} AS taken_at FROM {_SNAPSHOTS} ORDER BY snapshot_id DESC LIMIT 1"
    ).to_pylist()[0]
    return Position(row["snapshot_id"], row["taken_at"])


def is_kept(lake: Warehouse, position: Position) -> bool:
    """Whether the lake still has that snapshot, so that the changes after it can be read."""
    found = lake.query(f"SELECT {_TAKEN_AT} AS taken_at FROM {_SNAPSHOTS} WHERE snapshot_id = ?", [position.snapshot])
    return found["taken_at"].to_pylist() == [position.taken_at]


def all_events(lake: Warehouse, at: Position) -> Iterator[list[Event]]:
    """Every event as of a snapshot, in batches; the ledgers are read a month at a time."""
    for ledger, (columns, _, time, which) in _LEDGERS.items():
        version = f"AT (VERSION => {at.snapshot})"
        months = lake.query(
            f"SELECT DISTINCT date_trunc('month', {time})::TIMESTAMP AS month FROM {ledger} {version} WHERE {which} ORDER BY 1"
        )
        for month in months["month"].to_pylist():
            rows = lake.query(
                f"SELECT {_columns(columns)}, customers.segment FROM (FROM {ledger} {version}) AS events"
                f" LEFT JOIN (FROM dim_customers {version}) AS customers ON customers.customer_id = events.customer_id"
                f" WHERE {which} AND {time} >= ? AND {time} < CAST(? AS TIMESTAMP) + INTERVAL 1 MONTH",
                [month, month],
            )
            for batch in rows.to_batches(max_chunksize=_BATCH):
                yield [_event(row) for row in batch.to_pylist()]


def changes(lake: Warehouse, after: Position, until: Position) -> Changes:
    """The changes after one snapshot, up to and including another.

    The change feed's insertions and deletions are correct; its update labels are not, so they are not used.
    """
    touched: set[tuple[str, str]] = set()
    events: list[Event] = []
    if until.snapshot <= after.snapshot:
        return Changes(touched, events, {})
    version = f"AT (VERSION => {until.snapshot})"

    def feed(kind: str, table: str) -> str:
        return f"ducklake_table_{kind}('lake', 'main', '{table}', {after.snapshot + 1}, {until.snapshot})"

    for ledger, (columns, key, _, which) in _LEDGERS.items():
        kind = "case" if ledger == "support_cases" else "error"
        came, went = feed("insertions", ledger), feed("deletions", ledger)
        gone = set(lake.query(f"SELECT DISTINCT {key} AS id FROM {went}")["id"].to_pylist())
        arrived = _events_of(lake, columns, f"{came} AS events", which, version)
        touched |= {(kind, one) for one in gone} | {event.key for event in arrived}
        events += [event for event in arrived if event.event_id not in gone]
        if gone:
            # Corrected or deleted events: read what is left from the ledger, not from the order of the feed.
            left = f"(SELECT * FROM {ledger} {version} WHERE {key} IN (SELECT unnest(CAST(? AS VARCHAR[])))) AS events"
            events += _events_of(lake, columns, left, which, version, [sorted(gone)])
    came, went = (
        f"SELECT customer_id, segment FROM {feed(kind, 'dim_customers')}" for kind in ("insertions", "deletions")
    )
    moved = lake.query(
        f"SELECT DISTINCT customer_id FROM (({came} EXCEPT ALL {went}) UNION ALL ({went} EXCEPT ALL {came}))"
    )["customer_id"].to_pylist()
    return Changes(touched, events, {**dict.fromkeys(moved), **_segments_of(lake, moved, version)})


def _events_of(
    lake: Warehouse, columns: str, source: str, which: str, version: str, parameters: Sequence[Any] = ()
) -> list[Event]:
    rows = lake.query(
        f"SELECT {_columns(columns)}, customers.segment FROM {source}"
        f" LEFT JOIN (FROM dim_customers {version}) AS customers ON customers.customer_id = events.customer_id WHERE {which}",
        parameters,
    )
    return [_event(row) for row in rows.to_pylist()]


def _segments_of(lake: Warehouse, customers: list[str], version: str) -> dict[str, str]:
    rows = lake.query(
        f"SELECT customer_id, segment FROM dim_customers {version}"
        " WHERE customer_id IN (SELECT unnest(CAST(? AS VARCHAR[])))",
        [customers],
    )
    return dict(zip(rows["customer_id"].to_pylist(), rows["segment"].to_pylist(), strict=True))


def with_segment(event: Event, segment: str | None) -> Event:
    """The same event with another segment of its customer."""
    return replace(event, segment=segment)


def _said_beyond(extra_fields: str | None) -> str:
    """The texts among the fields beyond the contract, in order, cut to `MAX_EXTRA` characters.

    Numbers, identifiers without a letter and nested values are left out, as nobody searches for them.
    """
    try:
        values = json.loads(extra_fields or "{}")
    except ValueError:
        return ""
    if not isinstance(values, dict):
        return ""
    texts = [value for value in values.values() if isinstance(value, str) and any(map(str.isalpha, value))]
    return " ".join(" ".join(texts).split())[:MAX_EXTRA]


def _columns(columns: str) -> str:
    return columns.format("events", unhappy_below=rules().risk.unhappy_below)


def _event(row: dict[str, Any]) -> Event:
    case_text, extra_fields = row.pop("case_text"), row.pop("extra_fields")
    said = [text for text in (case_text, _said_beyond(extra_fields)) if text]
    return Event(**row, said=clean("\n".join(said)))
