"""Nonsense for every parameter of every command. The commands are read from the application, so a new one is tried as well.

Text that people pass is a value, whatever it says: it is stored, looked for or refused, never run. A number or a date that is
none is wrong usage. Whatever fails is one line.
"""

from typing import Any

import pytest

from churn_assets import wiring
from churn_assets.settings import load_settings
from churn_assets_tests.cli.conftest import COMMAND, Churn, Outcome, fails_in_one_line

NO_TEXT = ["Zo\udceb", "C1\x00"]
NO_NUMBER = ["", "x", "-1", "nan", "inf", "-inf", "1e999", "9" * 40, "0x10", "1,5", "٣x"]
NO_DAY = ["", "yesterday", "2026-13-01", "2026-02-30", "99999-01-01", "01/02/2026", "9" * 40]
NO_CHOICE = ["", "nope", "LOCAL ", "*"]
# One text has what quick tests can try at once; the slow test tries more, one by one.
TEXT = "C1'; DROP TABLE dim_customers; --[/x]\x1b[31m?${HOME}`id`\n%s{0}Zoë"
MORE_TEXTS = [
    "' OR '1'='1",
    "C1' UNION SELECT full_name FROM dim_customers --",
    "$1; DELETE FROM dim_customers",
    "[bold]x[/x]",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "\u202eright to left",
    "é" * 100_000,
    "(" * 5_000,
]
# What another parameter needs, so that the one that is tried is looked at.
FITTING = {
    "sql": "SELECT 1",
    "table": "support_cases",
    "files": "none.csv",
    "file": "none.csv",
    "features": "own.csv",
    "label": "left",
    "was_sent": None,  # a flag
    "version": "1",
}


def _leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [leaf for name, below in command.commands.items() for leaf in _leaves(below, (*path, name))]


COMMANDS = dict(_leaves(COMMAND))


def line(command: tuple[str, ...], parameter: Any, value: str) -> list[str]:
    """A command line that gives one parameter the value and every other that is required one that fits."""
    options, arguments = list[str](), list[str]()
    for one in COMMANDS[command].params:
        if one is not parameter and not one.required:
            continue
        text = value if one is parameter else FITTING.get(one.name, "C1")
        if one.param_type_name == "argument":
            arguments.append(text or "")
        else:
            options += [one.opts[0]] if text is None else [f"{one.opts[0]}={text}"]
    return [*command, *options, "--", *arguments]


def _kind(parameter: Any) -> str:
    described = parameter.type_descriptor
    annotation = str(described.annotation)
    if described.is_choice:
        return "choice"
    if described.is_datetime:
        return "day"
    if "int" in annotation or "float" in annotation:
        return "number"
    return "flag" if "bool" in annotation else "text"


PARAMETERS = [
    pytest.param(command, parameter, id=" ".join([*command, parameter.name]))
    for command, leaf in COMMANDS.items()
    for parameter in leaf.params
    if parameter.name != "help" and _kind(parameter) != "flag"
]
WRONG = {"number": NO_NUMBER, "day": NO_DAY, "choice": NO_CHOICE}


def is_short(outcome: Outcome) -> bool:
    """Whether a failure was said in one line, without a traceback or a sign that steers the terminal."""
    said = outcome.out + outcome.err
    clean = "Traceback" not in said and "unexpected" not in outcome.err and "\x1b" not in said and "\x00" not in said
    if outcome.code == 0:
        return clean
    return clean and outcome.err.startswith("churn: ") and outcome.err.count("\n") == 1 and len(outcome.err) < 1200


def test_every_kind_of_parameter_is_tried():
    assert len(COMMANDS) >= 25
    assert {_kind(parameter) for _, parameter in (one.values for one in PARAMETERS)} == {*WRONG, "text"}


@pytest.mark.parametrize(("command", "parameter"), PARAMETERS)
def test_what_is_no_value_is_refused_before_anything_begins(churn: Churn, command: tuple[str, ...], parameter: Any):
    for value in NO_TEXT:
        assert fails_in_one_line(churn(*line(command, parameter, value)), "is no text"), value
    for value in WRONG.get(_kind(parameter), []):
        assert fails_in_one_line(churn(*line(command, parameter, value)), "--help`", code=2), value
    assert not load_settings().home.exists()


def _try_text(churn: Churn, command: tuple[str, ...], parameter: Any, texts: list[str]) -> None:
    lake = wiring.open_lake(load_settings().lake_path)  # the one that the commands read, too
    before = lake.query("SELECT * FROM dim_customers")
    for text in texts:
        outcome = churn(*line(command, parameter, text))
        assert is_short(outcome), (text[:50], outcome)
        assert "Ann, B" not in outcome.out + outcome.err, text
    assert lake.query("SELECT * FROM dim_customers") == before


TEXT_PARAMETERS = [one for one in PARAMETERS if _kind(one.values[1]) == "text"]


@pytest.mark.usefixtures("bank_with_two_customers")
@pytest.mark.parametrize(("command", "parameter"), TEXT_PARAMETERS)
def test_no_text_is_run(churn: Churn, command: tuple[str, ...], parameter: Any):
    _try_text(churn, command, parameter, [TEXT, ""])


@pytest.mark.slow
@pytest.mark.usefixtures("bank_with_two_customers")
@pytest.mark.parametrize(("command", "parameter"), TEXT_PARAMETERS)
def test_no_text_of_any_kind_is_run(churn: Churn, command: tuple[str, ...], parameter: Any):
    _try_text(churn, command, parameter, MORE_TEXTS)
