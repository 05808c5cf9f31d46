"""A new project: its files work as they are, and none of a user's is written over."""

import re
import tomllib
from pathlib import Path

import pytest

from churn_assets.configuration import rules
from churn_assets.operations.project import ProjectError, commented_rules, make_project
from churn_assets.rules import Rules
from churn_assets.settings import Settings, load_settings


def test_every_rule_stands_in_the_new_churn_toml_with_its_default():
    shown = re.sub(r"(?m)^#(?=\[\[|\w+ =)", "", commented_rules())

    assert Rules.model_validate(tomllib.loads(shown)) == Rules()
    assert Rules.model_validate(tomllib.loads(commented_rules())) == Rules(), "as it is, it changes nothing"


def test_a_new_project_is_read_by_every_command_and_ignores_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = make_project(tmp_path / "bank")
    monkeypatch.chdir(tmp_path / "bank")
    monkeypatch.delenv("CHURN_HOME")

    assert {path.relative_to(tmp_path / "bank").as_posix() for path in files} >= {"churn.toml", "mapping.yaml", ".env"}
    assert load_settings() == Settings()
    (tmp_path / "bank" / "churn.toml").write_text('[settings]\nCHURN_SCORE_SOURCE = "model"\n')
    assert load_settings().score_source == "model", "the .env of a new project sets nothing"
    assert rules() == Rules()
    assert (tmp_path / "bank" / ".env").stat().st_mode & 0o077 == 0
    assert ".env" in (tmp_path / "bank" / ".gitignore").read_text().splitlines()
    assert "@VERSION@" not in "".join(path.read_text() for path in files)


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path):
    (tmp_path / "churn.toml").write_text("mine")

    with pytest.raises(ProjectError, match=r"has churn\.toml already"):
        make_project(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["churn.toml"]
    assert (tmp_path / "churn.toml").read_text() == "mine"
