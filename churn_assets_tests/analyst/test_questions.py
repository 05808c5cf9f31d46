"""Which question is taken for which, and that none is taken for another one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_assets.analyst.questions import NEAREST, PHRASINGS_FILE, THRESHOLD, Questions
from churn_assets.analyst.semantic_model import load_semantic_model
from churn_assets_tests.analyst.question_set import load_questions

MODEL = load_semantic_model()
QUESTIONS = Questions(MODEL)

# None of the verified queries gives these, though some are near.
UNANSWERABLE = [asked.question for asked in load_questions() if not asked.can_be_answered] + ["risk " * 1000]


def taken(question: str) -> str | None:
    answer = QUESTIONS.take(question).answer
    return answer.query.name if answer else None


@pytest.mark.parametrize("question", UNANSWERABLE, ids=lambda question: question[:60])
def test_a_question_that_none_of_the_queries_answers_gets_none(question: str):
    assert taken(question) is None


@pytest.mark.parametrize("query", MODEL.verified_queries, ids=lambda query: query.name)
def test_a_verified_question_takes_itself_and_is_sure(query):
    answer = QUESTIONS.take(query.question).answer

    assert answer is not None
    assert (answer.query.name, answer.confidence) == (query.name, 1.0)


def test_every_other_way_to_ask_takes_its_query():
    others = QUESTIONS._phrasings.phrasings

    assert {query.name for query in MODEL.verified_queries} == others.keys()
    assert {text: taken(text) for texts in others.values() for text in texts} == {
        text: name for name, texts in others.items() for text in texts
    }


def test_the_shipped_questions_are_not_the_ways_to_ask_that_are_known():
    known = {text.lower() for texts in QUESTIONS._phrasings.phrasings.values() for text in texts}

    assert not known & {asked.question.lower() for asked in load_questions()}


def test_a_question_that_is_not_answered_gets_the_five_that_come_nearest():
    nearest = QUESTIONS.take("How many customers at high risk have had no email in the last 14 days?").nearest

    assert len(nearest) == NEAREST
    assert nearest[0].query.name == "high_risk_without_email"
    assert all(match.confidence < THRESHOLD for match in nearest)


@given(st.sampled_from(MODEL.verified_queries), st.data())
def test_a_value_that_is_added_is_never_passed_over(query, data: st.DataObject):
    values = [value for table in MODEL.tables for column in table.dimensions for value in column.sample_values]
    value = data.draw(st.sampled_from([*values, "2024", "in the last 90 days", "not", "without", "only", "except C1"]))
    words = query.question.rstrip("?").split()
    place = data.draw(st.integers(0, len(words)))
    known = frozenset[str]().union(*QUESTIONS._asked_by[query.name])

    if QUESTIONS._words(value) - known:
        assert taken(" ".join([*words[:place], value, *words[place:]])) is None


@given(st.text())
def test_any_text_is_taken_or_not_and_nothing_else(text: str):
    assert len(QUESTIONS.take(text).nearest) == NEAREST


def test_another_way_to_ask_a_query_that_is_not_there_is_an_error(tmp_path: Path):
    file = tmp_path / "phrasings.yaml"
    file.write_text(PHRASINGS_FILE.read_text() + "  nobody: [Anybody]\n")

    with pytest.raises(ValueError, match="no verified query nobody"):
        Questions(MODEL, file)
