"""The statement that reads what Snowflake has billed, over rows with the documented columns.

It runs in DuckDB after translation by sqlglot: its logic is tested, not that Snowflake takes it.
"""

from dataclasses import fields
from datetime import date

import duckdb
import sqlglot
from sqlfluff.core import Linter
from sqlglot import exp

from churn_assets.warehouse.protocol import Credits
from churn_assets.warehouse.snowflake import CREDITS

BILLED = {
    "WAREHOUSE_METERING_HISTORY": """
        SELECT * FROM (VALUES
            ('CHURN', TIMESTAMPTZ '2026-11-21 23:00:00Z', 0.5), ('CHURN', TIMESTAMPTZ '2026-11-22 00:00:00Z', 0.25),
            ('CHURN', TIMESTAMPTZ '2026-11-22 01:00:00Z', 0.5), ('OTHERS', TIMESTAMPTZ '2026-11-22 01:00:00Z', 99),
            ('CHURN', TIMESTAMPTZ '2026-11-01 01:00:00Z', 99)
        ) AS billed (warehouse_name, start_time, credits_used)""",
    "CORTEX_AI_FUNCTIONS_USAGE_HISTORY": """
        SELECT * FROM (VALUES
            (TIMESTAMPTZ '2026-11-22 10:00:00Z', ['DATA_ENGINEER', 'MARKETING_ANALYST'], 0.125),
            (TIMESTAMPTZ '2026-11-22 11:00:00Z', ['OTHERS'], 99)
        ) AS billed (start_time, role_names, credits)""",
    "CORTEX_SEARCH_DAILY_USAGE_HISTORY": """
        SELECT * FROM (VALUES
            (DATE '2026-11-22', 'CHURN', 'SERVING', 0.0625), (DATE '2026-11-22', 'CHURN', 'EMBED_TEXT_TOKENS', 0.0625),
            (DATE '2026-11-22', 'OTHERS', 'SERVING', 99)
        ) AS billed (usage_date, database_name, consumption_type, credits)""",
}


def credits_since(day: str) -> list[Credits]:
    here = {"CURRENT_WAREHOUSE()": "'CHURN'", "CURRENT_ROLE()": "'DATA_ENGINEER'", "CURRENT_DATABASE()": "'CHURN'"}
    statement = CREDITS.replace("?", f"'{day}'::DATE").replace("::VARIANT", "")
    for function, value in here.items():
        statement = statement.replace(function, value)
    tree = sqlglot.parse_one(statement, dialect="snowflake")
    for table in tree.find_all(exp.Table):
        table.replace(sqlglot.to_table(table.name))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        for name, rows in BILLED.items():
            connection.execute(f"CREATE TABLE {name} AS {rows}")
        rows = connection.execute(tree.sql("duckdb")).to_arrow_table().to_pylist()
    return [Credits(**row) for row in rows]


def test_credits_are_those_of_our_warehouse_role_and_database_by_day_in_utc():
    assert credits_since("2026-11-20") == [
        Credits(date(2026, 11, 21), "warehouse", 0.5),
        Credits(date(2026, 11, 22), "AI functions", 0.125),
        Credits(date(2026, 11, 22), "search", 0.125),
        Credits(date(2026, 11, 22), "warehouse", 0.75),
    ]


def test_only_days_from_the_given_one_on_are_told():
    assert {used.day for used in credits_since("2026-11-22")} == {date(2026, 11, 22)}


def test_the_statement_parses_and_gives_the_fields_of_credits():
    assert Linter(dialect="snowflake").parse_string(f"{CREDITS.strip().replace('?', ':1')};\n").violations == []
    assert sqlglot.parse_one(CREDITS, dialect="snowflake").named_selects == [field.name for field in fields(Credits)]
