"""What a column of a user's own table is: numbers, dates, categories, or nothing to learn from, and why.

No function here looks at who left, so nothing leaks from the label. Reading the file and the label is in `customer_file`, what
is learned from the columns in `cross_validation`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from churn_assets.model.families import MOST_LEVELS
from churn_assets.model.scoring import Floats

YES = {"1", "true", "t", "yes", "y", "churned", "churn", "left", "exited", "attrited", "attrited customer"}
NO = {"0", "false", "f", "no", "n", "not churned", "no churn", "stayed", "retained", "existing", "existing customer"}
# A level with fewer rows than both is rare, and the rare ones count as one level.
_RARE_ROWS, _RARE_SHARE = 10, 0.005
_LEAST_LEVEL_ROWS = 5  # below which a level is rare where there are so many that each counts by its share of leavers
_LEAST_ROWS = 50  # of values, from which on ids are told from numbers and texts
_STRAY_SHARE = 0.05  # at most, of the values of a column of numbers that are none
_SURE_REPEATS = 20  # expected by chance among measured integers; that so many do not come is no chance
_LONG = 7  # digits, of ids that are drawn from a wide range
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?|[iI]nf(?:inity)?)", re.ASCII)
_PLAIN = r"[+-]?\d+(?:\.\d+)?"
_THOUSANDS_COMMA = re.compile(rf"{_PLAIN}|[+-]?\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?")
_UNITS = r"[\s\u00a0\u202f'’€$£¥%]|^(?:EUR|USD|GBP|CHF)|(?:EUR|USD|GBP|CHF)$"
_DATES = (
    "ISO8601",
    *(
        f"{day}{time}"
        for day in ("%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%Y.%m.%d")
        for time in ("", " %H:%M", " %H:%M:%S")
    ),
    "%d %b %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d/%b/%Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %Y",
    "%b-%Y",
    "%b-%y",
    "%m/%Y",
)
_DAY_OR_MONTH_FIRST = tuple(
    (f"%d{between}%m{year}{time}", f"%m{between}%d{year}{time}")
    for between, year in (("/", "/%Y"), ("/", "/%y"), ("-", "-%Y"))
    for time in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
)
_MINUS = re.compile(r"^\((.+)\)$|^([^-].*)-$")  # as accountants and SAP write it
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IDS = {
    "id",
    "ids",
    "uuid",
    "guid",
    "key",
    "number",
    "num",
    "no",
    "nr",
    "index",
    "rowname",
    "rownames",
    "iban",
    "phone",
}
# Of whom there may be several rows, so that an id may repeat.
_WHOSE = re.compile(
    r"(client|customer|cust|account|acct|user|member|card|row|person|subscriber)[ _-]?(id|num|number|no|nr|key)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Column:
    """A column to learn from."""

    values: Floats
    """The numbers, or the places of the levels, the commonest first; NaN where a value is missing."""
    levels: tuple[str, ...] = ()
    """Of a category, the texts by place; empty if the column holds numbers."""
    note: str = ""
    """What was made of the values, if they are not as they stand in the file."""


@dataclass(frozen=True)
class NotUsed:
    """Why there is nothing to learn from a column."""

    why: str


def of_text(name: str, text: pd.Series, where: Callable[[int], str], *, keep: bool) -> Column | NotUsed:
    """A column of texts without outer spaces, NA where a value is missing; `where` names the place of a row for messages.

    `keep` takes ids, names and free texts, too.
    """
    filled = text.dropna()

    def told(found: Column | NotUsed, values: pd.Series) -> Column | NotUsed:
        strays = values.index[values.isna()]
        if not len(strays) or isinstance(found, NotUsed):
            return found
        first = f"{text[strays[0]]!r} in {where(int(text.index.get_indexer(strays[:1])[0]))}"
        stray = f"{len(strays):,} values are none and count as missing, first {first}"
        return replace(found, note=f"{found.note or 'numbers'}; {stray}")

    numbers, strays = _numbers(filled), _STRAY_SHARE * len(filled) if len(filled) >= _LEAST_ROWS else 0
    of_filled = _filled_in(text, numbers)
    if numbers.isna().sum() <= strays:
        return told(of_numbers(name, of_filled, keep=keep), numbers)
    if (said := yes_or_no(filled)).notna().all():
        return of_numbers(name, _filled_in(text, said), keep=keep)
    if (dates := _dates(filled, strays)) is not None:
        return dates if isinstance(dates, NotUsed) else told(of_dates(_filled_in(text, dates)), dates)
    if not keep and len(filled) >= _LEAST_ROWS and _WHOSE.search(name) and (values := filled.nunique()) > MOST_LEVELS:
        return NotUsed(_whose(f"{values:,} different values in {len(filled):,} rows"))
    found = _category(text, filled, keep=keep)
    if isinstance(found, NotUsed) and strays and numbers.notna().mean() > 0.5:
        return told(of_numbers(name, of_filled, keep=keep), numbers)
    return found


def of_numbers(name: str, values: Floats, *, keep: bool) -> Column | NotUsed:
    """A column of numbers, NaN where a value is missing. `keep` takes ids, too."""
    filled = values[~np.isnan(values)]
    if not len(filled):
        return NotUsed("no value in any row")
    if len(filled) == len(values) and (filled == filled[0]).all():
        return NotUsed("the same value in every row")
    why = None if keep else _why_an_id(name, filled)
    return NotUsed(why) if why else Column(values)


def of_dates(days: Floats) -> Column | NotUsed:
    """A column of dates as days since 1970, NaN where one is missing: it becomes the days before the latest date."""
    if np.isnan(days).all():
        return NotUsed("no value in any row")
    latest = np.nanmax(days)
    values = latest - days
    if (values == 0).all():
        return NotUsed("the same value in every row")
    return Column(values, note=f"days before {np.datetime64('1970-01-01') + int(latest)}")


def days_since_1970(dates: pd.Series) -> Floats:
    """Dates, or times of any zone, as days since 1970 (UTC)."""
    return ((pd.to_datetime(dates, utc=True) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(np.float64)


def _filled_in(text: pd.Series, found: pd.Series) -> Floats:
    """Values of the filled rows as numbers, with NaN for the others."""
    return found.astype("float64").reindex(text.index).to_numpy(np.float64, na_value=np.nan)


def _plain(filled: pd.Series) -> pd.Series:
    """Texts as numbers, NaN where one is none. pandas' own way crashes on `1e99999999`, which an id in hex may look like."""
    is_number = filled.str.fullmatch(_NUMBER).to_numpy(bool)
    found = np.full(len(filled), np.nan)
    found[is_number] = filled[is_number].to_numpy("U").astype(np.float64)
    return pd.Series(found, filled.index)


