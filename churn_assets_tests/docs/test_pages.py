"""README and docs hold what they say: links lead somewhere, commands run, names exist."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from churn_assets.automation.jobs import JOBS
from churn_assets.cli import app as cli
from churn_assets.settings import Settings
from churn_assets.wiring import open_lake
from churn_assets_tests.docs.pages import Page, command_lines, pages, simple_commands
from churn_assets_tests.docs.problems import CHECKS, Check
from churn_assets_tests.repository import REPOSITORY

PAGES = pages()
QUERIES = sorted(
    {
        (page.name, words[words.index("query") + 1])
        for page in PAGES
        for block in page.blocks()
        for _, line in command_lines(block)
        for words in simple_commands(line)
        if words[:2] == ["churn", "query"]
    }
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_page_has_a_problem(check: Check):
    found = [line for page in PAGES for line in check(page)]

    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a](nowhere.md)", "page.md:1: nowhere.md: nowhere.md is no file; correct the link"),
        ("# There\n[a](#nowhere)", "page.md:2: #nowhere: page.md has no such heading; it has there"),
        ("```bash\nchurn nothing\n```", "page.md:2: churn nothing: no command is called churn nothing"),
        ("```bash\nchurn status --nothing\n```", "No such option: --nothing"),
        ("```bash\nchurn produce --events few\n```", "Invalid value for '--events'"),
        ("```console\n$ churn suppress\n```", "Missing argument"),
        ("```bash\nmake nothing\n```", "the Makefile has no target nothing"),
        ("```bash\nmake benchmark-lag ARGS='--nothing 1'\n```", "benchmarks.lag has no option --nothing"),
        ("```bash\npython -m churn_assets.nothing\n```", "there is no module churn_assets.nothing"),
        ("```bash\ndagster dev --nothing\n```", "dagster dev --nothing: No such option"),
        ("```bash\nCHURN_NOTHING=1 churn status\n```", "no setting is called CHURN_NOTHING"),
        ("```bash\nfrobnicate\n```", "the tests do not know the program frobnicate"),
        ("Run `churn nothing` now.", "no command is called churn nothing"),
        ("Run `churn load TABLE FILE… --nothing` now.", "no option --nothing"),
        ("```\nchurn status\n```", "```: use one of bash"),
        ("```python\nfrom churn_assets.rules import NOTHING\n```", "cannot import name 'NOTHING'"),
        ("See `churn_assets/nothing.py`.", "the repository has no churn_assets/nothing.py"),
        ("Set `CHURN_NOTHING=1`.", "CHURN_NOTHING is no setting"),
    ],
)
def test_a_problem_is_found_and_said(tmp_path: Path, text: str, said: str):
    (tmp_path / "page.md").write_text(text)

    assert said in "\n".join(line for check in CHECKS for line in check(Page(tmp_path / "page.md")))


def test_the_runbook_names_every_job_and_no_other():
    runbook = Page(REPOSITORY / "docs" / "runbook.md").text
    table = runbook.partition("| job |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))

    assert named == {job.name for job in JOBS}, "correct the table of jobs in docs/runbook.md"


def test_the_page_of_commands_names_every_command():
    page = Page(REPOSITORY / "docs" / "commands.md").text
    named = {word for command in re.findall(r"`churn ([^`]+)`", page) for word in command.split()[:2]}
    named |= set(re.findall(r"`([a-z]+)[^`]*`", page))  # further commands of a group
    group: Any = get_command(cli.app)
    commands = {name: [*getattr(command, "commands", ())] for name, command in group.commands.items()}
    missing = [name for name, below in commands.items() for name in (name, *below) if name not in named]

    assert not missing, "add them to docs/commands.md"


@pytest.mark.parametrize(("page", "sql"), QUERIES)
def test_every_query_of_the_pages_runs(settings: Settings, page: str, sql: str):
    open_lake(settings.lake_path, read_only=True).query(sql)
