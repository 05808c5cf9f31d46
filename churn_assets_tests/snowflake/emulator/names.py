"""Names of objects, as they are written and as Snowflake stores them, and statements without their comments."""

import re
from typing import TypeAlias

from churn_assets_tests.snowflake.emulator.errors import syntax_error

Name: TypeAlias = tuple[str, ...]  # database, schema, name; or the name alone of what belongs to the account

PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
NAME = rf"{PART}(?:\s*\.\s*{PART}){{0,2}}"
TEMPORARY = ("temp", "main")  # where DuckDB keeps what belongs to one session
# What is not looked into: comments, texts, quoted names and bodies.
# What begins with // is a comment, too, but not within a URL.
_OPAQUE = re.compile(
    r"--[^\n]*|(?<![:/])//[^\n]*|/\*.*?\*/|'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"|\$\$.*?\$\$", re.DOTALL
)
_COMMENTS = ("--", "//", "/*")


def parts(text: str) -> list[str]:
    """The parts of a name as Snowflake stores them: in capitals where they were not quoted."""
    if not re.fullmatch(NAME, text.strip()):
        raise syntax_error(f"unexpected '{text}'")
    return [stored(part) for part in re.findall(PART, text)]


def stored(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.upper()


def shown(name: Name) -> str:
    return ".".join(name)


def in_sql(name: Name) -> str:
    """The name in DuckDB's SQL."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name)


def text_of(literal: str) -> str:
    """What a text between quotes says."""
    if literal.startswith("$$"):
        return literal[2:-2]
    return re.sub(r"\\(.)", r"\1", literal[1:-1].replace("''", "'"))


def without_comments(sql: str) -> str:
    return _OPAQUE.sub(lambda found: " " if found[0].startswith(_COMMENTS) else found[0], sql).strip()


def blanked(sql: str) -> str:
    """The same text with the contents of texts and bodies blanked out, so that a word is found where it is a word."""
    return _OPAQUE.sub(lambda found: found[0][0] + "." * (len(found[0]) - 2) + found[0][-1], sql)
