"""When periodic jobs are requested."""

from collections.abc import Callable
from datetime import timedelta

import dagster as dg
import pytest

from churn_assets.automation.gates import blocked
from churn_assets.clock import utc_now
from churn_assets.rules import FILE_CHECK_SECONDS, FILE_RECHECK_SECONDS, MAINTENANCE_SECONDS, SEARCH_SECONDS
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.assets.conftest import Graph, skip_reason, the_request


def test_maintenance_runs_only_where_something_was_written_and_else_is_recorded_so_that_it_does_not_look_overdue(
    graph: Graph, live_bank
):
    graph.run("ingest_events")
    assert graph.tick("maintenance_sensor").run_requests
    result = graph.run("maintain_tables")
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    assert {"files_before", "files_after", "bytes_after", "snapshots_expired", "files_deleted"} <= metadata.keys()
    assert skip_reason(graph.tick("maintenance_sensor")) == "maintain_tables ran a short while ago"
    graph.clock.forward(MAINTENANCE_SECONDS)

    tick = graph.tick("maintenance_sensor")

    assert "nothing was written since" in skip_reason(tick)
    (recorded,) = tick.asset_events
    latest = graph.instance.get_latest_materialization_event(dg.AssetKey("table_maintenance"))
    assert recorded.metadata == latest.asset_materialization.metadata
    assert "nothing was written since" in str(recorded.description)


def test_a_failed_check_stops_and_freshness_holds_after_the_runs_that_say_so_could_be_purged(
    graph: Graph, live_bank, purged
):
    """What decides about the present is never deleted, however old it is."""
    assert graph.run("ingest_events", the_request(graph.tick("kafka_sensor"))).success
    graph.lake.transact(
        lambda tx: tx.execute("INSERT INTO fact_transaction_ledger SELECT * FROM fact_transaction_ledger LIMIT 1")
    )
    graph.run("check_ledgers")
    for _ in range(3):
        graph.run("maintain_tables")
    before = {key: graph.instance.get_latest_materialization_event(key) for key in graph.instance.get_asset_keys()}
    assert blocked(graph.instance)

    purged(graph)

    stopped = blocked(graph.instance)
    assert stopped
    assert "primary_key_is_unique" in str(stopped.skip_message)
    assert {key: graph.instance.get_latest_materialization_event(key) for key in before} == before
    assert len(graph.instance.get_runs(dg.RunsFilter(job_name="maintain_tables"))) == 1


@pytest.fixture
def purged(monkeypatch) -> Callable[[Graph], None]:
    """Purges a graph's runs as in ten years."""

    def purge_all(graph: Graph) -> None:
        monkeypatch.setattr("churn_assets.assets.maintenance.utc_now", lambda: utc_now() + timedelta(days=3650))
        assert graph.run("purge_runs").success

    return purge_all


def test_the_search_index_is_asked_for_when_the_ledgers_have_what_it_has_not_and_follows_them(graph: Graph, live_bank):
    assert graph.tick("search_sensor").run_requests  # there is none yet
    built = graph.run("index_log_search")
    (event,) = built.asset_materializations_for_node("log_search_index")
    assert event.metadata["action"].value == "FULL"
    assert event.metadata["reason"].value == "there was no index"
    assert "a short while ago" in skip_reason(graph.tick("search_sensor"))
    graph.clock.forward(SEARCH_SECONDS)
    assert skip_reason(graph.tick("search_sensor"))
    assert graph.run("ingest_events", the_request(graph.tick("kafka_sensor"))).success
    assert graph.tick("search_sensor").run_requests
    assert graph.run("index_log_search").success  # also where none of them is an error
    graph.clock.forward(SEARCH_SECONDS)
    assert skip_reason(graph.tick("search_sensor"))
    graph.lake.transact(
        lambda tx: tx.execute("UPDATE app_activity_logs SET error_code = 'ERR_NEW' WHERE error_code = 'ERR_NETWORK'")
    )
    assert graph.tick("search_sensor").run_requests
    (event,) = graph.run("index_log_search").asset_materializations_for_node("log_search_index")
    assert event.metadata["action"].value == "INCREMENTAL"
    assert event.metadata["documents_added"].value


def test_on_snowflake_the_search_refreshes_itself(graph: Graph):
    graph.settings = graph.settings.model_copy(update={"target": "snowflake"})

    assert skip_reason(graph.tick("search_sensor")) == "the warehouse's own search service keeps itself up to date"


def test_the_training_set_waits_for_history_and_not_for_a_day_after_a_run_that_found_none(graph: Graph):
    def write(days_ago: int) -> None:
        now = utc_now()

        def insert(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
                " VALUES (?, 'N', 'MASS', DATE '2020-01-01', ?, ?)",
                [f"C{days_ago}", now, now],
            )
            tx.execute(
                "INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, updated_at, ingested_at)"
                " VALUES (?, ?, 'P', 'OPEN', ?, ?)",
                [f"A{days_ago}", f"C{days_ago}", now, now],
            )
            tx.execute(
                "INSERT INTO app_activity_logs (log_id, customer_id, event_type, event_timestamp, ingested_at)"
                " VALUES (?, ?, 'LOGIN', ?, ?)",
                [f"L{days_ago}", f"C{days_ago}", now - timedelta(days=days_ago), now],
            )

        graph.lake.transact(insert)
        graph.lake.refresh(["customer_day"], now)

    assert "no event of a known customer" in skip_reason(graph.tick("training_set_sensor"))
    write(days_ago=1)
    assert graph.tick("training_set_sensor").run_requests
    assert graph.run("extend_training_set").success
    assert "a short while ago" in skip_reason(graph.tick("training_set_sensor"))

    write(days_ago=80)

    assert graph.tick("training_set_sensor").run_requests
    (event,) = graph.run("extend_training_set").asset_materializations_for_node("churn_training_set")
    assert event.metadata["rows_added"].value
    assert "a short while ago" in skip_reason(graph.tick("training_set_sensor"))


def test_what_would_measure_nothing_waits_for_a_model_or_an_email(graph: Graph):
    assert skip_reason(graph.tick("drift_sensor")) == "no model serves yet"
    assert skip_reason(graph.tick("effect_sensor")) == "nobody has been written to yet"


def test_files_are_checked_daily_also_while_nothing_is_written_and_at_once_when_one_is_missing(graph: Graph, live_bank):
    assert graph.tick("file_check_sensor").run_requests
    assert graph.run("check_files").success
    assert skip_reason(graph.tick("file_check_sensor")) == "the files were checked a short while ago"
    file = next((graph.settings.lake_path / "data" / "main" / "app_activity_logs").glob("*.parquet"))
    content = file.read_bytes()
    file.unlink()
    assert graph.tick("file_check_sensor").run_requests

    failed = graph.run("check_files")

    assert not failed.success
    (check,) = failed.get_asset_check_evaluations()
    assert (check.passed, check.blocking) == (False, True)
    assert f"{file.name} of app_activity_logs is missing; restore a backup" in (check.description or "")
    assert "stopped by the failed check files_are_whole" in skip_reason(graph.tick("refresh_sensor"))
    assert skip_reason(graph.tick("file_check_sensor"))
    graph.clock.forward(FILE_RECHECK_SECONDS)
    file.write_bytes(content)
    assert graph.tick("file_check_sensor").run_requests, "so that all goes on by itself"
    assert graph.run("check_files").success
    assert "stopped" not in (graph.tick("refresh_sensor").skip_message or "")
    graph.clock.forward(FILE_CHECK_SECONDS)
    assert graph.tick("file_check_sensor").run_requests