def yes_or_no(filled: pd.Series) -> pd.Series:
    """Texts of YES as True, of NO as False, NA where one is neither."""
    said = bare(filled)
    return pd.Series(said.isin(YES), filled.index, "boolean").mask(~said.isin(YES | NO))


def bare(filled: pd.Series) -> pd.Series:
    """Texts in small letters, `1.0` and `True.` without what follows."""
    return filled.str.lower().str.replace(r"\.0*$", "", regex=True)


def _numbers(filled: pd.Series) -> pd.Series:
    """Texts as numbers, also with units, separators of thousands or decimal commas; NaN where one is none.

    Of the notations, that which makes numbers of the most.
    """
    plain = _plain(filled)
    if plain.notna().all():
        return plain
    without = filled.str.replace(_UNITS, "", regex=True).str.replace(_MINUS, r"-\1\2", regex=True)
    thousands = without.str.replace(",", "").where(without.str.fullmatch(_THOUSANDS_COMMA), "")
    decimals = without.str.replace(".", "").str.replace(",", ".").where(without.str.fullmatch(_DECIMAL_COMMA), "")
    return max((plain, _plain(thousands), _plain(decimals)), key=lambda found: found.notna().sum())


def _dates(filled: pd.Series, most_strays: float) -> pd.Series | NotUsed | None:
    """Texts as days since 1970, NaN where one is no date of the column's format; None if so many are none."""
    some, found = filled.iloc[:100], dict[str, pd.Series]()
    for format_ in (*_DATES, *(format_ for pair in _DAY_OR_MONTH_FIRST for format_ in pair)):
        # A column of dates shows its format in its first rows.
        if pd.to_datetime(some, format=format_, errors="coerce", utc=True).notna().mean() > 0.5:
            dates = pd.to_datetime(filled, format=format_, errors="coerce", utc=True)
            found[format_] = pd.Series(days_since_1970(dates), filled.index)
    best = max(found, key=lambda format_: found[format_].notna().sum(), default=None)
    if best is None or found[best].isna().sum() > most_strays:
        return None
    for pair in _DAY_OR_MONTH_FIRST:
        one, other = (found.get(format_, found[best]) for format_ in pair)
        if best in pair and one.notna().sum() == other.notna().sum() and not one.equals(other):
            return NotUsed("dates of which nobody can tell day and month; write them as 2026-12-31")
    return found[best]


