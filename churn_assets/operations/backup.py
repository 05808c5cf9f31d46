"""Copies of the lake in a folder or in S3, made while everything runs, and the way back.

A backup has the layout of CHURN_HOME: the lake's catalog, the data files that it names, the files of models, and what the
emails keep beside the lake. What can be made again is left out: search index, dbt's artefacts, Dagster's storage.

Data and model files never change under one name, so a backup copies those that it lacks. The catalog is copied first, in one
transaction. So every file that the copy names exists, and maintenance deletes a file an hour after it was given up, not earlier;
a copy that takes longer begins again, with what it has. The last thing written is `backup.json`, which names the catalog: a
backup that is killed leaves the one before whole.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from pyarrow import fs

from churn_assets.errors import ChurnError
from churn_assets.settings import Settings
from churn_assets.warehouse.turns import turn

_MANIFEST = "backup.json"
_CATALOG, _DATA, _MODELS, _EMAILS = "lake/catalog.sqlite", "lake/data", "lake/models", "emails"
_CATALOGS = "lake/catalog-"  # of a backup, with the time
_OURS = (f"{_DATA}/", f"{_MODELS}/", _CATALOGS)  # what a backup deletes once it is not needed any more
_OF_EMAILS = ("left.ndjson", "answers.ndjson")
_ATTEMPTS = 3  # with a new copy of the catalog, where a file of the last one is gone
_BUFFER_BYTES = 8 * 1024**2
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
    """A backup or a restore that is not possible; the message says why and what to do."""


@dataclass(frozen=True)
class Backup:
    """What a backup or restore copied: files and bytes, and those that were there already."""

    copied: int
    bytes: int
    known: int


@dataclass(frozen=True)
class _Place:
    """A folder of files, here or in S3."""

    files: fs.FileSystem
    root: str

    @classmethod
    def of(cls, given: str) -> "_Place":
        try:
            files, root = fs.FileSystem.from_uri(given if "://" in given else Path(given).absolute().as_uri())
        except (ValueError, OSError) as error:
            raise BackupError(f"{given} is no folder and no s3://bucket/folder ({error})") from error
        return cls(files, root.rstrip("/"))

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def sizes(self) -> dict[str, int]:
        """The size of each file by its name."""
        found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True, recursive=True))
        return {one.path[len(self.root) + 1 :]: one.size for one in found if one.is_file}

    def read(self, name: str) -> bytes:
        with self.files.open_input_stream(self.path(name)) as source:
            return source.read()

    def write(self, name: str, source: BinaryIO) -> None:
        """Write a file whole or not at all."""
        is_local = isinstance(self.files, fs.LocalFileSystem)
        path = self.path(name)
        unfinished = f"{path}.partial" if is_local else path  # S3 shows an object once it is whole
        if is_local:
            self.files.create_dir(path.rpartition("/")[0])
        with self.files.open_output_stream(unfinished) as target:
            shutil.copyfileobj(source, target, _BUFFER_BYTES)
        if is_local:
            with open(unfinished, "rb") as written:
                os.fsync(written.fileno())
            self.files.move(unfinished, path)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.files.delete_file(self.path(name))


def back_up(settings: Settings, to: str, now: datetime, report: Callable[[str], None]) -> Backup:
    """Bring the backup in a folder or in S3 up to date. `now` is UTC; `report` is called with the progress in words."""
    home, place = settings.home.absolute(), _Place.of(to)
    if not (home / _CATALOG).exists():
        raise BackupError(f"there is no lake in {settings.lake_path}; set CHURN_HOME to the home to be backed up")
    missing = ""
    with turn(home / "backup.lock", BackupError("another backup of this home is being made now")), _explained(to):
        there = place.sizes()
        if _CATALOG in there:
            raise BackupError(f"{to} is a home with a lake of its own; name another folder")
        for _ in range(_ATTEMPTS):
            try:
                return _back_up(home, place, there, now, report)
            except FileNotFoundError as gone:  # an erasure deletes at once what the copy of the catalog still names
                missing = str(gone.filename)
    raise BackupError(
        f"the lake is damaged: its catalog names {missing}, which is not there; the backup in {to} is as it was before;"
        " see docs/runbook.md"
    )


def _back_up(home: Path, place: _Place, there: dict[str, int], now: datetime, report: Callable[[str], None]) -> Backup:
    with TemporaryDirectory() as folder:
        copy = Path(folder, "catalog.sqlite")
        report("the catalog")
        _copy_catalog(home / _CATALOG, copy)
        files = _data_files(copy)
        # After the catalog, so that every model and email that it knows is among them.
        models = {f"{_MODELS}/{file.name}": file.stat().st_size for file in (home / _MODELS).glob("*.model")}
        emails = [f"{_EMAILS}/{name}" for name in _OF_EMAILS if (home / _EMAILS / name).exists()]
        wanted = files | models
        lacking = [name for name, size in sorted(wanted.items()) if there.get(name) != size]
        for count, name in enumerate(lacking, 1):
            report(f"{count:,} of {len(lacking):,} files")
            if (size := (home / name).stat().st_size) != wanted[name]:
                raise BackupError(
                    f"the lake is damaged: {home / name} has {size:,} bytes and should have {wanted[name]:,}; the backup is as"
                    " it was before; see docs/runbook.md"
                )
            _copy(home / name, place, name)
        for name in emails:
            _copy(home / name, place, name)
        catalog = f"{_CATALOGS}{now:%Y%m%dT%H%M%S%f}.sqlite"
        _copy(copy, place, catalog)
    os.sync()  # the names of files, before the one that says they are there
    place.write(_MANIFEST, BytesIO(json.dumps({"catalog": catalog, "made_at": f"{now:%Y-%m-%d %H:%M:%S}"}).encode()))
    place.delete(name for name in there if name.startswith(_OURS) and name not in {*wanted, catalog})
    return Backup(len(lacking), sum(wanted[name] for name in lacking), len(wanted) - len(lacking))


def restore(settings: Settings, source: str, report: Callable[[str], None]) -> Backup:
    """Put a backup into a home that has no lake. Then emails are held until somebody has confirmed (`operations.setbacks`).

    May be repeated after an interruption. The files of emails that are there are newer than the backup's and stay.
    """
    home, place = settings.home.absolute(), _Place.of(source)
    with _explained(source):
        there = place.sizes()
        if _MANIFEST not in there:
            raise BackupError(f"there is no backup in {source}: it has no {_MANIFEST}")
        if left := sorted((home / "lake").glob("catalog.sqlite*")):
            raise BackupError(
                f"there is a lake in {settings.lake_path} ({left[0].name}); stop what runs there and move that folder away,"
                " or set CHURN_HOME to a new folder, then restore again"
            )
        manifest = json.loads(place.read(_MANIFEST))
        here = _Place.of(str(home))
        shutil.rmtree(settings.search_path, ignore_errors=True)  # an index of the lake that is gone; it is made again
        names = [name for name in there if name.startswith((_DATA, _MODELS))]
        here_already = here.sizes()
        lacking = [name for name in sorted(names) if here_already.get(name) != there[name]]
        for count, name in enumerate(lacking, 1):
            report(f"{count:,} of {len(lacking):,} files")
            _restore(place, name, here, name)
        for name in (f"{_EMAILS}/{one}" for one in _OF_EMAILS):
            if name in there and name not in here_already:
                _restore(place, name, here, name)
        evidence = f"they were restored from a backup of {manifest['made_at']} UTC"
        here.write(settings.restored_file.name, BytesIO(json.dumps({"evidence": evidence}).encode()))
        (home / "lake" / "is_made").touch()
        _restore(place, manifest["catalog"], here, _CATALOG)  # last: from now on there is a lake
    return Backup(len(lacking), sum(there[name] for name in lacking), len(names) - len(lacking))


def _copy_catalog(catalog: Path, copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COPY_CATALOG, str(catalog), str(copy)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = "".join(done.stderr.strip().splitlines()[-1:])
        raise BackupError(f"the catalog {catalog} cannot be copied ({said}); see docs/runbook.md")


def _data_files(catalog: Path) -> dict[str, int]:
    """The size of each file that the copy of a catalog names, by its path in the home."""
    with closing(sqlite3.connect(catalog)) as connection:
        return {f"{_DATA}/{schema}{table}{file}": size for schema, table, file, size in connection.execute(_FILES)}


def _copy(file: Path, place: _Place, name: str) -> None:
    with file.open("rb") as source:
        place.write(name, source)


def _restore(place: _Place, name: str, home: _Place, as_name: str) -> None:
    with place.files.open_input_stream(place.path(name)) as source:
        home.write(as_name, source)


@contextmanager
def _explained(place: str) -> Generator[None]:
    """Errors of S3 as one line. Those of this machine have a number, and are explained where a command ends."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise BackupError(f"{place} cannot be used: {' '.join(str(error).split())}") from error
