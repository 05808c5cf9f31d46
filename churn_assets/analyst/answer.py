"""What becomes of a question: the answer as the dashboard and `churn ask` show it, or why there is none.

Here belong the answer, and the protocol of those who write SQL for a question that no verified query answers.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import pyarrow as pa

from churn_assets.errors import ChurnError
from churn_assets.search.hits import Filters, Hit

Route: TypeAlias = Literal["figures", "search", "none"]
By: TypeAlias = Literal["verified", "rules", "model", "cortex"]


@dataclass(frozen=True)
class RefusedSql:
    """SQL that somebody wrote and that did not run, with the sentence that says why."""

    sql: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """The answer to one question, or its refusal.

    `route` is where the question went, `why` says for what reason in one sentence. `rows` are the figures and `sql` is what
    gave them; `hits` are what a search for the words `searched` with `filters` found. `taken_for` is the question that was
    answered, in the words of the verified query or of the model; `confidence` (0 to 1) how sure the verified query is to be the
    one, None where a model wrote. `refused` is every SQL that did not run. Without rows and hits, `refusal` says why, and
    `nearest` are questions that can be answered.
    """

    question: str
    route: Route
    why: str
    by: By | None = None
    taken_for: str | None = None
    confidence: float | None = None
    sql: str | None = None
    rows: pa.Table | None = None
    searched: str | None = None
    filters: Filters | None = None
    hits: tuple[Hit, ...] | None = None
    refused: tuple[RefusedSql, ...] = ()
    refusal: str | None = None
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """What an author makes of a question, unchecked: SQL for figures, words for a search, or neither.

    `reading` says how the question was understood, or why it cannot be answered.
    """

    route: Route
    reading: str
    sql: str = ""
    words: str = ""
    suggestions: tuple[str, ...] = ()


class AuthorError(ChurnError):
    """There was no proposal; the message says why in one line, without secrets."""


class Author(Protocol):
    """Proposes how to answer a question. It gets the semantic model and the question, never a row of data."""

    @property
    def by(self) -> By:
        """What it is called in an answer."""
        ...

    def propose(self, question: str, refused: RefusedSql | None = None) -> Proposal:
        """A proposal, after one that was refused where there was one; `AuthorError` where nothing can be had."""
        ...
