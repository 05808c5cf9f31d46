"""Metadata that a person can read: rounded numbers, tables with named columns, the first rows that a check failed on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

FAILING_ROWS = 10  # that a check shows
_TYPES = {bool: "bool", int: "int", float: "float"}


def rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, floats with four significant digits."""
    return {name: _short(value) for name, value in numbers.items()}


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """Rows as a table with these columns; floats are rounded, and everything but numbers becomes text."""
    records = [{name: _cell(row.get(name)) for name in columns} for row in rows]
    return dg.MetadataValue.table(
        [dg.TableRecord(record) for record in records],
        dg.TableSchema([dg.TableColumn(name, _type_of(record[name] for record in records)) for name in columns]),
    )


def failing(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, dg.TableMetadataValue]:
    """The first rows that break a check, under the name that all checks give them; empty if there are none."""
    return {"failing_rows": table(rows[:FAILING_ROWS], columns)} if rows else {}


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 1) if abs(value) >= 1000 else float(f"{value:.4g}")


def _cell(value: Any) -> bool | int | float | str | None:
    return _short(value) if value is None or isinstance(value, bool | int | float) else str(value)


def _type_of(values: Iterable[Any]) -> str:
    return next((_TYPES.get(type(value), "string") for value in values if value is not None), "string")
