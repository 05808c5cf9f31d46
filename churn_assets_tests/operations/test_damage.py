"""Damaged files are named with their table and a way out that works; status turns red."""

from pathlib import Path

import duckdb
import pytest

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.tables import DynamicTableError
from churn_assets.errors import ChurnError
from churn_assets.model import artefact
from churn_assets.operations.damage import damage
from churn_assets.operations.doctor import examine
from churn_assets.operations.status import status
from churn_assets.settings import Settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse


@pytest.fixture
def bank(lake: LakeWarehouse) -> LakeWarehouse:
    """A bank of 600 customers, so that each table has files, refreshed."""
    now = utc_now()
    seed(lake, new_bank(600, 20, 1, now), now, lambda ledger, rows: None)
    lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
    return lake


def delete(settings: Settings, table: str) -> None:
    for file in (settings.lake_path / "data" / "main" / table).glob("*.parquet"):
        file.unlink()


def files_finding(settings: Settings, *, deep: bool = False) -> str | None:
    return {finding.what: finding.problem for finding in examine(settings, deep=deep)}["files"]


def test_a_derived_table_is_computed_anew_after_its_files_are_gone(bank: LakeWarehouse, settings: Settings):
    before = bank.query("SELECT * FROM dyn_customer_features ORDER BY customer_id")
    delete(settings, "customer_day")
    delete(settings, "dyn_customer_features")
    with pytest.raises(duckdb.Error):
        bank.query("SELECT sum(wire_out) FROM customer_day")
    assert {one.table for one in damage(bank)} == {"customer_day", "dyn_customer_features"}
    assert "`churn rebuild customer_day dyn_customer_features`" in (files_finding(settings) or "")

    with pytest.raises(DynamicTableError, match="restore a backup"):
        bank.rebuild(["dyn_churn_predictions"], utc_now())
    bank.rebuild(["dyn_customer_features", "customer_day"], utc_now())

    assert bank.query("SELECT * FROM dyn_customer_features ORDER BY customer_id").equals(before)
    assert damage(bank) == []
    assert files_finding(settings, deep=True) is None
    bank.refresh([table.name for table in bank.dynamic_tables(utc_now())], utc_now())
    bank.transact(lambda tx: tx.consume_stream("stream_high_risk_customers"))


def test_a_table_that_cannot_be_computed_has_another_way_out_and_status_says_what_is_damaged(
    bank: LakeWarehouse, settings: Settings
):
    delete(settings, "fact_transaction_ledger")
    delete(settings, "dyn_churn_predictions")

    found = {one.table: one.way_out for one in damage(bank)}
    assert "if Kafka still has it" in found["fact_transaction_ledger"]
    assert found["dyn_churn_predictions"] == "restore a backup (docs/backup.md)"
    with pytest.raises(
        ChurnError, match=r"damaged: main/.*of (fact_transaction_ledger|dyn_churn_predictions) is missing"
    ):
        status(settings, bank, utc_now())


def test_status_names_a_damaged_file_that_it_need_not_read(bank: LakeWarehouse, settings: Settings):
    delete(settings, "customer_day")

    (one,) = status(settings, bank, utc_now())["damage"]

    assert (one["table"], one["problem"]) == ("customer_day", "is missing")


def test_a_model_whose_file_is_gone_or_another_is_named(bank: LakeWarehouse, settings: Settings):
    contents = {artefact.digest(content): content for content in (b"one", b"two", b"three")}
    for name, content in contents.items():
        bank.store_model(artefact.file_name(name), content)
        bank.transact(
            lambda tx, name=name: tx.execute(
                "INSERT INTO churn_models (version, status, artefact, trained_at, card, gate, passed_gate)"
                " VALUES (1, 'archived', ?, ?, '{}', '{}', true)",
                [name, utc_now()],
            )
        )
    assert damage(bank) == []
    folder: Path = settings.lake_path / "models"
    one, two, _ = (folder / artefact.file_name(name) for name in contents)
    one.unlink()
    two.write_bytes(b"twO")

    assert {(each.file, each.problem) for each in damage(bank)} == {
        (one.name, "is missing or cannot be read"),
        (two.name, "has another content than what was stored"),
    }
