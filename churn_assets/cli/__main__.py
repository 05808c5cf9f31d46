"""The command `churn`, and `python -m churn_assets.cli` for processes that the project itself starts.

Here belongs what has to happen before the commands are imported, which takes a second.
"""

import io
import os
import signal
import sys


def main() -> None:
    """Run the command of `sys.argv` and exit."""
    # Nothing is begun yet. KeyboardInterrupt would not do: a library whose import it meets makes an ImportError of it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    _have_streams()
    from churn_assets.cli.app import run_command

    sys.exit(run_command(sys.argv[1:]))


def _have_streams() -> None:
    """Make stdout and stderr take every text.

    A stream that the caller has closed would get the first file that is opened, such as the lake's catalog, so it is opened on
    nothing. What goes to a file or a pipe is UTF-8; a terminal that cannot show a sign shows its escape.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


if __name__ == "__main__":
    main()
