"""Checks a user's own table of customers and turns it into rows to train on. Files are read by `table_files`; what a column is,
is found in `table_columns`; the training is in `cross_validation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.types as kinds

from churn_assets.errors import ChurnError
from churn_assets.model.table_columns import (
    Column,
    NotUsed,
    bare,
    days_since_1970,
    of_dates,
    of_numbers,
    of_text,
    yes_or_no,
)
from churn_assets.rules import FEATURES
from churn_assets.table_files.source import printable
from churn_assets.table_files.tables import FAULT, PLACE, TableFile, open_table

CUSTOMER = "customer_id"
_MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", ".", "\\n"}
_NUMBERS = (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_boolean, kinds.is_null)


class CustomerFileError(ChurnError):
    """The file does not say who left, or has values that cannot be learned from; the message says what is expected."""


@dataclass(frozen=True)
class CustomerRows:
    """Rows for `cross_validation.cross_validate`, and what became of the file's columns and rows."""

    frame: pd.DataFrame
    """customer_id, cut_off, has_left, and the features, NaN where a value is missing."""
    features: dict[str, str]
    """By the frame's column, the name of the feature. The names are the user's and may be those of other columns of the frame."""
    categories: dict[str, tuple[str, ...]]
    """By the frame's column of a category, its levels; the frame holds their places."""
    found: str
    """What the file is, in one line."""
    not_used: dict[str, str]
    """The file's columns that are no features, each with the reason."""
    read_as: dict[str, str]
    """The features that are not used as they stand, each with what was made of it."""
    missing: dict[str, int]
    """The features with missing values, and in how many rows."""
    left_out: dict[str, list[str]]
    """By reason, where the rows are that the file has and `frame` has not."""


def read_customers(
    file: Path, label: str, ignore: Sequence[str] = (), keep: Sequence[str] = (), leaver: str | None = None
) -> CustomerRows:
    """Read a file with one row per customer (or several, with a column customer_id).

    `label` names the column that says who left: 1 and 0, true and false or yes and no, or `leaver` for those who left and
    anything else for the others. Rows in which it is empty are left out. Every other column of numbers, dates, categories, or
    of yes and no, becomes a feature, unless it is in `ignore`. What looks like an id or a name does so only if it is in `keep`.
    `FileError` if it is no table, otherwise `CustomerFileError`.
    """
    table = open_table(file, [label, *ignore, *keep])
    places = {name: table.names.index(_resolved(table, name)) for name in (label, *ignore)}
    kept = {table.names.index(_resolved(table, name)) for name in keep}
    rows = pa.Table.from_batches(list(table.batches()), schema=table.schema()).combine_chunks()
    left_out: dict[str, list[str]] = {}
    for row in rows.filter(rows[FAULT].is_valid()).select([PLACE, FAULT]).to_pylist():
        left_out.setdefault(row[FAULT], []).append(f"{table.unit} {row[PLACE]}")
    rows = rows.filter(rows[FAULT].is_null())
    says = _Columns(table, rows).says_who_left(places[label], leaver)
    if says.isna().any():
        unknown = rows[PLACE].filter(pa.array(says.isna())).to_pylist()
        left_out[f"{_resolved(table, label)} is empty"] = [f"{table.unit} {place}" for place in unknown]
        rows = rows.filter(pa.array(says.notna())).combine_chunks()
    column, has_left = _Columns(table, rows), says.dropna().to_numpy(bool)
    frame: dict[str, object] = {}
    features: dict[str, str] = {}
    not_used: dict[str, str] = {}
    categories: dict[str, tuple[str, ...]] = {}
    read_as: dict[str, str] = {}
    missing: dict[str, int] = {}
    for place, name in enumerate(table.names):
        if place in places.values() or name.lower() == CUSTOMER:
            continue
        found = column.found(place, keep=place in kept)
        if isinstance(found, NotUsed):
            not_used[name] = found.why
            continue
        # The bank's features keep their name, by which the heuristic score knows them.
        inner = name if name in FEATURES and not found.levels else f"feature {place}"
        features[inner], frame[inner] = name, found.values
        if found.levels:
            categories[inner] = found.levels
        if found.note:
            read_as[name] = found.note
        if count := int(np.isnan(found.values).sum()):
            missing[name] = count
    if not features:
        why = "; ".join(f"{name}: {reason}" for name, reason in not_used.items())
        raise CustomerFileError(
            f"{table.name} has no column beside {label} to learn from" + (f" ({why})" if why else "")
        )
    ids = next((place for place, name in enumerate(table.names) if name.lower() == CUSTOMER), None)
    frame[CUSTOMER] = np.arange(rows.num_rows) if ids is None or ids in places.values() else column.customers(ids)
    return CustomerRows(
        pd.DataFrame(frame).assign(has_left=has_left, cut_off=0),
        features,
        categories,
        f"{table.name}: {table.found}",
        not_used,
        read_as,
        missing,
        left_out,
    )


