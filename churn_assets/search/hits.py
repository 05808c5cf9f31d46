"""The interface of search, which is the same for every engine: filters, hits and the protocol `Search`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from churn_assets.errors import ChurnError

KINDS = ("error", "case")
FILTERS = ("kind", "customer_id", "error_code", "device")
DEFAULT_LIMIT = 20
MAX_LIMIT = 1000  # the maximum of Cortex Search


class FilterError(ChurnError):
    """A filter is invalid; the message says what is allowed."""


@dataclass(frozen=True)
class Filters:
    """Conditions on every hit; None means no condition. `kind` is 'error' or 'case'.

    Times are UTC: from `since` (inclusive) to `until` (exclusive).
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

    `segment` is the customer's current one; None if the customer is unknown. `title` is a short description, `document` the
    whole text that was searched, `passage` the part of it that matched. Hits are ordered by `score` as it stands here, the
    newest first among equals; scores are comparable only within one search.
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
    passage: str
    score: float


class Search(Protocol):
    """Search over the app's errors and the support cases, on behalf of one role."""

    def search(self, query: str, filters: Filters, limit: int = DEFAULT_LIMIT) -> list[Hit]:
        """The best hits for `query`, best first and newer ones first among equals; the newest ones if it has no words.

        The query is plain text without operators.
        """
        ...


def parse_filters(filters: Iterable[str], since: datetime | None, until: datetime | None) -> Filters:
    """Parse filters of the form `name=value`, each name at most once; `FilterError` otherwise."""
    found: dict[str, str] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if name not in FILTERS:
            raise FilterError(f"there is no filter {name!r}; filters are {', '.join(FILTERS)}")
        if not equals or not value:
            raise FilterError(f"the filter {name} needs a value: --filter {name}=…")
        if name in found:
            raise FilterError(f"the filter {name} is given twice; no event is both {found[name]!r} and {value!r}")
        found[name] = value
    if (kind := found.get("kind")) is not None and kind not in KINDS:
        raise FilterError(f"there is no kind {kind!r}; kinds are {', '.join(KINDS)}")
    if since is not None and until is not None and since >= until:
        raise FilterError(f"--since must be earlier than --until, but {since} is not before {until}")
    return Filters(**found, since=since, until=until)
