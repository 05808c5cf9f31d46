"""A user's own table: which columns are features, what is missing, and what is refused."""

import re
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_assets.errors import ChurnError
from churn_assets.model.cross_validation import cross_validate
from churn_assets.model.customer_file import CustomerRows, read_customers

LABELS = ["yes", "no", "no", "yes"]


def rows_of(
    tmp_path: Path, ignore: tuple[str, ...] = (), keep: tuple[str, ...] = (), **columns: list[object]
) -> CustomerRows:
    file = tmp_path / "customers.parquet"
    pd.DataFrame({"left": LABELS, **columns} if "left" not in columns else columns).to_parquet(file)
    return read_customers(file, "left", ignore, keep)


def features_of(rows: CustomerRows) -> dict[str, list[float]]:
    return {name: rows.frame[inner].tolist() for inner, name in rows.features.items()}


def texts_of(rows: CustomerRows, name: str) -> list[str | None]:
    """The levels of a category, row by row."""
    (inner,) = [inner for inner, other in rows.features.items() if other == name]
    levels = rows.categories[inner]
    return [None if np.isnan(place) else levels[int(place)] for place in rows.frame[inner]]


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([Decimal("1.10"), Decimal(2), Decimal(3), Decimal(4)], [1.1, 2, 3, 4]),
        ([True, False, True, False], [1, 0, 1, 0]),
        (["1", " 2.5", "1e3", "-4 "], [1, 2.5, 1000, -4]),
        (["yes", "No", "Y", "false"], [1, 0, 1, 0]),
        (["1", "0", "0", "1"], [1, 0, 0, 1]),
        (["1,5", "2", "3", "-4,25"], [1.5, 2, 3, -4.25]),
        (["1.234,5", "2", "3", "4"], [1234.5, 2, 3, 4]),
        (["1,234.5", "2", "3,000", "4"], [1234.5, 2, 3000, 4]),
        (["€ 1 234", "2 €", "$3", "4 %"], [1234, 2, 3, 4]),
        (["1'234 CHF", "2", "3", "4"], [1234, 2, 3, 4]),
        (["(1.50)", "2", "$(3)", "4"], [-1.5, 2, -3, 4]),
        (["1.234,50-", "2", "3", "4"], [-1234.5, 2, 3, 4]),
        (["True.", "False.", "True.", "False."], [1, 0, 1, 0]),
        (["00012", "2", "3", "4"], [12, 2, 3, 4]),
    ],
)
def test_numbers_and_yes_and_no_are_features(tmp_path: Path, values: list[object], numbers: list[float]):
    assert features_of(rows_of(tmp_path, x=values)) == {"x": numbers}


@pytest.mark.parametrize("blank", [None, "", " ", "NA", "n/a", "?", "null", "NaN", "-", "\\N", "None"])
def test_a_missing_value_is_told_and_does_not_cost_the_column(tmp_path: Path, blank: str | None):
    rows = rows_of(tmp_path, x=["1", blank, "3", "4"])

    np.testing.assert_equal(features_of(rows), {"x": [1, np.nan, 3, 4]})
    assert rows.missing == {"x": 1}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([[1], [2], [3], [4]], "no numbers, dates or texts but list<element: int64>"),
        ([time(1, 2)] * 4, "no numbers, dates or texts but time64[us]"),
        ([date(2026, 1, 1)] * 4, "the same value in every row"),
        (
            ["01/02/2026", "03/04/2026", "05/06/2026", "07/08/2026"],
            "dates of which nobody can tell day and month; write",
        ),
        (["a"] * 4, "the same value in every row"),
        ([7] * 4, "the same value in every row"),
        ([" ", "?", None, ""], "no value in any row"),
        ([None, None, None, np.nan], "no value in any row"),
    ],
)
def test_a_column_that_is_no_feature_says_why(tmp_path: Path, values: list[object], why: str):
    rows = rows_of(tmp_path, x=values, y=[1, 2, 3, 4])

    assert list(rows.features.values()) == ["y"]
    assert list(rows.not_used) == ["x"]
    assert rows.not_used["x"].startswith(why)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["b", "a", "a ", None], ["b", "a", "a", None]),
        (["1", "2", "many", "4"], ["1", "2", "many", "4"]),
        (["Müller & Co", "x", "x", "NA"], ["Müller & Co", "x", "x", None]),
        (pd.Categorical(["b", "a", "a", None]), ["b", "a", "a", None]),
        (["only", None, None, "only"], ["only", None, None, "only"]),
    ],
)
def test_texts_are_categories(tmp_path: Path, values: list[object], texts: list[str | None]):
    assert texts_of(rows_of(tmp_path, x=values), "x") == texts


