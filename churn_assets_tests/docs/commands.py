"""Why a command of the documentation would not run. Nothing is run here: commands are parsed by their own parsers."""

import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import typer
import yaml
from typer.main import get_command

from churn_assets.cli import app as cli
from churn_assets.settings import Settings
from churn_assets_tests.repository import REPOSITORY

# Programs that are not ours. What they are told is the page's affair.
_OF_OTHERS = {
    "cd",
    "chmod",
    "curl",
    "docker-compose",
    "git",
    "grep",
    "helm",
    "ls",
    "mkdir",
    "openssl",
    "rm",
    "snow",
    "tail",
    "tr",
}
# Click's UsageError. Some versions of Typer carry a Click of their own.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=")
_OTHER_VARIABLES = {"ARGS", "CHURN_DEBUG", "DAGSTER_HOME", "PATH", "PYTHON", "TEST_ROUNDS"}
_PASSED_TO_KAFKA = ("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_", "KAFKA_ENABLE_")


def problem(words: list[str]) -> str | None:
    """What is wrong with one command (its words, assignments before it included), or None."""
    while words and (assignment := _ASSIGNMENT.match(words[0])):
        if not is_variable(assignment[1]):
            return f"no setting is called {assignment[1]}; see churn_assets/settings.py and .env.example"
        words = words[1:]
    if not words:
        return None
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "export":
        return problem(arguments)
    if program in _OF_OTHERS:
        return None
    check = _PROGRAMS.get(program)
    if check is None:
        return f"the tests do not know the program {program}; name it in churn_assets_tests/docs/commands.py"
    return check(arguments)


def problem_of_names(text: str) -> str | None:
    """What is wrong with a command within a sentence, such as `churn load TABLE FILE…`: only its names are looked at."""
    words = shlex.split(text.replace("…", ""), comments=True)
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program != "churn":
        return problem(words)
    command: Any = get_command(cli.app)
    for name in [argument for argument in arguments if not argument.startswith("-")]:
        if not hasattr(command, "commands") or name == "COMMAND":
            break
        if name not in command.commands:
            return f"no command is called churn {name}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = (
        {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        - options
        - {"--help", "--version"}
    )
    return f"no option {', '.join(sorted(unknown))}" if unknown else None


def is_variable(name: str) -> bool:
    """Whether a user may set a variable of this name."""
    return name in _variables() or name.startswith(_PASSED_TO_KAFKA)


@cache
def _variables() -> set[str]:
    settings = {field.alias for field in Settings.model_fields.values() if field.alias}
    compose = set(re.findall(r"\$\{(\w+)", (REPOSITORY / "docker-compose.yml").read_text()))
    of_storage = set(re.findall(r"env: (\w+)", (REPOSITORY / "docker/dagster.yaml").read_text()))
    return settings | compose | of_storage | _OTHER_VARIABLES


def _churn(arguments: list[str]) -> str | None:
    command: Any = get_command(cli.app)
    arguments = [argument for argument in arguments if argument not in ("--help", "--version")]
    with TemporaryDirectory() as folder, chdir(folder):
        for file in [argument for argument in arguments if re.fullmatch(r"[\w-]+\.(csv|parquet|ndjson)", argument)]:
            Path(file).touch()  # the reader has it, and some commands look at once whether it exists
        try:
            while arguments and hasattr(command, "commands"):
                name, *arguments = arguments
                if name not in command.commands:
                    return f"no command is called churn {name}"
                command = command.commands[name]
            if not hasattr(command, "commands"):
                command.make_context(command.name, arguments).close()
        except _UsageError as error:
            return error.format_message()
    return None


