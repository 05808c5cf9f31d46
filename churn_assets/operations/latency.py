"""How long events take from Kafka to their ledger, features, score and email, hop by hop.

It needs no measurements of its own. The warehouse already records when the first and last message of each range were sent
and when the range was stored, when each refresh began and ended, and when each customer was queued and got an email.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from churn_assets.warehouse.protocol import Warehouse

FEATURES, PREDICTIONS = "dyn_customer_features", "dyn_churn_predictions"
# Upper bounds of a histogram's buckets, seconds; one more bucket holds everything above the last one.
BOUNDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
# The quantiles that are reported for a hop.
SHARES = {"p50": 0.5, "p95": 0.95, "max": 1.0}
_POINTS = 20  # at most so many points represent the messages of a range

_RANGES = """
SELECT stored_at, oldest_message_at, newest_message_at, end_offset - start_offset AS messages
FROM ingest_ranges WHERE outcome = 'STORED' AND stored_at > ? ORDER BY stored_at
"""
_WRITTEN = """
SELECT interventions.customer_id, moves.moved_at AS written_at
FROM intervention_moves AS moves
INNER JOIN agent_intervention_log AS interventions ON moves.intervention_id = interventions.intervention_id
WHERE moves.status_to = 'READY' AND moves.moved_at > ? ORDER BY moves.moved_at
"""
_QUEUED = "SELECT customer_id, queued_at FROM retention_queue ORDER BY queued_at"


@dataclass(frozen=True)
class Hop:
    """How long one hop took. `seconds[i]` is the duration for `weights[i]` events."""

    name: str
    seconds: np.ndarray
    weights: np.ndarray

    @property
    def events(self) -> int:
        """How many events there were."""
        return round(float(self.weights.sum()))

    def quantile(self, share: float) -> float | None:
        """The quantile of the seconds at `share` (0 to 1), weighted by events; None without events."""
        if not len(self.seconds):
            return None
        order = np.argsort(self.seconds)
        place = np.searchsorted(np.cumsum(self.weights[order]), share * self.weights.sum() - 1e-9)
        return float(self.seconds[order][min(place, len(order) - 1)])

    def histogram(self) -> list[int]:
        """The number of events in each bucket of `BOUNDS`, and last those above all bounds."""
        counts, _ = np.histogram(self.seconds, [-np.inf, *np.nextafter(BOUNDS, np.inf), np.inf], weights=self.weights)
        return [round(float(count)) for count in counts]


def hops(warehouse: Warehouse, after: datetime) -> list[Hop]:
    """The hops of everything stored, refreshed and written after a time (UTC), in order.

    A message starts at its Kafka timestamp: when it was produced, or when it was appended if the topic's
    `message.timestamp.type` is LogAppendTime. Only the first and last timestamp of a range are known; the messages between
    are assumed to be evenly spread. Rows count as seen by the first refresh that began after they were stored.
    """
    ranges = _frame(warehouse, _RANGES, [after])
    past = pd.DataFrame(
        [
            (each.name, each.started_at, each.started_at + timedelta(seconds=each.duration_seconds))
            for each in warehouse.past_refreshes(after)
        ],
        columns=["name", "stored_at", "ended_at"],
    )
    for table in (FEATURES, PREDICTIONS):
        ends = past[past["name"] == table].sort_values("stored_at")[["stored_at", "ended_at"]]
        found = pd.merge_asof(ranges[["stored_at"]], _times(ends), on="stored_at", direction="forward")
        ranges[table] = found["ended_at"].to_numpy()
    written, queued = _frame(warehouse, _WRITTEN, [after]), _frame(warehouse, _QUEUED, [])
    emails = pd.merge_asof(written, queued, left_on="written_at", right_on="queued_at", by="customer_id").dropna()
    return [
        _of_messages("message to ledger", ranges, "stored_at"),
        _between("ledger to features", ranges, "stored_at", FEATURES),
        _between("features to score", ranges, FEATURES, PREDICTIONS),
        _of_messages("message to score", ranges, PREDICTIONS),
        _hop("score to email", (emails["written_at"] - emails["queued_at"]).dt.total_seconds(), np.ones(len(emails))),
    ]


def _frame(warehouse: Warehouse, sql: str, parameters: list[object]) -> pd.DataFrame:
    return _times(warehouse.query(sql, parameters).to_pandas())


def _times(frame: pd.DataFrame) -> pd.DataFrame:
    """Cast all times to one unit, as joins by time need it; an empty frame has no types to infer them from."""
    times = [column for column in frame.columns if column.endswith("_at")]
    return frame.astype(dict.fromkeys(times, "datetime64[us]"))


def _of_messages(name: str, ranges: pd.DataFrame, end: str) -> Hop:
    known = ranges.dropna(subset=["oldest_message_at", "newest_message_at", end])
    messages = known["messages"].to_numpy(dtype=int)
    points = np.minimum(messages, _POINTS)
    of_range = np.repeat(np.arange(len(known)), points)
    # From 0 for a range's oldest message to 1 for its newest one.
    number = np.arange(len(of_range)) - np.repeat(np.cumsum(points) - points, points)
    place = number / np.maximum(points[of_range] - 1, 1)
    oldest, newest = (
        (known[end] - known[first]).dt.total_seconds().to_numpy()[of_range]
        for first in ("oldest_message_at", "newest_message_at")
    )
    weights = (messages / np.maximum(points, 1))[of_range]
    return _hop(name, oldest + (newest - oldest) * place, weights)


def _between(name: str, ranges: pd.DataFrame, start: str, end: str) -> Hop:
    known = ranges.dropna(subset=[start, end])
    return _hop(name, (known[end] - known[start]).dt.total_seconds(), known["messages"])


def _hop(name: str, seconds: "pd.Series[float] | np.ndarray", weights: "pd.Series[float] | np.ndarray") -> Hop:
    # The clocks of several machines differ slightly; a duration is never below zero.
    return Hop(name, np.maximum(np.asarray(seconds, dtype=float), 0.0), np.asarray(weights, dtype=float))
