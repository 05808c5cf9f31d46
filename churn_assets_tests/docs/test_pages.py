"""README and docs hold what they say: links lead somewhere, commands run, names exist."""

import ast
import re
from collections.abc import Iterable

import pytest

from churn_assets.automation.jobs import JOBS
from churn_assets.settings import Settings
from churn_assets.wiring import open_lake
from churn_assets_tests.docs.commands import is_variable, problem, problem_of_names
from churn_assets_tests.docs.pages import Page, command_lines, pages, simple_commands
from churn_assets_tests.repository import REPOSITORY

PAGES = pages()
LANGUAGES = {"bash", "console", "dotenv", "json", "python", "sql", "text", "toml", "yaml"}
PROGRAMS = ("churn ", "make ", "dagster ", "pytest ", "python -m ", "uv ", ".venv/bin/", "docker compose ", "cp ")
of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def none(problems: Iterable[str]) -> None:
    """Fail with a line for each problem."""
    found = list(problems)
    assert not found, "\n" + "\n".join(found)


@of_every_page
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Page):
    def wrong(target: str) -> str | None:
        path, _, anchor = target.partition("#")
        there = (page.path.parent / path).resolve() if path else page.path
        if not there.is_file():
            return f"{path} is no file; correct the link, or write the page"
        if anchor and there.suffix == ".md" and anchor not in Page(there).anchors():
            return f"{there.name} has no heading #{anchor}; it has {', '.join(sorted(Page(there).anchors()))}"
        return None

    none(
        f"{page.name}:{line}: {target}: {why}"
        for line, target in page.links()
        if not re.match(r"(https?|mailto):", target) and (why := wrong(target))
    )


@of_every_page
def test_every_command_in_a_block_of_code_parses(page: Page):
    none(
        f"{page.name}:{line}: {command.strip()}: {why}"
        for block in page.blocks()
        for line, command in command_lines(block)
        for words in simple_commands(command)
        if (why := problem(words))
    )


@of_every_page
def test_every_command_in_a_sentence_exists(page: Page):
    none(
        f"{page.name}:{line}: {span}: {why}"
        for line, span in page.spans()
        if span.startswith(PROGRAMS) and (why := problem_of_names(span))
    )


@of_every_page
def test_every_block_of_code_says_its_language_so_that_commands_are_found(page: Page):
    none(
        f"{page.name}:{block.line}: ```{block.language}: use one of {', '.join(sorted(LANGUAGES))}"
        for block in page.blocks()
        if block.language not in LANGUAGES
    )


@of_every_page
def test_every_block_of_python_compiles_and_imports_what_exists(page: Page):
    for block in page.blocks():
        if block.language == "python":
            tree = ast.parse(block.code)
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), f"{page.name}:{block.line}", "exec"), {})


@of_every_page
def test_every_path_in_a_sentence_is_in_the_repository(page: Page):
    folders = "|".join(re.escape(path.name) for path in REPOSITORY.iterdir() if path.is_dir() and path.name[0] != ".")
    none(
        f"{page.name}:{line}: the repository has no {span}; correct the path"
        for line, span in page.spans()
        if re.fullmatch(rf"({folders})/[\w./*-]*", span)
        and "target" not in span
        and not list(REPOSITORY.glob(span.rstrip("/")))
    )


@of_every_page
def test_every_variable_that_a_page_sets_is_a_setting(page: Page):
    code = [(line, span) for line, span in page.spans()]
    code += [(block.line, block.code) for block in page.blocks()]
    none(
        f"{page.name}:{line}: {name} is no setting; see .env.example"
        for line, text in code
        for name in re.findall(r"\b((?:CHURN|SNOWFLAKE|KAFKA|OPENAI|DAGSTER)_[A-Z0-9_]+)=", text)
        if not is_variable(name)
    )


def test_the_runbook_names_every_job_and_no_other():
    runbook = Page(REPOSITORY / "docs" / "runbook.md").text
    table = runbook.partition("| job |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))

    assert named == {job.name for job in JOBS}, "correct the table of jobs in docs/runbook.md"


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


@pytest.mark.parametrize(("page", "sql"), QUERIES)
def test_every_query_of_the_pages_runs(settings: Settings, page: str, sql: str):
    open_lake(settings.lake_path, read_only=True).query(sql)
