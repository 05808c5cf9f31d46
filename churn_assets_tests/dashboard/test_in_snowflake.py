"""The app as it would run in Snowflake: its files, what it imports, and its pages over a session that a bank's lake answers.

By documentation: no account has run it. What is shown here is that our code asks the session as it must.
"""

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from sqlfluff.core import Linter

from churn_assets.dashboard import app
from churn_assets.dashboard.files import APP_FILE, CODE_FILE, ENVIRONMENT_FILE, app_files
from churn_assets.dashboard.source import NotVisibleError, SessionSource
from churn_assets.retention.statuses import StatusError
from churn_assets.rules import ANALYST_ROLE
from churn_assets.serving.reading import LakeServing
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.dashboard.test_app import tab, words
from churn_assets_tests.repository import REPOSITORY

pytestmark = pytest.mark.heavy

# What the project has beside what environment.yml asks of Snowflake's channel.
NOT_THERE = (
    "confluent_kafka", "dagster", "dagster_dbt", "dagster_snowflake", "dbt", "duckdb", "matplotlib", "onnx", "openai", "PIL",
    "rich", "skl2onnx", "sklearn", "tantivy", "typer",
)  # fmt: skip


class Session:
    """Stands for Snowpark's session of the app; the lake answers as its owner sees it, with names in capitals."""

    def __init__(self, lake: LakeWarehouse) -> None:
        self._serving = LakeServing(lake, ANALYST_ROLE)
        self.asked: list[tuple[str, list[Any]]] = []
        self.said: list[str] = []  # by the procedure
        self.found = '{"results": []}'

    def get_current_database(self) -> str:
        return '"CHURN"'

    def get_current_schema(self) -> str:
        return '"SERVING"'

    def sql(self, sql: str, params: list[Any]) -> "Session":
        self.asked.append((sql, params))
        return self

    def to_arrow(self) -> pa.Table:
        sql, parameters = self.asked[-1]
        if sql.startswith("CALL"):
            return pa.table({"DECIDE_EMAIL": [self.said.pop(0)]})
        if "SEARCH_PREVIEW" in sql:
            return pa.table({"ANSWER": [self.found]})
        found = self._serving.query(
            sql.partition(" AT(")[0] + sql.partition(") ")[2] if " AT(" in sql else sql, parameters
        )
        return found.rename_columns([name.upper() for name in found.column_names])


