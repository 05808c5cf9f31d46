"""How a command ends when something beneath it fails: one line, its exit code, and nothing else."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from churn_assets import settings as settings_module
from churn_assets.cli import questions
from churn_assets.cli.endings import INTERRUPTED, PIPE_CLOSED, said
from churn_assets.cli.shown import console
from churn_assets.settings import acting_user, load_settings
from churn_assets_tests.cli.conftest import Churn, fails_in_one_line

QUERY = ("query", "SELECT 1 AS one")


def raising(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_what_nobody_thought_of_is_one_line_and_its_traceback_is_there_on_demand(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(questions, "open_warehouse", raising(ValueError("first\n\tsecond")))

    assert fails_in_one_line(churn(*QUERY), "unexpected ValueError: first second; CHURN_DEBUG=1")
    monkeypatch.setenv("CHURN_DEBUG", "1")
    assert "Traceback" in churn(*QUERY).err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "/x/y cannot be written (No space left on device); free",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x may not be used (Permission denied); change"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x may not be used (Read-only file system); change"),
        (OSError(errno.EIO, "Input/output error", b"/x"), "/x cannot be used (Input/output error); name another place"),
        (MemoryError(), "the memory is used up"),
        (OSError("odd"), "unexpected OSError: odd"),
        (RuntimeError(), "unexpected RuntimeError: without a message"),
    ],
)
def test_what_the_system_refuses_is_said_with_what_to_do(error: BaseException, words: str):
    assert words in said(error)


def test_ctrl_c_ends_a_command_with_130_even_where_a_library_makes_another_error_of_it(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
):
    def library(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("a thread of mine was cancelled") from error

    before = signal.getsignal(signal.SIGINT)
    for interrupt in (raising(KeyboardInterrupt()), library):
        monkeypatch.setattr(questions, "open_warehouse", interrupt)
        assert fails_in_one_line(churn(*QUERY), "interrupted", code=INTERRUPTED)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("bank_with_two_customers")
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_reader_that_has_gone_is_no_error_to_be_told(churn: Churn, form: list[str], monkeypatch: pytest.MonkeyPatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    monkeypatch.setattr(console, "quiet", False)  # rich sets it, for good

    outcome = churn(*QUERY, *form)

    assert (outcome.code, outcome.err) == (PIPE_CLOSED, "")


@pytest.mark.usefixtures("bank_with_two_customers")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_an_output_that_takes_no_more_is_said(churn: Churn, form: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115  # closing it would raise

    assert fails_in_one_line(churn(*QUERY, *form), "the output cannot be written", "free some space")


COMMANDS = [
    ["deploy"],
    QUERY,
    ["status"],
    ["search", "x"],
    ["suppress", "C1"],
    ["outbox", "list"],
    ["broker"],
    ["seed"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("home", ["a file", "below a file"])
def test_a_home_that_is_no_folder_is_said_with_what_to_set(
    churn: Churn, command: list[str], home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setenv("CHURN_HOME", str(file if home == "a file" else file / "home"))

    outcome = churn(*command)

    assert fails_in_one_line(outcome._replace(out=""), f"{file} is a file", "CHURN_HOME")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("damage", ["no database", "nothing in it", "gone"])
@pytest.mark.parametrize("command", [QUERY, ["suppress", "C1"], ["status"]], ids=lambda words: words[0])
def test_a_lake_whose_catalog_is_damaged_is_not_begun_anew(churn: Churn, damage: str, command: list[str]):
    lake = load_settings().lake_path
    lake.mkdir(parents=True)
    (lake / "is_made").touch()
    if damage != "gone":
        (lake / "catalog.sqlite").write_bytes(b"" if damage == "nothing in it" else b"no database" * 1000)

    assert fails_in_one_line(churn(*command), str(lake), "restore CHURN_HOME from a backup")
    assert {file.name for file in lake.iterdir()} - {"writer.lock"} <= {"is_made", "catalog.sqlite"}


@pytest.mark.parametrize(
    ("command", "option"), [("dashboard", "--port"), ("demo", "--port"), ("demo", "--dashboard-port")]
)
def test_a_port_that_another_program_has_is_said_with_the_option_that_chooses_another(
    churn: Churn, command: str, option: str
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = churn(command, option, str(taken.getsockname()[1]))

    assert fails_in_one_line(outcome, "Address already in use", f"choose another with {option}")


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 4711"), OSError("no username")])
def test_a_user_without_a_name_is_named_by_number(error: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings_module.getpass, "getuser", raising(error))

    assert acting_user() == f"user {os.getuid()}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("{churn} query \"SELECT 'Zo\u00eb' AS x\" >&-", 0, "", ""),
        ("{churn} query \"SELECT 'Zo\u00eb' AS x\" 2>&- >&-", 0, "", ""),
        ("PYTHONIOENCODING=ascii {churn} query --csv \"SELECT 'Zo\u00eb' AS x\"", 0, "x\nZo\u00eb\n", ""),
        ("{churn} query --csv 'FROM range(1000000)' | head -1", 0, "range\n", ""),
        ("{churn} query SELECT >/dev/null", 1, "", "churn: Parser Error: SELECT clause without selection list\n"),
        ("{churn} query $'SELECT \\'Zo\\xeb\\''", 1, "", "churn: the argument SELECT 'Zo\\udceb' is no text"),
    ],
)
def test_a_process_keeps_to_it(settings: object, line: str, code: int, out: str, err: str):
    churn = Path(sys.executable).with_name("churn")
    ended = subprocess.run(["bash", "-c", line.format(churn=churn)], capture_output=True, check=False)

    assert (ended.returncode, ended.stdout.decode()) == (code, out)
    assert ended.stderr.decode().startswith(err)
    assert ended.stderr.count(b"\n") == bool(err)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "check", "dashboard", "seed"])
@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_ctrl_c_at_any_time_leaves_no_traceback(command: str, seconds: float):
    churn = Path(sys.executable).with_name("churn")
    with subprocess.Popen([churn, command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        err = process.stderr.read() if process.stderr else b""

    assert b"Traceback" not in err
    assert err.count(b"\n") <= 1
