"""Upkeep after many small writes: few files, the same rows, and nothing given up that is still to be read."""

from datetime import datetime, timedelta
from itertools import pairwise
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


def test_a_large_file_is_written_again_when_the_smaller_ones_together_have_its_size(
    one_ledger: LakeWarehouse, monkeypatch
):
    monkeypatch.setattr("churn_assets.warehouse.lake.SMALL_FILE_BYTES", 10)
    lake, sizes = one_ledger, dict[int, list[int]]()
    for batch in range(16):
        write(lake, batch)
        lake.maintain({LEDGER: TIME}, utc_now())
        sizes[batch] = sorted(lake._file_sizes()[LEDGER])
    written = sum(size for before, after in pairwise(sizes.values()) for size in after if size not in before)

    assert max(map(len, sizes.values())) <= 5
    assert written < 4 * sum(sizes[15])
    assert lake.query(f"SELECT count(DISTINCT log_id) AS n FROM {LEDGER}")["n"].to_pylist() == [16 * 600]


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


def test_a_file_that_was_given_up_stays_for_half_an_hour_whatever_the_time_of_day(one_ledger: LakeWarehouse):
    lake = one_ledger
    for batch in range(BATCHES):
        write(lake, batch)
    lake.maintain({LEDGER: TIME}, utc_now())
    assert lake.maintain({LEDGER: TIME}, utc_now() + timedelta(minutes=29)).files_deleted == 0
    assert lake.maintain({LEDGER: TIME}, utc_now() + timedelta(minutes=31)).files_deleted == BATCHES


def test_of_the_time_before_the_last_half_hour_the_last_snapshot_of_each_hour_stays_for_a_day(
    one_ledger: LakeWarehouse,
):
    lake = one_ledger
    times = {}
    for hours in (30, 5, 4.9, 4, 0.45, 0.1):
        write(lake, int(hours * 10))
        times[max(versions(lake))] = stamp = now_at_half_past() - timedelta(hours=hours)
        lake.transact(
            lambda tx, stamp=stamp: tx.execute(
                "UPDATE __ducklake_metadata_lake.ducklake_snapshot SET snapshot_time = ?"
                " WHERE snapshot_id = (SELECT max(snapshot_id) FROM __ducklake_metadata_lake.ducklake_snapshot)",
                [f"{stamp}+00"],
            )
        )
    lake.maintain({LEDGER: TIME}, now_at_half_past())
    _, _, before, hourly, *of_the_last_half_hour = times
    assert versions(lake) & set(times) == {before, hourly, *of_the_last_half_hour}
    assert lake.query(f"SELECT count(*) AS n FROM {LEDGER} AT (VERSION => {before})")["n"].to_pylist() == [3 * 600]


def test_files_with_deleted_rows_are_merged_while_the_catalog_holds_rows_with_numbers(
    one_ledger: LakeWarehouse, monkeypatch
):
    lake = one_ledger
    monkeypatch.setattr("churn_assets.warehouse.lake.MANY_FILES", 1)
    lake.transact(lambda tx: tx.execute("CREATE TABLE scores (customer VARCHAR, score DOUBLE)"))
    for rows in (3000, 3000, 5):
        lake.transact(
            lambda tx, rows=rows: tx.execute(f"INSERT INTO scores SELECT i, i / 7 FROM range({rows}) AS t (i)")
        )
    lake.transact(lambda tx: tx.execute("DELETE FROM scores WHERE score > 300"))
    before = lake.query("SELECT count(*), sum(score) FROM scores")
    lake._tidy(["scores"])
    assert lake._files()["scores"][0] == 1
    assert lake.query("SELECT count(*), sum(score) FROM scores").equals(before)


def versions(lake: LakeWarehouse) -> set[int]:
    return set(lake.query("SELECT snapshot_id FROM lake.snapshots()")["snapshot_id"].to_pylist())


def now_at_half_past() -> datetime:
    return utc_now().replace(minute=30, second=0, microsecond=0)


def test_many_refreshes_leave_few_files_and_few_rows_in_the_catalog_without_maintenance(
    lake: LakeWarehouse, monkeypatch
):
    monkeypatch.setattr("churn_assets.warehouse.lake.MANY_INLINED_ROWS", 20)
    monkeypatch.setattr("churn_assets.warehouse.lake.MANY_FILES", 4)
    names = [table.name for table in lake.dynamic_tables(utc_now())]
    for batch in range(12):
        lake.transact(
            lambda tx, batch=batch: tx.execute(
                f"INSERT INTO {LEDGER} SELECT 'L' || ? || '_' || i, customer_id, 'LOGIN', ?, NULL, NULL, NULL, ?,"
                " NULL, NULL, NULL FROM (SELECT customer_id, row_number() OVER () AS i FROM dim_customers LIMIT 10)",
                [batch, utc_now(), utc_now()],
            )
        )
        lake.refresh(names, utc_now())
    kept = {table: rows for table, rows in lake._inlined_rows().items() if table in names}
    assert max(kept.values()) <= 20 + 2 * 10
    assert max(files for table, (files, _) in lake._files().items() if table in names) <= 3 + 3
    shown = lake.query("SELECT * FROM dyn_customer_features ORDER BY customer_id")
    lake.transact(lambda tx: tx.execute("UPDATE dynamic_tables SET position = NULL, base_position = NULL"))
    assert {done.rows_updated for done in lake.refresh(names, utc_now())} == {0}
    assert lake.query("SELECT * FROM dyn_customer_features ORDER BY customer_id").equals(shown)


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
