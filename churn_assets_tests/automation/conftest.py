"""The graph, ticked and run as the daemon would, in the states that automation has to deal with."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.kafka import Cluster, Watermarks
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import load_settings
from churn_assets.simulator.live import LiveBank
from churn_assets.wiring import open_lake
from churn_assets_tests.assets.conftest import Graph, graph, live_bank, seeded_home
from churn_assets_tests.once import made_once

__all__ = ["graph", "live_bank", "seeded_home"]


@pytest.fixture
def eager_graph(graph: Graph) -> Graph:
    """The graph with CHURN_REFRESH=eager."""
    graph.set(refresh="eager")
    return graph


@pytest.fixture
def graph_with_lost_messages(graph: Graph, live_bank: LiveBank, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """Kafka's retention has deleted the first ten messages of partition 0 before they were stored."""
    original = Cluster.partitions

    def partitions(self: Cluster, topic: str):
        marks = original(self, topic)
        return {p: Watermarks(10, m.high) if p.number == 0 else m for p, m in marks.items()}

    monkeypatch.setattr(Cluster, "partitions", partitions)
    graph.lake.transact(
        lambda tx: [
            tx.execute("INSERT INTO kafka_offsets VALUES (?, ?, ?, 0, ?)", [*p, utc_now()])
            for p in original(kafka.connect(graph.settings), EVENTS_TOPIC)
        ]
    )
    return graph


@pytest.fixture(scope="session")
def scored_home(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded home whose dynamic tables are fresh. Copy it, do not use it."""

    def make(home: Path) -> None:
        shutil.copytree(seeded_home, home)
        lake, now = open_lake(load_settings(CHURN_HOME=home).lake_path), utc_now()
        lake.refresh([table.name for table in lake.dynamic_tables(now)], now)

    return made_once(tmp_path_factory, "scored", make)


@pytest.fixture
def graph_with_a_ready_email(graph: Graph, scored_home: Path) -> Graph:
    """The first emails are written, and nobody has approved them."""
    assert "_connection" not in vars(graph.lake), "it is put in place before anybody has opened it"
    shutil.copytree(scored_home, graph.settings.home, dirs_exist_ok=True)
    request = dg.RunRequest(partition_key=utc_now().date().isoformat())
    assert graph.run("write_retention_emails", request).success
    assert graph.lake.query("SELECT 1 FROM agent_intervention_log WHERE status = 'READY'").num_rows
    return graph
