"""`churn model` as a person uses it."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from churn_assets.cli import app as cli
from churn_assets.errors import ChurnError
from churn_assets.model.customer_file import CustomerFileError, read_customers
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
    customers.to_csv(file, index=False)

    found = json.loads(churn("evaluate", "--features", str(file), "--label", "Exited", "--ignore", "Balance", "--json"))
    assert (found["features"], found["ignored"]) == (["Age", "Is Member"], ["Surname"])
    assert found["evaluations"]["model"]["roc_auc"]["value"] > 0.6
    assert found["importances"]["Age"] > found["importances"]["Is Member"]
    assert set(found["evaluations"]) == {"model", "logistic"}


def test_a_table_is_the_same_as_csv_and_as_parquet(customers: pd.DataFrame, tmp_path: Path):
    csv, parquet = tmp_path / "customers.csv", tmp_path / "customers.parquet"
    customers.to_csv(csv, index=False)
    customers.to_parquet(parquet)

    of_csv, of_parquet = (read_customers(file, "Exited") for file in (csv, parquet))
    assert (of_csv.features, of_csv.ignored) == (of_parquet.features, of_parquet.ignored) != ([], [])
    pd.testing.assert_frame_equal(of_csv.frame, of_parquet.frame, check_dtype=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.assign(Exited="maybe"), "not 'maybe'"),
        (lambda table: table.assign(Exited=None), "is empty in 1500 rows"),
        (lambda table: table.rename(columns={"Exited": "Gone"}), "has no column Exited; it has Surname, Age"),
        (lambda table: table.assign(Exited="no"), "0 leavers"),
        (lambda table: table[["Surname", "Exited"]], "no column of numbers beside Exited"),
        (lambda table: table.assign(Age=table["Age"].where(table.index > 2)), "Age: 3"),
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
    with pytest.raises(CustomerFileError, match=r"cannot be read|has no column"):
        churn("evaluate", "--features", str(file), "--label", "Exited")


@pytest.mark.parametrize("words", [("Yes", "No"), ("true", "false"), (1.0, 0.0), ("Y", "n")])
def test_who_left_may_be_said_in_several_ways(customers: pd.DataFrame, tmp_path: Path, words: tuple):
    file = tmp_path / "customers.csv"
    customers.assign(Exited=[words[0] if left else words[1] for left in customers["Exited"]]).to_csv(file, index=False)

    assert read_customers(file, "Exited").frame["has_left"].sum() == customers["Exited"].sum()
