"""The shipped questions with their answers, and how an agent is judged by them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict

from churn_assets.analyst.agent import Agent
from churn_assets.analyst.answer import Answer
from churn_assets.search.hits import Filters, Hit
from churn_assets_tests.repository import REPOSITORY

QUESTIONS_FILE = REPOSITORY / "benchmarks" / "questions.yaml"
NOW = datetime(2026, 11, 30, 12)  # of the questions under `searched`

Verdict = Literal["right", "refused", "wrong"]


class _Questions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    questions: list[str] = []
    held_out: list[str] = []


class _Figures(_Questions):
    sql: str


class _Searched(_Questions):
    words: list[str] = []
    filters: dict[str, Any] = {}


class _Set(BaseModel):
    model_config = ConfigDict(extra="forbid")

    figures: list[_Figures]
    searched: list[_Searched]
    refused: _Questions


@dataclass(frozen=True)
class Asked:
    """A question with what is right: the rows of `sql`, a search, or, without either, a refusal."""

    question: str
    is_held_out: bool
    sql: str | None = None
    words: tuple[str, ...] = ()
    filters: Filters | None = None

    @property
    def can_be_answered(self) -> bool:
        return self.sql is not None or self.filters is not None


class NothingFound:
    """A search that finds nothing."""

    def search(self, query: str, filters: Filters, limit: int = 20) -> list[Hit]:
        return []


def load_questions() -> list[Asked]:
    """All questions, each once."""
    content = _Set.model_validate(yaml.safe_load(QUESTIONS_FILE.read_text()))
    return [
        *(Asked(text, held, sql=part.sql) for part in content.figures for text, held in _texts(part)),
        *(
            Asked(text, held, words=tuple(part.words), filters=Filters(**part.filters))
            for part in content.searched
            for text, held in _texts(part)
        ),
        *(Asked(text, held) for text, held in _texts(content.refused)),
    ]


def judged(agent: Agent, asked: Asked, reference: pa.Table | None) -> Verdict:
    """What the agent's answer is worth; `reference` are the rows of the question's SQL."""
    answer = agent.answer(asked.question)
    if answer.refusal is not None:
        return "right" if not asked.can_be_answered and answer.rows is None and answer.hits is None else "refused"
    if reference is not None:
        return "right" if answer.route == "figures" and _has_rows(answer, reference) else "wrong"
    found = answer.route == "search" and answer.filters == asked.filters
    return "right" if found and all(words in (answer.searched or "") for words in asked.words) else "wrong"


def _texts(part: _Questions) -> Iterator[tuple[str, bool]]:
    yield from ((text, False) for text in part.questions)
    yield from ((text, True) for text in part.held_out)


def _has_rows(answer: Answer, reference: pa.Table) -> bool:
    rows = answer.rows
    if rows is None or not set(reference.column_names) <= set(rows.column_names):
        return False
    return _rounded(rows.select(reference.column_names)) == _rounded(reference)


def _rounded(rows: pa.Table) -> list[list[Any]]:
    return [
        [
            round(float(value), 6) if isinstance(value, (int, float)) or hasattr(value, "as_tuple") else value
            for value in row.values()
        ]
        for row in rows.to_pylist()
    ]
