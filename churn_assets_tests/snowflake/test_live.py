"""What only a live account shows: `pytest -m snowflake`, with the variables of docs/snowflake.md in the environment.

The tests share one database of their own, in the order of this file, and drop it. They take about 40 minutes, of which most
is waiting, and a few credits. The user needs ACCOUNTADMIN, or an administrator has deployed the phase `account` before.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import pytest

from churn_assets.analyst.semantic_model import for_snowflake
from churn_assets.clock import utc_now
from churn_assets.model import artefact, registry
from churn_assets.model.gate import Gate, Verdict
from churn_assets.model.scoring import score_matrix
from churn_assets.model.training import fit
from churn_assets.operations import account as deployment
from churn_assets.operations.dbt import declare
from churn_assets.operations.doctor import examine_account
from churn_assets.retention.queue import STREAM, fill_queue
from churn_assets.retention.writing.cortex import CortexWriter
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.retention.writing.writer import EmailRequest
from churn_assets.rules import FEATURES
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.snowflake import SnowflakeWarehouse
from churn_assets.warehouse.snowflake_connection import signed_in
from churn_assets.warehouse.snowflake_names import names_of
from churn_assets_tests.model.customers import training_rows
from churn_assets_tests.snowflake.conftest import scratch_database

pytestmark = pytest.mark.snowflake

MINUTES = 60.0
INCREMENTAL = ["customer_day", "dyn_churn_predictions", "dyn_customer_features", "churn_metrics_live"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with scratch_database(tmp_path_factory.mktemp("live")) as settings:
        yield settings


@pytest.fixture(scope="module")
def warehouse(settings: Settings) -> SnowflakeWarehouse:
    """The warehouse of the account after a first deployment."""
    deploy(settings)
    return SnowflakeWarehouse(settings)


def deploy(settings: Settings, **changes: Any) -> list[str]:
    said: list[str] = []
    deployment.deploy(settings.model_copy(update=changes), [], said.append)
    return said


def come_into_high(warehouse: SnowflakeWarehouse, *customers: str) -> None:
    """Let customers do what four of the five rules look for."""

    def write(tx: Transaction) -> None:
        now = utc_now()
        for customer in customers:
            tx.execute(
                "INSERT INTO dim_customers (customer_id, full_name, email, segment, join_date, updated_at, ingested_at)"
                " VALUES (?, 'Ann Example', 'ann@bank.example', 'MASS', ?, ?, ?)",
                [customer, now.date(), now, now],
            )
            tx.execute(
                "INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, updated_at, ingested_at)"
                " VALUES (?, ?, 'CHECKING', 'OPEN', ?, ?)",
                [f"A{customer}", customer, now, now],
            )
            tx.execute(
                "INSERT INTO fact_transaction_ledger (transaction_ref, account_id, posting_date, transaction_code, amount,"
                " ingested_at) VALUES (?, ?, ?, 'WIRE_OUT', 9000, ?)",
                [f"T{customer}", f"A{customer}", now, now],
            )
            for number in range(3):
                tx.execute(
                    "INSERT INTO support_cases (case_id, customer_id, open_timestamp, category, sentiment_score, ingested_at)"
                    " VALUES (?, ?, ?, 'FEES', 0.1, ?)",
                    [f"K{customer}-{number}", customer, now, now],
                )

    warehouse.transact(write)


def waited_for(what: Callable[[], Any], seconds: float) -> Any:
    """What is there as soon as it is."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(5)
    return found


def scores(warehouse: SnowflakeWarehouse) -> dict[str, str]:
    found = warehouse.query("SELECT customer_id, risk_class FROM dyn_churn_predictions").to_pylist()
    return {row["customer_id"]: row["risk_class"] for row in found}


def test_a_second_deployment_changes_nothing_and_the_doctor_finds_nothing(
    warehouse: SnowflakeWarehouse, settings: Settings
):
    said = deploy(settings)

    assert [line for line in said if " new" in line and "nothing new" not in line] == []
    assert [one for one in examine_account(settings, utc_now) if one.problem] == []


