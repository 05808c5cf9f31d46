"""What the app's error codes and the categories of support cases mean: one catalogue for every search, on both warehouses.

Here belong the catalogue, `error_codes.csv` and `case_categories.csv`, and the text that it makes of an event. How a
question is compared with it is `relevance`'s affair.
"""

import csv
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent


class ErrorCode(NamedTuple):
    """One code of app_activity_logs. `words` are what people call it, phrase by phrase."""

    error_code: str
    title: str
    description: str
    words: str


class CaseCategory(NamedTuple):
    """One category of support_cases. `words` are what people call it, phrase by phrase."""

    category: str
    words: str

    @property
    def title(self) -> str:
        """What a case of it is called."""
        return case_title(self.category)


def load_error_codes() -> list[ErrorCode]:
    """The codes in the order of their file."""
    with (_FOLDER / "error_codes.csv").open(newline="") as file:
        return [ErrorCode(**row) for row in csv.DictReader(file)]


def load_case_categories() -> list[CaseCategory]:
    """The categories in the order of their file."""
    with (_FOLDER / "case_categories.csv").open(newline="") as file:
        return [CaseCategory(**row) for row in csv.DictReader(file)]


def case_title(category: str) -> str:
    """What a case of a category is called, also of one that the catalogue does not know."""
    return f"Support case about {category.replace('_', ' ').lower()}"
