"""Tables in files of the user, Parquet or text with separators, as rows that know their place in the file.

This is the one way in which the commands read a user's file. What the columns mean is the callers' affair.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from churn_assets.table_files.delimited import SEPARATORS, Header, columns_of, find_headers, read_rows
from churn_assets.table_files.source import FileError, Source, look

_BATCH_ROWS = 100_000
PLACE, HEIGHT, FAULT, ORIGINAL = "place", "height", "fault", "original"
_PLACES = [(PLACE, pa.int64()), (HEIGHT, pa.int64()), (FAULT, pa.string()), (ORIGINAL, pa.binary())]


@dataclass(frozen=True)
class TableFile:
    """A table in a file: what was found out about it, and its rows."""

    source: Source
    names: list[str]
    """The columns, as the file writes them, without outer spaces; no two differ only in case."""
    types: list[pa.DataType]
    found: str
    """What the file is, in one line: format, encoding, separator, compression, place of the header."""
    unit: Literal["line", "row"]
    """What a place counts, from 1: lines of a text, rows of Parquet."""
    headers: tuple[Header, ...]

    @property
    def name(self) -> str:
        """The path in printable characters."""
        return self.source.name

    def schema(self) -> pa.Schema:
        """The schema of `batches`: place, fault, original, and the columns as c0, c1 ..., whatever their names are.

        `height` is how many lines a row has; more than one with line ends between quotes."""
        return pa.schema([*_PLACES, *((f"c{place}", kind) for place, kind in enumerate(self.types))])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Every row of the file once. `fault` says why a record is no row; then `original` is its text and the columns are null.

        `FileError` if the file changes meanwhile.
        """
        return self._of_text() if self.headers else self._of_parquet()

    def _of_text(self) -> Iterator[pa.RecordBatch]:
        for rows in read_rows(self.source, self.headers):
            count, faulty = len(rows.lines), len(rows.faulty)
            if not count + faulty:
                continue
            places = [
                pa.array(rows.lines),
                pa.array(rows.heights),
                pa.nulls(count, pa.string()),
                pa.nulls(count, pa.binary()),
            ]
            columns = [*places, *rows.columns]
            if faulty:
                of_faulty = [
                    pa.array([one.line for one in rows.faulty], pa.int64()),
                    pa.array([1] * faulty, pa.int64()),
                    pa.array([one.reason for one in rows.faulty], pa.string()),
                    pa.array([one.text for one in rows.faulty], pa.binary()),
                    *(pa.nulls(faulty, kind) for kind in self.types),
                ]
                columns = [pa.concat_arrays(pair) for pair in zip(columns, of_faulty, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema())

    def _of_parquet(self) -> Iterator[pa.RecordBatch]:
        with self.source.open() as raw, parquet.ParquetFile(raw) as file:
            row = 1
            for batch in file.iter_batches(_BATCH_ROWS):
                count = batch.num_rows
                places = [
                    pa.array(range(row, row + count)),
                    pa.array([1] * count),
                    pa.nulls(count, pa.string()),
                    pa.nulls(count, pa.binary()),
                ]
                columns = [self._plain(batch.columns[place], place) for place in range(len(self.types))]
                yield pa.RecordBatch.from_arrays([*places, *columns], schema=self.schema())
                row += count

    def _plain(self, column: Any, place: int) -> Any:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        try:
            return column if column.type == self.types[place] else pc.cast(column, self.types[place])
        except pa.ArrowInvalid as error:
            raise FileError(f"the column {self.names[place]} of {self.name} holds bytes that are no text") from error


def open_table(path: Path, needed: Sequence[str]) -> TableFile:
    """Find out what a file holds. `needed` are columns that its header has, in any case and order; whether it has them all is
    for the caller to say. `FileError` if it is no table.
    """
    source = look(path)
    if source.is_parquet:
        with source.open() as raw, parquet.ParquetFile(raw) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        names = [name.strip() for name in schema.names]
        lowered = [name.lower() for name in names]
        if twice := sorted({name for name in lowered if lowered.count(name) > 1}):
            raise FileError(f"{source.name} has the column {twice[0]} twice; rename one")
        types = [_plain_type(field.type) for field in schema]
        return TableFile(source, names, types, f"Parquet, {rows:,} rows", "row", ())
    headers = find_headers(source, needed)
    first, *others = headers
    encoding = {"utf-8": "UTF-8", "latin-1": "Latin-1"}.get(source.encoding, source.encoding)
    parts = [
        "text" + (f" in {source.compression}" if source.compression else ""),
        f"{encoding}{' but for some rows' if source.is_damaged else ''}",
        f"{SEPARATORS[first.separator]} between fields",
        f"header in line {first.line}{', what stands above is left out' if first.line > 1 else ''}",
    ]
    if others:
        parts.append(f"again in line {', '.join(str(header.line) for header in others)}")
    names = columns_of(headers)
    return TableFile(source, names, [pa.string()] * len(names), ", ".join(parts), "line", tuple(headers))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if isinstance(kind, pa.DictionaryType):
        return _plain_type(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.string()  # older writers do not mark text as such
    if pa.types.is_null(kind):
        return pa.string()
    return pa.float32() if pa.types.is_float16(kind) else kind
