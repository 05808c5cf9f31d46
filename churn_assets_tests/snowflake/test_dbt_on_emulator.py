"""dbt on a deployed account of the emulator, and what the dynamic tables, streams and functions do there.

dbt is run as an engineer runs it; what it sends is read from the emulator's history.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbt.cli.main import dbtRunner
from snowflake.connector.cursor import SnowflakeCursor
from snowflake.connector.errors import ProgrammingError

from churn_assets.clock import utc_now
from churn_assets.ingestion.corrections import KEY_TWICE, correct
from churn_assets.model.artefact import digest, dumps, file_name
from churn_assets.model.scoring import score_matrix
from churn_assets.model.training import fit
from churn_assets.operations.account import deploy
from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.operations.erasure import ErasureError, erase
from churn_assets.rules import FEATURES
from churn_assets.settings import load_settings
from churn_assets.warehouse.snowflake import PAST_REFRESHES
from churn_assets.wiring import open_warehouse
from churn_assets_tests.model.customers import training_rows
from churn_assets_tests.snowflake.emulator.process import PASSWORD, RunningEmulator, running

pytestmark = pytest.mark.emulator

ENGINEER = {"role": "DATA_ENGINEER", "warehouse": "CHURN", "database": "CHURN", "schema": "MAIN"}
DYNAMIC_TABLES = ["CHURN_METRICS_LIVE", "CUSTOMER_DAY", "DYN_CHURN_PREDICTIONS", "DYN_CUSTOMER_FEATURES"]
STREAM = "CREATE {} STREAM {} stream_high_risk_customers ON DYNAMIC TABLE dyn_churn_predictions"


def dbt(emulator: RunningEmulator, folder: Path, *command: str) -> None:
    place = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT), "--target", "snowflake"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        result = dbtRunner().invoke(
            [*command, *place, "--target-path", str(folder), "--log-path", str(folder), "--quiet"]
        )
    assert result.success, [f"{run.node.name}: {run.message}" for run in result.result or []]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dbt")


@pytest.fixture(scope="module")
def deployed(folder: Path) -> Iterator[RunningEmulator]:
    """An account with everything that is deployed, two customers in it."""
    with running() as emulator:
        deploy(load_settings(CHURN_HOME=folder / "home", **emulator.environment()), [], lambda _: None)
        with emulator.connect(**ENGINEER) as connection:
            _add_customers(connection.cursor())
            connection.cursor().execute("ALTER DYNAMIC TABLE dyn_churn_predictions REFRESH")
        yield emulator


def _add_customers(cursor: SnowflakeCursor) -> None:
    cursor.execute("""
        INSERT INTO dim_customers (customer_id, full_name, email, segment, join_date, updated_at, ingested_at)
        SELECT 'C' || n, 'Ann', 'ann@example.com', 'RETAIL', '2020-01-01', SYSDATE(), SYSDATE() FROM (VALUES (1), (2)) AS v (n)
    """)
    cursor.execute("""
        INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, updated_at, ingested_at)
        SELECT 'A' || n, 'C' || n, 'CURRENT', 'OPEN', SYSDATE(), SYSDATE() FROM (VALUES (1), (2)) AS v (n)
    """)


@pytest.fixture
def cursor(deployed: RunningEmulator) -> Iterator[SnowflakeCursor]:
    with deployed.connect(**ENGINEER) as connection:
        yield connection.cursor()


def rows(cursor: SnowflakeCursor, sql: str) -> list[Any]:
    cursor.execute(sql)
    return cursor.fetchall()


def definitions_sent(cursor: SnowflakeCursor, since: int) -> list[str]:
    """What was created or altered after the first `since` statements of the history."""
    texts = [text for (text,) in rows(cursor, "SELECT query_text FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY())")]
    return [
        " ".join(text.split())
        for text in texts[since:]
        if text.lower().lstrip().startswith(("create", "alter", "drop"))
    ]


def asked_so_far(cursor: SnowflakeCursor) -> int:
    return len(rows(cursor, "SELECT query_id FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY())"))


def test_the_analysts_view_shows_the_predictions_and_all_views_are_secure(cursor: SnowflakeCursor):
    assert rows(cursor, "SELECT customer_id, risk_class FROM churn.serving.customer_risk ORDER BY 1") == [
        ("C1", "LOW"),
        ("C2", "LOW"),
    ]
    assert all("true" in view for view in rows(cursor, "SHOW VIEWS IN SCHEMA churn.serving")), "a view is not secure"


def test_a_deployment_leaves_the_password_in_no_file_of_dbt_or_of_its_own(deployed: RunningEmulator, folder: Path):
    written = {path.name for path in folder.rglob("*") if path.is_file()}

    assert {"manifest.json", "run_results.json", "partial_parse.msgpack"} <= written
    assert [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()] == []


def test_dbt_test_passes(deployed: RunningEmulator, folder: Path):
    dbt(deployed, folder, "test")


def test_a_second_run_of_dbt_changes_nothing(deployed: RunningEmulator, cursor: SnowflakeCursor, folder: Path):
    since = asked_so_far(cursor)
    dbt(deployed, folder, "run")

    assert definitions_sent(cursor, since) == []


def test_another_target_lag_is_altered_and_streams_stay(
    deployed: RunningEmulator, cursor: SnowflakeCursor, folder: Path
):
    cursor.execute(STREAM.format("OR REPLACE", ""))
    since = asked_so_far(cursor)
    dbt(
        deployed,
        folder,
        "run",
        "--vars",
        "{features: {target_lag: 10 minutes, window_days: 30, neutral_sentiment: 0.5}}",
    )

    sent = definitions_sent(cursor, since)
    assert len(sent) == 2
    assert all("alter dynamic table" in text and "target_lag = '10 minutes'" in text for text in sent)
    lags = rows(cursor, "SHOW DYNAMIC TABLES LIKE 'DYN_%'")
    assert ["10 minutes" in row for row in lags] == [True, True]
    assert rows(cursor, "SELECT * FROM stream_high_risk_customers") == []
    dbt(deployed, folder, "run")


def test_a_full_refresh_makes_streams_stale_until_they_are_created_anew(
    deployed: RunningEmulator, cursor: SnowflakeCursor, folder: Path
):
    cursor.execute(STREAM.format("OR REPLACE", ""))
    since = asked_so_far(cursor)
    dbt(deployed, folder, "run", "--full-refresh")

    assert len(definitions_sent(cursor, since)) == len(DYNAMIC_TABLES)
    with pytest.raises(ProgrammingError) as stale:
        cursor.execute("SELECT * FROM stream_high_risk_customers")
    assert stale.value.errno == 91904
    cursor.execute(STREAM.format("", "IF NOT EXISTS"))
    with pytest.raises(ProgrammingError):
        cursor.execute("SELECT * FROM stream_high_risk_customers")
    cursor.execute(STREAM.format("OR REPLACE", ""))
    assert rows(cursor, "SELECT * FROM stream_high_risk_customers") == []


def test_a_transfer_reaches_the_predictions_their_stream_and_the_history_of_refreshes(cursor: SnowflakeCursor):
    cursor.execute(STREAM.format("OR REPLACE", ""))
    cursor.execute("SELECT SYSDATE()")
    (began,) = cursor.fetchone() or (None,)
    cursor.execute("""
        INSERT INTO fact_transaction_ledger (transaction_ref, account_id, posting_date, transaction_code, amount, ingested_at)
        SELECT UUID_STRING(), 'A1', SYSDATE(), 'WIRE_OUT', 9000, SYSDATE()
    """)
    cursor.execute("ALTER DYNAMIC TABLE dyn_churn_predictions REFRESH")

    changed = "SELECT customer_id, risk_class, METADATA$ACTION FROM stream_high_risk_customers ORDER BY 3"
    assert rows(cursor, changed) == [("C1", "LOW", "DELETE"), ("C1", "MEDIUM", "INSERT")]
    assert rows(cursor, "SELECT SYSTEM$STREAM_HAS_DATA('CHURN.MAIN.STREAM_HIGH_RISK_CUSTOMERS')") == [(True,)]
    past = rows(cursor, PAST_REFRESHES.replace("?", f"'{began}'"))
    assert [(name, action, came, went) for name, action, _, _, _, came, _, went, *_ in past] == [
        ("customer_day", "INCREMENTAL", 1, 0),
        ("dyn_customer_features", "INCREMENTAL", 1, 1),
        ("dyn_churn_predictions", "INCREMENTAL", 1, 1),
    ]


def test_the_predictions_are_scored_by_the_champion_whose_file_lies_on_the_stage(cursor: SnowflakeCursor):
    rows_to_learn_from = training_rows(300)
    model, _ = fit(rows_to_learn_from, rows_to_learn_from, FEATURES, seed=0)["boosting"]
    content = dumps(model)
    put = f"PUT file:///here/{file_name(digest(content))} @churn_models AUTO_COMPRESS = FALSE"
    cursor.execute(put, file_stream=BytesIO(content))
    cursor.execute("INSERT INTO churn_champion VALUES (?, ?, ?)", ("churn", 7, digest(content)))
    cursor.execute("ALTER DYNAMIC TABLE dyn_churn_predictions REFRESH")

    columns = ", ".join(FEATURES)
    features = rows(cursor, f"SELECT {columns} FROM dyn_customer_features WHERE customer_id = 'C2'")
    (expected,) = score_matrix(model, np.asarray(features, np.float32))
    assert rows(cursor, "SELECT model_version, model_score FROM dyn_churn_predictions WHERE customer_id = 'C2'") == [
        (7, pytest.approx(expected))
    ]
    cursor.execute("DELETE FROM churn_champion")
    cursor.execute("ALTER DYNAMIC TABLE dyn_churn_predictions REFRESH")
    assert rows(cursor, "SELECT count(model_score) FROM dyn_churn_predictions") == [(0,)]


def test_a_customer_is_corrected_and_another_is_erased(
    deployed: RunningEmulator, cursor: SnowflakeCursor, tmp_path: Path
):
    cursor.execute(STREAM.format("OR REPLACE", ""))  # the full refresh above has left both streams stale
    cursor.execute("CREATE OR REPLACE STREAM churn_metrics_stream ON DYNAMIC TABLE churn_metrics_live")
    settings = load_settings(CHURN_HOME=tmp_path / "home", **deployed.environment())
    warehouse, file = open_warehouse(settings), tmp_path / "customers.csv"
    header = "customer_id,full_name,segment,join_date"
    file.write_text(f"{header}\nC1,Anna,RETAIL,2020-01-01\nC2,Twice,RETAIL,2020-01-01\nC2,Twice,RETAIL,2020-01-01\n")
    corrected = correct(warehouse, "dim_customers", [file], "Ann", utc_now)

    erased = erase(settings, warehouse, None, "C2", "Ann", utc_now)

    assert (corrected.replaced, corrected.rejected) == (1, {KEY_TWICE: 2})
    assert (erased.rejects_blanked, erased.left) == (2, [])
    assert any("Time Travel" in line for line in erased.unreachable)
    for table in ("dim_customers", "dim_accounts", "dyn_customer_features", "dyn_churn_predictions"):
        assert rows(cursor, f"SELECT customer_id FROM {table}") == [("C1",)], table
    assert rows(cursor, "SELECT full_name FROM dim_customers") == [("Anna",)]
    assert rows(cursor, "SELECT reason, original FROM event_rejects") == [(KEY_TWICE, None)] * 2
    with pytest.raises(ErasureError, match="nothing is stored about a customer C2"):
        erase(settings, warehouse, None, "C2", "Ann", utc_now)
