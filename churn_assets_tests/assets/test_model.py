"""The model's stage in the graph: a training that leads to a champion, and one that does not."""

from typing import Any

import dagster as dg
import numpy as np
import pytest

from churn_assets.assets import model as model_asset
from churn_assets.model import registry
from churn_assets.model.training_set import read
from churn_assets_tests.assets.conftest import Graph
from churn_assets_tests.model.customers import FEW, fill, training_rows

TRAIN = "train_churn_model"


@pytest.mark.usefixtures("quick_training")
def test_a_training_makes_a_champion_and_shows_what_it_found(graph: Graph):
    fill(graph.lake, training_rows())
    (request,) = graph.tick("training_sensor").run_requests or []
    assert request.tags["churn/why"] == "the first training"

    result = graph.run(TRAIN, request)

    assert result.success
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "not_worse_than_the_champion": True,
        "probabilities_are_calibrated": True,
    }
    (model,) = result.asset_materializations_for_node("churn_model")
    shown: dict[str, Any] = {name: value.value for name, value in model.metadata.items()}
    assert shown["roc_auc_low"] < shown["roc_auc"] < shown["roc_auc_high"]
    assert shown["test_rows"] == 2_000
    assert shown["card"]["versions"]["scikit-learn"]
    assert shown["training_data"].records[0].data | {"part": "train", "from": "2026-01-04"} == (
        shown["training_data"].records[0].data
    )
    assert shown["report"].startswith("![")
    (champion,) = result.asset_materializations_for_node("churn_champion")
    assert champion.metadata["version"].value == 1
    assert "champion" in str(champion.metadata["versions"].value)
    (serving,) = registry.versions(graph.lake)
    assert (serving.status, serving.changed_by) == ("champion", f"run {result.run_id}")
    assert not graph.tick("training_sensor").run_requests


@pytest.mark.usefixtures("quick_training")
def test_a_failed_gate_stops_the_promotion_and_the_champion_goes_on(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_asset, "report", lambda trained: dg.MarkdownMetadataValue("a report"))  # drawn above
    fill(graph.lake, training_rows())
    assert graph.run(TRAIN).success
    rows = read(graph.lake)
    latest = max(rows["cut_off"])
    rows["has_left"] = np.where(rows["cut_off"] < latest, rows["support_cases_30d"] == 0, rows["has_left"])
    fill(graph.lake, rows)

    result = graph.run(TRAIN)

    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert "not_worse_than_the_champion" in {check.check_name for check in failed}
    assert all(check.severity == dg.AssetCheckSeverity.ERROR for check in failed)
    assert not result.asset_materializations_for_node("churn_champion")
    assert {model.version: model.status for model in registry.versions(graph.lake)} == {1: "champion", 2: "challenger"}


def test_a_training_set_that_is_too_small_fails_a_run_by_hand_and_asks_the_sensor_for_none(graph: Graph):
    fill(graph.lake, training_rows(weeks=FEW - 2))

    assert not graph.tick("training_sensor").run_requests
    assert "10 weekly cut-offs" in (graph.tick("training_sensor").skip_message or "")
    result = graph.run(TRAIN)
    assert not result.success
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "at least 11 are needed" in str(failure.event_specific_data)
    assert registry.versions(graph.lake) == []
