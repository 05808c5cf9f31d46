"""Texts within a statement."""

import duckdb
import pytest
import sqlglot

from churn_assets.warehouse.values import literal

TEXTS = ["", "Ann", "O'Brien", "''", "C:\\new", "\\", "\\'", "two\nlines"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_from_either_dialect_as_it_was(text: str) -> None:
    with duckdb.connect() as connection:
        assert connection.execute(f"SELECT {literal(text)}").fetchone() == (text,)
    assert sqlglot.parse_one(f"SELECT {literal(text, 'snowflake')}", dialect="snowflake").selects[0].name == text
