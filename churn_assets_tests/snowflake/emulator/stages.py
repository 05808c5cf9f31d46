"""Files: PUT, GET, LIST, REMOVE and COPY INTO a table. A stage is a folder that client and emulator both reach."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from churn_assets_tests.snowflake.emulator.errors import StatementError, does_not_exist, missing_property, unsupported
from churn_assets_tests.snowflake.emulator.names import NAME, PART, Name, in_sql, shown, text_of
from churn_assets_tests.snowflake.emulator.wire import Rows, listed

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.session import Session

_QUOTED = r"'(?:[^'\\]|''|\\.)*'"
_LOCATION = r"(?P<location>@[^\s();]+|'@(?:[^'\\]|''|\\.)*')"
_OPTIONS = r"(?P<options>(?:\s+[A-Z_]+\s*=\s*.+)?)"


def folder(session: "Session", location: str) -> tuple[Path, str, str]:
    """Where a stage's files lie, the path within it, and the name that LIST tells files by."""
    location = text_of(location) if location.startswith("'") else location
    if location.startswith("@~"):
        return session.account.stages / "users" / session.user, location[2:].strip("/"), ""
    found = re.fullmatch(rf"@(?P<name>{NAME})(?:/(?P<path>.*))?", location)
    if not found:
        raise unsupported(f"the stage {location}")
    name = session.name(found["name"])
    if ("STAGE", name) not in session.account.definitions:
        raise does_not_exist("Stage", shown(name))
    return stage_folder(session, name), found["path"] or "", f"{name[-1].lower()}/"


def stage_folder(session: "Session", name: Name) -> Path:
    return session.account.stages.joinpath(*name)


def files(base: Path, path: str, pattern: str | None = None) -> list[Path]:
    """The files of a stage whose path begins with `path`, as Snowflake's locations do."""
    every = sorted(file for file in base.rglob("*") if file.is_file())
    chosen = [file for file in every if file.relative_to(base).as_posix().startswith(path)]
    return [file for file in chosen if pattern is None or re.fullmatch(pattern, file.relative_to(base).as_posix())]


def options_of(text: str) -> dict[str, str]:
    """`NAME = value` pairs; a value is a word, a text or what stands between parentheses."""
    pairs = re.findall(rf"([A-Z_]+)\s*=\s*({_QUOTED}|\([^)]*\)|[^\s]+)", text, re.IGNORECASE)
    return {name.upper(): value for name, value in pairs}


def _pattern(options: dict[str, str]) -> str | None:
    return text_of(options["PATTERN"]) if "PATTERN" in options else None