@pytest.mark.parametrize(
    "dates",
    [
        [date(2026, 3, 4), date(2026, 3, 1), None, date(2025, 3, 4)],
        [datetime(2026, 3, 4, 12), datetime(2026, 3, 1, 12), None, datetime(2025, 3, 4, 12)],
        ["2026-03-04", "2026-03-01", "", "2025-03-04"],
        ["2026-03-04T10:00:00Z", "2026-03-01T10:00:00Z", None, "2025-03-04 10:00:00+00:00"],
        ["04.03.2026", "01.03.2026", "?", "04.03.2025"],
        ["3/14/2026", "3/11/2026", None, "3/14/2025"],
        ["14/3/2026", "11/3/2026", None, "14/3/2025"],
        ["03/14/2026 10:00:00 AM", "03/11/2026 10:00:00 AM", None, "03/14/2025 10:00:00 AM"],
        ["14-Mar-26", "11-Mar-26", "N/A", "14-Mar-25"],
        ["14.03.26", "11.03.26", "", "14.03.25"],
    ],
)
def test_dates_are_days_before_the_latest(tmp_path: Path, dates: list[object]):
    rows = rows_of(tmp_path, since=dates)

    np.testing.assert_equal(features_of(rows), {"since": [0, 3, np.nan, 365]})
    assert rows.read_as["since"].startswith("days before 2026-03-")


def many(**columns: object) -> dict[str, list[object]]:
    return {"left": ["yes", "no"] * 500, **{name: list(values) for name, values in columns.items()}}  # type: ignore[call-overload]


