"""Rows of Python values within a statement, for the few rows that are not worth staging as a table."""

from collections.abc import Iterable, Sequence
from typing import Any


def places(rows: Sequence[Sequence[Any]]) -> str:
    """`(?, ?), (?, ?)`: what stands behind VALUES for these rows."""
    return ", ".join(f"({one_row(row)})" for row in rows)


def one_row(values: Iterable[Any]) -> str:
    """`?, ?, ?`: what stands behind IN ( for these values."""
    return ", ".join("?" for _ in values)


def flat(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The rows' values one after the other: the parameters of the places."""
    return [value for row in rows for value in row]
