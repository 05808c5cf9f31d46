"""The files of a lake, and whether they are still what was written.

Here belongs how damage is found: sizes by the catalog, which costs a look at each file's entry; contents by checksums, which
costs reading them; and the catalog itself by SQLite's own check. What follows from damage is in `operations.damage`.

Checksums are kept in `checksums.sqlite` beside the catalog and are taken by the first check that sees a file, not by whoever
writes it: so they cost the writers nothing, and a change before that first check is not found by them. Files of a lake never
change, so one checksum holds for as long as the file is there. What lies in the catalog (rows that are not flushed yet, sizes,
positions) has no checksum: SQLite's check finds broken pages, indexes and records there, not another value in a sound record.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from churn_assets.warehouse.lake_place import CATALOG, DATA, LakePlace
from churn_assets.warehouse.protocol import Damage, FileCheck

CHECKSUMS = "checksums.sqlite"
_CHUNK_BYTES = 8 * 1024**2
_BUSY_SECONDS = 30.0
_METADATA = "__ducklake_metadata_lake"
# The files of the rows as they are, and of what a dynamic table or a stream still has to read after the snapshot of the
# parameter; those of deletions, too. A file that only time travel reads is no loss.
FILES = f"""
SELECT CASE WHEN files.path_is_relative THEN tables.folder || files.path ELSE files.path END AS path, tables.name, files.bytes
FROM (
    SELECT table_id, path, path_is_relative, file_size_bytes AS bytes, end_snapshot FROM {_METADATA}.ducklake_data_file
    UNION ALL
    SELECT deletions.table_id, deletions.path, deletions.path_is_relative, deletions.file_size_bytes,
        least(deletions.end_snapshot, of_rows.end_snapshot)
    FROM {_METADATA}.ducklake_delete_file AS deletions
    INNER JOIN {_METADATA}.ducklake_data_file AS of_rows ON deletions.data_file_id = of_rows.data_file_id
) AS files
INNER JOIN (
    SELECT named.table_id, arg_max(named.table_name, named.begin_snapshot) AS name,
        arg_max(schemas.path || named.path, named.begin_snapshot) AS folder
    FROM {_METADATA}.ducklake_table AS named
    INNER JOIN {_METADATA}.ducklake_schema AS schemas ON named.schema_id = schemas.schema_id
    GROUP BY named.table_id
) AS tables ON files.table_id = tables.table_id
WHERE files.end_snapshot IS NULL OR files.end_snapshot > ?
"""
_STORE = """
CREATE TABLE IF NOT EXISTS checksums (
    path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, checked_at TEXT NOT NULL, problem TEXT
)
"""


@dataclass(frozen=True)
class LakeFile:
    """A file that the catalog names, by its path within the folder of the data."""

    path: str
    table: str
    bytes: int


def known_damage(place: LakePlace, files: Callable[[], list[LakeFile]]) -> list[Damage]:
    """What is wrong by the sizes of the files, and what the last check of their contents found. Reads no file of data.

    `files` gives what the catalog names; it is asked again before a file is called missing.
    """
    if not (place.scratch / CHECKSUMS).exists():
        return _wrong_sizes(place, files)
    try:
        with closing(_opened(place)) as store:
            found = {
                path: problem
                for path, problem in store.execute("SELECT path, problem FROM checksums WHERE problem IS NOT NULL")
            }
    except sqlite3.DatabaseError as error:
        return [*_wrong_sizes(place, files), _of_the_store(error)]
    of_catalog = [Damage(CATALOG, "", found.pop(CATALOG))] if CATALOG in found else []
    of_sizes = _wrong_sizes(place, files)
    told = {damage.file for damage in of_sizes}
    of_content = [
        Damage(file.path, file.table, found[file.path])
        for file in (files() if found else [])
        if file.path in found and file.path not in told
    ]
    return [*of_catalog, *of_sizes, *of_content]


def check(place: LakePlace, files: Callable[[], list[LakeFile]], share: float, now: datetime) -> FileCheck:
    """Take the checksum of every file that has none, and compare the contents of a `share` of all bytes with theirs.

    Files that were damaged come first, then those whose last check is the longest ago. `now` is UTC.
    """
    known = files()
    try:
        with closing(_opened(place)) as store:
            store.execute(_STORE)
            read, new, read_bytes = _read_and_note(store, place, known, share, now)
            problem = place.catalog.problem()
            store.execute("DELETE FROM checksums WHERE path = ?", [CATALOG])
            if problem:
                store.execute("INSERT INTO checksums VALUES (?, '', ?, ?)", [CATALOG, now.isoformat(), problem])
    except sqlite3.OperationalError:
        raise  # such as a read-only home or a full disk: no damage
    except sqlite3.DatabaseError as error:
        return FileCheck(len(known), 0, 0, 0, [*_wrong_sizes(place, files), _of_the_store(error)])
    return FileCheck(len(known), read, new, read_bytes, known_damage(place, files))


def _opened(place: LakePlace) -> sqlite3.Connection:
    place.scratch.mkdir(parents=True, exist_ok=True)  # a shared lake has nothing else there
    opened = sqlite3.connect(place.scratch / CHECKSUMS, timeout=_BUSY_SECONDS, isolation_level=None)
    # A file at a time without waiting for the disk: what a power failure leaves of it is no more than old, or is told.
    opened.execute("PRAGMA synchronous = OFF")
    return opened


def _of_the_store(error: sqlite3.Error) -> Damage:
    return Damage(CHECKSUMS, "", f"the checksums cannot be read ({error})")


def _wrong_sizes(place: LakePlace, files: Callable[[], list[LakeFile]]) -> list[Damage]:
    found = _sizes(place, files())
    # Between the catalog and the look, a file may have been given up and deleted: then the catalog no longer names it.
    return found and _sizes(place, files())


def _sizes(place: LakePlace, files: Sequence[LakeFile]) -> list[Damage]:
    sizes = place.folder.sizes_of([_name(file) for file in files])
    return [
        Damage(file.path, file.table, problem) for file in files if (problem := _wrong_size(file, sizes[_name(file)]))
    ]


def _name(file: LakeFile) -> str:
    return f"{DATA}/{file.path}"


def _wrong_size(file: LakeFile, found: int | OSError) -> str | None:
    match found:
        case FileNotFoundError():
            return "is missing"
        case OSError():
            return f"cannot be read ({found.strerror})"
        case size:
            return None if size == file.bytes else f"has {size:,} bytes, and {file.bytes:,} were written"


def _read_and_note(
    store: sqlite3.Connection, place: LakePlace, files: Sequence[LakeFile], share: float, now: datetime
) -> tuple[int, int, int]:
    """Read what is due; returns how many files, how many of them for the first time, and bytes.

    Each is noted at once, so a check that is killed loses nothing.
    """
    rows = store.execute("SELECT path, sha256, checked_at, problem IS NOT NULL FROM checksums").fetchall()
    known = {path: (sha256, checked_at, bool(was_damaged)) for path, sha256, checked_at, was_damaged in rows}
    names = {file.path for file in files}
    gone = [[path] for path in known if path not in names]
    with store:
        store.execute("BEGIN")
        store.executemany("DELETE FROM checksums WHERE path = ?", gone)
    due = [file for file in files if file.path not in known]
    left = share * sum(file.bytes for file in files)
    for file in sorted(
        (file for file in files if file.path in known),
        key=lambda file: (not known[file.path][2], known[file.path][1]),
    ):
        if left <= 0:
            break
        due.append(file)
        left -= file.bytes
    done = new = read_bytes = 0
    sizes = place.folder.sizes_of([_name(file) for file in due])
    for file in due:
        if _wrong_size(file, sizes[_name(file)]):
            continue  # told by its size
        try:
            with place.folder.open(_name(file)) as opened:
                found = _digest(opened)
        except OSError as error:
            found, problem = "", f"cannot be read ({error.strerror})"
        else:
            kept = known.get(file.path, (found,))[0]
            problem = None if kept in ("", found) else "has another content than when its checksum was taken"
        done, new, read_bytes = done + 1, new + (file.path not in known), read_bytes + file.bytes
        store.execute(
            "INSERT INTO checksums VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET checked_at = excluded.checked_at,"
            " problem = excluded.problem, sha256 = CASE WHEN checksums.sha256 = '' THEN excluded.sha256 ELSE checksums.sha256"
            " END",
            [file.path, found, now.isoformat(), problem],
        )
    return done, new, read_bytes


def _digest(opened: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := opened.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
