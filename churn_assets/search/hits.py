"""What a search is asked and what it answers, whichever engine stands behind it.

Here belong the question, the answer and the protocol between them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

DEFAULT_LIMIT = 20


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
