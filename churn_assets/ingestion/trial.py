"""A mapping tried on a sample of data, without a warehouse: what `churn map check` and `churn map suggest` look at.

A sample is a file of a table, or one with a JSON message in each line. Rows are made as ingestion makes them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.configuration import rules
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, table_of
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS
from churn_assets.ingestion.history import decode_rows, open_mapped, rows_as_events
from churn_assets.ingestion.isolation import decode
from churn_assets.ingestion.json_text import Number, UnreadableError, parsed, written
from churn_assets.ingestion.mapping.compiling import Form, MappedSource, Mappings
from churn_assets.ingestion.mapping.file import ENVELOPE, Format, MappingError
from churn_assets.ingestion.mapping.suggesting import Sample
from churn_assets.rules import nearest
from churn_assets.table_files.source import FileError, look
from churn_assets.table_files.tables import FAULT, open_table

MAX_ROWS = 100_000
_MAX_FIELDS = 500


@dataclass(frozen=True)
class Checked:
    """What became of a sample."""

    title: str
    messages: int
    rows: Mapping[str, pa.Table]
    rejects: Mapping[str, tuple[int, int]]
    """By reason, how many, and the line of the first."""
    left_out: int
    codes: Mapping[str, Mapping[str, tuple[int, str]]]
    """By column, each code of the rows: how many rows have it, and what it counts as."""


def check(mappings: Mappings, data: Path, name: str | None, now: datetime) -> Checked:
    """Map a sample, of a table its first chunk. Raises `MappingError` and `FileError`, also if a field is in none of its rows."""
    source = _source(mappings, data, name)
    if _is_json_lines(data):
        source = replace(source, encoding="json")  # a sample of Avro, too, is written as JSON
        messages = _json_lines(data)
        _refuse_unknown_fields(source, messages, data)
        decoded = decode(messages, now, source)
    else:
        opened = open_mapped(data, source)
        rows = next(rows_as_events(opened.file, LEDGERS[source.projections[0].ledger], opened.mapped), None)
        if rows is None:
            raise FileError(f"{opened.file.name} has no rows")
        messages, decoded = decode_rows(rows, decode, now, opened.mapped)
    rejects: dict[str, tuple[int, int]] = {}
    for reason, line in zip(*(decoded.rejects[name].to_pylist() for name in ("reason", "kafka_offset")), strict=True):
        count, first = rejects.get(reason, (0, line))
        rejects[reason] = (count + 1, min(first, line))
    return Checked(source.title, messages.num_rows, decoded.rows, rejects, decoded.left_out, _codes(decoded.rows))


def sample_of(data: Path, topic: str | None) -> Sample:
    """The fields and values of a file, for a suggestion."""
    if _is_json_lines(data):
        return _sample_of_messages(data, topic)
    table = open_table(data, [field.name for event_type in EVENT_TYPES for field in event_type.fields])
    rows: list[pa.RecordBatch] = []
    for batch in table.batches():
        rows.append(batch.filter(pc.is_null(batch[FAULT])))
        if sum(one.num_rows for one in rows) >= 10_000:
            break
    whole = pa.Table.from_batches(rows, table.schema()).slice(0, 10_000)
    fields: dict[str, list[str | None]] = {
        name: [None if value is None else _as_text(value) for value in whole[f"c{place}"].to_pylist()]
        for place, name in enumerate(table.names)
    }
    return Sample(data.name, True, "json", fields)


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _source(mappings: Mappings, data: Path, name: str | None) -> MappedSource:
    """The mapping to try: the one of that name, of the file's name, or the only source that there is."""
    if not mappings.names:
        raise MappingError(f"{mappings.name} has no mapping yet; `churn map suggest {data}` proposes one")
    source = mappings.named(name) if name else mappings.of_file(data) or mappings.only()
    if source is None:
        raise MappingError(
            f"no mapping of {mappings.name} is named {name}; there are {', '.join(mappings.names)}"
            if name
            else f"which mapping is {data.name} for? Choose one with --mapping: {', '.join(mappings.names)}"
        )
    return source


def _is_json_lines(path: Path) -> bool:
    source = look(path)
    if source.is_parquet:
        return False
    return next(source.blocks(), b"").lstrip()[:1] == b"{"


