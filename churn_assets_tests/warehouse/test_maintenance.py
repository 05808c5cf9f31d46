"""Upkeep after many small writes: few files, the same rows, and nothing given up that is still to be read."""

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.project_files import PROJECT_FILES
from churn_assets.warehouse.lake import LakeWarehouse

LEDGER, TIME = "app_activity_logs", "event_timestamp"


def write(lake: LakeWarehouse, batch: int, rows: int = 600) -> None:
    """One micro-batch of the ledger: events of its own hour, and one that is late."""
    lake.transact(
        lambda tx: tx.execute(
            f"INSERT INTO {LEDGER} SELECT 'L' || ? || '_' || i, 'C1', 'LOGIN', TIMESTAMP '2026-01-01'"
            " + to_hours(CASE WHEN i = 0 THEN 0 ELSE ? END), NULL, NULL, NULL, ?, NULL, NULL, NULL"
            f" FROM range({rows}) AS numbers (i)",
            [batch, batch, utc_now()],
        )
    )


def later() -> datetime:
    return utc_now() + timedelta(days=3)


def files_read(lake: LakeWarehouse, sql: str) -> int:
    plan = lake.query(f"EXPLAIN ANALYZE {sql}")["explain_value"][0].as_py()
    return sum(int(line.split("Files Read:")[1].strip(" │")) for line in plan.splitlines() if "Files Read:" in line)


BATCHES = 8


@pytest.fixture
def one_ledger(tmp_path: Path) -> LakeWarehouse:
    """A lake with that ledger alone: upkeep takes a moment for each table."""
    ledgers = duckdb.extract_statements((PROJECT_FILES / "sql" / "010_ledgers.sql").read_text())
    own = [one for one in ledgers if f" {LEDGER} " in one.query]
    lake = LakeWarehouse(tmp_path / "one_ledger")
    lake.transact(lambda tx: [tx.execute(one.query) for one in (*duckdb.extract_statements(schema_script()), *own)])
    return lake


def test_many_small_files_become_few_that_hold_the_same_rows_by_day_and_are_then_left_as_they_are(
    one_ledger: LakeWarehouse,
):
    lake = one_ledger
    for batch in range(BATCHES):
        write(lake, batch)
    before = lake.query(f"SELECT * FROM {LEDGER} ORDER BY log_id")
    look_up = f"SELECT log_id FROM {LEDGER} WHERE {TIME} < TIMESTAMP '2026-01-01 00:30:00'"
    assert files_read(lake, look_up) == BATCHES, "in each there is an event that is late"

    saved = lake.maintain({LEDGER: TIME}, utc_now())

    assert saved.files[LEDGER] == (BATCHES, 1)
    assert lake.query(f"SELECT * FROM {LEDGER} ORDER BY log_id").equals(before)
    assert files_read(lake, f"SELECT sum(length(log_id)) FROM {LEDGER}") == 1
    assert files_read(lake, look_up) == 1
    idle = lake.maintain({LEDGER: TIME}, utc_now())
    assert all(files == after for files, after in idle.files.values())


def test_files_and_snapshots_that_nobody_needs_are_given_up_after_their_time(lake: LakeWarehouse):
    for batch in range(BATCHES):
        write(lake, batch)
    lake.refresh([table.name for table in lake.dynamic_tables(utc_now())], utc_now())
    lake.transact(lambda tx: tx.consume_stream("stream_high_risk_customers"))

    soon = lake.maintain({LEDGER: TIME}, utc_now())
    assert (soon.snapshots_expired, soon.files_deleted) == (0, 0)

    after = lake.maintain({LEDGER: TIME}, later())
    assert after.snapshots_expired > BATCHES
    assert after.files_deleted >= BATCHES
    assert lake.query(f"SELECT count(*) AS n FROM {LEDGER}")["n"].to_pylist() == [BATCHES * 600]


def test_snapshots_that_a_stream_or_a_dynamic_table_has_yet_to_read_are_kept(lake: LakeWarehouse):
    lake.refresh([table.name for table in lake.dynamic_tables(utc_now())], utc_now())
    lake.transact(lambda tx: tx.consume_stream("stream_high_risk_customers"))
    for batch in range(5):
        write(lake, batch)

    lake.maintain({LEDGER: TIME}, later())

    write(lake, 6)
    late = {table.name for table in lake.dynamic_tables(utc_now()) if table.lag_seconds > 0}
    assert late == {"customer_day", "dyn_customer_features", "dyn_churn_predictions"}
    assert lake.refresh(["customer_day"], utc_now())[0].action == "INCREMENTAL"
    lake.transact(lambda tx: tx.consume_stream("stream_high_risk_customers"))
