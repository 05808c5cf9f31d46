"""`churn run` does what is missing, in order, and says it."""

import shutil
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.ingestion.kafka import Cluster
from churn_assets.ingestion.publisher import Publisher
from churn_assets.model import registry
from churn_assets.model.gate import judge
from churn_assets.model.training import Trained
from churn_assets.operations import run_once as module
from churn_assets.operations.run_once import run_once
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.model.customers import training_rows


def said_by_a_run(lake: LakeWarehouse) -> list[str]:
    said: list[str] = []
    run_once(load_settings(), lake, "Ann", utc_now, said.append, lambda _: None)
    return said


@pytest.mark.usefixtures("quick_training")
def test_a_run_stores_refreshes_trains_scores_and_queues_and_the_next_finds_nothing(
    home_of_a_bank: Path, tmp_path: Path, broker: Cluster, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(tmp_path / "home" / "lake")
    shutil.copytree(home_of_a_bank / "lake", tmp_path / "home" / "lake")
    lake = open_lake(tmp_path / "home" / "lake")
    publisher = Publisher(broker, EVENTS_TOPIC)
    for value in (message("USER", customer_id="new"), b"no JSON"):
        publisher.send(b"key", value)
    publisher.flush()
    monkeypatch.setattr(module.training_set, "read", lambda _: training_rows())
    due = iter([(True, "the first training"), (False, "version 1 knows the latest cut-off")])
    monkeypatch.setattr(module, "is_training_due", lambda *_: next(due))
    lake.transact(lambda tx: tx.execute("DELETE FROM retention_queue"))
    lake.transact(lambda tx: tx.execute("UPDATE streams SET position = NULL"))

    first, second = (said_by_a_run(lake) for _ in range(2))

    assert first[0] == "Kafka: 2 messages, 1 stored, 0 known already, 1 rejected"
    assert first[2].startswith("labels: none; the history begins on ")
    assert "it serves" in first[3]
    assert "dyn_churn_predictions" in first[4], "everybody has the score of the new model"
    assert first[5].startswith("the rules make the risk class")
    assert first[6] != "queue: 0 customers joined it, 0 alerts"
    assert second == [
        "Kafka: 0 messages, 0 stored, 0 known already, 0 rejected",
        "refresh: no change",
        first[2],
        "model: not trained; version 1 knows the latest cut-off",
        first[5],
        "queue: 0 customers joined it, 0 alerts",
    ]


def test_a_model_that_a_run_trained_before_it_was_killed_serves_after_the_next(
    lake: LakeWarehouse, trained: Trained, monkeypatch: pytest.MonkeyPatch
):
    version = registry.register(lake, trained.model, judge(trained, None), utc_now())
    monkeypatch.setattr(module, "is_training_due", lambda *_: (False, "version 1 knows the latest cut-off"))

    first, second = said_by_a_run(lake), said_by_a_run(lake)

    assert f"model: version {version}, trained by a run that did not end; it serves" in first
    assert "model: not trained; version 1 knows the latest cut-off" in second


def test_where_the_warehouses_own_tasks_drive_the_queue_is_theirs(lake: LakeWarehouse, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "who_drives_instead", lambda *_: "the tasks do this")

    assert said_by_a_run(lake)[-1] == "queue: not filled; the tasks do this"


def test_before_a_deployment_the_next_step_is_said(tmp_path: Path):
    empty = open_lake(tmp_path / "lake")
    empty.deploy()

    with pytest.raises(ChurnError, match="run `churn deploy`"):
        said_by_a_run(empty)
