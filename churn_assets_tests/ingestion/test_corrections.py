"""Rows that replace what is stored, and keys whose rows are deleted: once, all of a file or nothing, and downstream too."""

import os
import shutil
import signal
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import corrections, history
from churn_assets.ingestion.corrections import KEY_TWICE, NOTHING_TO_CORRECT, correct, delete
from churn_assets.ingestion.history import load, open_tables, replay_rejects
from churn_assets.settings import load_settings
from churn_assets.table_files.source import FileError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.ingestion.conftest import DecoderHere
from churn_assets_tests.test_dbt_project import recomputed, shown
from churn_assets_tests.warehouse.processes import PATIENCE_SECONDS, heard_from, process

NOW = utc_now()
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
T = [f"{TODAY - timedelta(days=days):%Y-%m-%dT10:00:00}" for days in range(1, 6)]
CUSTOMERS = [
    "customer_id,full_name,segment,join_date,updated_at",
    f"C1,Ann,MASS,2020-01-01,{T[0]}",
    f"C2,Bob,SMB,2020-01-01,{T[0]}",
]
ACCOUNTS = [
    "account_id,customer_id,product_code,account_status,updated_at",
    f"A1,C1,CHK,OPEN,{T[0]}",
    f"A2,C2,CHK,OPEN,{T[0]}",
]
POSTINGS = [
    "transaction_ref,account_id,posting_date,transaction_code,amount,note",
    *(f"P{n},A1,{T[n]},POS,10,x" for n in range(4)),
]


def csv(folder: Path, *lines: str, name: str = "right.csv") -> Path:
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def loaded(lake: LakeWarehouse, ledger: str, file: Path) -> None:
    load(lake, ledger, open_tables(ledger, [file]), utc_now, lambda _, so_far: None)


def rows(lake: LakeWarehouse, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in lake.query(sql).to_pylist()]


def names_of(lake: LakeWarehouse) -> list[str]:
    return [table.name for table in lake.dynamic_tables(NOW)]


