"""Python values within a statement: texts, and rows too few to be staged as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal


def literal(text: str, dialect: Literal["duckdb", "snowflake"] = "duckdb") -> str:
    """A text in single quotes. Snowflake, unlike DuckDB, also reads a backslash as the start of an escape."""
    escaped = text.replace("\\", "\\\\") if dialect == "snowflake" else text
    return "'" + escaped.replace("'", "''") + "'"


def places(rows: Sequence[Sequence[Any]]) -> str:
    """`(?, ?), (?, ?)`: the placeholders after VALUES for these rows."""
    return ", ".join(f"({one_row(row)})" for row in rows)


def one_row(values: Iterable[Any]) -> str:
    """`?, ?, ?`: the placeholders within IN (…) for these values."""
    return ", ".join("?" for _ in values)


def as_table(rows: Sequence[Sequence[Any]], columns: Mapping[str, str]) -> str:
    """A subquery for FROM or USING that gives these rows; `columns` maps names to types. An alias has to follow.

    The types are needed because a bare parameter has the type of its value, and none if that is NULL.
    """
    typed = ", ".join(f"CAST(given.{name} AS {type_}) AS {name}" for name, type_ in columns.items())
    return f"(SELECT {typed} FROM (VALUES {places(rows)}) AS given ({', '.join(columns)}))"


def flat(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """All values of the rows in order: the parameters for `places`."""
    return [value for row in rows for value in row]
