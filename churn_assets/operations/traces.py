"""The traces of a person in files: where their id, name or address stands, and how it is made unreadable.

Here belong texts and bytes, whatever wrote them. `erasure` decides what is erased, and in which order.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from re import Pattern
from tempfile import TemporaryDirectory

import duckdb

from churn_assets.dynamic_tables.difference import quoted
from churn_assets.folder import Folder

_SHORTEST = 5  # characters; what is shorter stands in many files by chance
_SHORTEST_NUMBER = 7  # digits
_SQLITE = b"SQLite format 3\x00"
_CHUNK = 1 << 24
_BUSY_SECONDS = 30.0
ERASED = "erased"


def is_telling(text: str) -> bool:
    """Whether a text is long enough to say something about a person wherever it stands: C00000022, and not 42 or Li."""
    return len(text) >= (_SHORTEST_NUMBER if text.isdigit() else _SHORTEST)


def pattern_of(texts: Iterable[str]) -> Pattern[bytes] | None:
    """A pattern for one of the telling texts, as a whole word, in any case, in UTF-8, UTF-16 or JSON's escapes, or None.

    C1 is not found in C10 or XC1.
    """
    telling = sorted({text.strip() for text in texts if text and is_telling(text.strip())}, key=len, reverse=True)
    if not telling:
        return None
    of_bytes = [
        encoded
        for text in telling
        for form in (text, json.dumps(text)[1:-1])
        for encoded in (form.encode(errors="replace"),)
    ]
    wide = [text.encode(encoding, errors="replace") for text in telling for encoding in ("utf-16-le", "utf-16-be")]
    narrow = b"|".join(map(re.escape, dict.fromkeys(of_bytes)))
    either = rb"(?<![0-9A-Za-z_])(?:" + narrow + rb")(?![0-9A-Za-z_])|" + b"|".join(map(re.escape, wide))
    return re.compile(either, re.IGNORECASE)


def mask_files(folder: Path, but: Sequence[Path], pattern: Pattern[bytes]) -> int:
    """Overwrite what the pattern finds in the files of a folder; returns the number of files changed.

    A text file keeps its length, so that a process may go on appending to it. In a SQLite file the texts are replaced, and
    its free pages are given up. `but` are folders and files that are left alone.
    """
    changed = 0
    for file in files_of(folder):
        if any(file.is_relative_to(one) for one in but) or file.name.endswith(("-wal", "-shm", "-journal")):
            continue
        with file.open("rb") as opened:
            is_sqlite = opened.read(len(_SQLITE)) == _SQLITE
        changed += _mask_sqlite(file, pattern) if is_sqlite else _mask_bytes(file, pattern)
    return changed


def files_that_hold(folder: Path, pattern: Pattern[bytes]) -> list[Path]:
    """The files of a folder in whose bytes or, for Parquet, values the pattern is found."""
    return [file for file in files_of(folder) if _holds(file, pattern)]


def objects_that_hold(folder: Folder, pattern: Pattern[bytes]) -> list[str]:
    """The same for a folder that is not on this machine: each of its files is fetched and looked at."""
    found: list[str] = []
    with TemporaryDirectory() as here:
        for name in sorted(folder.sizes()):
            copy = Path(here, f"copy{Path(name).suffix}")
            try:
                with folder.open(name) as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except FileNotFoundError:  # it was deleted meanwhile
                continue
            if _holds(copy, pattern):
                found.append(folder.path(name))
    return found


def files_of(folder: Path) -> Iterator[Path]:
    """The regular files in a folder and its folders, in order."""
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _holds(file: Path, pattern: Pattern[bytes]) -> bool:
    try:
        return _is_in_bytes(file, pattern) or (file.suffix == ".parquet" and _is_in_values(file, pattern))
    except FileNotFoundError:  # it was deleted meanwhile
        return False


def _is_in_bytes(file: Path, pattern: Pattern[bytes]) -> bool:
    before = b""
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            if pattern.search(before + chunk):
                return True
            before = chunk[-1024:]  # a name on the border of two chunks
    return False


def _is_in_values(file: Path, pattern: Pattern[bytes]) -> bool:
    with duckdb.connect(":memory:") as connection:
        columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(file)]).fetchall()
        texts = [quoted(name) for name, kind, *_ in columns if kind in ("VARCHAR", "BLOB", "JSON")]
        for text in texts:
            values = connection.execute(f"SELECT DISTINCT {text} FROM read_parquet(?)", [str(file)])
            while rows := values.fetchmany(10_000):
                found = (value.encode() if isinstance(value, str) else value for (value,) in rows if value)
                if any(map(pattern.search, found)):
                    return True
    return False


def _mask_bytes(file: Path, pattern: Pattern[bytes]) -> int:
    content = file.read_bytes()
    found = [(match.start(), match.end()) for match in pattern.finditer(content)]
    if found:
        with file.open("r+b") as opened:
            for start, end in found:
                opened.seek(start)
                opened.write(b"x" * (end - start))
    return bool(found)


def _mask_sqlite(file: Path, pattern: Pattern[bytes]) -> int:
    def mask(text: str) -> str:
        return pattern.sub(ERASED.encode(), text.encode(errors="surrogatepass")).decode(errors="replace")

    def has(text: object) -> bool:
        return isinstance(text, str) and pattern.search(text.encode(errors="surrogatepass")) is not None

    changed = 0
    with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None)) as opened:
        opened.create_function("mask", 1, mask, deterministic=True)
        opened.create_function("has", 1, has, deterministic=True)
        opened.execute("PRAGMA secure_delete = ON")
        for (table,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in opened.execute(f"PRAGMA table_info({quoted(table)})").fetchall():
                name = quoted(column)
                changed += opened.execute(
                    f"UPDATE {quoted(table)} SET {name} = mask({name}) WHERE typeof({name}) = 'text' AND has({name})"
                ).rowcount
        if changed or _is_in_bytes(file, pattern):
            opened.execute("VACUUM")
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return bool(changed)
