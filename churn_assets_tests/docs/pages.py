"""The documentation as the tests read it: pages, their links, their code."""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from churn_assets_tests.repository import REPOSITORY

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the line of the page that its first line is on."""

    language: str
    code: str
    line: int


@dataclass(frozen=True)
class Page:
    """One Markdown file of the documentation."""

    path: Path

    @property
    def name(self) -> str:
        """The path from the repository's root."""
        return os.path.relpath(self.path, REPOSITORY)

    @property
    def text(self) -> str:
        """What the file holds."""
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """The text with empty lines in place of the blocks of code."""
        return _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), self.text)

    def blocks(self) -> Iterator[Block]:
        """The fenced blocks of code."""
        for fence in _FENCE.finditer(self.text):
            yield Block(fence["language"], fence["code"], self._line(fence.start("code")))

    def spans(self) -> Iterator[tuple[int, str]]:
        """Line and text of all code within sentences."""
        prose = self.prose
        for span in _SPAN.finditer(prose):
            yield prose.count("\n", 0, span.start()) + 1, span[1]

    def links(self) -> Iterator[tuple[int, str]]:
        """Line and target of all links and pictures."""
        prose = _SPAN.sub("", self.prose)
        for link in _LINK.finditer(prose):
            yield prose.count("\n", 0, link.start()) + 1, link[1] or link[2]

    def anchors(self) -> set[str]:
        """What a link may name after `#`: the headings' names that a code host and the site agree on."""
        headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in _HEADING.findall(self.prose)]
        return {_of_code_host(heading) for heading in headings} & {_of_site(heading) for heading in headings}

    def _line(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1


def pages() -> list[Page]:
    """README.md and its neighbours, all of docs/, and the README of a new project."""
    patterns = ("*.md", "docs/**/*.md", "churn_assets/operations/new_project/*.md", "dagster_warm/*.md")
    return [Page(path) for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]


def command_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Line and text of the commands of a block: all lines of `bash` and `sh`, those after a prompt of `console`."""
    if block.language not in ("bash", "sh", "console"):
        return
    number, whole = block.line, ""
    for number, line in enumerate(block.code.splitlines(), block.line):
        if block.language == "console":
            if line.startswith("$ "):
                yield number, line.removeprefix("$ ")
            continue
        whole += line.removesuffix("\\")
        if not line.endswith("\\"):
            if whole.strip() and not whole.lstrip().startswith("#"):
                yield number, whole
            whole = ""


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, between `|`, `&&`, `;` and redirections; without comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            if words:
                yield words
            words = []
        else:
            words.append(word)
    if words:
        yield words


def _of_code_host(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _of_site(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