RNG = np.random.default_rng(0)
IDS = {
    "RowNumber": range(1, 1_001),
    "CustomerId": RNG.permutation(250_000)[:1_000] + 15_565_701,
    "any": RNG.permutation(1_000),  # no name says so, but measured integers would repeat
    "float": RNG.permutation(1_000) * 1.0,
    "ten digits": RNG.choice(9_000_000_000, 1_000, replace=False) + 1_000_000_000,
    "as text": [f"{number:05}" for number in RNG.permutation(1_000)],
    "account": [f"{number:04x}-QX" for number in range(1_000)],
    "uuid": [f"{RNG.integers(2**63):x}" for _ in range(1_000)],
    "Surname": [f"Name{int(number)}" for number in RNG.exponential(300, 1_000)],
    "remark": [f"called on day {number} of {number % 7}" for number in range(1_000)],
    "client_no": RNG.integers(0, 10**6, 1_000),
    "Account Number": RNG.integers(0, 200, 1_000),  # several rows of each
    "ClientID": [f"C{number}" for number in RNG.integers(0, 200, 1_000)],
}
NO_IDS = {
    "age": RNG.integers(18, 90, 1_000),
    "income": RNG.lognormal(10.5, 0.6, 1_000).astype(int),
    "cents": RNG.lognormal(12, 1.5, 1_000).astype(int),
    "balance": RNG.normal(1e4, 3e3, 1_000),
    "paid": RNG.integers(0, 10**9, 1_000),
    "sorted": np.sort(RNG.lognormal(8, 1, 1_000)),
    "number_of_calls": RNG.poisson(3, 1_000),
    "postcode": RNG.choice([f"{number:05}" for number in range(400)], 1_000),
    "town": RNG.choice(["Bonn", "Ulm", "Köln"], 1_000),
    "state": RNG.choice([f"S{number}" for number in range(51)], 1_000),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_and_names_are_left_out_unless_they_are_kept(tmp_path: Path, name: str):
    columns = many(**{name: IDS[name]}, age=NO_IDS["age"])

    rows = rows_of(tmp_path, **columns)

    assert list(rows.features.values()) == ["age"]
    assert re.search(r"\bid|names or free text", rows.not_used[name])
    assert f"{len(set(IDS[name])):,} different" in rows.not_used[name]
    assert list(rows_of(tmp_path, keep=(name.upper(),), **columns).features.values()) == [name, "age"]


@pytest.mark.parametrize("name", NO_IDS)
def test_what_is_measured_is_not_taken_for_an_id(tmp_path: Path, name: str):
    assert list(rows_of(tmp_path, **many(**{name: NO_IDS[name]})).features.values()) == [name]


def test_rare_values_of_a_category_count_as_one(tmp_path: Path):
    few = ["Bonn"] * 500 + ["Ulm"] * 497 + ["a", "b", "c"]
    # Of 200 values with 5 rows each no column could be made for each, so each counts by its share of leavers.
    many_values = [f"s{number % 198}" for number in range(990)] + [f"rare{number}" for number in range(10)]
    rows = rows_of(tmp_path, **many(town=few, street=many_values))

    towns, streets = rows.categories.values()
    assert (towns, len(streets)) == (("Bonn", "Ulm", "others"), 199)
    assert rows.read_as == {
        "town": "3 rare values count as one",
        "street": "10 rare values count as one; each of 199 values by its share of leavers",
    }


@pytest.mark.parametrize("count", [2, 300])
def test_words_among_numbers_are_missing_values_and_told(tmp_path: Path, count: int):
    values = [f"{number / 7:.3f}".replace(".", ",") for number in range(1_000)]
    values[41 : 41 + count] = ["unknown"] * count
    rows = rows_of(tmp_path, **many(x=values))

    told = f"numbers; {count} values are none and count as missing, first 'unknown' in row 42"
    assert (rows.read_as["x"], rows.missing, rows.categories) == (told, {"x": count}, {})


def test_a_few_impossible_dates_are_missing_values_and_told(tmp_path: Path):
    dates = [f"{1 + number % 28:02}/0{1 + number % 9}/2025" for number in range(1_000)]
    dates[41] = "00/00/0000"
    rows = rows_of(tmp_path, **many(x=dates))

    assert rows.missing == {"x": 1}
    assert rows.read_as["x"].startswith("days before 2025-09-28; 1 values are none and count as missing, first '00/00")


@pytest.mark.parametrize(
    "name", ["has_left", "cut_off", "model", "heuristic", "Feature 1", "select", "a b", 'it\'s "it"', "é"]
)
def test_a_column_may_have_any_name_also_one_of_ours(tmp_path: Path, name: str):
    rows = rows_of(tmp_path, **{name: [0.1, 0.2, 0.3, 0.4], "customer_id": ["C1", "C1", "C2", "C3"]})

    assert features_of(rows) == {name: [0.1, 0.2, 0.3, 0.4]}
    assert rows.frame["has_left"].tolist() == [True, False, False, True]
    assert rows.frame["customer_id"].tolist() == ["C1", "C1", "C2", "C3"]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"left": ["yes", "no", "maybe", "no"]}, "must say who left by .* not 'maybe' as in row 3"),
        ({"left": ["Active", "Lost", "Active", "Lost"]}, "not 'Active' as in row 1; or name what it says .* --left"),
        ({"left": ["no"] * 4}, "every row of the column left says 'no'; it takes leavers and others"),
        ({"left": ["yes", None, "yes", ""]}, "says 'yes', or nothing .2 rows.; it takes leavers and others"),
        ({"left": [None] * 4}, "the column left is empty; it takes leavers and others"),
        ({"left": [1.0, 0.5, 0.0, 1.0]}, "not '0.5' as in row 2"),
        (
            {"customer_id": ["C1", " ", None, "C2"]},
            "the column customer_id is empty in 2 rows, first in row 2; fill it",
        ),
        ({"x": [1.0, 2.0, np.inf, 4.0]}, "the column x is infinite or too large in row 3"),
        ({"x": ["1", "1e39", "3", "4"]}, "the column x is infinite or too large in row 2"),
        ({"x": ["a"] * 4}, "no column beside left to learn from .x: the same value in every row"),
        ({"X": [1, 2, 3, 4]}, "has the column x twice"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(
    tmp_path: Path, columns: dict[str, list[object]], error: str
):
    with pytest.raises(ChurnError, match=error) as raised:
        rows_of(tmp_path, **{"x": [1, 2, 3, 4], **columns})
    assert "\n" not in str(raised.value)


def test_ignored_columns_are_not_looked_at(tmp_path: Path):
    rows = rows_of(tmp_path, ("Customer_ID", "y"), customer_id=["C1", "", None, ""], x=[1, 2, 3, 4], y=["a"] * 4)

    assert (rows.not_used, list(rows.features.values())) == ({}, ["x"])
    assert rows.frame["customer_id"].nunique() == 4


@pytest.mark.parametrize(
    "words",
    [
        ("Yes", "No"),
        ("true", "FALSE"),
        (1.0, 0.0),
        ("Y", "n"),
        ("Churned", "stayed"),
        ("1.00", "0"),
        (" True.", " False."),
    ],
)
def test_who_left_may_be_said_in_several_ways(tmp_path: Path, words: tuple[object, object]):
    rows = rows_of(tmp_path, left=[words[0], words[1], words[1], words[0]], x=[1, 2, 3, 4])

    assert rows.frame["has_left"].tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("word", "said"),
    [("LOST", ["Lost", "Active", "dormant", "Lost"]), ("2", [2, 1, 1, 2]), ("-1", [-1.0, 1.0, 1.0, -1.0])],
)
def test_what_stands_for_leavers_may_be_named(tmp_path: Path, word: str, said: list[object]):
    pd.DataFrame({"state": said, "x": [1, 2, 3, 4]}).to_parquet(file := tmp_path / "customers.parquet")

    assert read_customers(file, "state", leaver=word).frame["has_left"].tolist() == [True, False, False, True]
    with pytest.raises(ChurnError, match="the column state never says 'gone'; it says '"):
        read_customers(file, "state", leaver="gone")


