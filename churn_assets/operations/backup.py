"""Copies of the lake in a folder or in S3, made while everything runs, and the way back; and the move to another place.

A backup has the layout of CHURN_HOME: the lake's catalog, the data files that it names, the files of models, and what the
emails keep beside the lake. What can be made again is left out: search index, dbt's artefacts, Dagster's storage. It is the
same for a lake in CHURN_HOME and for a shared one, so either can be restored from it.

Data and model files never change under one name, so a backup copies those that it lacks. The catalog is copied first, in one
transaction. So every file that the copy names exists, and maintenance deletes a file half an hour after it was given up, not
earlier; a copy that takes longer begins again, with what it has. The last thing written is `backup.json`, which names the
catalog: a backup that is killed leaves the one before whole.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from churn_assets.errors import ChurnError
from churn_assets.folder import Folder
from churn_assets.settings import Settings
from churn_assets.warehouse.lake_place import CATALOG, DATA, MODELS, LakePlace
from churn_assets.warehouse.shelf import RESTORED, Shelf
from churn_assets.warehouse.turns import turn
from churn_assets.wiring import lake_place, open_lake, shelf_of

_MANIFEST = "backup.json"
_LAKE, _EMAILS = "lake", "emails"  # folders of a backup
_CATALOGS = f"{_LAKE}/catalog-"  # of a backup, with the time
_OURS = (f"{_LAKE}/{DATA}/", f"{_LAKE}/{MODELS}/", _CATALOGS)  # what a backup deletes once it is not needed any more
_OF_EMAILS = ("left.ndjson", "answers.ndjson")
_ATTEMPTS = 3  # with a new copy of the catalog, where a file of the last one is gone
# In a process of its own: a second SQLite library in one process would break the locks of DuckDB's when it closes the file.
_COPY_CATALOG = """
import sqlite3, sys
source = sqlite3.connect(sys.argv[1], timeout=60)
copy = sqlite3.connect(sys.argv[2])
source.backup(copy)
copy.execute("PRAGMA journal_mode = DELETE")
copy.close()
"""
_FILES = """
    SELECT schemas.path, tables.path, files.path, files.file_size_bytes
    FROM (
        SELECT table_id, path, file_size_bytes FROM ducklake_data_file
        UNION ALL
        SELECT table_id, path, file_size_bytes FROM ducklake_delete_file
    ) AS files
    INNER JOIN ducklake_table AS tables ON files.table_id = tables.table_id
    INNER JOIN ducklake_schema AS schemas ON tables.schema_id = schemas.schema_id
