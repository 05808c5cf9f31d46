"""`churn model` as a person uses it."""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from churn_assets.cli import app as cli
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.model.customer_file import read_customers
from churn_assets.table_files.source import FileError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.model.customers import fill, training_rows


def churn(*arguments: str) -> str:
    os.environ["COLUMNS"] = "200"
    result = CliRunner().invoke(cli.app, ["model", *arguments])
    if isinstance(result.exception, ChurnError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("quick_training")
def test_training_listing_promoting_and_rolling_back(lake: LakeWarehouse):
    assert "no model was trained yet" in churn("list")
    fill(lake, training_rows())
    assert "version 1 serves" in churn("train")
    assert "version 2 serves" in churn("train")
    assert "version 1 serves" in churn("rollback", "--reason", "a bad night")
    assert "version 2 serves" in churn("promote", "2", "--reason", "mended")

    assert "version 2, trained" in CliRunner().invoke(cli.app, ["status"]).output
    newest, oldest = json.loads(churn("list", "--json"))
    assert (newest["version"], newest["status"], newest["reason"]) == (2, "champion", "mended")
    assert (oldest["status"], oldest["card"]["calibration"]) == ("archived", newest["card"]["calibration"])
    assert "champion" in churn("list")
    with pytest.raises(ChurnError, match="version 2 serves already"):
        churn("promote", "2")


@pytest.mark.slow
def test_labels_are_shown_and_prepared_and_each_reason_for_none_is_one_line(
    lake: LakeWarehouse, tmp_path: Path, with_rules: Callable[[str], None]
):
    def load(ledger: str, text: str) -> str:
        (tmp_path / "rows.csv").write_text(text)
        return CliRunner().invoke(cli.app, ["load", ledger, str(tmp_path / "rows.csv")]).output

    with pytest.raises(ChurnError, match="the training set is empty; run `churn model prepare`"):
        churn("labels")
    with pytest.raises(ChurnError, match="no event of a known customer to learn from; load"):
        churn("prepare")
    load("dim_customers", "customer_id,full_name,segment,join_date\nA,Ann,MASS,2020-01-01\nB,Bob,MASS,2020-01-01\n")
    accounts = (
        "account_id,customer_id,product_code,account_status,opened_at,closed_at\n1,A,P,{},2020-01-01,\n2,B,P,{}\n"
    )
    first = utc_now().date() - timedelta(days=80)
    load("app_activity_logs", f"log_id,customer_id,event_type,event_timestamp\n1,A,LOGIN,{first}\n2,B,LOGIN,{first}\n")
    said = load("dim_accounts", accounts.format("OPEN", "CLOSED,2020-01-01,"))
    assert "1 of 1 closed accounts do not say when they were closed, so their closing makes no leaver" in said
    with pytest.raises(ChurnError, match=r"nobody left at . cut-offs from .*all accounts are closed within 30 days"):
        churn("prepare")

    load("dim_accounts", accounts.format("OPEN", f"CLOSED,2020-01-01,{first + timedelta(days=50)}"))
    assert " rows added, 0 corrected; " in churn("prepare", "--rebuild")

    shown = churn("labels")
    assert "A customer has left if: all accounts are closed within 30 days after the cut-off." in shown
    assert "50.00%" in shown
    found = json.loads(churn("labels", "--json"))
    assert {(row["customers"], row["leavers"]) for row in found["cut_offs"]} == {(2, 1)}
    assert found["problem"] is None
    with_rules('[labels]\nchurn = "silent"\ndays = 30\n')
    for command in ("labels", "prepare"):
        with pytest.raises(ChurnError, match="was made with another rule than"):
            churn(command)


@pytest.fixture
def customers() -> pd.DataFrame:
    """A table as people have it: ids, text, numbers, and who left."""
    rng = np.random.default_rng(0)
    age, balance = rng.integers(18, 90, 1_500), rng.lognormal(8, 1, 1_500)
    left = rng.random(1_500) < 1 / (1 + np.exp(4 - age / 20))
    return pd.DataFrame(
        {
            "Surname": "Berg",
            "Age": age,
            "Balance": balance,
            "Is Member": rng.random(1_500) < 0.5,
            "Exited": left.astype(int),
        }
    )


@pytest.mark.usefixtures("quick_training")
def test_a_table_of_ones_own_is_cross_validated(customers: pd.DataFrame, tmp_path: Path):
    file = tmp_path / "customers.csv"
    customers.assign(Age=customers["Age"].where(customers.index % 20 > 0)).to_csv(file, index=False, na_rep=" ")

    found = json.loads(churn("evaluate", "--features", str(file), "--label", "Exited", "--ignore", "Balance", "--json"))
    assert (found["features"], found["not_used"]) == (
        ["Age", "Is Member"],
        {"Surname": "the same value in every row"},
    )
    assert found["missing"] == {"Age": 75}
    assert found["evaluations"]["model"]["roc_auc"]["value"] > 0.6
    assert found["importances"]["Age"] > found["importances"]["Is Member"]
    assert set(found["evaluations"]) == {"model", "logistic", "forest", "boosting"}


def test_a_table_is_the_same_as_csv_and_as_parquet(customers: pd.DataFrame, tmp_path: Path):
    csv, parquet = tmp_path / "customers.csv", tmp_path / "customers.parquet"
    customers.to_csv(csv, index=False)
    customers.to_parquet(parquet)

    of_csv, of_parquet = (read_customers(file, "Exited") for file in (csv, parquet))
    assert (of_csv.features, [*of_csv.not_used]) == (of_parquet.features, [*of_parquet.not_used]) != ({}, [])
    pd.testing.assert_frame_equal(of_csv.frame, of_parquet.frame, check_dtype=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.rename(columns={"Exited": "Gone"}), "has no column Exited; it has Surname, Age"),
        (lambda table: table.assign(Exited=table.index < 9), "9 customers left; at least 20"),
    ],
)
def test_a_table_that_cannot_be_learned_from_is_refused_saying_why(
    customers: pd.DataFrame, tmp_path: Path, change, says: str
):
    file = tmp_path / "customers.parquet"
    change(customers).to_parquet(file)
    with pytest.raises(ChurnError, match=says):
        churn("evaluate", "--features", str(file), "--label", "Exited")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, suffix: str):
    file = tmp_path / f"rubbish.{suffix}"
    file.write_bytes(b"\x00\xff\x00rubbish\n\xfe,1,2\n3")
    with pytest.raises(FileError, match="is no text"):
        churn("evaluate", "--features", str(file), "--label", "Exited")