def _put(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    source = found["source"]
    path = unquote((text_of(source) if source.startswith("'") else source).removeprefix("file://"))
    base, inner, _ = folder(session, found["location"])
    options = options_of(found["options"])
    if unknown := set(options) - {"PARALLEL", "AUTO_COMPRESS", "SOURCE_COMPRESSION", "OVERWRITE"}:
        raise unsupported(f"the options {sorted(unknown)} of PUT")
    target = base / inner
    target.mkdir(parents=True, exist_ok=True)
    overwrites = options.get("OVERWRITE", "FALSE").upper() == "TRUE"
    if not overwrites and any((target / name).exists() for name in (Path(path).name, f"{Path(path).name}.gz")):
        # The connector does not look whether a local stage has the file; so it writes where nobody reads.
        target = session.account.stages / "skipped"
        target.mkdir(exist_ok=True)
    return _transfer(
        {
            "command": "UPLOAD",
            "src_locations": [path],
            "parallel": int(options.get("PARALLEL", "4")),
            "autoCompress": options.get("AUTO_COMPRESS", "TRUE").upper() == "TRUE",
            "sourceCompression": options.get("SOURCE_COMPRESSION", "AUTO_DETECT").lower(),
            "overwrite": overwrites,
            "stageInfo": {"locationType": "LOCAL_FS", "location": f"{target}/", "creds": {}},
        }
    )


def _get(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    target = found["target"]
    base, inner, _ = folder(session, found["location"])
    chosen = files(base, inner, _pattern(options_of(found["options"])))
    return _transfer(
        {
            "command": "DOWNLOAD",
            "src_locations": [file.relative_to(base).as_posix() for file in chosen],
            "localLocation": unquote((text_of(target) if target.startswith("'") else target).removeprefix("file://")),
            "parallel": 1,
            "encryptionMaterial": [],
            "stageInfo": {"locationType": "LOCAL_FS", "location": f"{base}/", "creds": {}},
        }
    )


def _transfer(data: dict[str, Any]) -> Rows:
    return Rows(pa.table({}), [], data)


def _list(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    base, inner, prefix = folder(session, found["location"])
    columns = {"name": "VARCHAR", "size": "BIGINT", "md5": "VARCHAR", "last_modified": "VARCHAR"}
    return listed(
        columns,
        [
            [f"{prefix}{file.relative_to(base).as_posix()}", file.stat().st_size, _checksum(file), _modified(file)]
            for file in files(base, inner, _pattern(options_of(found["options"])))
        ],
    )


def _remove(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    base, inner, prefix = folder(session, found["location"])
    gone = files(base, inner, _pattern(options_of(found["options"])))
    for file in gone:
        file.unlink()
    rows = [[f"{prefix}{file.relative_to(base).as_posix()}", "removed"] for file in gone]
    return listed({"name": "VARCHAR", "result": "VARCHAR"}, rows)


def _checksum(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def _modified(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


# ---- COPY


def _copy(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    if found["columns"]:
        raise unsupported("COPY INTO with a list of columns")
    name = session.writable(session.name(found["table"]))
    base, inner, prefix = folder(session, found["location"])
    options = options_of(found["options"])
    known = {"FILE_FORMAT", "MATCH_BY_COLUMN_NAME", "FORCE", "ON_ERROR", "PATTERN", "FILES"}
    if unknown := set(options) - known:
        raise unsupported(f"the options {sorted(unknown)} of COPY INTO")
    if options.get("ON_ERROR", "ABORT_STATEMENT").strip("'").upper() != "ABORT_STATEMENT":
        raise unsupported(f"ON_ERROR = {options['ON_ERROR']}")
    format_ = _file_format(session, options, found["location"])
    if options.get("MATCH_BY_COLUMN_NAME", "NONE").upper() != "CASE_INSENSITIVE":
        raise StatementError(
            2019,
            "0A000",
            "SQL compilation error:\nPARQUET file format can produce one and only one column of type variant, object, or array."
            " Use MATCH_BY_COLUMN_NAME (the emulator knows CASE_INSENSITIVE) to load into separate columns.",
        )
    chosen = files(base, inner, _pattern(options))
    if "FILES" in options:
        wanted = [text_of(one) for one in re.findall(_QUOTED, options["FILES"])]
        chosen = [base / inner / one for one in wanted]
        if missing := [one for one in chosen if not one.is_file()]:
            raise StatementError(100016, "22000", f"Remote file '{missing[0].name}' was not found.")
    rows: list[list[Any]] = []
    with session.implicit_transaction() as is_alone:
        transaction = session.transaction
        assert transaction is not None
        loaded = session.account.loaded.get(name, set()) | transaction.loaded.get(name, set())
        marks = {file: (file.relative_to(session.account.stages).as_posix(), _checksum(file)) for file in chosen}
        forced = options.get("FORCE", "FALSE").upper() == "TRUE"
        new = [file for file in chosen if forced or marks[file] not in loaded]
        if not new:
            return listed({"status": "VARCHAR"}, [["Copy executed with 0 files processed."]])

        def load() -> Rows:
            for file in new:
                count = _load(session, file, name, format_)
                at = f"{prefix}{file.relative_to(base).as_posix()}"
                rows.append([at, "LOADED", count, count, 1, 0, None, None, None, None])
            return listed(_COPIED, rows)

        result = session.change(name, load, adds_only=True, is_alone=is_alone)
        transaction.loaded.setdefault(name, set()).update(marks[file] for file in new)
    return result


_COPIED = {
    "file": "VARCHAR",
    "status": "VARCHAR",
    "rows_parsed": "BIGINT",
    "rows_loaded": "BIGINT",
    "error_limit": "BIGINT",
    "errors_seen": "BIGINT",
    "first_error": "VARCHAR",
    "first_error_line": "BIGINT",
    "first_error_character": "BIGINT",
    "first_error_column_name": "VARCHAR",
}


def _file_format(session: "Session", options: dict[str, str], location: str) -> dict[str, str]:
    """The options of the file format that COPY names, else of the stage's."""
    text = options.get("FILE_FORMAT")
    if text is None:
        found = re.match(rf"'?@({PART}(?:\.{PART}){{0,2}})", location)
        stage = session.account.definitions.get(("STAGE", session.name(found[1]))) if found else None
        text = (stage.options.get("FILE_FORMAT") if stage else None) or None
    if text is None:
        raise unsupported("COPY INTO without a file format")
    given = options_of(text.strip("()"))
    if "FORMAT_NAME" in given:
        written = given["FORMAT_NAME"]
        name = session.name(text_of(written) if written.startswith("'") else written)
        given = session.account.definition("FILE FORMAT", name).options
    if "TYPE" not in given:
        raise missing_property("FILE FORMAT", "TYPE")
    if given["TYPE"].strip("'").upper() != "PARQUET":
        raise unsupported(f"files of type {given['TYPE']}")
    return {key: value.strip("'").upper() for key, value in given.items()}


def _load(session: "Session", file: Path, name: Name, format_: dict[str, str]) -> int:
    """Add a Parquet file's rows to a table, each column to the one of its name."""
    table = in_sql(name)
    in_file = pq.read_schema(file)
    if format_.get("USE_LOGICAL_TYPE", "FALSE") != "TRUE" and any(
        pa.types.is_timestamp(kind) or pa.types.is_decimal(kind) for kind in in_file.types
    ):
        raise StatementError(
            100035, "22007", "without USE_LOGICAL_TYPE = TRUE Snowflake reads times in Parquet as plain numbers"
        )
    if format_.get("BINARY_AS_TEXT", "TRUE") != "FALSE" and any(pa.types.is_binary(kind) for kind in in_file.types):
        raise StatementError(
            100144, "22000", "without BINARY_AS_TEXT = FALSE Snowflake reads binary values in Parquet as text"
        )
    columns = [row[0] for row in session.duck.execute(f"DESCRIBE {table}").fetchall()]
    of_file = {column.upper(): column for column in in_file.names}
    matched = [column for column in columns if column.upper() in of_file]
    if not matched:
        raise StatementError(2019, "0A000", f"no column of {file.name} has the name of a column of {shown(name)}")

    def quoted(column: str) -> str:
        return '"' + column.replace('"', '""') + '"'

    into = ", ".join(quoted(column) for column in matched)
    chosen = ", ".join(quoted(of_file[column.upper()]) for column in matched)
    path = str(file).replace("'", "''")
    ((count,),) = session.duck.execute(
        f"INSERT INTO {table} ({into}) SELECT {chosen} FROM read_parquet('{path}')"
    ).fetchall()
    return count


RULES = [
    (rf"PUT\s+(?P<source>{_QUOTED}|file://\S+)\s+{_LOCATION}{_OPTIONS}$", _put),
    (rf"GET\s+{_LOCATION}\s+(?P<target>{_QUOTED}|file://\S+){_OPTIONS}$", _get),
    (rf"(?:LIST|LS)\s+{_LOCATION}{_OPTIONS}$", _list),
    (rf"(?:REMOVE|RM)\s+{_LOCATION}{_OPTIONS}$", _remove),
    (rf"COPY\s+INTO\s+(?P<table>{NAME})\s*(?P<columns>\([^)]*\))?\s*FROM\s+{_LOCATION}{_OPTIONS}$", _copy),
]
