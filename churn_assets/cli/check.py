"""`churn check`: run the whole graph on a small bank in a temporary home, from Kafka messages to emails, with every check.

It runs the same assets, resources and checks as production, in one process and on an ephemeral Dagster instance.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.publisher import Publisher
from churn_assets.operations.lake import deploy
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import load_settings
from churn_assets.simulator.live import LiveBank
from churn_assets.simulator.producer import produce_at_once
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.protocol import Warehouse, row_count
from churn_assets.wiring import must_be_here, warehouse_to_write

CUSTOMERS, DAYS, EVENTS, POISON = 3000, 160, 5000, 50  # enough to train a model


def rehearse(report: Callable[[str], None]) -> list[str]:
    """Run everything once; return the names of the asset checks that failed."""
    with tempfile.TemporaryDirectory(prefix="churn-check-") as home:
        settings = load_settings(
            CHURN_HOME=Path(home),
            CHURN_LAKE_CATALOG=None,
            CHURN_LAKE_DATA=None,
            KAFKA_BOOTSTRAP_SERVERS=None,
            CHURN_TOPICS=EVENTS_TOPIC,
        )
        must_be_here(settings, "churn check")
        warehouse = warehouse_to_write(settings)
        bank = new_bank(CUSTOMERS, DAYS, 1, utc_now())
        seed(warehouse, bank, utc_now(), lambda ledger, rows: report(f"{ledger}: {rows:,} rows"))
        deploy(settings, warehouse, report)
        with embedded_broker(settings.broker_file) as cluster:
            publisher = Publisher(cluster, EVENTS_TOPIC)
            produce_at_once(LiveBank(bank), publisher, EVENTS, utc_now, lambda _: None)
            for number in range(POISON):
                publisher.send(b"poison", b"not JSON %d" % number)
            publisher.flush()
            report(f"{EVENTS:,} events and {POISON} poisoned messages produced")
            definitions = build_defs(settings)
            with dg.DagsterInstance.ephemeral() as instance:
                results = [
                    definitions.resolve_job_def(job).execute_in_process(
                        instance=instance, partition_key=partition, raise_on_error=False
                    )
                    for job, partition in (
                        ("ingest_events", None),
                        ("check_ledgers", None),
                        ("refresh_dynamic_tables", None),
                        ("write_retention_emails", utc_now().date().isoformat()),
                        ("send_emails", None),
                        ("measure_effect", None),
                        ("count_cost", None),
                        ("count_risk", None),
                        ("extend_training_set", None),
                        ("train_churn_model", None),
                        ("refresh_dynamic_tables", None),
                        ("measure_drift", None),
                    )
                ]
                return [*_failures(results, report), *_missing(warehouse)]


def _missing(warehouse: Warehouse) -> list[str]:
    """The missing results; a graph without rows would pass every asset check."""
    missing: list[str] = []
    if row_count(warehouse, "event_rejects") != POISON:
        missing.append("poisoned messages in event_rejects")
    if not warehouse.query("SELECT 1 FROM agent_intervention_log WHERE status = 'READY' LIMIT 1").num_rows:
        missing.append("emails")
    if warehouse.query("SELECT 1 FROM dyn_churn_predictions WHERE model_score IS NULL LIMIT 1").num_rows:
        missing.append("scores of the model")
    return missing


def _failures(results: list[dg.ExecuteInProcessResult], report: Callable[[str], None]) -> list[str]:
    failed: list[str] = []
    for result in results:
        evaluations = result.get_asset_check_evaluations()
        for evaluation in evaluations:
            name = f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
            report(f"{'passed' if evaluation.passed else 'FAILED'}  {name}")
            if not evaluation.passed:
                failed.append(name)
        if not result.success:
            failed.append(f"the run of {result.job_def.name}")
    return failed