def test_every_dynamic_table_refreshes_incrementally(warehouse: SnowflakeWarehouse, settings: Settings):
    with signed_in(settings) as rows:
        deployment._enter(rows, names_of(settings))
        shown = {row["name"].lower(): row["refresh_mode"] for row in rows("SHOW DYNAMIC TABLES")}
    assert shown == dict.fromkeys(INCREMENTAL, "INCREMENTAL")

    come_into_high(warehouse, "C1")
    warehouse.refresh(INCREMENTAL, utc_now())
    come_into_high(warehouse, "C2")
    done = warehouse.refresh(["dyn_churn_predictions"], utc_now())

    assert {refresh.action for refresh in done} == {"INCREMENTAL"}
    assert scores(warehouse) == {"C1": "HIGH", "C2": "HIGH"}


def test_a_stream_gives_each_transition_once_and_a_rolled_back_reader_loses_none(warehouse: SnowflakeWarehouse):
    class StopError(Exception):
        pass

    def fail(tx: Transaction) -> None:
        fill_queue(tx, utc_now())
        raise StopError

    assert warehouse.stream_has_data(STREAM)
    with pytest.raises(StopError):
        warehouse.transact(fail)
    assert warehouse.stream_has_data(STREAM)
    joined = warehouse.transact(lambda tx: fill_queue(tx, utc_now()))

    waiting = warehouse.query("SELECT customer_id FROM retention_queue WHERE left_at IS NULL")[
        "customer_id"
    ].to_pylist()
    assert joined <= 2
    assert sorted(waiting) == ["C1", "C2"]
    assert warehouse.transact(lambda tx: fill_queue(tx, utc_now())) == 0
    assert not warehouse.stream_has_data(STREAM)


def test_the_warehouse_refreshes_by_itself_within_the_target_lag(warehouse: SnowflakeWarehouse):
    come_into_high(warehouse, "C3")

    assert waited_for(lambda: scores(warehouse).get("C3"), 7 * MINUTES) == "HIGH"


def test_who_leaves_the_window_of_the_live_metrics_is_gone_though_nothing_was_written(warehouse: SnowflakeWarehouse):
    now = utc_now()
    warehouse.transact(
        lambda tx: tx.execute(
            "INSERT INTO churn_scores_raw (score_id, customer_id, scored_at, churn_score, ingested_at) VALUES (?, ?, ?, 0.9, ?)",
            ["S1", "C1", now - timedelta(minutes=7), now],
        )
    )

    def live() -> int:
        return warehouse.query("SELECT count(*) AS live FROM churn_metrics_live")["live"][0].as_py()

    assert waited_for(live, 3 * MINUTES) == 1
    assert waited_for(lambda: live() == 0, 8 * MINUTES)


def die_in_a_transaction(settings: Settings) -> None:
    def work(tx: Transaction) -> None:
        tx.execute("DELETE FROM retention_queue")
        os.kill(os.getpid(), signal.SIGKILL)

    SnowflakeWarehouse(settings).transact(work)


