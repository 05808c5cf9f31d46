"""The wheel: what is in it, and that it runs where there is no checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from churn_assets.dashboard.files import CODE_FILE, app_files
from churn_assets.model.artefact import digest
from churn_assets.model.snowflake_functions import package_zip
from churn_assets_tests.repository import REPOSITORY

PACKED = "churn_assets/_project/"
PACKAGES = ("churn_assets", "dagster_warm")
PROJECT = (
    ".env.example",
    "dagster.yaml",
    "dbt",
    "marketing",
    "sql",
    "workspace.yaml",
)  # what the product reads and Python does not import


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        check=True, capture_output=True, cwd=REPOSITORY,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def run_installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program of an environment with the wheel in it, in a folder with nothing in it, and gives what it prints.

    The dependencies are those of the tests' environment; its link to this checkout is not followed.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    environment, empty = folder / "env", folder / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=True)
    programs = environment / "bin"
    subprocess.run(
        [programs / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], check=True
    )
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Python follows no .pth file of a folder that a .pth file names, so the editable installation is not seen.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("CHURN_", "PYTHON", "KAFKA_"))}

    def run(program: str, *arguments: str) -> str:
        before = _state(site_packages)
        done = subprocess.run(
            [programs / program, *arguments],
            capture_output=True,
            text=True,
            cwd=empty,
            env=outside | {"CHURN_HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert _state(site_packages) == before, "the command wrote into site-packages, which another user may own"
        assert list(empty.iterdir()) == [], "the command wrote into the folder that it was run in"
        return done.stdout

    return run


def _state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_wheel_holds_every_file_of_the_package_and_of_the_project_and_nothing_else(wheel: Path):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKAGES, *PROJECT],
        check=True, capture_output=True, text=True, cwd=REPOSITORY,
    ).stdout.split("\0")  # fmt: skip
    files = [Path(name) for name in listed if name and (REPOSITORY / name).is_file()]
    expected = {
        (name if path.parts[0] in PACKAGES else PACKED + name): (REPOSITORY / path).read_bytes()
        for path in files
        for name in [path.as_posix()]
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name: archive.read(name) for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")
        }
    todo = "see [tool.hatch.build.targets.wheel] in pyproject.toml"
    missing = sorted(set(expected) - set(packed))
    assert not missing, f"the wheel lacks {missing}: pack them, {todo}"
    surplus = sorted(set(packed) - set(expected))
    assert not surplus, f"the wheel holds {surplus}, which the product does not need: leave them out, {todo}"
    changed = sorted(name for name, content in expected.items() if packed[name] != content)
    assert not changed, f"the wheel holds another version of {changed}: {todo}"
    assert all(f"{package}/py.typed" in packed for package in PACKAGES), "without py.typed nobody sees the types"


@pytest.mark.wheel
def test_the_installed_wheel_is_what_runs_and_not_the_checkout(run_installed: Callable[..., str]):
    place = run_installed("python", "-c", "import churn_assets; print(churn_assets.__file__)")
    assert not Path(place.strip()).is_relative_to(REPOSITORY)
    assert "site-packages" in place


@pytest.mark.wheel
def test_help_deploy_and_check_work_where_there_is_no_checkout(run_installed: Callable[..., str]):
    assert "--customers" in run_installed("churn", "demo", "--help")
    run_installed("churn", "deploy")
    assert json.loads(run_installed("churn", "query", "--json", "SELECT count(*) AS rows FROM dim_customers")) == [
        {"rows": 0}
    ]
    assert "dyn_churn_predictions" in run_installed("churn", "check")


@pytest.mark.wheel
def test_the_wheel_sends_the_same_code_and_statements_to_snowflake_as_the_checkout(run_installed: Callable[..., str]):
    said = run_installed(
        "python", "-c",
        "import json\n"
        "from churn_assets.dashboard.files import app_files, CODE_FILE\n"
        "from churn_assets.model.artefact import digest\n"
        "from churn_assets.model.snowflake_functions import package_zip\n"
        "print(json.dumps([digest(package_zip()), digest(app_files()[CODE_FILE])]))",
    )  # fmt: skip
    assert json.loads(said) == [digest(package_zip()), digest(app_files()[CODE_FILE])]
