"""The shipped questions: how many are answered rightly without a language model, and that none is answered wrongly."""

import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from churn_assets.analyst.agent import Agent
from churn_assets.analyst.semantic_model import load_semantic_model
from churn_assets.clock import utc_now
from churn_assets.rules import ENGINEER_ROLE
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets.wiring import open_lake
from churn_assets_tests.analyst.question_set import NOW, NothingFound, judged, load_questions
from churn_assets_tests.serving.remembering import Remembering

ANSWERED = 0.9  # of the questions by which the rules' words were found; nobody promises anything of the others
QUESTIONS = load_questions()


@pytest.fixture(scope="module")
def busy_bank(home_of_a_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> LakeWarehouse:
    """A bank in which there is something of everything: also live scores, a failed email and old interventions of both kinds."""
    home = tmp_path_factory.mktemp("busy") / "home"
    shutil.copytree(home_of_a_bank, home)
    lake, now = open_lake(load_settings(CHURN_HOME=home).lake_path), utc_now()

    def happen(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO churn_scores_raw (score_id, customer_id, scored_at, churn_score, ingested_at)"
            " SELECT customer_id, customer_id, ?, 1.1 - row_number() OVER (ORDER BY customer_id) / 5, ? FROM dim_customers"
            " ORDER BY customer_id LIMIT 5",
            [now, now],
        )
        ids = [one for (one,) in tx.rows("SELECT intervention_id FROM agent_intervention_log ORDER BY 1 LIMIT 2")]
        tx.execute("UPDATE agent_intervention_log SET status = 'FAILED' WHERE intervention_id = ?", ids[:1])
        tx.execute(
            "UPDATE agent_intervention_log SET status = 'CONTROL', created_at = ? WHERE intervention_id = ?",
            [now - timedelta(days=50), ids[1]],
        )

    lake.transact(happen)
    lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
    return lake


@pytest.fixture(scope="module")
def right_answers(busy_bank: LakeWarehouse) -> dict[str, pa.Table]:
    """The rows of each question's own statement."""
    return {sql: busy_bank.query(sql) for sql in {asked.sql for asked in QUESTIONS if asked.sql}}


def test_nothing_is_answered_wrongly_and_enough_is_answered(
    busy_bank: LakeWarehouse, right_answers: dict[str, pa.Table]
):
    serving = Remembering(busy_bank, ENGINEER_ROLE)
    agent = Agent(load_semantic_model(), serving, NothingFound, None, lambda: NOW, stands_for={})
    verdicts = {asked: judged(agent, asked, right_answers.get(asked.sql or "")) for asked in QUESTIONS}

    for is_held_out in (False, True):
        for can_be in (True, False):
            of_these = [
                verdict
                for asked, verdict in verdicts.items()
                if (asked.is_held_out, asked.can_be_answered) == (is_held_out, can_be)
            ]
            count = Counter(of_these)
            print(  # noqa: T201
                f"{'held out' if is_held_out else 'known':9}{'can' if can_be else 'cannot'} be answered: {len(of_these)};"
                f" right {count['right']}, refused {count['refused']}, wrong {count['wrong']}"
            )

    assert not [asked.question for asked, verdict in verdicts.items() if verdict == "wrong"]
    known = {asked: verdict for asked, verdict in verdicts.items() if asked.can_be_answered and not asked.is_held_out}
    answered = [asked for asked, verdict in known.items() if verdict == "right"]
    assert len(known) >= 40
    assert len(answered) / len(known) >= ANSWERED


def test_there_are_rows_that_a_wrong_answer_would_not_have(right_answers: dict[str, pa.Table]):
    assert len({str(rows.to_pylist()) for rows in right_answers.values()}) >= len(right_answers) - 1
    assert [sql for sql, rows in right_answers.items() if not rows.num_rows] == []


def test_every_question_stands_once():
    asked = Counter(question.question for question in QUESTIONS)

    assert [question for question, times in asked.items() if times > 1] == []