def _json_lines(path: Path) -> pa.Table:
    rest, number = b"", 0
    rows: list[tuple[int, int, None, bytes]] = []
    for block in look(path).blocks():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                rows.append((0, number, None, line.strip()))
        if len(rows) >= MAX_ROWS:
            break
    if rest.strip():
        rows.append((0, number + 1, None, rest.strip()))
    return table_of(rows[:MAX_ROWS], MESSAGE_SCHEMA)


def _objects(messages: pa.Table, limit: int = 1_000) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for value in messages["value"].slice(0, limit).to_pylist():
        try:
            message = parsed(value)
        except UnreadableError:
            continue
        if isinstance(message, dict):
            found.append(cast("dict[str, Any]", message))
    return found


def _format_of(messages: list[dict[str, Any]]) -> Format:
    first = messages[0] if messages else {}
    change = first.get("payload", first) if "op" not in first else first
    if isinstance(change, dict) and "op" in change and ("after" in change or "before" in change):
        return "debezium"
    return "cloudevents" if "specversion" in first else "json"


def _flat(message: dict[str, Any], format_: Format | Form) -> dict[str, str | None]:
    """The fields of a message by their names in a mapping."""
    around: dict[str, Any] = {}
    row: Any = message
    if format_ == "cloudevents":
        around, row = {name: value for name, value in message.items() if name != "data"}, message.get("data")
    elif format_ == "debezium":
        change = message if "op" in message else message.get("payload", {})
        row = change.get("before" if change.get("op") == "d" else "after")
        around = {name: value for name, value in change.items() if name not in ("before", "after")}
    flat: dict[str, str | None] = {}
    _flatten(row, (), flat)
    _flatten(around, (ENVELOPE,), flat)
    return flat


def _flatten(value: Any, path: tuple[str, ...], into: dict[str, str | None]) -> None:
    if isinstance(value, dict):
        for name, member in cast("dict[str, Any]", value).items():
            _flatten(member, (*path, name), into)
    elif path and len(into) < _MAX_FIELDS:
        is_text = value is None or (isinstance(value, str) and not isinstance(value, Number))
        into[".".join(path)] = value if is_text else written(value)


def _refuse_unknown_fields(source: MappedSource, messages: pa.Table, data: Path) -> None:
    objects = _objects(messages)
    fields = {name for message in objects for name in _flat(message, source.form)}
    there = fields | {".".join(name.split(".")[:depth]) for name in fields for depth in range(1, name.count(".") + 1)}
    if objects and (missing := [name for name in source.columns if name not in there]):
        raise MappingError(
            f"no message of {data.name} has the field {', '.join(missing)}, which {source.title} uses; they have"
            f" {', '.join(sorted(fields))[:500]}"
        )


def _sample_of_messages(data: Path, topic: str | None) -> Sample:
    objects = _objects(_json_lines(data), 10_000)
    format_ = _format_of(objects)
    rows = [_flat(message, format_) for message in objects]
    names = dict.fromkeys(name for row in rows for name in row)
    return Sample(
        topic or data.name.split(".")[0], False, format_, {name: [row.get(name) for row in rows] for name in names}
    )


def codes_without_meaning(mappings: Mappings) -> list[str]:
    """The codes of its code tables that mean nothing to the bank's rules, each as one line."""
    found: list[str] = []
    for mapping in mappings.content.mappings if mappings.content else []:
        for name, column in mapping.columns.items():
            known = rules().codes.of_column(name)
            if mappings.content and known and column.codes:
                table = mappings.content.codes[column.codes]
                found += [
                    f"codes.{column.codes}: no rule knows {code}{nearest(code, known)};"
                    " choose a code of [codes] in churn.toml, or name it there"
                    for code in dict.fromkeys((*table.values.values(), table.default))
                    if code and not _means(name, code)
                ]
    return found


def _means(column: str, code: str) -> str | None:
    """What a code means to the bank's rules."""
    known = {code.upper(): kind for code, kind in rules().codes.of_column(column).items()}
    return known.get(code.strip().upper())


def _codes(rows: Mapping[str, pa.Table]) -> dict[str, dict[str, tuple[int, str]]]:
    """The codes of the rows that the bank's rules compare, and what they mean there."""
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for table in rows.values():
        for column in filter(rules().codes.of_column, table.column_names):
            counts = Counter(cast("list[str]", table[column].to_pylist()))
            found[column] = {
                code: (count, _means(column, code) or "no rule knows it") for code, count in counts.most_common()
            }
    return found
