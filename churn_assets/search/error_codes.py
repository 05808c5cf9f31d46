"""What the app's error codes mean: `error_codes.csv`, the one catalogue for every search and for both warehouses.

Here belongs the catalogue. How events are searched is another module's affair.
"""

import csv
from pathlib import Path
from typing import NamedTuple

ERROR_CODES_FILE = Path(__file__).with_name("error_codes.csv")


class ErrorCode(NamedTuple):
    """One code of app_activity_logs, in words that a customer would use."""

    error_code: str
    title: str
    description: str


def load_error_codes() -> list[ErrorCode]:
    """The catalogue in the order of its file."""
    with ERROR_CODES_FILE.open(newline="") as file:
        return [ErrorCode(**row) for row in csv.DictReader(file)]