def test_customers_of_whom_nobody_says_whether_they_left_are_left_out_and_told(tmp_path: Path):
    rows = rows_of(tmp_path, left=["yes", None, "no", "?"], x=[1, 2, 3, 4])

    assert rows.frame["has_left"].tolist() == [True, False]
    assert (features_of(rows), rows.left_out) == ({"x": [1, 3]}, {"left is empty": ["row 2", "row 4"]})


def test_text_is_read_as_it_is_loaded_and_rows_that_are_none_are_told(tmp_path: Path):
    file = tmp_path / "customers.csv"
    file.write_bytes("Kunden 2026\nleft;Größe\nja;x\nyes;1\nno;2\nTotal\nno;3\n".replace("ja;x\n", "").encode("cp1252"))

    rows = read_customers(file, "LEFT")

    assert (features_of(rows), rows.left_out) == ({"Größe": [1, 2, 3]}, {"fewer fields than the header": ["line 5"]})
    assert "Latin-1, semicolons between fields, header in line 2" in rows.found


def test_too_few_customers_are_refused(tmp_path: Path):
    file = tmp_path / "customers.csv"
    pd.DataFrame({"left": LABELS * 100, "x": np.arange(400) / 7, "customer_id": "C1"}).to_csv(file, index=False)
    rows = read_customers(file, "left")

    with pytest.raises(ChurnError, match="0 customers stayed; at least 20"):
        cross_validate(rows.frame, list(rows.features))
