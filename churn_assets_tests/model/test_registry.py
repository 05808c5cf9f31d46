"""Which model serves: the gate, promotions and ways back, and the predictions that follow."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from churn_assets.model import registry
from churn_assets.model.artefact import ArtefactError, file_name
from churn_assets.model.challenge import challenge, is_training_due
from churn_assets.model.gate import Gate, calibration_verdict, judge
from churn_assets.model.metrics import Measure
from churn_assets.model.registry import RegistryError
from churn_assets.model.scoring import score
from churn_assets.model.training import Trained
from churn_assets.model.training_set import read
from churn_assets.rules import FEATURES, RETRAINING_SECONDS, Rules
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import MODELS
from churn_assets.wiring import lake_place, open_lake
from churn_assets_tests.model.customers import FEW, fill, put_features, training_rows

NOW = datetime(2026, 6, 1, 12)
HOUR = timedelta(hours=1)


@pytest.fixture
def times() -> Iterator[datetime]:
    return (NOW + number * HOUR for number in range(1, 1000))


def places(lake: LakeWarehouse) -> dict[int, str]:
    return {model.version: model.status for model in registry.versions(lake)}


@pytest.fixture
def gate(trained: Trained) -> Gate:
    found = judge(trained, None)
    assert found.passed, found
    return found


@pytest.fixture
def four(
    lake: LakeWarehouse, settings: Settings, trained: Trained, gate: Gate, times: Iterator[datetime]
) -> LakeWarehouse:
    """Four versions, of which none was promoted; the fourth failed the gate."""
    failed = replace(gate, not_worse=replace(gate.not_worse, passed=False))
    for each in (gate, gate, gate, failed):
        registry.register(lake, trained.model, each, next(times))
    return lake


def test_a_new_challenger_takes_the_place_of_the_one_before(four: LakeWarehouse):
    assert places(four) == {4: "challenger", 3: "archived", 2: "archived", 1: "archived"}
    newest, *_, oldest = registry.versions(four)
    assert (oldest.reason, oldest.changed_by) == ("version 2 was trained", "training")
    assert newest.card["evaluations"]["model"]["roc_auc"]["value"] > 0.5


def test_a_version_that_failed_the_gate_serves_only_by_force(four: LakeWarehouse, times: Iterator[datetime]):
    with pytest.raises(RegistryError, match=r"version 4 failed the gate: ROC AUC .* against the heuristic; --force"):
        registry.promote(four, 4, next(times), "Ann", "a try")
    assert registry.versions(four)[0].status == "challenger"

    registry.promote(four, 4, next(times), "Ann", "we know better", force=True)
    (serving,) = [model for model in registry.versions(four) if model.status == "champion"]
    assert (serving.version, serving.changed_by, serving.reason) == (4, "Ann", "we know better")


def test_rolling_back_leads_to_what_served_before_and_then_further_back(four: LakeWarehouse, times: Iterator[datetime]):
    for version in (1, 2, 3):
        registry.promote(four, version, next(times), "Ann", "newer")
    assert registry.rollback(four, next(times), "Bob", "bad night") == 2
    assert places(four)[3] == "archived"
    assert registry.rollback(four, next(times), "Bob", "worse night") == 1
    with pytest.raises(RegistryError, match="no champion before this one"):
        registry.rollback(four, next(times), "Bob", "hopeless")
    registry.promote(four, 3, next(times), "Ann", "mended")
    assert registry.rollback(four, next(times), "Bob", "not mended") == 2
    assert list(places(four).values()).count("champion") == 1


@pytest.mark.parametrize(("version", "says"), [(9, "there is no version 9"), (2, "version 2 serves already")])
def test_a_promotion_that_makes_no_sense_changes_nothing(
    four: LakeWarehouse, times: Iterator[datetime], version: int, says: str
):
    registry.promote(four, 2, next(times), "Ann", "first")
    before = registry.versions(four)
    with pytest.raises(RegistryError, match=says):
        registry.promote(four, version, next(times), "Ann", "again")
    assert registry.versions(four) == before


def test_two_who_promote_at_once_leave_one_champion(four: LakeWarehouse, settings: Settings):
    threads = [
        threading.Thread(target=registry.promote, args=(open_lake(lake_place(settings)), version, NOW, "Ann", "now"))
        for version in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (serving,) = four.query("FROM churn_champion").to_pylist()
    assert [version for version, place in places(four).items() if place == "champion"] == [serving["version"]]


# The gate


def test_a_challenger_that_has_learned_nothing_does_not_pass(trained: Trained):
    useless = replace(trained, test=trained.test.assign(model=np.random.default_rng(1).random(len(trained.test))))

    found = judge(useless, ("version 1", trained.model))
    assert not found.not_worse.passed
    assert found.gain.interval[1] < 0
    assert "against version 1" in found.not_worse.finding
    assert not found.passed


def test_a_challenger_as_good_as_the_champion_passes(trained: Trained):
    found = judge(trained, ("version 1", trained.model))

    assert found.gain.interval == (0, 0)
    assert found.not_worse.passed


@pytest.mark.parametrize(
    ("error", "leavers", "passes"),
    [(0.005, 100, True), (0.006, 100, False), (0.02, 2_000, True), (0.021, 2_000, False)],
)
def test_the_calibration_error_is_bounded_also_as_a_part_of_the_share_that_leaves(
    trained: Trained, error: float, leavers: int, passes: bool
):
    found = replace(
        trained.evaluations["model"],
        calibration_error=Measure(2 * error, (error, 3 * error)),
        rows=10_000,
        leavers=leavers,
    )
    assert calibration_verdict(found).passed == passes


# Training from end to end


def trained_once(
    lake: LakeWarehouse, settings: Settings, now: datetime, report: Callable[[str], None] = lambda _: None
) -> tuple[int, Gate]:
    found = challenge(read(lake), lambda: registry.champion(lake), report)
    return registry.register(lake, found.trained.model, found.gate, now), found.gate


@pytest.mark.usefixtures("quick_training")
def test_a_failed_gate_leaves_the_champion_serving(lake: LakeWarehouse, settings: Settings, times: Iterator[datetime]):
    fill(lake, training_rows(customers=2_000))
    first, _ = trained_once(lake, settings, next(times))
    registry.promote(lake, first, next(times), "Ann", "first")

    # The labels that the next one learns from are upside down; those of the test are right.
    rows = training_rows(customers=2_000, weeks=FEW + 1, seed=1)
    latest = max(rows["cut_off"])
    rows["has_left"] = np.where(rows["cut_off"] < latest, rows["support_cases_30d"] == 0, rows["has_left"])
    fill(lake, rows)
    _, gate = trained_once(lake, settings, next(times))

    assert not gate.passed
    with pytest.raises(RegistryError, match="failed the gate"):
        registry.promote(lake, 2, next(times), "run", "passed the gate")
    assert places(lake) == {2: "challenger", 1: "champion"}


@pytest.mark.usefixtures("quick_training")
def test_a_champion_whose_file_is_gone_does_not_stop_the_next_training(
    lake: LakeWarehouse, settings: Settings, times: Iterator[datetime]
):
    fill(lake, training_rows())
    first, _ = trained_once(lake, settings, next(times))
    registry.promote(lake, first, next(times), "Ann", "first")
    folder = lake_place(settings).folder
    folder.delete(folder.sizes(MODELS))

    said = list[str]()
    _, gate = trained_once(lake, settings, next(times), said.append)
    assert gate.incumbent == "the heuristic"
    assert any("the champion cannot be used" in line and "churn model rollback" in line for line in said)


@pytest.mark.usefixtures("quick_training")
def test_training_is_due_when_there_is_something_new_to_learn(
    lake: LakeWarehouse, settings: Settings, times: Iterator[datetime]
):
    fill(lake, training_rows(weeks=FEW - 2))
    assert is_training_due(lake, [], NOW)[1].startswith("too early to train: 10 weekly cut-offs")

    fill(lake, training_rows())
    assert is_training_due(lake, [], NOW) == (True, "the first training")

    trained_once(lake, settings, NOW)
    a_week_later = NOW + timedelta(seconds=RETRAINING_SECONDS)
    assert (
        is_training_due(lake, ["features_are_stable"], a_week_later)[1]
        == "version 1 knows the latest cut-off, 2026-03-22"
    )

    fill(lake, training_rows(weeks=FEW + 1))
    assert not is_training_due(lake, [], a_week_later - HOUR)[0]
    assert is_training_due(lake, [], a_week_later) == (True, "a week has passed")
    assert is_training_due(lake, ["features_are_stable"], NOW + HOUR) == (True, "drift: features_are_stable")


# The predictions


def with_champion(lake: LakeWarehouse, trained: Trained, gate: Gate) -> LakeWarehouse:
    """300 customers, whose predictions are there, and a champion that was promoted after that."""
    put_features(lake, training_rows(customers=300, weeks=1))
    lake.refresh(["dyn_churn_predictions"], NOW)
    version = registry.register(lake, trained.model, gate, NOW)
    registry.promote(lake, version, NOW, "Ann", "first")
    return lake


@pytest.fixture
def serving(lake: LakeWarehouse, trained: Trained, gate: Gate) -> LakeWarehouse:
    """A bank with a champion."""
    return with_champion(lake, trained, gate)


@pytest.fixture
def lake_by_model(home_by_model: Path, tmp_path: Path) -> LakeWarehouse:
    """A deployed lake whose class is made by the model."""
    shutil.copytree(home_by_model, tmp_path / "by_model")
    return open_lake(load_settings(CHURN_HOME=tmp_path / "by_model").lake_path)


def predictions(lake: LakeWarehouse) -> dict[str, dict]:
    return {row["customer_id"]: row for row in lake.query("FROM dyn_churn_predictions").to_pylist()}


def test_a_new_champion_scores_every_customer_and_then_who_has_changed(serving: LakeWarehouse, trained: Trained):
    assert {row["model_score"] for row in predictions(serving).values()} == {None}

    (all_,) = serving.refresh(["dyn_churn_predictions"], NOW + HOUR)
    rows = training_rows(customers=300, weeks=1)
    assert all_.rows_updated == 300
    assert [row["model_score"] for _, row in sorted(predictions(serving).items())] == pytest.approx(
        score(trained.model, rows)
    )
    assert {row["model_version"] for row in predictions(serving).values()} == {1}

    changed = rows.head(7).assign(support_cases_30d=9)
    put_features(serving, changed)
    (few,) = serving.refresh(["dyn_churn_predictions"], NOW + 2 * HOUR)
    assert (few.action, few.rows_inserted, few.rows_deleted) == ("INCREMENTAL", 0, 0)
    assert few.rows_updated == 7
    found = predictions(serving)
    assert [found[id_]["model_score"] for id_ in changed["customer_id"]] == pytest.approx(score(trained.model, changed))


def test_by_default_the_rules_make_the_class_and_the_model_stands_beside(serving: LakeWarehouse):
    before = predictions(serving)
    serving.refresh(["dyn_churn_predictions"], NOW + HOUR)

    for customer, row in predictions(serving).items():
        for column in ("churn_score", "risk_score", "risk_class", "reason_codes"):
            assert row[column] == before[customer][column]
        assert row["risk_score"] == row["churn_score"]


def test_the_model_makes_class_and_reasons_where_it_is_told_to(
    lake_by_model: LakeWarehouse, trained: Trained, gate: Gate
):
    serving = with_champion(lake_by_model, trained, gate)
    put_features(
        serving, training_rows(customers=300, weeks=1).tail(5).assign(support_cases_30d=12, error_count_30d=12)
    )
    serving.refresh(["dyn_churn_predictions"], NOW + HOUR)

    found = predictions(serving).values()
    for row in found:
        probability = row["model_score"]
        expected = (
            "HIGH"
            if probability >= Rules().model.high_from
            else "MEDIUM"
            if probability >= Rules().model.medium_from
            else "LOW"
        )
        assert (row["risk_score"], row["risk_class"]) == (probability, expected)
        assert (row["reason_codes"] is None) == (expected == "LOW"), row
    assert {row["risk_class"] for row in found} == {"HIGH", "MEDIUM", "LOW"}
    assert any("many support cases" in (row["reason_codes"] or "") for row in found)


def test_as_long_as_no_model_serves_the_rules_make_the_class(lake_by_model: LakeWarehouse):
    lake = lake_by_model
    put_features(
        lake, training_rows(customers=300, weeks=1).assign(wire_out_30d=9_000, avg_sentiment=0.1, support_cases_30d=9)
    )
    lake.refresh(["dyn_churn_predictions"], NOW)

    found = predictions(lake).values()
    assert all(row["risk_score"] == row["churn_score"] for row in found)
    assert any(row["risk_class"] == "HIGH" and row["churn_score"] >= Rules().risk.high_from for row in found)


def test_a_customer_with_an_infinite_feature_gets_no_score_and_a_check_finds_it(serving: LakeWarehouse):
    put_features(serving, training_rows(customers=300, weeks=1).head(1).assign(total_spend_30d=float("inf")))
    serving.refresh(["dyn_churn_predictions"], NOW + HOUR)

    row = predictions(serving)["C00000"]
    assert (row["model_score"], row["model_version"]) == (None, 1)


def test_a_champion_whose_file_is_damaged_fails_the_refresh_by_name_until_another_serves(
    serving: LakeWarehouse, settings: Settings, trained: Trained, gate: Gate
):
    serving.refresh(["dyn_churn_predictions"], NOW + HOUR)
    other = replace(trained.model, card={**trained.model.card, "data_version": "of other rows"})
    second = registry.register(serving, other, gate, NOW + HOUR)
    registry.promote(serving, second, NOW + HOUR, "Ann", "newer")
    (artefact,) = serving.query("SELECT artefact FROM churn_champion")["artefact"].to_pylist()
    lake_place(settings).store_model(file_name(artefact), b"rubbish")
    before = predictions(serving)

    with pytest.raises(Exception, match=r"is damaged: .*churn model rollback"):
        open_lake(lake_place(settings)).refresh(["dyn_churn_predictions"], NOW + 2 * HOUR)
    with pytest.raises(ArtefactError, match="damaged"):
        registry.champion(serving)
    assert predictions(serving) == before

    assert registry.rollback(serving, NOW + 2 * HOUR, "Bob", "damaged") == 1
    open_lake(lake_place(settings)).refresh(["dyn_churn_predictions"], NOW + 3 * HOUR)
    assert {row["model_version"] for row in predictions(serving).values()} == {1}


def test_what_is_kept_of_a_version_is_json(four: LakeWarehouse):
    (found,) = four.query("SELECT card, gate FROM churn_models WHERE version = 1").to_pylist()

    assert set(json.loads(found["card"])["features"]) == set(FEATURES)
    assert json.loads(found["gate"])["calibrated"]["finding"].startswith("expected calibration error")


def test_the_files_lie_in_the_lake_so_that_they_move_with_it(four: LakeWarehouse, settings: Settings):
    assert len(lake_place(settings).folder.sizes(MODELS)) == 1, "four versions of one model"
