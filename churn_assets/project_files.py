"""The paths of the project's files, in a checkout and in a wheel.

`PROJECT_FILES` holds the files that are not Python: `sql/`, `dbt/`, `marketing/`, `dagster.yaml`, `workspace.yaml` and
`.env.example`. They lie beside the package in a checkout, and inside it in a wheel (`[tool.hatch.build.targets.wheel]` in
pyproject.toml). `CODE_ROOT` is the folder that Python imports the package from: the checkout, or site-packages. Nothing is
written below either of them.
"""

from collections.abc import Iterable
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from churn_assets.errors import ChurnError

_PACKAGE = Path(__file__).resolve().parent
_PACKED = _PACKAGE / "_project"
CODE_ROOT = _PACKAGE.parent
PROJECT_FILES = _PACKED if _PACKED.is_dir() else CODE_ROOT


class ProjectFilesError(ChurnError):
    """A folder of the project is missing or empty; the message says which one and what to do."""


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match a pattern, by name; `ProjectFilesError` if there are none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise ProjectFilesError(
            f"there is no {pattern} in {folder}; restore the folder from the repository or install churn-assets again"
        )
    return found


def modules_behind(*names: str) -> list[Path]:
    """The files of these modules, and of all modules of the package that they import."""
    finder = _OwnModules(path=[str(CODE_ROOT)])
    for name in names:
        finder.import_hook(name)
    return sorted(Path(path) for module in finder.modules.values() if (path := vars(module)["__file__"]))


def contents(files: Iterable[Path]) -> dict[str, bytes]:
    """The content of these files by their path below `CODE_ROOT`, sorted, as an importable zip needs them."""
    return {file.relative_to(CODE_ROOT).as_posix(): file.read_bytes() for file in sorted(set(files))}


class _OwnModules(ModuleFinder):
    """Skips other packages, which lie beside this one in site-packages."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        if path is None and name != _PACKAGE.name:
            raise ImportError(name)
        return super().find_module(name, path, parent)