def _resolved(table: TableFile, wanted: str) -> str:
    """The column as the file writes it, which may be in another case."""
    for name in table.names:
        if name.lower() == wanted.strip().lower():
            return name
    raise CustomerFileError(f"{table.name} has no column {wanted}; it has {', '.join(table.names)} ({table.found})")


class _Columns:
    """The columns of a file, by place."""

    def __init__(self, table: TableFile, rows: pa.Table) -> None:
        self._table, self._rows = table, rows

    def says_who_left(self, place: int, word: str | None) -> pd.Series:
        """Whether each customer left, NA where nothing is said; `word` is what stands for those who left."""
        name, text = self._table.names[place], self._text(place)
        said = bare(text)
        leaves = yes_or_no(text) if word is None else said.eq(bare(pd.Series([word.strip()], dtype="string"))[0])
        words = ", ".join(repr(printable(one)) for one in text.value_counts().index[:5])
        if word is not None and not leaves.any():
            raise CustomerFileError(f"the column {name} never says {word!r}; it says {words}")
        if len(strange := np.flatnonzero((leaves.isna() & text.notna()).to_numpy(bool))):
            raise CustomerFileError(
                f"the column {name} must say who left by 1 and 0, true and false or yes and no, not"
                f" {text.iloc[strange[0]]!r} as in {self._where(strange[0])}; or name what it says of those who left with --left"
            )
        if leaves.dropna().nunique() < 2:
            told = f"every row of the column {name} says {words}" if words else f"the column {name} is empty"
            empty = f", or nothing ({text.isna().sum():,} rows)" if words and text.isna().any() else ""
            raise CustomerFileError(f"{told}{empty}; it takes leavers and others")
        return leaves

    def customers(self, place: int) -> pd.Series:
        """The ids of the customers."""
        text = self._text(place)
        self._refuse_missing(place, text, f"fill it, or leave it out with --ignore {self._table.names[place]}")
        return text

    def found(self, place: int, *, keep: bool) -> Column | NotUsed:
        """What there is to learn from a column; `keep` takes ids, too."""
        kind, name = self._table.types[place], self._table.names[place]
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        if kinds.is_date(kind) or kinds.is_timestamp(kind):
            return of_dates(days_since_1970(self._rows[f"c{place}"].to_pandas()))
        if _is_text(kind):
            found = of_text(name, self._text(place), self._where, keep=keep)
        elif any(check(kind) for check in _NUMBERS):
            found = of_numbers(name, self._rows[f"c{place}"].to_pandas().astype("float64").to_numpy(), keep=keep)
        else:
            return NotUsed(f"no numbers, dates or texts but {kind}")
        # The model computes with float32.
        if isinstance(found, Column) and len(large := np.flatnonzero(np.abs(found.values) > np.finfo(np.float32).max)):
            raise CustomerFileError(
                f"the column {name} is infinite or too large in {self._where(int(large[0]))}; correct it, or use --ignore {name}"
            )
        return found

    def _text(self, place: int) -> pd.Series:
        """The values as text without outer spaces, missing ones as NA."""
        text = self._rows[f"c{place}"].to_pandas().astype("string").str.strip()
        return text.mask(text.str.lower().isin(_MISSING))

    def _refuse_missing(self, place: int, text: pd.Series, remedy: str) -> None:
        rows = np.flatnonzero(text.isna())
        if len(rows):
            raise CustomerFileError(
                f"the column {self._table.names[place]} is empty in {len(rows):,} rows, first in {self._where(rows[0])}; {remedy}"
            )

    def _where(self, row: int) -> str:
        return f"{self._table.unit} {self._rows[PLACE][int(row)]}"


def _is_text(kind: pa.DataType) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
