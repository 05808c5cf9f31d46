"""The whole Dagster graph over an emulated account, as `churn check` runs it over a lake, and `churn run` after it."""

import json
from collections.abc import Iterator

import dagster as dg
import pytest

from churn_assets.assets.dynamic_tables import LAG_CHECK
from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.publisher import Publisher
from churn_assets.operations.run_once import run_once
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings
from churn_assets.simulator.live import LiveBank
from churn_assets.simulator.producer import produce_at_once
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.protocol import row_count
from churn_assets.warehouse.snowflake import SnowflakeWarehouse

pytestmark = [pytest.mark.emulator, pytest.mark.snowflake]

# In the order in which a day has them; the emulator has no SNOWFLAKE.ACCOUNT_USAGE for `count_cost`.
JOBS = (
    "ingest_events",
    "check_ledgers",
    "refresh_dynamic_tables",
    "write_retention_emails",
    "send_emails",
    "measure_effect",
    "extend_training_set",
    "train_churn_model",
    "refresh_dynamic_tables",
    "measure_drift",
    "count_risk",
    "maintain_tables",
)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_every_job_runs_and_every_check_passes_and_one_command_goes_on(
    deployed: Settings, instance: dg.DagsterInstance
):
    warehouse = SnowflakeWarehouse(deployed)
    bank = new_bank(3000, 160, 1, utc_now())
    seed(warehouse, bank, utc_now(), lambda *_: None)
    with embedded_broker(deployed.broker_file) as cluster:
        publisher = Publisher(cluster, EVENTS_TOPIC)
        produce_at_once(LiveBank(bank), publisher, 2000, utc_now, lambda _: None)
        publisher.send(b"poison", b"not JSON")
        publisher.flush()
        definitions = build_defs(deployed)
        results = {
            f"{number} {job}": definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=utc_now().date().isoformat() if job == "write_retention_emails" else None,
                raise_on_error=False,
            )
            for number, job in enumerate(JOBS)
        }
        produce_at_once(LiveBank(bank), publisher, 200, utc_now, lambda _: None)
        said = list[str]()
        run_once(deployed, warehouse, "Ann", utc_now, said.append, lambda _: None)

    assert {job: result.success for job, result in results.items()} == dict.fromkeys(results, True)
    checks = [check for result in results.values() for check in result.get_asset_check_evaluations()]
    # On a busy machine the jobs before a refresh may take longer than its table's target lag.
    failed = [check for check in checks if not check.passed and check.check_name != LAG_CHECK]
    assert [f"{check.asset_key.to_user_string()}: {check.check_name}" for check in failed] == []
    assert len(checks) > 40
    assert row_count(warehouse, "event_rejects") == 1
    found = warehouse.query("SELECT count(*) AS emails FROM agent_intervention_log WHERE status = 'READY'")
    assert found["emails"][0].as_py() > 0
    found = warehouse.query(
        "SELECT count(*) AS all_rows, count(model_score) AS scored FROM dyn_churn_predictions"
    ).to_pylist()
    assert found[0]["all_rows"] == found[0]["scored"] > 0
    told = warehouse.query(
        "SELECT query_tag FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY()) WHERE query_text LIKE 'MERGE INTO kafka_offsets%'"
    )
    tag = json.loads(told["query_tag"][0].as_py())
    assert tag["run_id"] == results["0 ingest_events"].run_id
    assert said[0] == "Kafka: 200 messages, 200 stored, 0 known already, 0 rejected"
    assert [line.partition(" ")[0] for line in said] == ["Kafka:", "refresh:", "labels:", "model:", "the", "queue:"]
    assert "fact_transaction_ledger" in tag["assets"]
    for spec in definitions.resolve_all_asset_specs():
        assert "ducklake" not in spec.kinds
