"""The agent that answers questions in words: from the figures of the semantic model, or by a search over errors and cases.

Here belongs the order of the attempts: a verified query, the rules for a search, a language model if one is configured, and
otherwise a refusal. Each attempt has its own module.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from churn_assets.analyst.answer import Answer, Author, AuthorError, Proposal, RefusedSql
from churn_assets.analyst.questions import Match, Questions
from churn_assets.analyst.search_request import SearchRequest, Unsure, asks_for_events, read_filters, read_request
from churn_assets.analyst.semantic_model import SemanticModel, on_views
from churn_assets.search.hits import Search
from churn_assets.serving import guard
from churn_assets.serving.reading import Serving
from churn_assets.warehouse.protocol import WarehouseError

MAX_QUESTION_CHARACTERS = 500
_TRIES = 2  # of an author: it may correct refused SQL once
_ADDRESS = re.compile(r"\S@\S")


class Agent:
    """Answers questions on behalf of one role."""

    def __init__(
        self,
        model: SemanticModel,
        serving: Serving,
        open_search: Callable[[], Search],
        author: Author | None,
        clock: Callable[[], datetime],
        stands_for: Mapping[str, str],
    ) -> None:
        """`clock` returns the time in UTC; `stands_for` is passed to `guard.checked`."""
        self._model = model
        self._questions = Questions(model)
        self._serving = serving
        self._open_search = open_search
        self._author = author
        self._clock = clock
        self._stands_for = stands_for

    def answer(self, question: str) -> Answer:
        """The answer, or a refusal with its reason. `ChurnError` only if the warehouse or the search fails."""
        taken = self._questions.take(question)
        if taken.answer:
            return self._verified(question, taken.answer)
        unanswered = Answer(
            question,
            "none",
            "it is not one of the verified questions",
            nearest=tuple(match.query.question for match in taken.nearest),
        )
        if len(question) > MAX_QUESTION_CHARACTERS:
            refusal = f"the question has {len(question):,} characters; at most {MAX_QUESTION_CHARACTERS} are read"
            return replace(unanswered, refusal=refusal)
        request = read_request(question, self._clock())
        is_for_events = asks_for_events(question)
        if is_for_events and isinstance(request, SearchRequest):
            why = "it asks for errors or cases, not for figures"
            return self._searched(replace(unanswered, why=why, by="rules"), request)
        if self._author:
            return self._authored(unanswered, self._author)
        if is_for_events and isinstance(request, Unsure):
            why = "it seems to ask for errors or cases, but the search cannot do all of it"
            return replace(unanswered, why=why, refusal=request.why)
        return replace(unanswered, refusal="I cannot answer that")

    def _verified(self, question: str, match: Match) -> Answer:
        sql = self._on_views(match.query.sql)
        return Answer(
            question,
            "figures",
            "it is a verified question",
            by="verified",
            taken_for=match.query.question,
            confidence=match.confidence,
            sql=sql,
            rows=self._serving.query(sql),
        )

    def _searched(self, answer: Answer, request: SearchRequest) -> Answer:
        hits = self._open_search().search(request.words, request.filters)
        return replace(
            answer,
            route="search",
            searched=request.words,
            filters=request.filters,
            hits=tuple(hits),
            nearest=(),
        )

    def _authored(self, unanswered: Answer, author: Author) -> Answer:
        if _ADDRESS.search(unanswered.question):
            return replace(
                unanswered, refusal="a question with an email address goes to no language model; leave it out"
            )
        answer = replace(unanswered, by=author.by)
        try:
            for _ in range(_TRIES):
                proposal = author.propose(answer.question, answer.refused[-1] if answer.refused else None)
                if proposal.route != "figures":
                    return self._not_figures(answer, proposal)
                why = "it is not a verified question, so a language model wrote SQL"
                answer = replace(answer, route="figures", why=why, taken_for=proposal.reading)
                try:
                    sql = self._on_views(proposal.sql)
                except guard.RefusedSqlError as error:
                    answer = replace(answer, refused=(*answer.refused, RefusedSql(proposal.sql, str(error))))
                else:
                    return self._run(answer, sql)
        except AuthorError as error:
            return replace(answer, refusal=str(error))
        return replace(answer, refusal=f"the SQL of the language model may not run: {answer.refused[-1].reason}")

    def _run(self, answer: Answer, sql: str) -> Answer:
        try:
            rows = self._serving.query(sql)
        # The engine's message does not go back to the model, as it may quote a row.
        except WarehouseError as error:
            return replace(answer, sql=sql, refusal=f"the SQL failed: {str(error).splitlines()[0]}")
        return replace(answer, sql=sql, rows=rows, nearest=())

    def _not_figures(self, answer: Answer, proposal: Proposal) -> Answer:
        if proposal.route == "search":
            answer = replace(answer, why="a language model takes it for a search", taken_for=proposal.reading)
            request = read_filters(answer.question, self._clock())
            if isinstance(request, Unsure):
                return replace(answer, refusal=request.why)
            return self._searched(answer, replace(request, words=proposal.words or request.words))
        why = "it is not a verified question, and the language model says that the figures do not answer it"
        nearest = proposal.suggestions or answer.nearest
        return replace(answer, route="none", why=why, refusal=proposal.reading, nearest=nearest)

    def _on_views(self, sql: str) -> str:
        """The SQL that is run and shown, after it has been checked; `RefusedSqlError` if it may not run."""
        dialect = self._serving.dialect
        checked = guard.checked(sql, self._model.columns_of_tables, dialect=dialect, stands_for=self._stands_for)
        return on_views(self._model, checked, dialect)