@pytest.fixture
def session(bank: LakeWarehouse, monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session(bank)
    monkeypatch.setattr("snowflake.snowpark.context.get_active_session", lambda: session)
    monkeypatch.setattr(app, "find_spec", lambda name: name == "_snowflake" or None)
    app.source_of.clear()
    return session


@pytest.mark.parametrize("name", list(app.TABS))
def test_every_tab_is_drawn_over_the_apps_session(session: Session, name: str, home_of_a_bank: Path):
    page = tab(name)

    assert not page.exception
    assert not page.error
    assert page.selectbox[0].options == [ANALYST_ROLE]
    lake = open_lake(load_settings(CHURN_HOME=home_of_a_bank).lake_path)
    full_names = lake.query("SELECT full_name FROM dim_customers")["full_name"].to_pylist()
    text = words(page)
    assert not [full_name for full_name in full_names if full_name in text]
    assert not any("lake." in sql for sql, _ in session.asked)
    linter = Linter(dialect="snowflake")
    for sql in {sql for sql, _ in session.asked}:
        assert linter.parse_string(f"{sql.strip().replace('?', 'NULL')};\n").violations == [], sql


def test_a_decision_calls_the_procedure_for_each_email_and_stops_at_what_it_refuses(session: Session):
    source = SessionSource(session)
    ids = source.serving.query("SELECT intervention_id FROM written_emails WHERE status = 'READY'")["intervention_id"]
    first, second, third = ids.to_pylist()[:3]
    session.said = ["done", "it does not wait for a decision any more"]

    with pytest.raises(StatusError, match=rf"{second}: it does not wait.*; 1 before it are decided"):
        source.decide("approve", [first, second, third])

    called = [parameters for sql, parameters in session.asked if sql == "CALL decide_email(?, ?, ?, ?)"]
    assert [parameters[:2] for parameters in called] == [[first, "APPROVED"], [second, "APPROVED"]]
    with pytest.raises(NotVisibleError):
        source.decide("reject", ["somebody else's"])


def test_a_question_is_answered_and_a_search_asks_for_the_segments_that_the_session_sees(session: Session):
    agent = SessionSource(session).agent

    answer = agent.answer("How many customers are in each class of risk?")
    assert answer.rows is not None
    assert answer.rows.num_rows
    assert agent.answer("people who could not log in").hits == ()
    (service, asked) = next(parameters for sql, parameters in session.asked if "SEARCH_PREVIEW" in sql)
    assert service == "CHURN.SERVING.churn_logs_search"
    assert '{"@eq": {"segment": "MASS"}}' in asked
    assert agent.answer("how many dogs are there").refusal


def test_the_code_imports_nothing_that_snowflake_does_not_have(tmp_path: Path):
    (tmp_path / CODE_FILE).write_bytes(app_files()[CODE_FILE])
    with zipfile.ZipFile(tmp_path / CODE_FILE) as archive:
        archive.extractall(tmp_path / "code")
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_THERE!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(tmp_path / "code")!r})
import churn_assets.dashboard.app
from churn_assets.dashboard.source import SessionSource
class Session:
    def get_current_database(self): return "CHURN"
    def get_current_schema(self): return "SERVING"
print(churn_assets.__path__[0], SessionSource(Session()).agent.answer("how many dogs are there").refusal)
"""
    run = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, cwd=tmp_path)

    assert run.returncode == 0, run.stderr
    assert run.stdout.split(maxsplit=1) == [f"{tmp_path}/code/churn_assets", "I cannot answer that\n"]


def test_the_main_file_unpacks_the_code_beside_it(tmp_path: Path):
    for name, content in app_files().items():
        (tmp_path / name).write_bytes(content)
    shown = "import churn_assets; print(churn_assets.__path__[0])\n"
    (tmp_path / APP_FILE).write_text((tmp_path / APP_FILE).read_text().replace("main()\n", shown))

    run = subprocess.run([sys.executable, "-P", str(tmp_path / APP_FILE)], capture_output=True, text=True, cwd=tmp_path)

    assert "churn_assets-" in run.stdout, run.stderr


def test_the_same_code_gives_the_same_bytes():
    assert app_files() == app_files()


def test_the_snow_cli_takes_the_same_files_as_the_deployment():
    entity = yaml.safe_load((REPOSITORY / "snowflake.yml").read_text())["entities"]["churn_dashboard"]
    sources = {artifact["src"] for artifact in entity["artifacts"]}

    assert entity["main_file"] == APP_FILE
    assert sources == {
        f"churn_assets/dashboard/{APP_FILE}",
        f"churn_assets/dashboard/{ENVIRONMENT_FILE}",
        "churn_assets",
    }
    assert all((REPOSITORY / source).exists() for source in sources)


def test_the_environment_names_what_the_project_pins():
    wanted = yaml.safe_load(app_files()[ENVIRONMENT_FILE])["dependencies"]
    project = (REPOSITORY / "pyproject.toml").read_text()

    assert f"streamlit={version('streamlit')}" in wanted  # what the tests run is what the app has there
    assert not [text for text in wanted if set(text) & set("<>!~*")]  # Snowflake takes = only
    names = {text.partition("=")[0] for text in wanted}
    assert not names & set(NOT_THERE)
    assert all(
        f'"{name}' in project for name in names - {"python-dotenv", "pydantic"}
    )  # which pydantic-settings brings
