"""Python values within a statement: texts, and the few rows that are not worth staging as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal


def literal(text: str, dialect: Literal["duckdb", "snowflake"] = "duckdb") -> str:
    """A text between single quotes; Snowflake, unlike DuckDB, also takes a backslash in it for the begin of an escape."""
    escaped = text.replace("\\", "\\\\") if dialect == "snowflake" else text
    return "'" + escaped.replace("'", "''") + "'"


def places(rows: Sequence[Sequence[Any]]) -> str:
    """`(?, ?), (?, ?)`: what stands behind VALUES for these rows."""
    return ", ".join(f"({one_row(row)})" for row in rows)


def one_row(values: Iterable[Any]) -> str:
    """`?, ?, ?`: what stands behind IN ( for these values."""
    return ", ".join("?" for _ in values)


def as_table(rows: Sequence[Sequence[Any]], columns: Mapping[str, str]) -> str:
    """What stands behind FROM or USING for rows with these columns, by name with their types; an alias has to follow.

    A bare parameter has whatever type its value has, and none where that is NULL.
    """
    typed = ", ".join(f"CAST(given.{name} AS {type_}) AS {name}" for name, type_ in columns.items())
    return f"(SELECT {typed} FROM (VALUES {places(rows)}) AS given ({', '.join(columns)}))"


def flat(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The rows' values one after the other: the parameters of the places."""
    return [value for row in rows for value in row]
