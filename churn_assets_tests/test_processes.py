"""Processes that run with other settings than this one are found; those that have ended are not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_assets import processes
from churn_assets.errors import ChurnError
from churn_assets.operations.doctor import _processes
from churn_assets.settings import load_settings

_RUNS = """
from churn_assets.clock import utc_now
from churn_assets.processes import announce
from churn_assets.settings import load_settings
announce(load_settings(), "code server", utc_now())
announce(load_settings(), "code server", utc_now())
print("announced", flush=True)
input()
"""


@pytest.fixture
def code_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process with settings of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("CHURN_ON_GAP", "skip")
        patch.setenv("CHURN_REFRESH", "eager")
        patch.setenv("CHURN_SMTP_URL", "smtp://ann:s3cret@mail.example")
        process = subprocess.Popen(
            [sys.executable, "-c", _RUNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "announced\n"
    yield process
    process.kill()
    process.communicate()


def test_the_doctor_names_the_settings_that_differ_and_no_secret(code_server: subprocess.Popen[str]):
    with pytest.raises(ChurnError, match="CHURN_ON_GAP is skip there and fail here") as caught:
        _processes(load_settings())

    assert "CHURN_REFRESH" not in str(caught.value), "the demo sets it for its processes"
    (file,) = (load_settings().home.absolute() / "processes").iterdir()
    assert "s3cret" not in file.read_text() + str(caught.value)
    assert "CHURN_ON_GAP" in file.read_text()


def test_a_process_that_was_killed_is_forgotten(code_server: subprocess.Popen[str], tmp_path: Path):
    assert [one.name for one in processes.running(load_settings())] == ["code server"]

    code_server.kill()
    code_server.wait()

    assert processes.running(load_settings()) == []
    assert not list((load_settings().home.absolute() / "processes").iterdir())
    assert "none runs" in _processes(load_settings())


def test_other_rules_are_named_without_being_quoted(code_server: subprocess.Popen[str], with_rules):
    with_rules("[risk]\nhigh_from = 0.8\n")

    with pytest.raises(ChurnError, match=r"skip there and fail here, churn\.toml;"):
        _processes(load_settings())