def test_the_transaction_of_a_killed_process_is_rolled_back_and_writers_go_on(
    warehouse: SnowflakeWarehouse, settings: Settings
):
    before = warehouse.query("SELECT count(*) AS waiting FROM retention_queue")["waiting"][0].as_py()
    child = get_context("spawn").Process(target=die_in_a_transaction, args=(settings,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL

    warehouse.transact(lambda tx: tx.execute("UPDATE retention_queue SET left_reason = NULL"))  # waits for five minutes
    assert warehouse.query("SELECT count(*) AS waiting FROM retention_queue")["waiting"][0].as_py() == before > 0


def test_a_promoted_model_scores_every_customer_as_it_does_here(warehouse: SnowflakeWarehouse):
    rows = training_rows(300)
    model = fit(rows, rows, FEATURES, seed=0)
    passed = Verdict(True, "for this test")
    version = registry.register(warehouse, model, Gate("nothing", None, passed, passed), utc_now())
    registry.promote(warehouse, version, utc_now(), "test", "to try it")
    warehouse.refresh(["dyn_churn_predictions"], utc_now())

    found = warehouse.query(
        f"SELECT predictions.model_score, {', '.join(f'features.{name}' for name in FEATURES)}"
        " FROM dyn_churn_predictions AS predictions INNER JOIN dyn_customer_features AS features"
        " ON predictions.customer_id = features.customer_id"
    ).to_pandas()
    expected = score_matrix(model, found[list(FEATURES)].to_numpy("float32"))
    assert len(found) == 3
    assert found["model_score"].to_numpy() == pytest.approx(expected)
    assert artefact.loads(warehouse.read_model(artefact.file_name(artefact.digest(artefact.dumps(model))))) == model


def test_the_procedure_trains_and_says_what_is_missing_without_rows(settings: Settings, warehouse: SnowflakeWarehouse):
    with signed_in(settings) as rows:
        deployment._enter(rows, names_of(settings))
        with pytest.raises(Exception, match="the training set is empty"):
            rows("CALL train_churn_model()")


def test_cortex_writes_an_email(warehouse: SnowflakeWarehouse, settings: Settings):
    writer = CortexWriter(warehouse, names_of(settings).writer_model, load_prompts())

    answer = writer.write(EmailRequest("Ann Example", "MASS", "many app errors"))

    assert "Ann" in answer.text
    assert answer.prompt_tokens > 0 < answer.completion_tokens


def test_the_native_driver_writes_by_itself_and_dagster_takes_over_again(
    warehouse: SnowflakeWarehouse, settings: Settings
):
    try:
        deploy(settings, driver="native")
        assert set(warehouse.tasks().values()) == {True}
        come_into_high(warehouse, *(f"N{number}" for number in range(5)))
        warehouse.refresh(["dyn_churn_predictions"], utc_now())
        log = "SELECT status, writer, writer_error FROM agent_intervention_log WHERE customer_id LIKE 'N%'"
        found = waited_for(lambda: warehouse.query(f"{log} AND status = 'READY'").to_pylist(), 5 * MINUTES)
        assert found, warehouse.query(log).to_pylist()
    finally:
        deploy(settings, driver="dagster")
    assert set(warehouse.tasks().values()) == {False}


def test_the_analyst_sees_masked_names_and_no_ledger(warehouse: SnowflakeWarehouse, settings: Settings):
    names = names_of(settings)
    with signed_in(settings) as rows:
        rows(f"USE ROLE {names.analyst_role}")
        rows(f"USE WAREHOUSE {names.warehouse}")
        found = rows(f"SELECT full_name, email, risk_class FROM {names.database}.{names.serving_schema}.customer_risk")
        assert {(row["full_name"], row["email"]) for row in found} == {("A. E.", "***@bank.example")}
        with pytest.raises(Exception, match=r"does not exist or not authorized|privilege"):
            rows(f"SELECT * FROM {names.database}.{names.schema}.dim_customers")


def test_search_semantic_view_agent_and_dashboard_are_there_and_answer(
    warehouse: SnowflakeWarehouse, settings: Settings
):
    names = names_of(settings)
    place = f"{names.database}.{names.serving_schema}"
    with signed_in(settings) as rows:
        deployment._enter(rows, names)
        yaml = for_snowflake(names.database, names.serving_schema)
        verified = rows(f"CALL SYSTEM$CREATE_SEMANTIC_VIEW_FROM_YAML('{place}', $${yaml}$$, TRUE)")
        assert "valid" in str(verified).lower()
        assert rows(f"SHOW SEMANTIC VIEWS IN SCHEMA {place}")
        assert rows(f"SHOW AGENTS IN SCHEMA {place}")
        assert rows(f"SHOW STREAMLITS IN SCHEMA {place}")
        (service,) = rows(f"SHOW CORTEX SEARCH SERVICES IN SCHEMA {place}")
        answer = rows(
            "SELECT SNOWFLAKE.CORTEX.SEARCH_PREVIEW(?, ?) AS answer",
            [f"{place}.{service['name']}", '{"query": "people who could not log in", "limit": 5}'],
        )
        assert "results" in answer[0]["answer"]


def test_after_a_full_refresh_streams_work_again_and_who_came_meanwhile_waits(
    warehouse: SnowflakeWarehouse, settings: Settings
):
    come_into_high(warehouse, "F1")
    declare(settings, rebuilt=["dyn_churn_predictions"])
    deploy(settings)

    warehouse.transact(lambda tx: fill_queue(tx, utc_now()))
    waiting = warehouse.query("SELECT customer_id FROM retention_queue WHERE left_at IS NULL")[
        "customer_id"
    ].to_pylist()
    assert "F1" in waiting
