"""Log files of processes that a command starts: they are kept small while the processes go on writing."""

import os
import shutil
from pathlib import Path

LOG_BYTES = 20 * 1024 * 1024  # a larger log is put aside; one old file is kept


def rotate(folder: Path) -> None:
    """Put each log of a folder aside that has grown too large.

    Its process keeps the file open, to append to it. So the content is copied and the file emptied; what is written between
    these two moments is lost.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
