"""The statement that reads Snowflake's history of refreshes, over rows with the documented columns.

It runs in DuckDB after translation by sqlglot: its logic is tested, not that Snowflake takes it.
"""

from dataclasses import fields
from datetime import datetime

import duckdb
import sqlglot

from churn_assets.dynamic_tables.tables import Refresh
from churn_assets.warehouse.snowflake import PAST_REFRESHES

HISTORY = """
    SELECT * FROM (VALUES
        ('DYN_FEATURES', 'MAIN', 'SUCCEEDED', TIMESTAMPTZ '2026-11-22 10:00:00Z', TIMESTAMPTZ '2026-11-22 10:00:05Z',
         TIMESTAMPTZ '2026-11-22 10:00:09.500Z', 'REINITIALIZE', 'CREATION',
         '{"numInsertedRows": 70, "numDeletedRows": 0}'::JSON),
        ('DYN_FEATURES', 'MAIN', 'FAILED', TIMESTAMPTZ '2026-11-22 10:01:00Z', TIMESTAMPTZ '2026-11-22 10:01:01Z',
         TIMESTAMPTZ '2026-11-22 10:01:02Z', 'INCREMENTAL', 'SCHEDULED', '{}'::JSON),
        ('DYN_FEATURES', 'MAIN', 'EXECUTING', TIMESTAMPTZ '2026-11-22 10:03:00Z', TIMESTAMPTZ '2026-11-22 10:03:01Z',
         NULL, 'INCREMENTAL', 'SCHEDULED', NULL),
        ('DYN_FEATURES', 'MAIN', 'SUCCEEDED', TIMESTAMPTZ '2026-11-22 10:02:00Z', TIMESTAMPTZ '2026-11-22 10:02:01Z',
         TIMESTAMPTZ '2026-11-22 10:02:03Z', 'INCREMENTAL',
         'SCHEDULED', '{"numInsertedRows": 7, "numDeletedRows": 5, "numCopiedRows": 99}'::JSON),
        ('OTHERS', 'ELSEWHERE', 'SUCCEEDED', TIMESTAMPTZ '2026-11-22 10:02:00Z', TIMESTAMPTZ '2026-11-22 10:02:01Z',
         TIMESTAMPTZ '2026-11-22 10:02:03Z', 'NO_DATA', 'MANUAL', '{}'::JSON)
    ) AS history (
        name, schema_name, state, data_timestamp, refresh_start_time, refresh_end_time, refresh_action,
        refresh_trigger, statistics
    )
"""


def past_refreshes(after: str) -> list[Refresh]:
    tree = sqlglot.parse_one(PAST_REFRESHES.replace("CURRENT_SCHEMA()", "'MAIN'"), dialect="snowflake")
    tree.find(sqlglot.exp.TableFromRows).replace(sqlglot.to_table("history"))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        connection.execute(f"CREATE TABLE history AS {HISTORY}")
        rows = connection.execute(tree.sql("duckdb"), [datetime.fromisoformat(after)]).to_arrow_table().to_pylist()
    names = {field.name for field in fields(Refresh)}
    return [Refresh(**{name: value for name, value in row.items() if name in names}) for row in rows]


def milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)


def test_refreshes_that_succeeded_are_told_with_rows_lag_and_duration():
    first, second = past_refreshes("2026-11-22 00:00:00")

    assert first == Refresh(
        name="dyn_features",
        action="INITIAL",
        reason="creation",
        started_at=datetime(2026, 11, 22, 10, 0, 5),
        duration_seconds=4.5,
        rows_inserted=70,
        rows_updated=0,
        rows_deleted=0,
        lag_seconds_before=0,
        position=milliseconds("2026-11-22T10:00:00Z"),
    )
    assert second == Refresh(
        name="dyn_features",
        action="INCREMENTAL",
        reason="scheduled",
        started_at=datetime(2026, 11, 22, 10, 2, 1),
        duration_seconds=2.0,
        rows_inserted=7,
        rows_updated=0,
        rows_deleted=5,
        lag_seconds_before=120,
        position=milliseconds("2026-11-22T10:02:00Z"),
    )


def test_only_what_began_after_the_given_time_is_told_but_its_lag_counts_from_before():
    (refresh,) = past_refreshes("2026-11-22 10:01:00")

    assert (refresh.action, refresh.lag_seconds_before) == ("INCREMENTAL", 120)
