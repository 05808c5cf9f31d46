"""Where a lake is: its catalog, and the folder of its data and models.

Here belongs what differs between a lake in a folder (SQLite and files, for the processes of one machine) and a shared one
(PostgreSQL and S3, for many hosts). What is done with a lake is in `lake`, which does not ask which it is.
"""

import os
import time
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import duckdb
from pydantic import SecretStr

from churn_assets.errors import ChurnError, ModelFileError
from churn_assets.folder import Folder, FolderError
from churn_assets.warehouse import catalog_file
from churn_assets.warehouse.turns import PATIENCE, Turns, TurnsHere, TurnsOfDatabase
from churn_assets.warehouse.values import literal

CATALOG = "catalog.sqlite"
DATA, MODELS, EMAILS = "data", "models", "emails"  # in the folder of a lake; the emails of a local one are beside it
_IS_MADE = "is_made"  # a file that says that there is a catalog, and if the lake was moved, to where
_BUSY_TIMEOUT_MS = 5000
# Nothing may be fetched while the project runs. Verifying a signature hashes 70 MB, half a second each time a lake is opened;
# the hashes of the wheels are in uv.lock.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_unsigned_extensions": "true",
}
_SETTLED_NS = 100_000_000  # after a write to an SQLite catalog, by when it is committed
_MODULES = ("duckdb_extension_postgres_scanner", "duckdb_extension_httpfs", "duckdb_extension_aws", "psycopg2")
_SECRETS = ("password", "passfile", "sslpassword")


class NoSharedLakeError(ChurnError):
    """What a shared lake needs is not installed; the message says how to install it."""


class LakeMovedError(ChurnError):
    """The lake was moved; the message says where it is now."""


class Catalog(Protocol):
    """The database of a lake's catalog."""

    extensions: tuple[str, ...]  # of DuckDB

    def __str__(self) -> str: ...

    raw_options: tuple[str, ...]  # of ATTACH for the database itself
    way_out: str  # where it cannot be opened

    def exists(self) -> bool:
        """Whether there is something in it."""
        ...

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Give a connection, which has the extensions, the settings and secrets that attaching needs."""
        ...

    def address(self) -> str:
        """What DuckLake attaches, without a secret."""
        ...

    def options(self, *, read_only: bool) -> dict[str, str | int]:
        """Options of ATTACH."""
        ...

    def version(self) -> object | None:
        """A value that changes with each commit; None if one may be under way."""
        ...

    def problem(self) -> str | None:
        """What is wrong with the database, by its own check, in one line."""
        ...

    def close(self, reason: str) -> None:
        """Refuse each commit from now on, with a reason."""
        ...

    def give_up_space(self) -> None:
        """Leave nothing of deleted rows in the database's files. Nobody may write meanwhile."""
        ...