@pytest.fixture(scope="module")
def home_with_postings(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of two customers and four postings. Copy it, do not use it."""
    folder = tmp_path_factory.mktemp("postings")
    shutil.copytree(deployed_home, folder / "home")
    lake = open_lake(load_settings(CHURN_HOME=folder / "home").lake_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "IsolatedDecoder", DecoderHere)
        for ledger, lines in (
            ("dim_customers", CUSTOMERS),
            ("dim_accounts", ACCOUNTS),
            ("fact_transaction_ledger", POSTINGS),
        ):
            loaded(lake, ledger, csv(folder, *lines, name=f"{ledger}.csv"))
    return folder / "home"


@pytest.fixture
def bank(home_with_postings: Path, tmp_path: Path) -> LakeWarehouse:
    shutil.copytree(home_with_postings, tmp_path / "home")
    return open_lake(load_settings(CHURN_HOME=tmp_path / "home").lake_path)


def test_a_row_replaces_the_stored_one_whatever_the_times_of_both_and_the_next_refresh_shows_it(
    bank: LakeWarehouse, tmp_path: Path
):
    bank.refresh(names_of(bank), utc_now())
    right = csv(tmp_path, POSTINGS[0], f"P0,A2,{T[4]},WIRE_OUT,700,y", f"P1,A1,{T[1]},POS,10,x")
    older = csv(tmp_path, CUSTOMERS[0], f"C1,Anna,SMB,2019-01-01,{T[3]}", name="older.csv")

    done = correct(bank, "fact_transaction_ledger", [right], "boss", utc_now)
    correct(bank, "dim_customers", [older], "boss", utc_now)

    assert (done.messages, done.replaced, done.unchanged, done.rejected.total()) == (2, 1, 1, 0)
    assert rows(
        bank,
        "SELECT account_id, transaction_code, amount, extra_fields FROM fact_transaction_ledger WHERE transaction_ref = 'P0'",
    ) == [("A2", "WIRE_OUT", 700.0, '{"note":"y"}')]
    assert rows(bank, "SELECT full_name, segment FROM dim_customers ORDER BY 1") == [("Anna", "SMB"), ("Bob", "SMB")]
    results = bank.refresh(names_of(bank), utc_now())
    assert {result.action for result in results if result.name in ("customer_day", "dyn_customer_features")} == {
        "INCREMENTAL"
    }
    assert shown(bank, "dyn_customer_features") == recomputed(bank, "dyn_customer_features", utc_now())
    assert rows(bank, "SELECT wire_out_30d FROM dyn_customer_features ORDER BY customer_id") == [(0.0,), (700.0,)]
    assert rows(
        bank,
        "SELECT ledger, corrected_by, rows_replaced, rows_deleted, rows_before, rows_after FROM corrections ORDER BY 1",
    ) == [("dim_customers", "boss", 1, 0, 2, 2), ("fact_transaction_ledger", "boss", 1, 0, 4, 4)]


def test_what_cannot_correct_is_a_reject_with_its_reason_and_no_replay_makes_it_a_row(
    bank: LakeWarehouse, tmp_path: Path
):
    file = csv(
        tmp_path, POSTINGS[0], f"P0,A1,{T[0]},POS,11,x", f"P9,A1,{T[0]},POS,11,x", f"P1,A1,{T[1]},POS,much,x",
        f"P2,A1,{T[2]},POS,1,x", f"P2,A1,{T[2]},POS,2,x", f",A1,{T[2]},POS,2,x",
    )  # fmt: skip

    for again in (False, True):
        done = correct(bank, "fact_transaction_ledger", [file], "boss", utc_now)
        assert (done.replaced, done.unchanged) == ((0, 1) if again else (1, 0))
        assert done.rejected == {
            NOTHING_TO_CORRECT: 1, KEY_TWICE: 2, "amount is not a number": 1, "missing transaction_ref": 1
        }  # fmt: skip
        assert rows(bank, "SELECT count(*) FROM event_rejects WHERE original IS NOT NULL") == [(5,)]

    assert replay_rejects(bank, None, utc_now).rows.total() == 0
    assert rows(bank, "SELECT transaction_ref, amount FROM fact_transaction_ledger ORDER BY 1") == [
        ("P0", 11.0), ("P1", 10.0), ("P2", 10.0), ("P3", 10.0),
    ]  # fmt: skip
    assert rows(bank, "SELECT count(*) FROM corrections") == [(1,)]


def test_a_key_that_is_stored_twice_becomes_the_one_row_of_the_file(bank: LakeWarehouse, tmp_path: Path):
    other_day = csv(tmp_path, POSTINGS[0], f"P0,A1,{T[4]},POS,10,x", name="again.csv")
    loaded(bank, "fact_transaction_ledger", other_day)
    assert rows(bank, "SELECT count(*) FROM fact_transaction_ledger WHERE transaction_ref = 'P0'") == [(2,)]

    correct(bank, "fact_transaction_ledger", [other_day], "boss", utc_now)

    assert rows(bank, "SELECT posting_date FROM fact_transaction_ledger WHERE transaction_ref = 'P0'") == [
        (datetime.fromisoformat(T[4]),)
    ]


def test_a_file_without_the_time_leaves_the_stored_time(bank: LakeWarehouse, tmp_path: Path):
    before = rows(bank, "SELECT updated_at FROM dim_customers WHERE customer_id = 'C1'")
    file = csv(tmp_path, "customer_id,full_name,segment,join_date", "C1,Anna,MASS,2020-01-01")

    assert correct(bank, "dim_customers", [file], "boss", utc_now).replaced == 1
    assert correct(bank, "dim_customers", [file], "boss", utc_now).unchanged == 1

    assert rows(bank, "SELECT full_name FROM dim_customers WHERE customer_id = 'C1'") == [("Anna",)]
    assert rows(bank, "SELECT updated_at FROM dim_customers WHERE customer_id = 'C1'") == before


def test_a_file_of_keys_deletes_their_rows_and_names_the_keys_that_are_not_stored(bank: LakeWarehouse, tmp_path: Path):
    file = csv(tmp_path, "TRANSACTION_REF", "P0", "P7", '""', "P1")

    done = delete(bank, "fact_transaction_ledger", [file], "boss", utc_now)

    assert (done.deleted, done.rejected) == (2, {NOTHING_TO_CORRECT: 1, "missing transaction_ref": 1})
    assert rows(bank, "SELECT transaction_ref FROM fact_transaction_ledger ORDER BY 1") == [("P2",), ("P3",)]
    assert rows(bank, "SELECT rows_deleted, rows_before, rows_after FROM corrections") == [(2, 4, 2)]


@pytest.mark.parametrize(
    ("ledger", "change", "line", "error"),
    [
        ("postings", correct, "x", "there is no ledger postings; the ledgers are"),
        (
            "dim_customers",
            correct,
            "customer_id",
            "lacks the columns full_name, segment, join_date, which dim_customers",
        ),
        (
            "dim_customers",
            delete,
            "account_id",
            "lacks the columns customer_id, which dim_customers needs",
        ),
        ("dim_customers", delete, "customer_id", "has no rows"),
    ],
)
def test_a_file_that_cannot_correct_says_why(lake: LakeWarehouse, tmp_path: Path, ledger, change, line, error):
    with pytest.raises(FileError, match=error):
        change(lake, ledger, [csv(tmp_path, line)], "boss", utc_now)


def _die_in_the_transaction(connection: Connection, lake_path: Path, file: Path) -> None:
    run = corrections._replace

    def die(tx, work):
        run(tx, work)
        connection.send("replaced")
        os.kill(os.getpid(), signal.SIGKILL)

    corrections._replace = die
    correct(open_lake(lake_path), "fact_transaction_ledger", [file], "boss", utc_now)


@pytest.mark.slow
def test_a_correction_that_is_killed_has_changed_nothing_and_is_repeated_whole(bank: LakeWarehouse, tmp_path: Path):
    file = csv(tmp_path, POSTINGS[0], *(f"P{n},A1,{T[n]},POS,99,x" for n in range(4)), f"P9,A1,{T[0]},POS,1,x")
    with process(_die_in_the_transaction, Path(bank.place.folder.absolute), file) as (child, connection):
        assert heard_from(connection) == "replaced"
        child.join(PATIENCE_SECONDS)
    assert rows(bank, "SELECT DISTINCT amount FROM fact_transaction_ledger") == [(10.0,)]
    assert rows(bank, "SELECT (SELECT count(*) FROM corrections), (SELECT count(*) FROM event_rejects)") == [(0, 0)]

    correct(bank, "fact_transaction_ledger", [file], "boss", utc_now)

    assert rows(bank, "SELECT DISTINCT amount FROM fact_transaction_ledger") == [(99.0,)]
    assert rows(bank, "SELECT (SELECT count(*) FROM corrections), (SELECT count(*) FROM event_rejects)") == [(1, 1)]