def _category(text: pd.Series, filled: pd.Series, *, keep: bool) -> Column | NotUsed:
    counts: pd.Series = filled.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    if len(counts) == 1 and len(filled) == len(text):
        return NotUsed("the same value in every row")
    least = min(_RARE_ROWS, _RARE_SHARE * len(text))
    rare = counts[counts.lt(least)]
    if len(counts) - len(rare) >= MOST_LEVELS or rare.sum() > len(filled) / 2:
        rare = counts[counts.lt(min(_LEAST_LEVEL_ROWS, least))]
    common = counts.drop(rare.index) if len(rare) > 1 else counts
    pooled = len(filled) - int(common.sum())
    if not keep and len(filled) >= _LEAST_ROWS and (len(counts) > len(filled) / 2 or pooled > len(filled) / 2):
        return NotUsed(f"ids, names or free text: {len(counts):,} different values in {len(filled):,} rows")
    places = pd.Series(np.arange(len(common)), common.index)
    values = filled.map(places).fillna(len(common)).reindex(text.index).to_numpy(np.float64, na_value=np.nan)
    levels = (*common.index, "others") if pooled else tuple(common.index)
    notes = [
        f"{len(counts) - len(common):,} rare values count as one" if pooled else "",
        f"each of {len(levels):,} values by its share of leavers" if len(levels) > MOST_LEVELS else "",
    ]
    return Column(values, levels, "; ".join(filter(None, notes)))


def _whose(of: str) -> str:
    return f"an id, by its name: {of}; call the column customer_id if customers have several rows"


def _why_an_id(name: str, filled: Floats) -> str | None:
    """Why numbers only say which row or customer it is, or None.

    Measured integers repeat: of n that are drawn from a span of s, at least n - s (1 - (1 - 1/s)^n) repeat another, which a
    uniform distribution has and any other exceeds.
    """
    rows, distinct = len(filled), len(np.unique(filled))
    if rows < _LEAST_ROWS or not np.isfinite(filled).all() or (filled != np.round(filled)).any():
        return None
    of = f"{distinct:,} different integers in {rows:,} rows"
    if distinct > MOST_LEVELS and _WHOSE.search(name):
        return _whose(of)
    if distinct > rows / 2 and _IDS & {word.lower() for word in _WORDS.findall(name)}:
        return f"an id, by its name: {of}"
    span = float(filled.max() - filled.min() + 1)
    expected = rows + span * np.expm1(rows * np.log1p(-1 / span)) if span > 1 else 0.0
    if expected >= _SURE_REPEATS and rows - distinct < expected / 4:
        return f"a row number or an id: {of}; measured ones would repeat"
    lengths = np.unique(np.floor(np.log10(np.maximum(1, np.abs(filled)))))
    if distinct == rows and len(lengths) == 1 and lengths[0] + 1 >= _LONG:
        return f"an id: {of}, all with {int(lengths[0]) + 1} digits"
    return None