"""


class BackupError(ChurnError):
    """A backup, a restore or a move that is not possible; the message says why and what to do."""


@dataclass(frozen=True)
class Backup:
    """What a backup, a restore or a move copied: files and bytes, and those that were there already."""

    copied: int
    bytes: int
    known: int


def back_up(settings: Settings, to: str, now: datetime, report: Callable[[str], None]) -> Backup:
    """Bring the backup in a folder or in S3 up to date. `now` is UTC; `report` is called with the progress in words."""
    place, backup = lake_place(settings), Folder(to)
    if not place.catalog.exists():
        raise BackupError(f"there is no lake in {place}; set CHURN_HOME to the home to be backed up")
    missing = ""
    # A backup that two hosts make at the same time is whole, because each writes the catalog that its own files belong to.
    with turn(settings.home.absolute() / "backup.lock", BackupError("another backup of this home is being made now")):
        there = backup.sizes()
        if f"{_LAKE}/{CATALOG}" in there:
            raise BackupError(f"{to} is a home with a lake of its own; name another folder")
        for _ in range(_ATTEMPTS):
            try:
                return _back_up(place, shelf_of(settings), backup, there, now, report)
            except FileNotFoundError as gone:  # an erasure deletes at once what the copy of the catalog still names
                missing = str(gone.filename or gone)
    raise BackupError(
        f"the lake is damaged: its catalog names {missing}, which is not there; the backup in {to} is as it was before;"
        " see docs/runbook.md"
    )


def _back_up(
    place: LakePlace, shelf: Shelf, backup: Folder, there: dict[str, int], now: datetime, report: Callable[[str], None]
) -> Backup:
    with TemporaryDirectory() as folder:
        copy = Path(folder, CATALOG)
        report("the catalog")
        _copy_catalog(place, copy)
        # After the catalog, so that every model and email that it knows is among them.
        wanted = _data_files(copy) | _models(place)
        lacking = [name for name, size in sorted(wanted.items()) if there.get(f"{_LAKE}/{name}") != size]
        sizes = place.folder.sizes_of(lacking)
        for name in lacking:
            if isinstance(found := sizes[name], int) and found != wanted[name]:
                raise BackupError(
                    f"the lake is damaged: {place}/{name} has {found:,} bytes and should have {wanted[name]:,}; the backup is"
                    " as it was before; see docs/runbook.md"
                )
        for count, name in enumerate(lacking, 1):
            report(f"{count:,} of {len(lacking):,} files")
            with place.folder.open(name) as source:
                backup.write(f"{_LAKE}/{name}", source)
        for name in _OF_EMAILS:
            if lines := shelf.lines(name).read():
                backup.write(f"{_EMAILS}/{name}", "".join(f"{line}\n" for line in lines).encode())
        catalog = f"{_CATALOGS}{now:%Y%m%dT%H%M%S%f}.sqlite"
        with copy.open("rb") as source:
            backup.write(catalog, source)
    os.sync()  # the names of files, before the one that says they are there
    backup.write(_MANIFEST, json.dumps({"catalog": catalog, "made_at": f"{now:%Y-%m-%d %H:%M:%S}"}).encode())
    needed = {*(f"{_LAKE}/{name}" for name in wanted), catalog}
    backup.delete(name for name in there if name.startswith(_OURS) and name not in needed)
    return Backup(len(lacking), sum(wanted[name] for name in lacking), len(wanted) - len(lacking))


def restore(settings: Settings, source: str, report: Callable[[str], None]) -> Backup:
    """Put a backup where there is no lake. Then emails are held until somebody has confirmed (`operations.setbacks`).

    May be repeated after an interruption. What the emails keep there is newer than the backup's and stays.
    """
    backup, place, shelf = Folder(source), lake_place(settings), shelf_of(settings)
    there = backup.sizes()
    if _MANIFEST not in there:
        raise BackupError(f"there is no backup in {source}: it has no {_MANIFEST}")
    _must_be_empty(settings, place)
    manifest = json.loads(backup.read(_MANIFEST))
    shutil.rmtree(settings.search_path, ignore_errors=True)  # an index of the lake that is gone; it is made again
    names = [name for name in there if name.startswith((f"{_LAKE}/{DATA}/", f"{_LAKE}/{MODELS}/"))]
    here = place.folder.sizes()
    lacking = [name for name in sorted(names) if here.get(name.removeprefix(f"{_LAKE}/")) != there[name]]
    for count, name in enumerate(lacking, 1):
        report(f"{count:,} of {len(lacking):,} files")
        with backup.open(name) as opened:
            place.folder.write(name.removeprefix(f"{_LAKE}/"), opened)
    for name in _OF_EMAILS:
        if f"{_EMAILS}/{name}" in there and not shelf.lines(name).read():
            shelf.lines(name).append(backup.read(f"{_EMAILS}/{name}").decode().splitlines())
    evidence = f"they were restored from a backup of {manifest['made_at']} UTC"
    shelf.folder.write(RESTORED, json.dumps({"evidence": evidence}).encode())
    with TemporaryDirectory() as folder:
        catalog = Path(folder, CATALOG)
        catalog.write_bytes(backup.read(manifest["catalog"]))
        _put_catalog(catalog, place)  # last: from now on there is a lake
    return Backup(len(lacking), sum(there[name] for name in lacking), len(names) - len(lacking))


def move(settings: Settings, *, back: bool, report: Callable[[str], None]) -> Backup:
    """Move the lake of CHURN_HOME to the shared place of `settings`, or back. Writers wait, and then are refused.

    What was moved stays where it was, and cannot be opened any more. May be repeated after an interruption.
    """
    if not settings.lake_is_shared:
        raise BackupError("set CHURN_LAKE_CATALOG and CHURN_LAKE_DATA to the place that is, or will be, shared")
    home, home_shelf = LakePlace.here(settings.lake_path), Shelf.here(settings.emails_path)
    shared, shared_shelf = lake_place(settings), shelf_of(settings)
    source, shelf, target, target_shelf = (
        (shared, shared_shelf, home, home_shelf) if back else (home, home_shelf, shared, shared_shelf)
    )
    if not source.catalog.exists():
        raise BackupError(f"there is no lake in {source}")
    _must_be_empty(settings, target)
    with TemporaryDirectory() as folder:
        copy = Path(folder, CATALOG)
        report("waiting for what is being written")
        with open_lake(source).moving() as copy_to:
            copy_to(LakePlace.here(Path(folder)))
            wanted = _data_files(copy) | _models(source)
            there = target.folder.sizes()
            lacking = [name for name, size in sorted(wanted.items()) if there.get(name) != size]
            for count, name in enumerate(lacking, 1):
                report(f"{count:,} of {len(lacking):,} files")
                with source.folder.open(name) as opened:
                    target.folder.write(name, opened)
            for name in _OF_EMAILS:
                if (lines := shelf.lines(name).read()) and not target_shelf.lines(name).read():
                    target_shelf.lines(name).append(lines)
            # In this order: at no point could somebody write to both, and none of them is lost.
            source.catalog.close(f"the lake was moved to {target}")
            _put_catalog(copy, target)
            source.note_moved(str(target))
    return Backup(len(lacking), sum(wanted[name] for name in lacking), len(wanted) - len(lacking))


def _must_be_empty(settings: Settings, place: LakePlace) -> None:
    if not place.catalog.exists():
        return
    if place.folder.is_local:
        raise BackupError(
            f"there is a lake in {place} ({place.catalog}); stop what runs there and move that folder away, or set CHURN_HOME to"
            " a new folder, then try again"
        )
    raise BackupError(f"there is a lake in {place}: its catalog is in the {place.catalog}; name a new database")


def _copy_catalog(place: LakePlace, copy: Path) -> None:
    """Copy the catalog to a file while others write."""
    if not place.folder.is_local:
        with open_lake(place).moving() as copy_to:
            copy_to(LakePlace.here(copy.parent))
        return
    catalog = Path(place.folder.absolute, CATALOG)
    done = subprocess.run(
        [sys.executable, "-c", _COPY_CATALOG, str(catalog), str(copy)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = "".join(done.stderr.strip().splitlines()[-1:])
        raise BackupError(f"the catalog {catalog} cannot be copied ({said}); see docs/runbook.md")


def _put_catalog(copy: Path, place: LakePlace) -> None:
    """Put the copy of a catalog where there is none."""
    if place.folder.is_local:
        place.note_made()
        with copy.open("rb") as source:
            place.folder.write(CATALOG, source)
    else:
        # A catalog of a lake in a home may have rows that are in no file yet: they go to the new folder.
        with open_lake(place.with_catalog(copy), any_version=True).moving() as copy_to:
            copy_to(place)
        place.note_made()


def _data_files(catalog: Path) -> dict[str, int]:
    """The size of each file that the copy of a catalog names, by its path in the lake."""
    with closing(sqlite3.connect(catalog)) as connection:
        return {f"{DATA}/{schema}{table}{file}": size for schema, table, file, size in connection.execute(_FILES)}


def _models(place: LakePlace) -> dict[str, int]:
    return {name: size for name, size in place.folder.sizes(MODELS).items() if name.endswith(".model")}
