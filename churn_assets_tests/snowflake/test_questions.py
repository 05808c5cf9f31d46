"""Questions in words on the emulated account: the session's role, the serving views and SQL in Snowflake's dialect."""

import pytest

from churn_assets.analyst.semantic_model import load_semantic_model
from churn_assets.rules import ENGINEER_ROLE
from churn_assets.settings import Settings
from churn_assets.wiring import open_agent

pytestmark = pytest.mark.emulator


def test_every_verified_question_is_answered_there_too(deployed: Settings):
    agent = open_agent(deployed, ENGINEER_ROLE)

    for query in load_semantic_model().verified_queries:
        answer = agent.answer(query.question)
        assert (answer.route, answer.by, answer.refusal) == ("figures", "verified", None)
        assert answer.rows is not None
