"""What a search is asked and what it answers, whichever engine stands behind it.

Here belong the question, the answer and the protocol between them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from churn_assets.errors import ChurnError

KINDS = ("error", "case")
FILTERS = ("kind", "customer_id", "error_code", "device")
DEFAULT_LIMIT = 20
MAX_LIMIT = 1000  # as of Cortex Search


class FilterError(ChurnError):
    """A filter cannot be read; the message says what is allowed."""


@dataclass(frozen=True)
class Filters:
    """What every hit must be; None asks for nothing. `kind` is 'error' or 'case'.

    Times are UTC: from `since` on, before `until`.
    """

    kind: str | None = None
    customer_id: str | None = None
    error_code: str | None = None
    device: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Hit:
    """An error of the app or a support case. `happened_at` is UTC.

    `segment` is the customer's now, None where the customer is not known. `title` says what happened in a few words,
    `document` all that was searched. Scores compare the hits of one search with each other, not with those of another.
    """

    event_id: str
    kind: str
    customer_id: str
    segment: str | None
    error_code: str | None
    title: str
    device: str | None
    happened_at: datetime
    document: str
    score: float


class Search(Protocol):
    """Search over the app's errors and the support cases, on behalf of one role."""

    def search(self, query: str, filters: Filters, limit: int = DEFAULT_LIMIT) -> list[Hit]:
        """The hits that answer `query` best, best first and the newest of equals first; without words, the newest.

        A query is data: no character of it has a meaning of its own.
        """
        ...


def parse_filters(filters: Iterable[str], since: datetime | None, until: datetime | None) -> Filters:
    """Filters from texts `name=value`, each name at most once; `FilterError` otherwise."""
    found: dict[str, str] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if name not in FILTERS:
            raise FilterError(f"there is no filter {name!r}; filters are {', '.join(FILTERS)}")
        if not equals or not value:
            raise FilterError(f"the filter {name} needs a value: --filter {name}=…")
        if name in found:
            raise FilterError(f"the filter {name} stands twice; no event is of both {found[name]!r} and {value!r}")
        found[name] = value
    if (kind := found.get("kind")) is not None and kind not in KINDS:
        raise FilterError(f"there is no kind {kind!r}; kinds are {', '.join(KINDS)}")
    if since is not None and until is not None and since >= until:
        raise FilterError(f"nothing is from {since} on and before {until}; --since must be earlier than --until")
    return Filters(**found, since=since, until=until)
