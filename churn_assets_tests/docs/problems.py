"""What is wrong with a page of the documentation: a line for each problem, which says where it is and what to do."""

import ast
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from churn_assets_tests.docs.commands import is_variable, problem, problem_of_names
from churn_assets_tests.docs.pages import Page, command_lines, simple_commands
from churn_assets_tests.repository import REPOSITORY

Check: TypeAlias = Callable[[Page], Iterator[str]]

_LANGUAGES = {"bash", "console", "dotenv", "json", "python", "sql", "text", "toml", "yaml"}
_PROGRAMS = (
    "churn ",
    "make ",
    "dagster ",
    "pytest ",
    "python -m ",
    "uv ",
    ".venv/bin/",
    "docker compose ",
    "kubectl ",
    "cp ",
)
_VARIABLE = re.compile(r"\b((?:CHURN|SNOWFLAKE|KAFKA|OPENAI|DAGSTER)_[A-Z0-9_]+)=")


def links(page: Page) -> Iterator[str]:
    """Links to a file or a heading that is not there."""
    for line, target in page.links():
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.path.parent / path).resolve() if path else page.path
        if not there.is_file():
            yield f"{page.name}:{line}: {target}: {path} is no file; correct the link, or write the page"
        elif anchor and there.suffix == ".md" and anchor not in (anchors := Page(there).anchors()):
            yield f"{page.name}:{line}: {target}: {there.name} has no such heading; it has {', '.join(sorted(anchors))}"


def commands(page: Page) -> Iterator[str]:
    """Commands of a block of code that would not run."""
    for block in page.blocks():
        for line, command in command_lines(block):
            for words in simple_commands(command):
                if why := problem(words):
                    yield f"{page.name}:{line}: {command.strip()}: {why}"


def commands_in_sentences(page: Page) -> Iterator[str]:
    """Commands and options within a sentence that do not exist."""
    for line, span in page.spans():
        if span.startswith(_PROGRAMS) and (why := problem_of_names(span)):
            yield f"{page.name}:{line}: {span}: {why}"


def languages(page: Page) -> Iterator[str]:
    """Blocks of code without a language, in which no command is found."""
    for block in page.blocks():
        if block.language not in _LANGUAGES:
            yield f"{page.name}:{block.line}: ```{block.language}: use one of {', '.join(sorted(_LANGUAGES))}"


def python(page: Page) -> Iterator[str]:
    """Blocks of Python that do not compile, or import what does not exist."""
    for block in page.blocks():
        if block.language == "python":
            try:
                tree = ast.parse(block.code)
                imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
                exec(compile(ast.Module(imports, []), page.name, "exec"), {})
            except (SyntaxError, ImportError) as error:
                yield f"{page.name}:{block.line}: {error}; correct the code"


def paths(page: Page) -> Iterator[str]:
    """Paths within a sentence that the repository does not have."""
    folders = "|".join(re.escape(path.name) for path in REPOSITORY.iterdir() if path.is_dir() and path.name[0] != ".")
    for line, span in page.spans():
        if re.fullmatch(rf"({folders})/[\w./*-]*", span) and not list(REPOSITORY.glob(span.rstrip("/"))):
            yield f"{page.name}:{line}: the repository has no {span}; correct the path"


def variables(page: Page) -> Iterator[str]:
    """Variables that are set and are no settings."""
    code = [*page.spans(), *((block.line, block.code) for block in page.blocks())]
    for line, text in code:
        for name in _VARIABLE.findall(text):
            if not is_variable(name):
                yield f"{page.name}:{line}: {name} is no setting; see .env.example"


CHECKS: tuple[Check, ...] = (links, commands, commands_in_sentences, languages, python, paths, variables)
