"""What the app's error codes and the categories of support cases mean: one catalogue for searches on both warehouses.

Here belong the files `error_codes.csv` and `case_categories.csv` and the titles of cases. `relevance` compares questions
with the catalogue.
"""

import csv
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent


class ErrorCode(NamedTuple):
    """One code of app_activity_logs. `words` are phrases that people use for it."""

    error_code: str
    title: str
    description: str
    words: str


class CaseCategory(NamedTuple):
    """One category of support_cases. `words` are phrases that people use for it."""

    category: str
    words: str

    @property
    def title(self) -> str:
        """The title of a case in this category."""
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
    """The title of a case, even if the catalogue does not know its category."""
    return f"Support case about {category.replace('_', ' ').lower()}"
