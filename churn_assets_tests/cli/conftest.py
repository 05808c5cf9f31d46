"""The command `churn`, as the shell would run it, without the second that a process takes to start."""

import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from churn_assets import wiring
from churn_assets.cli import app as cli
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets.wiring import open_lake


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Churn = Callable[..., Outcome]
COMMAND: Any = get_command(cli.app)  # Typer makes it anew for each call, which takes longer than most wrong usage


@pytest.fixture
def churn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Churn:
    """Runs a command with these arguments, and nobody who answers questions."""
    monkeypatch.setattr(cli, "app", COMMAND)
    monkeypatch.setattr(sys, "stdin", StringIO())

    def run(*arguments: str) -> Outcome:
        code = cli.run_command(arguments)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@contextmanager
def opened_once(home: Path) -> Generator[None]:
    """Let commands share a connection to a deployed home: to open one takes longer than most of them do."""
    opened: dict[tuple[object, ...], LakeWarehouse] = {}

    def open_once(given: Path | LakePlace, **options: Any) -> LakeWarehouse:
        place = LakePlace.here(given) if isinstance(given, Path) else given
        key = (str(place), *options.items())
        if Path(place.folder.absolute).parent != home:
            return open_lake(place, **options)
        if key not in opened:
            opened[key] = open_lake(place, **options)
            opened[key].deploy = lambda: None
        return opened[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "open_lake", open_once)
        yield


@pytest.fixture(scope="module")
def open_bank(home_with_two_customers: Path) -> Iterator[Path]:
    """The home of Ann and Zoë, to which the commands of a module share a connection."""
    with opened_once(home_with_two_customers):
        yield home_with_two_customers


@pytest.fixture(scope="module")
def home_with_two_customers(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that only read, or are refused: a deployed bank with Ann and Zoë."""
    home = tmp_path_factory.mktemp("two_customers") / "home"
    shutil.copytree(deployed_home, home)
    open_lake(load_settings(CHURN_HOME=home).lake_path).transact(
        lambda tx: tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
            " SELECT unnest(['C1', 'C2']), unnest(['Ann, B', 'Zoë']), 'MASS', DATE '2020-01-01', now(), now()"
        )
    )
    return home


@pytest.fixture
def bank_with_two_customers(open_bank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of Ann and Zoë, as CHURN_HOME."""
    monkeypatch.setenv("CHURN_HOME", str(open_bank))
    return open_bank


def fails_in_one_line(outcome: Outcome, *words: str, code: int = 1) -> bool:
    """The exit code, nothing on stdout, and one line on stderr that has all the words."""
    one_line = outcome.err.count("\n") == 1 and outcome.err.startswith("churn: ")
    return (outcome.code, outcome.out) == (code, "") and one_line and all(word in outcome.err for word in words)