class LakePlace:
    """Where one lake is. `scratch` is a folder of this machine for what does not fit into memory."""

    def __init__(self, catalog: Catalog, folder: Folder, turns: Turns, scratch: Path) -> None:
        self.catalog = catalog
        self.folder = folder
        self.turns = turns
        self.scratch = scratch

    @classmethod
    def here(cls, folder: Path) -> "LakePlace":
        """A lake in a folder of this machine."""
        return cls(_SqliteCatalog(folder / CATALOG), Folder(folder), TurnsHere(folder), folder)

    @classmethod
    def shared(cls, catalog: SecretStr, data: str, scratch: Path) -> "LakePlace":
        """A lake of many hosts: a PostgreSQL database, by its address with the password, and a folder in S3."""
        lacking = [name for name in _MODULES if find_spec(name) is None]
        if lacking:
            raise NoSharedLakeError(
                f"a lake on PostgreSQL and S3 needs {', '.join(lacking)}; run pip install 'churn_assets[shared]'"
            )
        turns = TurnsOfDatabase(catalog)
        return cls(_PostgresCatalog(catalog, turns), Folder(data), turns, scratch)

    def with_catalog(self, file: Path) -> "LakePlace":
        """The same folder with an SQLite catalog, as for a copy of the catalog that is on its way."""
        return LakePlace(_SqliteCatalog(file), self.folder, TurnsHere(file.parent), file.parent)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def data_path(self) -> str:
        """The path or address of the data's folder."""
        return f"{self.folder.absolute}/{DATA}"

    def is_made(self) -> bool:
        """Whether the lake was there once; `LakeMovedError` if it was moved."""
        try:
            moved_to = self.folder.read(_IS_MADE).decode()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if moved_to:
            raise LakeMovedError(
                f"the lake in {self} was moved to {moved_to}; name that place in the settings (docs/shared-lake.md)"
            )
        return True

    def note_made(self) -> None:
        """Say that the lake is there."""
        self.folder.write(_IS_MADE, b"")

    def note_moved(self, to: str) -> None:
        """Refuse whoever opens the lake from now on."""
        self.folder.write(_IS_MADE, to.encode())

    def attach(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool, **options: str | int) -> None:
        """Attach the lake as `lake` to a connection that is prepared."""
        given = self.options(read_only=read_only) | options
        listed = [f"{name} {literal(value) if isinstance(value, str) else value}" for name, value in given.items()]
        listed += ["READ_ONLY"] if read_only else []
        connection.execute(f"ATTACH {literal(f'ducklake:{self.catalog.address()}')} AS lake ({', '.join(listed)})")

    def options(self, *, read_only: bool) -> dict[str, str | int]:
        """The options of ATTACH, without a secret."""
        return {"data_path": self.data_path} | self.catalog.options(read_only=read_only)

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Load the extensions, and give the connection the settings and secrets that attaching needs."""
        load(connection, *self.catalog.extensions)
        self.catalog.prepare(connection)
        if not self.folder.is_local:
            _find_s3(connection, self.data_path)

    def read_model(self, name: str) -> bytes:
        """The content of a model's file; `ModelFileError` if it cannot be read."""
        try:
            return self.folder.read(f"{MODELS}/{name}")
        except (OSError, FolderError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise ModelFileError(f"the model's file {self}/{MODELS}/{name} cannot be read ({said})") from error

    def store_model(self, name: str, content: bytes) -> None:
        """Store a model's file."""
        self.folder.write(f"{MODELS}/{name}", content)


class _SqliteCatalog:
    extensions: tuple[str, ...] = ("sqlite_scanner", "ducklake")
    raw_options: tuple[str, ...] = ()
    way_out = "restore CHURN_HOME from a backup, or set it to a new folder"

    def __init__(self, file: Path) -> None:
        self._file = file

    def __str__(self) -> str:
        return self._file.name

    def exists(self) -> bool:
        return self._file.exists() and self._file.stat().st_size > 0

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        # Otherwise each scan of the catalog has its own connection and transaction, and a query misses or counts twice the
        # rows that are flushed or merged between two of its scans.
        connection.execute("SET GLOBAL sqlite_disable_multithreaded_scans = true")

    def address(self) -> str:
        return f"sqlite:{self._file}"

    def options(self, *, read_only: bool) -> dict[str, str | int]:
        # The path is given each time, so that a home can be moved or copied: files are found relative to it.
        always = {"override_data_path": True, "meta_busy_timeout": _BUSY_TIMEOUT_MS}
        return always | ({} if read_only else {"meta_journal_mode": "WAL"})

    def version(self) -> object | None:
        # Every commit writes to the catalog's log or to the catalog itself. The files are only looked at (stat): opening them
        # a second time in one process would break SQLite's locks. What was just written may not be committed yet.
        states = [
            (found.st_mtime_ns, found.st_size)
            for file in (self._file.with_name(f"{CATALOG}-wal"), self._file)
            if (found := _stat(file))
        ]
        return None if any(time.time_ns() - written < _SETTLED_NS for written, _ in states) else states

    def problem(self) -> str | None:
        return catalog_file.problem(self._file)

    def close(self, reason: str) -> None:
        catalog_file.close(self._file, reason)

    def give_up_space(self) -> None:
        catalog_file.vacuum(self._file)


class _PostgresCatalog:
    extensions: tuple[str, ...] = ("postgres_scanner", "ducklake")
    raw_options: tuple[str, ...] = ("SECRET of_catalog", "SCHEMA 'public'")
    way_out = "see that both can be reached with the given keys, or restore them from a backup"

    def __init__(self, url: SecretStr, database: TurnsOfDatabase) -> None:
        self._url = url
        self._database = database

    def __str__(self) -> str:
        return f"PostgreSQL database {self._given().get('dbname', '')} on {self._given().get('host', 'this machine')}"

    def exists(self) -> bool:
        return bool(self._database.ask("SELECT to_regclass('public.ducklake_snapshot') IS NOT NULL"))

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        # As secrets, because what is attached is shown in errors and in duckdb_databases().
        password = self._given().get("password")
        connection.execute(f"CREATE OR REPLACE SECRET of_catalog (TYPE postgres, PASSWORD {literal(password or '')})")

    def address(self) -> str:
        shown = {name: value for name, value in self._given().items() if name not in _SECRETS}
        quoted = ((name, value.replace("\\", "\\\\").replace("'", "\\'")) for name, value in shown.items())
        return "postgres:" + " ".join(f"{name}='{value}'" for name, value in quoted)

    def options(self, *, read_only: bool) -> dict[str, str | int]:
        return {"meta_secret": "of_catalog"}  # and DuckLake refuses a folder that is not the catalog's

    def version(self) -> object | None:
        return self._database.ask("SELECT max(snapshot_id) FROM public.ducklake_snapshot")

    def problem(self) -> str | None:
        return None  # the server checks its own pages (data_checksums)

    def close(self, reason: str) -> None:
        self._database.ask(
            f"CREATE OR REPLACE FUNCTION public.lake_was_moved() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$BEGIN RAISE EXCEPTION {literal('%')}, {literal(reason)}; END$$",
            "DROP TRIGGER IF EXISTS lake_was_moved ON public.ducklake_snapshot",
            "CREATE TRIGGER lake_was_moved BEFORE INSERT ON public.ducklake_snapshot EXECUTE FUNCTION public.lake_was_moved()",
        )

    def give_up_space(self) -> None:
        self._database.ask("SET lock_timeout = '60s'", "VACUUM (FULL)", "RESET lock_timeout")

    def _given(self) -> dict[str, Any]:
        from psycopg2.extensions import parse_dsn  # noqa: PLC0415

        return {name: str(value) for name, value in PATIENCE.items()} | parse_dsn(self._url.get_secret_value())


def load(connection: duckdb.DuckDBPyConnection, *extensions: str) -> None:
    """Load extensions from their wheels."""
    for name in dict.fromkeys(extensions):
        folder = Path(str(files(f"duckdb_extension_{name}"))) / "extensions" / f"v{duckdb.__version__}"
        connection.load_extension(str(folder / f"{name}.duckdb_extension"))


def _find_s3(connection: duckdb.DuckDBPyConnection, data: str) -> None:
    """Let a connection read and write a folder in S3, with the keys of the environment or the machine."""
    load(connection, "httpfs", "aws")
    # The extension copies the keys of the environment to settings, which any query can read.
    for name in ("s3_access_key_id", "s3_secret_access_key", "s3_session_token"):
        connection.execute(f"SET GLOBAL {name} = ''")
    chain = ["TYPE s3", "PROVIDER credential_chain", "REFRESH auto", f"SCOPE {literal(data)}"]
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if server:
        parts = urlsplit(server)
        chain += [f"ENDPOINT {literal(parts.netloc + parts.path.rstrip('/'))}", "URL_STYLE 'path'"]
        chain += [f"USE_SSL {parts.scheme == 'https'}"]
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        chain += [f"REGION {literal(region)}"]
    try:
        connection.execute(f"CREATE OR REPLACE SECRET of_data ({', '.join(chain)})")
    except duckdb.Error as error:
        said = str(error).strip().splitlines()[0]
        raise FolderError(
            f"{data} cannot be used: no keys were found ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
