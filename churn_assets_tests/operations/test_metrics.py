"""The endpoint gives every figure that the dashboard of Grafana and the page name, whatever state the system is in."""

import json
import re
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from churn_assets.clock import utc_now
from churn_assets.ingestion.kafka import Cluster
from churn_assets.operations import metrics
from churn_assets.operations.alerts import Alert, send
from churn_assets.operations.metrics import serve
from churn_assets.project_files import PROJECT_FILES
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.ports import free_port


def scraped(settings: Settings, lake: LakeWarehouse) -> str:
    """What Prometheus gets."""
    port = free_port()
    with (
        serve(settings, lake, utc_now, "127.0.0.1", port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer,
    ):
        return answer.read().decode()


def value(text: str, sample: str) -> float:
    (found,) = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found)


@pytest.fixture
def served(settings: Settings, lake: LakeWarehouse) -> str:
    """The metrics of a lake with a batch, an email in doubt, a model and an alert, without Kafka."""
    now = utc_now()

    def write(tx) -> None:
        tx.execute("INSERT INTO ingest_ranges VALUES ('e', 't', 0, 0, 7, 'STORED', ?, NULL, NULL)", [now])
        tx.execute(
            "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
            " partition_day) VALUES ('I1', 'C1', 0.9, ?, 'UNCERTAIN', 'prediction', current_date)",
            [now],
        )
        tx.execute(
            "INSERT INTO churn_models (version, status, artefact, trained_at, card, gate, passed_gate)"
            " VALUES (3, 'champion', 'x', ?, '{}', '{}', true)",
            [now - timedelta(hours=1)],
        )

    lake.transact(write)
    lake.refresh([table.name for table in lake.dynamic_tables(now)], now)
    send(settings, Alert(now.isoformat(), "check", "warning", None, "a", None, "it fails", "/"))
    send(settings, Alert(now.isoformat(), "check", "info", None, "a", None, "it passes", "/", "is over"))
    return scraped(settings, lake)


def test_figures_are_those_of_the_warehouse_and_of_the_alerts(served: str):
    assert value(served, "churn_up") == 1
    assert value(served, "churn_kafka_up") == 0
    assert value(served, "churn_messages_total") == 7
    assert value(served, "churn_batches") == 1
    assert value(served, 'churn_emails{status="UNCERTAIN"}') == 1
    assert value(served, 'churn_problem{check="outbox"}') == 1
    assert value(served, 'churn_problem{check="disk"}') == 0
    assert value(served, 'churn_failures{kind="check",severity="warning"}') == 1
    assert value(served, "churn_model_version") == 3
    assert 3600 <= value(served, "churn_model_age_seconds") < 7200
    assert value(served, "churn_damaged_files") == 1, "the model's file"
    assert value(served, 'churn_table_lag_seconds{table="dyn_churn_predictions"}') == 0


def test_every_metric_of_grafanas_dashboard_and_of_the_page_is_served_and_the_other_way_round(served: str):
    families = set(re.findall(r"^# TYPE (\S+) ", served, re.MULTILINE))
    dashboard = json.loads((PROJECT_FILES / "docs" / "grafana.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"churn_\w+", target["expr"])
    }
    page = (PROJECT_FILES / "docs" / "monitoring.md").read_text()
    told = {
        name
        for line in page.splitlines()
        if line.startswith("| `churn_")
        for name in re.findall(r"`(churn_\w+)`", line.split("|")[1])
    }

    assert shown == told == families
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_partitions_of_kafka_have_their_lag(settings: Settings, lake: LakeWarehouse, broker: Cluster):
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for _ in range(3):
        producer.produce(EVENTS_TOPIC, b"{}", partition=1)
    producer.flush()

    served = scraped(settings, lake)

    assert value(served, "churn_kafka_up") == 1
    assert value(served, f'churn_kafka_lag_messages{{partition="1",topic="{EVENTS_TOPIC}"}}') == 3
    assert value(served, f'churn_kafka_problem{{partition="1",topic="{EVENTS_TOPIC}"}}') == 0
    assert value(served, "churn_gaps") == 0


def test_without_a_warehouse_that_answers_it_says_so_and_goes_on(settings: Settings, tmp_path: Path):
    served = scraped(settings, open_lake(tmp_path / "none", read_only=True))

    assert value(served, "churn_up") == 0
    assert "churn_queue_customers" not in served


def test_two_scrapes_within_a_moment_look_once(
    settings: Settings, lake: LakeWarehouse, monkeypatch: pytest.MonkeyPatch
):
    looks: list[int] = []
    look = metrics.StateCollector._look
    monkeypatch.setattr(metrics.StateCollector, "_look", lambda self: looks.append(1) or look(self))
    with serve(settings, lake, utc_now, "127.0.0.1", free_port()) as registry:
        for _ in range(3):
            assert list(registry.collect())

    assert len(looks) == 1
