"""How a command ends: its exit code, and the one line on stderr that says what is wrong and what to do.

Here belong the exit codes and the words for errors that come from below: the operating system, DuckDB, a signal. What a user
can mend is raised as `ChurnError` where it is known.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import duckdb
import typer

from churn_assets.cli.shown import errors, one_line
from churn_assets.dynamic_tables.tables import DynamicTableError
from churn_assets.errors import ChurnError

FAILED, WRONG_USAGE = 1, 2
INTERRUPTED, PIPE_CLOSED = 128 + signal.SIGINT, 128 + signal.SIGPIPE  # as a shell says of a process that a signal ended
DEBUG = "CHURN_DEBUG"  # set to anything: the traceback is shown as well
# Click's exceptions. Some versions of Typer carry a Click of their own.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
_ClickException = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
# Of errors that say nothing themselves.
_WITHOUT_WORDS: dict[type[BaseException], str] = {
    MemoryError: "the memory is used up; give the machine more of it, or ask for less at once",
    typer.Abort: "the question was not answered with yes, so nothing is changed; --help shows how to answer it beforehand",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}


class _Signals:
    """Ctrl-C raises KeyboardInterrupt as ever, and is remembered: libraries turn the exception into others of their own.

    A `StopSignal` takes the place of this handler, as Ctrl-C is how such a command ends.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._before = signal.signal(signal.SIGINT, self._interrupt)

    def restore(self) -> None:
        """Give the signal back to whom it belonged."""
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt


def ended(command: Callable[[], Any]) -> int:
    """Run a command and return its exit code; whatever it raises is one line on stderr.

    The codes are in docs/commands.md. The command's own code is what it returns, if that is a number.
    """
    signals = _Signals()
    code: object = FAILED
    try:
        try:
            code = command()
        finally:
            _flush()  # otherwise a full disk shows only when Python ends
    except SystemExit as end:
        # Typer and rich answer a closed pipe with it.
        code = PIPE_CLOSED if isinstance(end.__context__, BrokenPipeError) else end.code
    except BrokenPipeError:
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        signals.interrupted = True
    except BaseException as error:  # noqa: BLE001  # the last place where an error can be shown as one line
        if not signals.interrupted:
            code = error.exit_code if isinstance(error, _ClickException) else FAILED
            _show(said(error))
        if os.environ.get(DEBUG):
            with suppress(OSError):
                traceback.print_exception(error)
    signals.restore()
    if signals.interrupted or code == INTERRUPTED:
        _show("interrupted")
        return INTERRUPTED
    return code if isinstance(code, int) else int(code is not None)


def said(error: BaseException) -> str:
    """What is wrong, and what to do about it, in one line."""
    match error:
        case ChurnError() | DynamicTableError():
            return str(error)
        case _ClickException():
            return _of_usage(error)
        case duckdb.Error():
            return str(error).strip().partition("\n\n")[0]  # after an empty line it repeats the statement
        case OSError() if error.errno is not None:
            return _of_system(error)
        case MemoryError() | typer.Abort():
            return _WITHOUT_WORDS[type(error)]
        case _:
            name = type(error).__name__
            return f"unexpected {name}: {str(error).strip() or 'without a message'}; {DEBUG}=1 shows where it happened"


def _of_usage(error: typer.BadParameter) -> str:
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "churn"
    return f"{message}; see `{command} --help`"


def _of_system(error: OSError) -> str:
    reason = error.strerror or str(error)
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
    if error.errno in _FULL:
        return f"{place or 'the output'} cannot be written ({reason}); free some space, then run it again"
    if place is None:
        return f"{_working_folder() or 'the system refused something'} ({reason}); {DEBUG}=1 shows where it happened"
    if error.errno in _NO_FOLDER and (file := _in_place_of_a_folder(Path(place))):
        return f"{file} is a file, not a folder; name a folder, in CHURN_HOME or in the command"
    if error.errno in _NOT_ALLOWED:
        return f"{place} may not be used ({reason}); change its permissions, or set CHURN_HOME to another folder"
    return f"{place} cannot be used ({reason}); name another place, in CHURN_HOME or in the command"


def _in_place_of_a_folder(place: Path) -> Path | None:
    there = next(found for found in (place, *place.absolute().parents) if os.path.lexists(found))
    return None if there.is_dir() else there


def _working_folder() -> str | None:
    try:
        os.getcwd()
    except OSError:
        return "the folder in which you stand is gone; change to another"
    return None


def _show(message: str) -> None:
    line = one_line(f"churn: {message}")
    with suppress(OSError):  # if stderr cannot be written either, the exit code is all that is left
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        # What is still buffered for a closed pipe or a full disk would raise again when Python ends.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
