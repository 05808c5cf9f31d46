"""docs/snowflake.md tells of every object of the deployment what was verified, and of no other."""

import re
from functools import cache

import pytest

from churn_assets.model.snowflake_functions import statements as model_statements
from churn_assets.operations import procedures
from churn_assets.warehouse.snowflake_names import Names
from churn_assets_tests.repository import REPOSITORY
from churn_assets_tests.snowflake.test_objects import ALL, DYNAMIC_TABLES, UNKNOWN_TO_SQLFLUFF, made_by, plain

PAGE = (REPOSITORY / "docs" / "snowflake.md").read_text()
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
KIND = re.compile(r"CREATE (?:OR REPLACE (PROCEDURE|SECURE VIEW|AGENT|STREAMLIT)|([A-Z ]+) IF NOT EXISTS) ")
# Of others that sqlfluff does not know, their query, rule or specification is read.
NOT_PARSED = {("churn_dashboard", "streamlit")}
# What the emulator keeps the definition of, and no more; but for the procedures that it runs.
ONLY_STORED = {
    *("role", "warehouse", "procedure", "task", "masking policy", "row access policy", "cortex search service"),
    *("semantic view", "agent", "streamlit"),
}


RUN = {("generate_retention_emails", "procedure"), ("process_alerts", "procedure")}


def kind(text: str) -> str:
    """What is created, in small letters."""
    found = KIND.match(text)
    return (found[1] or found[2]).lower() if found else "semantic view"


@cache
def objects() -> dict[tuple[str, str], bool]:
    """Every object by name and kind, and whether sqlfluff parses the statement that creates it."""
    own = {
        (name, kind(plain(one))): not plain(one).startswith(UNKNOWN_TO_SQLFLUFF)
        for one in ALL
        if (name := made_by(one))
    }
    model = {
        (re.findall(r"CHURN\.MAIN\.(\w+)", text)[0], kind(text)): True
        for text in model_statements("CHURN.MAIN", b"code")
    }
    of_tasks = {
        (re.findall(r"CHURN\.MAIN\.(\w+)", text)[0], kind(text)): True
        for text in procedures.statements(Names(), b"code")
    }
    return own | model | of_tasks | {(name, "dynamic table"): False for name in DYNAMIC_TABLES}


@cache
def rows() -> dict[tuple[str, str], tuple[str, str, str]]:
    table = PAGE.partition("| object | kind | parsed | emulator | live |\n")[2]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:] if line.startswith("|")
    ]
    assert len({tuple(line[:2]) for line in lines}) == len(lines), "an object is there twice"
    return {(name.strip("`"), kind_): (parsed, emulator, live) for name, kind_, parsed, emulator, live in lines}


def test_every_object_has_its_row_and_no_row_is_left_over():
    assert set(rows()) == set(objects())


@pytest.mark.parametrize("name", sorted(objects()), ids=" ".join)
def test_a_row_says_since_when_the_statement_parses_and_what_is_not_so_is_not_said(name: tuple[str, str]):
    parsed, emulator, live = rows()[name]

    assert DAY.fullmatch(parsed) if objects()[name] else parsed == ("no" if name in NOT_PARSED else "parts")
    assert emulator == "stored" if name[1] in ONLY_STORED and name not in RUN else DAY.fullmatch(emulator)
    assert live == "no" or DAY.fullmatch(live)
