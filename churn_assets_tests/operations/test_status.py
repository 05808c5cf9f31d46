import json
from datetime import datetime, timedelta
from typing import Literal

import pytest
from confluent_kafka import Producer

from churn_assets.clock import utc_now
from churn_assets.ingestion.backlog import ingest
from churn_assets.ingestion.kafka import Cluster, OffsetRange
from churn_assets.operations.alerts import FILE_BYTES, Alert, alerts_since, send
from churn_assets.operations.status import status
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings
from churn_assets.warehouse.lake import LakeWarehouse

LEDGERS = {
    "fact_transaction_ledger",
    "app_activity_logs",
    "dim_customers",
    "dim_accounts",
    "support_cases",
    "churn_scores_raw",
}
CASE = {"case_id": "S1", "customer_id": "C1", "open_timestamp": "2026-03-01T10:00:00Z", "category": "FEES"}


@pytest.fixture
def three_of_five_messages_ingested(broker: Cluster, lake: LakeWarehouse) -> LakeWarehouse:
    """On partition 1 a case, a broken message and one that waits; on partition 2 two that wait; one more ledger row."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    case = json.dumps({"event_type": "CASE", "payload": CASE}).encode()
    for partition, value in [(1, case), (1, b"not JSON"), (1, case), (2, case), (2, case)]:
        producer.produce(EVENTS_TOPIC, value, partition=partition)
        producer.flush()
    (partition,) = [p for p in broker.partitions(EVENTS_TOPIC) if p.number == 1]
    two = [OffsetRange(partition, 0, 2)]
    ingest(lake, broker, two, on_gap="fail", group="g", clock=utc_now, report=lambda _: None)
    return lake


def test_without_kafka_there_are_no_offsets_and_a_line_that_says_what_to_do(settings: Settings, lake: LakeWarehouse):
    state = status(settings, lake, utc_now())

    assert state["offsets"] == []
    assert "churn broker" in state["kafka"]
    assert "KAFKA_BOOTSTRAP_SERVERS" in state["kafka"]


def test_the_state_of_an_empty_deployed_lake_is_complete_and_json(settings: Settings, lake: LakeWarehouse):
    state = status(settings, lake, utc_now())

    assert json.loads(json.dumps(state)) == state
    assert set(state) == {
        "ledgers", "rejects", "kafka", "offsets", "dynamic_tables", "risk", "queue", "emails", "model",
        "damage", "failures", "unknown_codes", "unfinished_erasures",
    }  # fmt: skip
    assert state["ledgers"] == dict.fromkeys(LEDGERS, 0)
    assert (state["rejects"], state["queue"], state["model"]) == (0, 0, None)
    assert state["risk"] == {"HIGH": 0, "MEDIUM": 0, "LOW": 0}
    assert state["emails"] == {"total": 0, "last_7_days": 0}
    assert state["failures"] == {"errors": 0, "warnings": 0, "newest": []}


def test_offsets_rows_and_rejects_say_what_is_stored_and_what_waits(
    settings: Settings, three_of_five_messages_ingested: LakeWarehouse
):
    state = status(settings, three_of_five_messages_ingested, utc_now())

    assert state["kafka"] is None
    assert state["offsets"] == [
        {
            "topic": EVENTS_TOPIC,
            "partition": partition,
            "committed": committed,
            "high_watermark": high,
            "lag": lag,
            "problem": None,
        }
        for partition, committed, high, lag in [(0, 0, 0, 0), (1, 2, 3, 1), (2, 0, 2, 2), (3, 0, 0, 0)]
    ]
    assert state["ledgers"] == dict.fromkeys(LEDGERS, 0) | {"support_cases": 1}
    assert state["rejects"] == 1


def test_dynamic_tables_say_how_far_they_lag_behind_what_is_stored(settings: Settings, lake: LakeWarehouse):
    refreshed_at = lake.dynamic_tables(utc_now())[-1].refreshed_at  # not now: midnight may have come since
    assert refreshed_at
    before = {table["name"]: table for table in status(settings, lake, refreshed_at)["dynamic_tables"]}
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO support_cases (case_id, customer_id, open_timestamp, category, ingested_at)"
            " VALUES ('S1', 'C1', TIMESTAMP '2026-03-01', 'FEES', TIMESTAMP '2026-03-01')"
        )
    )
    in_two_minutes = utc_now() + timedelta(minutes=2)
    after = {table["name"]: table for table in status(settings, lake, in_two_minutes)["dynamic_tables"]}

    live = before.pop("churn_metrics_live")
    assert (live["target_lag_seconds"], after["churn_metrics_live"]["lag_seconds"]) == (60, 0)
    assert list(before) == ["customer_day", "dyn_customer_features", "dyn_churn_predictions"]
    for name, table in before.items():
        assert set(table) == {"name", "target_lag_seconds", "lag_seconds", "last_refresh", "refresh_action"}
        assert (table["target_lag_seconds"], table["lag_seconds"], table["refresh_action"]) == (300, 0, "INITIAL")
        assert after[name]["lag_seconds"] >= 120
        assert after[name]["last_refresh"] == table["last_refresh"]


def test_a_refreshed_table_says_when_and_how_and_lags_no_more(settings: Settings, lake: LakeWarehouse):
    now = utc_now()
    action = lake.refresh(["customer_day"], now)[0].action

    (found,) = [t for t in status(settings, lake, now)["dynamic_tables"] if t["name"] == "customer_day"]

    assert found == {
        "name": "customer_day",
        "target_lag_seconds": 300,
        "lag_seconds": 0,
        "last_refresh": now.isoformat(),
        "refresh_action": action,
    }


def test_risk_queue_and_emails_count_customers(settings: Settings, lake: LakeWarehouse):
    now = utc_now()
    scores = [("C1", 0.9, "HIGH"), ("C2", 0.8, "HIGH"), ("C3", 0.5, "MEDIUM")]
    queue = [("C1", None), ("C2", now)]
    emails = [("C1", 8, "READY"), ("C2", 6, "READY"), ("C3", 0, "CLAIMED")]

    def fill(tx):
        for customer, score, risk_class in scores:
            tx.execute(
                "INSERT INTO dyn_churn_predictions (customer_id, churn_score, risk_class) VALUES (?, ?, ?)",
                [customer, score, risk_class],
            )
        for customer, left_at in queue:
            tx.execute(
                "INSERT INTO retention_queue (customer_id, source, churn_score, queued_at, left_at)"
                " VALUES (?, 'prediction', 0.9, ?, ?)",
                [customer, now, left_at],
            )
        for customer, days_ago, state in emails:
            at = now - timedelta(days=days_ago)
            tx.execute(
                "INSERT INTO agent_intervention_log"
                " (intervention_id, customer_id, churn_score, created_at, status, source, partition_day)"
                " VALUES (uuid(), ?, 0.9, ?, ?, 'prediction', ?)",
                [customer, at, state, at.date()],
            )

    lake.transact(fill)
    state = status(settings, lake, now)

    assert state["risk"] == {"HIGH": 2, "MEDIUM": 1, "LOW": 0}
    assert state["queue"] == 1
    assert state["emails"] == {"total": 2, "last_7_days": 1}


def alert(when: datetime, severity: Literal["error", "warning"] = "error") -> Alert:
    return Alert(when.isoformat(), "run", severity, "ingest_events", None, "r1", "ingest_events failed", "/runs/r1")


def test_failures_of_the_last_day_are_counted_and_the_newest_come_first(settings: Settings, lake: LakeWarehouse):
    now = utc_now().replace(microsecond=0)
    hours_ago = [now - timedelta(hours=hours) for hours in (25, 7, 6, 5, 4, 3, 2, 1)]
    for when in hours_ago[:-1]:
        send(settings, alert(when))
    send(settings, alert(hours_ago[-1], "warning"))
    with settings.alerts_file.open("a") as file:
        file.write('{"when": "2026-')  # what a killed process leaves

    failures = status(settings, lake, now)["failures"]

    assert (failures["errors"], failures["warnings"]) == (6, 1)
    assert [each["when"] for each in failures["newest"]] == [when.isoformat() for when in reversed(hours_ago[-5:])]


def test_a_full_file_of_alerts_is_kept_beside_a_new_one(settings: Settings):
    now = utc_now().replace(microsecond=0)
    send(settings, alert(now - timedelta(minutes=1)))
    with settings.alerts_file.open("a") as file:
        file.write("x" * FILE_BYTES + "\n")

    send(settings, alert(now))

    assert settings.alerts_file.stat().st_size < 1000
    found = [each.when for each in alerts_since(settings, now - timedelta(hours=1))]
    assert found == [now.isoformat(), (now - timedelta(minutes=1)).isoformat()]
