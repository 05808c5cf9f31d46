"""The graph, ticked and run as the daemon would, in the states that automation has to deal with."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.kafka import Cluster, Watermarks
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.simulator.live import LiveBank
from churn_assets_tests.assets.conftest import Graph, graph, graph_over, live_bank, seeded_home

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
            tx.execute("INSERT INTO kafka_offsets VALUES (?, ?, ?, 0, ?, NULL)", [*p, utc_now()])
            for p in original(kafka.connect(graph.settings), EVENTS_TOPIC)
        ]
    )
    return graph


@pytest.fixture(scope="module")
def home_with_a_ready_email(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded home when its dynamic tables are fresh and the first emails written. Copy it, do not use it."""
    home = tmp_path_factory.mktemp("ready") / "home"
    shutil.copytree(seeded_home, home)
    with graph_over(home) as graph:
        now = utc_now()
        graph.lake.refresh([table.name for table in graph.lake.dynamic_tables(now)], now)
        request = dg.RunRequest(partition_key=now.date().isoformat())
        assert graph.run("write_retention_emails", request).success
        assert graph.lake.query("SELECT 1 FROM agent_intervention_log WHERE status = 'READY'").num_rows
    return home


@pytest.fixture
def graph_with_a_ready_email(graph: Graph, home_with_a_ready_email: Path) -> Graph:
    """The first emails are written, and nobody has approved them."""
    assert "_connection" not in vars(graph.lake), "it is put in place before anybody has opened it"
    shutil.rmtree(graph.settings.home)
    shutil.copytree(home_with_a_ready_email, graph.settings.home)
    return graph
