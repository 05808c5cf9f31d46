"""From the mappings of a source to the SQL that reads it: what decoding needs to know, and no more.

Everything is checked here, before the first message: expressions, patterns, zones, types. What is compiled is plain text, so it
can be sent to the process that decodes.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path as FilePath
from typing import Any, Literal, TypeAlias
from zoneinfo import available_timezones

import duckdb

from churn_assets.ingestion.events import Field
from churn_assets.ingestion.mapping import file as mapping_file
from churn_assets.ingestion.mapping.engine import cursor
from churn_assets.ingestion.mapping.expressions import Fields, Path, compiled
from churn_assets.ingestion.mapping.file import (
    NAMED_FORMATS,
    CodeTable,
    Column,
    Encoding,
    MappingError,
    MappingFile,
    SourceMapping,
)
from churn_assets.warehouse.values import literal

_UNIX = {"unix_seconds": 1, "unix_milliseconds": 1_000, "unix_microseconds": 1_000_000}
_TIME_OF_DAY = ("%H", "%I", "%c", "%X", "%T", "%R")


@dataclass(frozen=True)
class ColumnSql:
    """The SQL of one column: `raw` over the fields, `text` and `value` over raw_NAME; `fault` says what is wrong, or is NULL."""

    name: str
    source: str
    """Where it comes from, for messages."""
    raw: str
    text: str
    """The value as the contract writes it."""
    fault: str
    value: str | None = None
    """The value in its type, where the text is made of it and not it of the text."""


@dataclass(frozen=True)
class Projection:
    """How the fields of a source become the rows of one ledger."""

    name: str
    ledger: str
    where: str | None
    skip: str | None
    columns: tuple[ColumnSql, ...]
    paths: frozenset[Path]
    """The fields that it uses."""
    keeps_extra: bool


Form: TypeAlias = Literal["plain", "cloudevents", "debezium"]


@dataclass(frozen=True)
class WriterSchema:
    """A schema as the registry has it: its kind, which is AVRO, PROTOBUF or JSON, and its text."""

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()
    """Name and text of the schemas that it refers to, each after those that it refers to itself."""


@dataclass(frozen=True)
class MappedSource:
    """A topic, or a kind of file, with all mappings that read it."""

    form: Form
    """What stands around a row."""
    encoding: Encoding
    paths: tuple[Path, ...]
    """The fields that any of them uses; `f0` is the first."""
    projections: tuple[Projection, ...]
    schemas: Mapping[int, WriterSchema | str] = dataclasses.field(default_factory=dict[int, WriterSchema | str])
    """Of the messages to read, each schema by its id, or the reason why there is none (`schema_registry`)."""

    @property
    def columns(self) -> list[str]:
        """The fields that it uses, as the columns of a table."""
        return [".".join(path) for path in self.paths]

    @property
    def title(self) -> str:
        """The names of its mappings."""
        return ", ".join(projection.name for projection in self.projections)

    def as_json(self) -> "MappedSource":
        """The same where each row is an object of JSON with nothing around it: of a file, or of a sample."""
        return replace(self, form="plain", encoding="json")

    def missing(self, columns: Iterable[str]) -> list[str]:
        """The fields that a table with these columns does not have."""
        known = {name.lower() for name in columns}
        return [".".join(path) for path in self.paths if ".".join(path).lower() not in known]

    def spelled_as(self, columns: Iterable[str]) -> "MappedSource":
        """The same for a table: a column may be written in another case there, and a dot belongs to its name."""
        by_case = {name.lower(): name for name in columns}

        def spelled(path: Path) -> Path:
            name = ".".join(path)
            return (by_case.get(name.lower(), name),)

        return replace(
            self,
            paths=tuple(map(spelled, self.paths)),
            projections=tuple(replace(one, paths=frozenset(map(spelled, one.paths))) for one in self.projections),
        )


class Mappings:
    """The mappings of one file, checked. Empty, they map nothing: every message is an event of the contract."""

    def __init__(self, content: MappingFile | None, name: str = "") -> None:
        self.content = content
        self.name = name
        self._compiled: dict[tuple[str, ...], MappedSource] = {}
        if content is not None:
            for mapping in content.mappings:
                self._source([mapping])

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that it maps."""
        return tuple(dict.fromkeys(topic for mapping in self._all for topic in mapping.topics))

    @property
    def names(self) -> list[str]:
        """The names of all mappings."""
        return [mapping.name for mapping in self._all]

    def named(self, name: str) -> MappedSource | None:
        """The mapping of a name alone."""
        return self._source([mapping for mapping in self._all if mapping.name == name])

    def only(self) -> MappedSource | None:
        """What reads the one topic, or the one kind of file, that is mapped; None if there are several."""
        sources = {(tuple(mapping.topics), tuple(mapping.files)) for mapping in self._all}
        return self._source(self._all) if len(sources) == 1 else None

    def of_topic(self, topic: str) -> MappedSource | None:
        """What reads a topic; None if its messages are events of the contract."""
        return self._source([mapping for mapping in self._all if topic in mapping.topics])

    def of_file(self, path: FilePath | str, ledger: str | None = None) -> MappedSource | None:
        """What reads a file, by its name, into `ledger` or any; None if no mapping names it."""
        name = FilePath(path).name
        found = [
            mapping
            for mapping in self._all
            if (ledger is None or mapping.ledger == ledger)
            and any(fnmatchcase(name, pattern) for pattern in mapping.files)
        ]
        source = self._source(found)
        return None if source is None else source.as_json()

    @property
    def _all(self) -> Sequence[SourceMapping]:
        return [] if self.content is None else self.content.mappings

    def _source(self, mappings: Sequence[SourceMapping]) -> MappedSource | None:
        if not mappings or self.content is None:
            return None
        key = tuple(mapping.name for mapping in mappings)
        if key not in self._compiled:
            fields = Fields()
            try:
                projections = tuple(_projection(mapping, self.content.codes, fields) for mapping in mappings)
            except MappingError as error:
                raise MappingError(f"the mapping {self.name} is wrong at {error}") from error
            self._compiled[key] = MappedSource(*_form(mappings[0]), tuple(fields.paths), projections)
        return self._compiled[key]


