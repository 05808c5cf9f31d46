"""Where the rules and settings of this process come from: `churn.toml`, `.env` and the environment, read and checked as text.

Here belong finding the files and turning them into `Rules`; what a rule means is in `rules`, what a setting means in `settings`.
A process keeps the rules that it read first. Code that the deployment puts into Snowflake carries the rules of the deployment
with it (`DEPLOYED_RULES`), because there is no file.
"""

import codecs
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast, get_args

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from churn_assets.errors import ChurnError
from churn_assets.rules import Rules, nearest

ENV_FILE = ".env"  # in the folder that a command runs in
ENV_ENCODING = "utf-8-sig"  # some editors begin UTF-8 with a byte order mark, which would become part of the first name
CONFIG_FILE = "churn.toml"  # beside it, unless CHURN_CONFIG names another
CONFIG_VARIABLE = "CHURN_CONFIG"
SETTINGS = "settings"  # the section of churn.toml that `settings` reads
_MOST_SHOWN = 60  # characters of a wrong value in a message
_IN_WORDS = {
    "Input should be": "must be",
    "String should have": "must have",
    "Tuple should have": "must have",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text in quotation marks",
    "a valid tuple": "a list in brackets",
    " after validation": "",
}
DEPLOYED_RULES = "deployed_rules.json"  # beside this module, in Snowflake only


class SettingsError(ChurnError):
    """A setting, a rule or their file is wrong; the message is one line with its name and what is allowed, without secrets."""


@cache
def rules() -> Rules:
    """The bank's rules of this process, read at the first call; `SettingsError` if `churn.toml` is wrong."""
    deployed = files("churn_assets").joinpath(DEPLOYED_RULES)
    if deployed.is_file():
        return Rules.model_validate_json(deployed.read_text(encoding="utf-8"))
    path, tables = _tables()
    try:
        return Rules.model_validate({name: value for name, value in tables.items() if name != SETTINGS})
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
    raise SettingsError(f"{path}: {problems}")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys, as `section.key`, in which two sets of rules differ; both by section and key, as JSON holds them."""
    return [
        f"{section}.{key}"
        for section in {**one, **other}
        for key in {**one.get(section, {}), **other.get(section, {})}
        if one.get(section, {}).get(key) != other.get(section, {}).get(key)
    ]


def packed() -> dict[str, bytes]:
    """The rules of this process as the file that `rules` reads in Snowflake, by its path in a zip of the package."""
    return {f"churn_assets/{DEPLOYED_RULES}": rules().model_dump_json().encode()}


def settings_table() -> tuple[Path, dict[str, Any]]:
    """The path of `churn.toml`, and its section `[settings]` as it stands there; empty if there is none."""
    path, tables = _tables()
    table = tables.get(SETTINGS, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {SETTINGS}: must be a table, as in [{SETTINGS}]")
    return path, cast("dict[str, Any]", table)


def variables() -> dict[str, str]:
    """What `.env` and the environment, which overrides it, say; `SettingsError` if the file is no UTF-8."""
    path = Path(ENV_FILE)
    _decoded(path, _content(path) if path.is_file() else b"")
    found = dotenv_values(path, encoding=ENV_ENCODING) | dict(os.environ)
    return {name: value for name, value in found.items() if value}


def expanded(path: str) -> str:
    """A path whose `~` or `~user` is replaced, as a shell would: in `.env` and in containers nobody else does it."""
    if path.startswith("$"):
        raise ValueError("must be a path; no shell replaces a variable here, but in .env ${HOME} with braces is one")
    try:
        return os.fspath(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError(f"{path.partition('/')[0]} is no user of this machine") from None


def _tables() -> tuple[Path, dict[str, Any]]:
    named = variables().get(CONFIG_VARIABLE)
    try:
        path = Path(expanded(named or CONFIG_FILE))
    except ValueError as error:
        raise SettingsError(f"wrong setting: {CONFIG_VARIABLE}: {error} (got {named!r})") from None
    if not path.is_file():
        if named:
            raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which is no file; correct it or leave it out")
        return path, {}
    try:
        return path, tomllib.loads(_decoded(path.absolute(), _content(path)))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is no valid TOML: {error}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path.absolute()} cannot be read: {error.strerror}") from error


def _decoded(path: Path, content: bytes) -> str:
    """The text of a file that should be UTF-8. The error itself is not passed on: it holds the content."""
    problem = "is UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None
    try:
        text = content.decode(ENV_ENCODING) if problem is None else ""
        problem = problem or ("has a NUL character, as in UTF-16" if "\0" in text else None)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text, problem = "", f"is not UTF-8 in line {line}"
    if problem:
        raise SettingsError(f"{path.absolute()} {problem}; save it as UTF-8")
    return text


def _problem(problem: ErrorDetails) -> str:
    """One problem in words: the key, what is allowed, and what stands there."""
    key = ".".join(f"{part + 1}" if isinstance(part, int) else part for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            place, known = _keys_beside(problem["loc"])
            name = str(problem["loc"][-1])
            return f"{key}: nothing reads it{nearest(name, known)}; {place} may have {', '.join(known)}"
        case "missing":
            return f"{key}: it is missing; add it"
        case "model_type":
            return f"{key}: must be a table, as in [{key}]"
        case _:
            return f"{key}: {in_words(problem)}"


def in_words(problem: ErrorDetails) -> str:
    """What pydantic says of a value, in our words, with the value if it is short."""
    said = str(problem["msg"]).removeprefix("Value error, ")
    for theirs, ours in _IN_WORDS.items():
        said = said.replace(theirs, ours)
    given = problem["input"]
    shown = f" (got {given!r})" if isinstance(given, str | int | float) and len(f"{given}") <= _MOST_SHOWN else ""
    return f"{said[0].lower()}{said[1:]}{shown}"


def _keys_beside(place: Sequence[int | str]) -> tuple[str, list[str]]:
    """The section that a key of churn.toml stands in, as its heading, and the keys that the section may have."""
    *sections, _ = [part for part in place if isinstance(part, str)]
    model: type[BaseModel] = Rules
    for name in sections:
        annotation = model.model_fields[name].annotation
        (model,) = [
            one for one in (annotation, *get_args(annotation)) if isinstance(one, type) and issubclass(one, BaseModel)
        ]
    if not sections:
        return "churn.toml", [*Rules.model_fields, SETTINGS]
    return f"[{'.'.join(sections)}]", list(model.model_fields)