def _make(arguments: list[str]) -> str | None:
    rules = (REPOSITORY / "Makefile").read_text()
    for target in [argument for argument in arguments if "=" not in argument]:
        rule = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)*)", rules, re.MULTILINE)
        if rule is None:
            return f"the Makefile has no target {target}"
        given = next((argument.removeprefix("ARGS=") for argument in arguments if argument.startswith("ARGS=")), "")
        if module := re.search(r"python -m (benchmarks\.\w+)", rule[1]):
            return _module_options(module[1], shlex.split(given))
    return None


def _module_options(module: str, arguments: list[str]) -> str | None:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"there is no module {module}"
    source = Path(spec.origin).read_text()
    unknown = [name for name in arguments if name.startswith("--") and f'"{name}"' not in source]
    return f"{module} has no option {', '.join(unknown)}" if unknown else None


def _python(arguments: list[str]) -> str | None:
    if arguments[:1] == ["-m"]:
        return None if importlib.util.find_spec(arguments[1]) else f"there is no module {arguments[1]}"
    return _paths(arguments[:1])


def _pytest(arguments: list[str]) -> str | None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    markers = {marker.partition(":")[0] for marker in pyproject["tool"]["pytest"]["ini_options"]["markers"]}
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "-m" and not set(re.findall(r"\w+", argument)) - {"and", "or", "not"} <= markers:
            return f"no marker is called {argument}"
        if "/" in argument and (missing := _paths([argument.partition("::")[0]])):
            return missing
    return None


def _dagster(arguments: list[str]) -> str | None:
    from click import UsageError as ClickUsageError
    from dagster._cli import cli as dagster

    try:
        context = dagster.make_context("dagster", [], resilient_parsing=True)
        name, command, rest = dagster.resolve_command(context, arguments)
        assert command is not None
        with chdir(REPOSITORY):  # where the reader stands
            command.make_context(name, rest).close()
    except ClickUsageError as error:
        return error.format_message()
    return None


def _docker(arguments: list[str]) -> str | None:
    if arguments[:1] in (["build"], ["push"]):
        return None
    if arguments[:1] != ["compose"]:
        return "only docker compose, build and push are known to the tests"
    if arguments[1] != "exec":
        return None
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    return problem(arguments[3:]) if arguments[2] in services else f"docker-compose.yml has no service {arguments[2]}"


def _kubectl(arguments: list[str]) -> str | None:
    """What a container is told is ours, and so is a folder of the repository; the rest is the page's affair."""
    if "--" in arguments:
        return problem(arguments[arguments.index("--") + 1 :])
    return _paths([folder for option, folder in pairwise(arguments) if option == "-k" and "/" in folder])


def _uv(arguments: list[str]) -> str | None:
    if arguments[:1] == ["run"]:
        return problem(arguments[1:])
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    known = {"--extra": pyproject["project"]["optional-dependencies"], "--group": pyproject["dependency-groups"]}
    for option, name in pairwise(arguments):
        if option in known and name not in known[option]:
            return f"pyproject.toml has no {option.removeprefix('--')} {name}"
    return None


def _paths(arguments: list[str]) -> str | None:
    """Files that must be in the repository."""
    missing = [path for path in arguments if not path.startswith("-") and not (REPOSITORY / path).exists()]
    return f"the repository has no {', '.join(missing)}" if missing else None


def _installed(name: str) -> Callable[[list[str]], str | None]:
    there = Path(sys.executable).with_name(name).exists()
    return lambda _: None if there else f"{name} is not installed by `make install`"


_PROGRAMS: dict[str, Callable[[list[str]], str | None]] = {
    "churn": _churn,
    "make": _make,
    "python": _python,
    "pytest": _pytest,
    "dagster": _dagster,
    "docker": _docker,
    "kubectl": _kubectl,
    "uv": _uv,
    "cp": lambda arguments: _paths([argument for argument in arguments if not argument.startswith("-")][:-1]),
    ".ci/run": lambda _: _paths([".ci/run"]),
    **{name: _installed(name) for name in ("lint-imports", "mkdocs", "pre-commit", "pyright", "ruff", "sqlfluff")},
}
