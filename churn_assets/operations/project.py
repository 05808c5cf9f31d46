"""`churn init`: a folder of a bank's own, with the files that it changes, each as a beginning that works.

The texts are in `new_project/`; `churn.toml` is written from the models of `rules`, `.env` is `.env.example`, and Dagster's files
are those of this package.
"""

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from churn_assets.errors import ChurnError
from churn_assets.project_files import PROJECT_FILES
from churn_assets.rules import RiskRule, Rules


class ProjectError(ChurnError):
    """A project that cannot be made; the message says why and what to do."""


def make_project(folder: Path) -> list[Path]:
    """Write the files of a new project into a folder, which is made if it is missing; returns them.

    No file is written over: if one is there, `ProjectError` names it and nothing is written.
    """
    contents = {folder / name: text for name, text in _files().items()}
    if there := [path.relative_to(folder).as_posix() for path in contents if path.exists()]:
        raise ProjectError(
            f"{folder} has {', '.join(there)} already, and nothing is written over; name another folder, or move them away"
        )
    for path, text in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    (folder / ".env").chmod(0o600)
    return list(contents)


def _files() -> dict[str, str]:
    """The files of a project by name."""
    templates = files("churn_assets.operations").joinpath("new_project")

    def template(name: str) -> str:
        return templates.joinpath(name).read_text(encoding="utf-8").replace("@VERSION@", version("churn-assets"))

    return {
        "README.md": template("README.md"),
        "churn.toml": commented_rules(),
        "mapping.yaml": template("mapping.yaml"),
        ".env": commented_settings(),
        ".gitignore": template("gitignore"),
        "Dockerfile": template("Dockerfile"),
        "docker-compose.yml": template("docker-compose.yml"),
        "workspace.yaml": (PROJECT_FILES / "workspace.yaml").read_text(encoding="utf-8"),
        "dagster/dagster.yaml": (PROJECT_FILES / "dagster.yaml").read_text(encoding="utf-8"),
    }


def commented_settings() -> str:
    """`.env` with every setting as a comment: one that is set there wins over the same in `churn.toml`."""
    _, *paragraphs = (PROJECT_FILES / ".env.example").read_text(encoding="utf-8").split("\n\n")
    head = (
        "# Settings and secrets. What is commented out is a default or an example; take away the # to set it. The environment\n"
        "# wins over this file, and this file over [settings] of churn.toml."
    )
    return "\n\n".join([head, *(re.sub(r"(?m)^(?=[A-Z])", "#", paragraph) for paragraph in paragraphs)])


def commented_rules() -> str:
    """`churn.toml` with every key at its default, as a comment that says what it means."""
    sections = (_section(name, model) for name, model in Rules.sections().items())
    head = (
        "# The bank's rules. Every line that is commented out shows the default; take away the # to change it.\n"
        "# `churn doctor` checks this file; after a change run `churn deploy`.\n"
    )
    return "\n".join([head, *sections])


def _section(name: str, model: type[BaseModel]) -> str:
    about = (model.__doc__ or "").strip().split("\n")[0]
    return "\n".join([f"# {about}", f"[{name}]", *_keys(name, model)]) + "\n"


def _keys(section: str, model: type[BaseModel]) -> Iterator[str]:
    tables: list[str] = []
    for name, field in model.model_fields.items():
        if RiskRule in get_args(field.annotation):
            tables += [f"#\n# {field.description}", *(_table(f"{section}.{name}", row) for row in field.default)]
        elif field.default is None:
            yield f"# {name} is not set. {field.description}"
        else:
            yield f"# {field.description}\n#{name} = {_toml(field.default)}"
    yield from tables


def _table(heading: str, row: BaseModel) -> str:
    return "\n".join([f"#[[{heading}]]", *(f"#{name} = {_toml(value)}" for name, value in row)])


def _toml(value: Any) -> str:
    """A text, number, truth or list of texts, which TOML writes as JSON does."""
    return json.dumps(value)
