"""What travels between a client and the emulator: bound values in, rows out, in the connector's own forms."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fakesnow.statement_type import DML_TYPE_IDS
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.tokens import TokenType

from churn_assets_tests.snowflake.emulator.errors import StatementError, unsupported

_EPOCH = datetime(1970, 1, 1)
# A type of DuckDB's and what Snowflake calls it; those of nested values are text on the wire.
_TYPES = {
    "BLOB": "binary",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DOUBLE": "real",
    "FLOAT": "real",
    "JSON": "variant",
    "TIME": "time",
    "TIMESTAMP": "timestamp_ntz",
    "TIMESTAMP_NS": "timestamp_ntz",
    "TIMESTAMP_S": "timestamp_ntz",
    "TIMESTAMP_MS": "timestamp_ntz",
    "TIMESTAMP WITH TIME ZONE": "timestamp_ltz",
    "VARCHAR": "text",
    "UUID": "text",
    '"NULL"': "text",
} | dict.fromkeys(
    ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "DECIMAL"),
    "fixed",
)


@dataclass(frozen=True)
class Rows:
    """What a statement answers: rows with DuckDB's name of each column's type, or what a file transfer needs."""

    table: pa.Table
    types: Sequence[str]
    transfer: Mapping[str, Any] = field(default_factory=dict[str, Any])


def fetched(connection: duckdb.DuckDBPyConnection) -> Rows:
    """The rows of the connection's last query."""
    types = [str(column[1]) for column in connection.description or ()]
    return Rows(connection.to_arrow_table(), types)


def status(text: str) -> Rows:
    """One row that says what was done."""
    return listed({"status": "VARCHAR"}, [[text]])


