from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from churn_assets.cli.app import run_command
from churn_assets.clock import utc_now
from churn_assets.ingestion import backlog
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.publisher import Publisher
from churn_assets.retention.queue import fill_queue, raise_alerts
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import load_settings
from churn_assets.warehouse import lake as lake_module
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.schema_version import SCHEMA_VERSION, SchemaVersionError
from churn_assets.wiring import open_lake
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.warehouse.old_lakes import VERSIONS, declared, old_lake, tables
from churn_assets_tests.warehouse.processes import heard_from, killed, process

ALL = sorted(file.stem for file in VERSIONS.glob("*.sql"))
OLDER = [version for version in ALL if version != str(SCHEMA_VERSION)]
OLDEST = OLDER[0]


def kept(lake: LakeWarehouse, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What the lake has of the columns of these rows, in their order."""
    return {
        table: lake.query(f"SELECT {', '.join(of_table[0])} FROM {table} ORDER BY ALL").to_pylist()
        for table, of_table in rows.items()
    }


def test_the_tables_of_this_version_are_kept_so_that_a_later_one_can_be_tried_on_them():
    assert (VERSIONS / f"{SCHEMA_VERSION}.sql").read_text() == declared(), (
        "a table has changed: raise SCHEMA_VERSION, then run python -m churn_assets_tests.warehouse.old_lakes"
    )


@pytest.mark.parametrize("version", OLDER)
def test_a_lake_of_each_earlier_version_is_refused_until_it_is_deployed_and_keeps_its_rows(
    version: str, tmp_path: Path
):
    given = old_lake(version, tmp_path / "lake")
    rows = kept(open_lake(tmp_path / "lake", any_version=True), given)
    for read_only in (True, False):
        with pytest.raises(SchemaVersionError, match=r"version 0.* run `churn deploy`, which keeps all data"):
            open_lake(tmp_path / "lake", read_only=read_only).query("SELECT 1")

    done = open_lake(tmp_path / "lake", any_version=True).deploy()

    assert done[-1] == f"version 0 is now version {SCHEMA_VERSION}"
    lake = open_lake(tmp_path / "lake")
    assert kept(lake, rows) == rows
    fresh = LakeWarehouse(tmp_path / "fresh")
    fresh.deploy()
    for table, column in required(fresh):
        assert lake.query(f"SELECT count(*) AS empty FROM {table} WHERE {column} IS NULL")["empty"].to_pylist() == [0]
    assert lake.deploy() == []


def required(lake: LakeWarehouse) -> list[tuple[str, str]]:
    rows = lake.query(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake' AND NOT is_nullable"
    )
    return list(zip(*rows.to_pydict().values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
def test_a_lake_of_each_earlier_version_goes_on_after_deployment(
    version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = load_settings()
    rows = old_lake(version, settings.lake_path)
    stored = {table: len(of_table) for table, of_table in rows.items()}
    assert run_command(["status"]) == 1
    assert "run `churn deploy`" in capsys.readouterr().err

    assert run_command(["deploy"]) == 0

    assert f"version 0 is now version {SCHEMA_VERSION}" in capsys.readouterr().out
    lake, now = open_lake(settings.lake_path), utc_now()
    with embedded_broker(settings.broker_file) as cluster:
        publisher = Publisher(cluster, EVENTS_TOPIC)
        for sent in (message("TXN", transaction_ref="new"), message("CASE", case_id="new"), b"{"):
            publisher.send(b"key", sent)
        publisher.flush()
        found = backlog.ingest_waiting(settings, lake, on_gap="fail", clock=utc_now, report=lambda _: None)
    assert (found.rows.total(), found.rejected.total()) == (2, 1)
    assert broken_ranges(lake) == []
    assert lake.query("SELECT case_text FROM support_cases WHERE case_id = 'new'")["case_text"].to_pylist() != [None]
    for table, count in stored.items():
        assert lake.query(f"SELECT count(*) AS n FROM {table}")["n"][0].as_py() >= count
    lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
    lake.transact(lambda tx: [fill_queue(tx, now), raise_alerts(tx, now)])
    waiting = lake.query("SELECT customer_id, source FROM retention_queue WHERE left_at IS NULL").to_pylist()
    assert waiting == [{"customer_id": "C1", "source": "prediction"}]
    assert run_command(["status"]) == 0


def test_a_lake_of_a_newer_version_is_refused_by_everything_and_by_deploy(tmp_path: Path):
    path = tmp_path / "lake"
    lake = LakeWarehouse(path)
    lake.deploy()
    lake.transact(lambda tx: tx.execute("UPDATE schema_version SET version = ?", [SCHEMA_VERSION + 1]))
    tables_before = tables(lake)

    with pytest.raises(SchemaVersionError, match="a newer version of churn has deployed"):
        LakeWarehouse(path).query("SELECT 1")
    with pytest.raises(SchemaVersionError, match="install that version of churn"):
        LakeWarehouse(path, any_version=True).deploy()

    assert tables(LakeWarehouse(path, any_version=True)) == tables_before


def _deploy_and_stop(connection: Connection, path: Path, after: str) -> None:
    execute = lake_module._LakeTransaction.execute

    def stop(tx: Any, sql: str, parameters: Any = ()) -> int:
        changed = execute(tx, sql, parameters)
        if after in sql:
            connection.send("in the middle")
            connection.recv()
        return changed

    lake_module._LakeTransaction.execute = stop  # type: ignore[method-assign]
    LakeWarehouse(path, any_version=True).deploy()


@pytest.mark.parametrize(
    "after", ["ALTER TABLE dim_customers", "CREATE TABLE IF NOT EXISTS erasures", "INSERT INTO schema_version"]
)
def test_a_migration_that_is_killed_leaves_the_old_lake_and_the_next_one_does_it_all(after: str, tmp_path: Path):
    path = tmp_path / "lake"
    rows = old_lake(OLDEST, path)
    old = LakeWarehouse(path, any_version=True)
    before, tables_before = kept(old, rows), tables(old)

    with process(_deploy_and_stop, path, after) as (child, connection):
        assert heard_from(connection) == "in the middle"
        killed(child)

    left = LakeWarehouse(path, any_version=True)
    assert (kept(left, rows), tables(left)) == (before, tables_before)
    with pytest.raises(SchemaVersionError):
        LakeWarehouse(path).query("SELECT 1")
    assert LakeWarehouse(path, any_version=True).deploy()[-1] == f"version 0 is now version {SCHEMA_VERSION}"
    assert kept(LakeWarehouse(path), rows) == before
