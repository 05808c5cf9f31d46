"""Missing files of the project: an error that says what to do, never a lake without tables."""

from collections.abc import Callable
from pathlib import Path

import pytest

from churn_assets.errors import ChurnError
from churn_assets.operations import dbt, statements
from churn_assets.project_files import ProjectFilesError
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.serving import views
from churn_assets.settings import Settings
from churn_assets.warehouse import lake
from churn_assets.warehouse.lake import LakeWarehouse


@pytest.fixture(params=["empty", "missing"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose sql/ and dbt/ are empty, or not there at all."""
    if request.param == "empty":
        for folder in ("sql", "dbt", "marketing"):
            (tmp_path / folder).mkdir()
    monkeypatch.setattr(lake, "PROJECT_FILES", tmp_path)
    monkeypatch.setattr(dbt, "DBT_PROJECT", tmp_path / "dbt")
    monkeypatch.setattr(statements, "_SQL", tmp_path / "sql")
    monkeypatch.setattr(views, "_FOLDER", tmp_path / "sql/snowflake/after_dbt")
    for read_once in (statements._statements, views._views):
        read_once.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda settings: LakeWarehouse(settings.lake_path).deploy(), id="tables of the lake"),
        pytest.param(dbt.declare, id="dynamic tables"),
        pytest.param(lambda _: statements.statements(statements.Names()), id="statements of Snowflake"),
        pytest.param(lambda _: views.serving_views("A_ROLE_OF_THIS_TEST"), id="serving views"),
    ],
)
def test_an_empty_or_missing_folder_is_an_error_of_one_line_that_says_what_to_do(
    settings: Settings, project: Path, read: Callable[[Settings], object]
):
    with pytest.raises(ProjectFilesError) as raised:
        read(settings)
    (line,) = str(raised.value).splitlines()
    assert str(project) in line
    assert "install churn-assets again" in line


def test_a_missing_wording_of_the_emails_is_an_error_of_one_line_that_says_what_to_do(project: Path):
    with pytest.raises(ChurnError) as raised:
        load_prompts(project / "marketing" / "retention_email.yaml")
    assert "restore it from the repository" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