def listed(columns: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> Rows:
    """Rows of Python values; `columns` are their names with DuckDB's types."""
    kinds = {
        "VARCHAR": pa.string(),
        "JSON": pa.string(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
    }
    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    arrays = [pa.array(column, kinds[type_]) for column, type_ in zip(values, columns.values(), strict=True)]
    return Rows(pa.Table.from_arrays(arrays, names=list(columns)), list(columns.values()))


# ---- values in


def with_values(sql: str, bindings: Mapping[str, Mapping[str, Any]] | None) -> str:
    """A statement with what was bound to its `?` written into it as literals of the bound types.

    A batch (each value a list) becomes one statement with as many rows behind VALUES, as Snowflake runs it as one.
    """
    if not bindings:
        return sql
    if set(bindings) != {str(place) for place in range(1, len(bindings) + 1)}:
        raise unsupported("bindings by name")
    bound = [bindings[str(place)] for place in range(1, len(bindings) + 1)]
    tokens = Snowflake().tokenize(sql)
    places = [token for token in tokens if token.token_type == TokenType.PLACEHOLDER]
    if len(places) != len(bound):
        raise StatementError(
            2049, "42601", f"SQL compilation error:\n{len(places)} bind variables, {len(bound)} values"
        )
    if not any(isinstance(value["value"], list) for value in bound):
        return _filled(sql, 0, [(place.start, place.end) for place in places], [literal(value) for value in bound])
    opening, closing = _row_of_values(tokens, places[0].start)
    row, spots = sql[opening : closing + 1], [(place.start, place.end) for place in places]
    if spots[0][0] < opening or spots[-1][1] > closing:
        raise unsupported("a batch with bindings outside of one row of VALUES")
    columns = [[literal({**value, "value": one}) for one in value["value"]] for value in bound]
    rows = [_filled(row, opening, spots, values) for values in zip(*columns, strict=True)]
    return sql[:opening] + ", ".join(rows) + sql[closing + 1 :]


def _row_of_values(tokens: Sequence[Any], first_place: int) -> tuple[int, int]:
    depth, opening = 0, -1
    behind_values = False
    for token in tokens:
        if token.token_type == TokenType.VALUES:
            behind_values, depth = True, 0
        elif behind_values and token.token_type == TokenType.L_PAREN:
            opening = token.start if depth == 0 else opening
            depth += 1
        elif behind_values and token.token_type == TokenType.R_PAREN:
            depth -= 1
            if depth == 0 and token.start > first_place:
                return opening, token.end
    raise unsupported("a batch that is no INSERT ... VALUES")


def _filled(text: str, offset: int, spots: Sequence[tuple[int, int]], values: Sequence[str]) -> str:
    parts, at = [], 0
    for (start, end), value in zip(spots, values, strict=True):
        parts += [text[at : start - offset], value]
        at = end - offset + 1
    return "".join([*parts, text[at:]])


def literal(binding: Mapping[str, Any]) -> str:
    """One bound value as a literal of Snowflake's SQL."""
    if binding["value"] is None:
        return "NULL"
    if (in_sql := _LITERALS.get(binding["type"])) is None:
        raise unsupported(f"values of type {binding['type']}")
    return in_sql(str(binding["value"]))


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _of_nanoseconds(value: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(value) // 1000)


_LITERALS: dict[str, Callable[[str], str]] = {
    "FIXED": str,
    "REAL": lambda value: f"CAST('{value}' AS DOUBLE)",
    "BOOLEAN": str.upper,
    "BINARY": lambda value: f"TO_BINARY('{value}', 'HEX')",
    # Days come in milliseconds, times in nanoseconds.
    "DATE": lambda value: f"CAST('{(_EPOCH + timedelta(milliseconds=int(value))).date()}' AS DATE)",
    "TIME": lambda value: f"CAST('{_of_nanoseconds(value).time()}' AS TIME)",
    "TIMESTAMP_NTZ": lambda value: f"CAST('{_of_nanoseconds(value)}' AS TIMESTAMP_NTZ)",
    "TIMESTAMP_LTZ": lambda value: f"CAST('{_of_nanoseconds(value)}' AS TIMESTAMP_LTZ)",
    "TEXT": _text,
    "ANY": _text,
}


# ---- rows out


def answer(rows: Rows, statement_type: int) -> dict[str, Any]:
    """The part of a response that holds rows. Clients read the counts of DML from JSON, anything else from Arrow."""
    rowtype = [_column(name, type_) for name, type_ in zip(rows.table.column_names, rows.types, strict=True)]
    head = {"rowtype": rowtype, "total": rows.table.num_rows, "returned": rows.table.num_rows}
    if statement_type in DML_TYPE_IDS:
        columns = [column.to_pylist() for column in rows.table.columns]
        rowset = [[None if value is None else str(value) for value in row] for row in zip(*columns, strict=True)]
        return {**head, "queryResultFormat": "json", "rowset": rowset}
    if not rows.table.num_rows:
        # The connector's reader dies of a batch without rows.
        return {**head, "queryResultFormat": "arrow", "rowsetBase64": ""}
    fields, arrays = [], []
    for (name, column), about in zip(
        zip(rows.table.column_names, rows.table.columns, strict=True), rowtype, strict=True
    ):
        array = _array(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column, about)
        about_field = {
            "logicalType": about["type"].upper(),
            "precision": str(about["precision"] or 38),
            "scale": str(about["scale"] or 0),
            "charLength": str(about["length"] or 0),
        }
        fields.append(pa.field(name, array.type, metadata=about_field))
        arrays.append(array)
    schema = pa.schema(fields)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return {**head, "queryResultFormat": "arrow", "rowsetBase64": b64encode(sink.getvalue()).decode()}


def _column(name: str, type_: str) -> dict[str, Any]:
    plain = type_.split("(", maxsplit=1)[0]
    nested = type_.endswith("]") or plain in {"STRUCT", "MAP", "UNION"}
    kind = "variant" if nested else _TYPES.get(plain)
    if kind is None:
        raise unsupported(f"results of type {type_}")
    precision, scale = None, None
    if kind == "fixed":
        sizes = type_.partition("(")[2].rstrip(")").split(",") if "(" in type_ else ["38", "0"]
        precision, scale = int(sizes[0]), int(sizes[1])
    elif kind.startswith("time"):
        precision, scale = 0, 9
    length = {"text": 16777216, "binary": 8388608}.get(kind)
    return {
        "name": name,
        "database": "",
        "schema": "",
        "table": "",
        "nullable": True,
        "type": kind,
        "byteLength": length,
        "length": length,
        "scale": scale,
        "precision": precision,
        "collation": None,
    }


def _array(array: Any, about: Mapping[str, Any]) -> Any:
    """A column as the connector's Arrow reader expects its Snowflake type."""
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    match about["type"]:
        case "text" | "variant":
            return _texts(array)
        case "timestamp_ntz" | "timestamp_ltz":
            return _moments(array)
        case "time":
            return pc.multiply(array.cast(pa.time64("us")).cast(pa.int64()), 1000)
        case "real":
            return array.cast(pa.float64())
        case "fixed" if pa.types.is_integer(array.type):
            return array.cast(pa.int64())
        case _:
            return array


def _texts(array: Any) -> Any:
    if pa.types.is_nested(array.type):
        texts = [None if value is None else json.dumps(value, default=str) for value in array.to_pylist()]
        return pa.array(texts, pa.string())
    return pa.nulls(len(array), pa.string()) if pa.types.is_null(array.type) else array.cast(pa.string())


def _moments(array: Any) -> Any:
    """Seconds and nanoseconds; as the session's time zone is UTC, it is not told."""
    micros = array.cast(pa.timestamp("us", array.type.tz)).cast(pa.int64()).fill_null(0).to_numpy()
    seconds, fraction = np.divmod(micros, 1_000_000)
    parts = [pa.array(seconds, pa.int64()), pa.array(fraction * 1000, pa.int32())]
    return pa.StructArray.from_arrays(parts, ["epoch", "fraction"], mask=array.is_null())
