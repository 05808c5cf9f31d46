"""The answer to a question, as the dashboard and `churn ask` show it, and the protocol of authors.

An author writes SQL for a question that no verified query answers.
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
    """SQL that was not run, with the reason in one sentence."""

    sql: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """The answer to one question, or its refusal.

    `route` says where the question went, `why` gives the reason in one sentence, `by` what decided it. `rows` are the figures
    and `sql` is their query; `hits` are the results of a search for the words `searched` with `filters`. `taken_for` is the
    question that was answered, in the words of the verified query or of the model. `confidence` (0 to 1) tells how well the
    verified query matches; it is None if a model wrote the SQL. `refused` is all SQL that was not run. Without rows and hits,
    `refusal` gives the reason, and `nearest` lists questions that can be answered.
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
    """An author's unchecked proposal for a question: SQL for figures, words for a search, or neither.

    `reading` says how the author understood the question, or why it cannot be answered.
    """

    route: Route
    reading: str
    sql: str = ""
    words: str = ""
    suggestions: tuple[str, ...] = ()


class AuthorError(ChurnError):
    """The author gave no proposal; the message gives the reason in one line, without secrets."""


class Author(Protocol):
    """Proposes how to answer a question. It gets the semantic model and the question, never a row of data."""

    @property
    def by(self) -> By:
        """Its name in an answer."""
        ...

    def propose(self, question: str, refused: RefusedSql | None = None) -> Proposal:
        """Propose an answer, given the SQL that was refused before, if any; `AuthorError` if it cannot."""
        ...
