"""Logs stay small while their processes go on writing."""

import subprocess
import sys
from pathlib import Path

import pytest

from churn_assets.cli import logs


def test_a_log_that_has_grown_is_put_aside_and_its_process_writes_on_at_the_start_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logs, "LOG_BYTES", 10)
    log = tmp_path / "dagster.log"
    script = (
        "import sys\nfor line in sys.stdin: print('said', line.strip(), flush=True); print(file=sys.stderr, flush=True)"
    )
    with log.open("ab") as opened:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=opened, stderr=subprocess.PIPE, text=True
        )
    assert process.stdin is not None
    assert process.stderr is not None
    for line in ("one", "two"):
        print(line, file=process.stdin, flush=True)
        process.stderr.readline()
    (tmp_path / "small.log").write_text("small")

    logs.rotate(tmp_path)
    print("three", file=process.stdin, flush=True)
    process.communicate()

    assert log.read_text() == "said three\n"
    assert (tmp_path / "dagster.log.1").read_text() == "said one\nsaid two\n"
    assert (tmp_path / "small.log").read_text() == "small"