def load_mappings(path: FilePath | None) -> Mappings:
    """The mappings of a file, or none. Raises `MappingError`."""
    return Mappings(None) if path is None else Mappings(mapping_file.read(path), str(path))


def _form(mapping: SourceMapping) -> tuple[Form, Encoding]:
    if mapping.format in ("cloudevents", "debezium"):
        return mapping.format, mapping.encoding or "json"
    return "plain", mapping.format


def _projection(mapping: SourceMapping, codes: Mapping[str, CodeTable], shared: Fields) -> Projection:
    own = Fields()
    number = {None: "number_plain", ".": "number_point", ",": "number_comma"}
    contract = {field.name: field for field in mapping.event_type.fields}

    def sql(text: str, decimal: str | None, kind: str | None = None) -> str:
        compiled(text, own, number[decimal])
        found = compiled(text, shared, number[decimal])
        _checked_type(found, shared, text, kind)
        return found

    def at(place: str, column: Column, field: Field) -> ColumnSql:
        try:
            return _column(mapping, column, field, codes, sql)
        except MappingError as error:
            raise MappingError(f"{place}: {error}") from error

    def condition(place: str, text: str | None) -> str | None:
        try:
            return None if text is None else sql(text, mapping.decimal, "BOOLEAN")
        except MappingError as error:
            raise MappingError(f"mappings.{mapping.name}.{place}: {error}") from error

    columns = tuple(
        at(f"mappings.{mapping.name}.columns.{name}", column, contract[name])
        for name, column in mapping.columns.items()
    )
    where, skip = condition("where", mapping.where), condition("skip", mapping.skip)
    return Projection(
        mapping.name, mapping.ledger, where, skip, columns, frozenset(own.paths), mapping.extra_fields == "all"
    )


def _column(
    mapping: SourceMapping, column: Column, field: Field, codes: Mapping[str, CodeTable], sql: Any
) -> ColumnSql:
    name, raw = field.name, f"raw_{field.name}"
    decimal = column.decimal or mapping.decimal
    formats = column.date_format or mapping.date_format
    zone = column.timezone or mapping.timezone
    if column.constant is not None:
        text = literal(column.constant)
        return ColumnSql(name, "a constant", text, raw, "NULL")
    # A name as SQL: each double quote twice.
    source = column.sql if column.sql is not None else f'"{str(column.field).replace(chr(34), chr(34) * 2)}"'
    expression = sql(source, decimal)
    kind = _described(expression)
    is_field = expression.removeprefix("f").isdecimal()
    raw_sql = expression if is_field else f"TRY(CAST({expression} AS VARCHAR))"
    faults: list[str] = []
    value = None
    if not is_field:
        failed = f"the expression for {name} failed: {' '.join(source.split())}"
        faults.append(f"WHEN {raw} IS NULL AND TRY({{'value': {expression}}}) IS NULL THEN {literal(_short(failed))}")
    text = raw
    if kind == "VARCHAR" and field.type == "DOUBLE" and decimal is not None:
        sign = "point" if decimal == "." else "comma"
        text = f"decimal_{sign}(nullif(trim({raw}), ''))"
        faults.append(_unread(raw, f"text_{name}", literal(f"{name} is not a number with a decimal {sign}")))
    elif field.type in ("TIMESTAMP", "DATE") and (formats or zone):
        text, value, of_what = _time(raw, kind, field, formats, zone)
        faults.append(_unread(raw, f"text_{name}" if value is None else name, literal(_short(f"{name} {of_what}"))))
    elif column.codes is not None:
        text, fault = _coded(name, raw, column.codes, codes[column.codes])
        faults += fault
    return ColumnSql(name, source, raw_sql, text, f"CASE {' '.join(faults)} END" if faults else "NULL", value)


def _unread(raw: str, read: str, reason: str) -> str:
    return f"WHEN {read} IS NULL AND trim({raw}) <> '' THEN {reason}"


def _coded(name: str, raw: str, table_name: str, table: CodeTable) -> tuple[str, list[str]]:
    """SQL: the code in the ledger for a code of the source, and what is wrong with one that the table leaves out."""
    code = f"trim(coalesce({raw}, ''))"
    cases = " ".join(f"WHEN {literal(theirs)} THEN {literal(ours)}" for theirs, ours in table.values.items())
    if table.default is not None:
        otherwise = f"CASE WHEN {code} <> '' THEN {literal(table.default)} END"
    else:
        otherwise = f"nullif({code}, '')" if table.others == "keep" else "NULL"
    text = f"CASE {code} {cases} ELSE {otherwise} END"
    if table.default is not None or table.others == "keep":
        return text, []
    shown = f"left({code}, 60)"
    reason = f"concat('{name}: the code ', {shown}, {literal(f' is not in the code table {table_name}')})"
    return text, [_unread(raw, f"text_{name}", reason)]


def _time(
    raw: str, kind: str, field: Field, formats: Sequence[str] | None, zone: str | None
) -> tuple[str, str | None, str]:
    """SQL: a time or day as the contract writes it, and in its type (as of `ColumnSql`); and what is wrong if it is NULL."""
    if zone is not None and zone not in available_timezones():
        raise MappingError(f"{zone} is no time zone of the IANA database, such as Europe/Berlin")
    where = zone if field.type == "TIMESTAMP" else None
    if kind != "VARCHAR":  # an expression that is a time already
        return (raw if where is None else f"iso_local({raw}, {literal(where)})"), None, "is not a time"
    ways = [_read_time(raw, pattern, where) for pattern in formats or ["iso"]]
    shown = ", ".join(formats) if formats else "iso"
    texts = [_TEXTS_OF[kind].format(sql) for kind, sql in ways]
    is_typed = {kind for kind, _ in ways} <= ({"DATE"} if field.type == "DATE" else {"DATE", "TIMESTAMP"})
    values = ", ".join(f"CAST({sql} AS {field.type})" for _, sql in ways)
    return f"coalesce({', '.join(texts)})", f"coalesce({values})" if is_typed else None, f"fits no date_format: {shown}"


_TEXTS_OF = {"VARCHAR": "{}", "DATE": "CAST({} AS VARCHAR)", "TIMESTAMP": "as_utc({})"}


def _read_time(text: str, pattern: str, zone: str | None) -> tuple[str, str]:
    """The type that a pattern gives, and the SQL: an ISO text, a day, or a time (UTC)."""
    if pattern == "iso":
        trimmed = f"trim({text})"
        iso = f"CASE WHEN regexp_matches({trimmed}, '^[0-9]{{4}}-?[0-9]{{2}}-?[0-9]{{2}}([Tt ]|$)') THEN {trimmed} END"
        return "VARCHAR", iso if zone is None else f"iso_local({iso}, {literal(zone)})"
    if pattern == "unix_days":
        return "DATE", f"CAST(DATE '1970-01-01' + try_cast({text} AS INTEGER) AS DATE)"
    if pattern in _UNIX:
        return "TIMESTAMP", f"TRY(unix_time({text}, {_UNIX[pattern]}))"
    if "%" not in pattern:
        raise MappingError(f"{pattern} is no date_format; use %d.%m.%Y and the like, or {', '.join(NAMED_FORMATS)}")
    try:
        kind = cursor().execute(f"SELECT typeof(try_strptime('', {literal(pattern)}))").fetchall()[0][0]
    except duckdb.Error as error:
        raise MappingError(f"{pattern} is no date_format: {str(error).splitlines()[0]}") from error
    parsed = f"parsed_time({text}, {literal(pattern)})"
    if not any(part in pattern for part in _TIME_OF_DAY):
        return "DATE", f"CAST({parsed} AS DATE)"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return "TIMESTAMP", f"timezone('UTC', {parsed})"
    return "TIMESTAMP", parsed if zone is None else f"zoned({parsed}, {literal(zone)})"


def _checked_type(expression: str, fields: Fields, text: str, kind: str | None) -> None:
    try:
        found = _described(expression)
    except duckdb.Error as error:
        raise MappingError(
            f"“{_short(' '.join(text.split()))}”: {_named(str(error).splitlines()[0], fields)}"
        ) from error
    if kind is not None and found not in (kind, '"NULL"'):
        raise MappingError(f"“{_short(' '.join(text.split()))}” is a {found}, not a condition")


def _described(expression: str) -> str:
    """The type of an expression over columns of text; `duckdb.Error` if it has none."""
    numbers = sorted({int(word[1:]) for word in _words(expression) if word[:1] == "f" and word[1:].isdecimal()})
    columns = ", ".join(f"NULL::VARCHAR AS f{number}" for number in numbers) or "1 AS one"
    return str(
        cursor().execute(f"SELECT typeof(v) FROM (SELECT {expression} AS v FROM (SELECT {columns}))").fetchall()[0][0]
    )


def _words(sql: str) -> list[str]:
    return "".join(character if character.isalnum() or character == "_" else " " for character in sql).split()


def _named(message: str, fields: Fields) -> str:
    """DuckDB's message with the fields' names in place of the columns'."""
    for number, path in reversed(list(enumerate(fields.paths))):
        message = message.replace(f"f{number}", ".".join(path))
    return message


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
