"""The drift of the champion as a person sees it: checks that warn, numbers, a plot."""

import base64
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from churn_assets.assets import model_drift as drift_module
from churn_assets.assets.model_drift import FEATURES_CHECK, PROBABILITIES_CHECK, SCORES_CHECK, model_drift
from churn_assets.assets.pictures.drift import drift_plot
from churn_assets.clock import utc_now
from churn_assets.model import families, metrics, registry, training
from churn_assets.model.artefact import ArtefactError
from churn_assets.model.drift import drift
from churn_assets.model.gate import judge
from churn_assets.model.scoring import score
from churn_assets.model.training import Trained
from churn_assets.rules import FEATURES
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.assets.conftest import Graph

FIRST, WEEK, WEEKS = date(2026, 1, 4), timedelta(weeks=1), 15
CHECKS = {FEATURES_CHECK, SCORES_CHECK, PROBABILITIES_CHECK}


def at(cut_off: date, count: int = 300) -> pd.DataFrame:
    """Customers at a cut-off, of whom those with many errors leave."""
    rng = np.random.default_rng(cut_off.toordinal())
    rows = pd.DataFrame({name: rng.poisson(4, count).astype(float) for name in FEATURES})
    left = rng.random(count) < 1 / (1 + np.exp(7 - rows["error_count_30d"]))
    return rows.assign(customer_id=[f"C{number}" for number in range(count)], cut_off=cut_off, has_left=left)


NOW = at(FIRST + 20 * WEEK)


@pytest.fixture(scope="module")
def trained() -> Trained:
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # intervals and importances take most of the time; nothing here reads them
        patch.setattr(training, "IMPORTANCE_REPEATS", 1)
        patch.setattr(metrics, "RESAMPLES", 20)
        patch.setattr(families, "TREES", 50)
        return training.train(pd.concat([at(FIRST + week * WEEK) for week in range(WEEKS)]))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plot, which takes most of a measurement: for tests that look at the numbers."""
    monkeypatch.setattr(drift_module, "drift_plot", lambda found: dg.MarkdownMetadataValue("a plot"))


@pytest.fixture(scope="module")
def home_with_champion(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Path:
    """The home of `bank`. Copy it, do not use it."""
    home = tmp_path_factory.mktemp("champion") / "home"
    shutil.copytree(deployed_home, home)
    lake = open_lake(load_settings(CHURN_HOME=home).lake_path)
    version = registry.register(lake, trained.model, judge(trained, None), utc_now())
    registry.promote(lake, version, utc_now(), "a test", "", force=True)
    put(lake, "dyn_customer_features", NOW[["customer_id", *FEATURES]])
    predictions = NOW[["customer_id"]].assign(model_score=score(trained.model, NOW), model_version=version)
    put(lake, "dyn_churn_predictions", predictions)
    for week in (WEEKS - 1, WEEKS):
        put(lake, "churn_training_set", at(FIRST + week * WEEK).assign(made_at=utc_now()))
    return home


@pytest.fixture
def bank(home_with_champion: Path, settings: Settings) -> LakeWarehouse:
    """A bank with a champion, its predictions, and a cut-off that has matured since the test."""
    shutil.rmtree(settings.home)
    shutil.copytree(home_with_champion, settings.home)
    return open_lake(settings.lake_path)


def put(lake: LakeWarehouse, table: str, rows: pd.DataFrame) -> None:
    columns = ", ".join(rows.columns)
    staged = {"staged": pa.Table.from_pandas(rows, preserve_index=False)}
    lake.transact(lambda tx: tx.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM staged"), staged)


def measure(lake: LakeWarehouse, settings: Settings) -> dg.ExecuteInProcessResult:
    return dg.materialize([model_drift], resources={"warehouse": lake, "settings": settings})


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (found,) = result.asset_materializations_for_node("model_drift")
    return {name: value.value for name, value in found.metadata.items()}


def failed(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    evaluations = result.get_asset_check_evaluations()
    assert {evaluation.check_name for evaluation in evaluations} == CHECKS
    assert {evaluation.severity for evaluation in evaluations} == {dg.AssetCheckSeverity.WARN}
    return {found.check_name: found.description for found in evaluations if not found.passed}


def is_small_png(markdown: str) -> bool:
    """Whether the picture in it is a PNG that the event log can keep."""
    picture = base64.b64decode(markdown.partition("base64,")[2].partition(")")[0])
    return picture.startswith(b"\x89PNG") and len(picture) < 100_000


def test_as_long_as_no_model_serves_there_is_nothing_to_compare(lake: LakeWarehouse, settings: Settings):
    result = measure(lake, settings)

    assert failed(result) == {}
    assert {found.description for found in result.get_asset_check_evaluations()} == {"no model serves yet"}
    assert metadata(result) == {"note": "no model serves yet"}


def test_a_champion_that_fits_passes_and_shows_its_numbers(bank: LakeWarehouse, settings: Settings):
    result = measure(bank, settings)

    assert failed(result) == {}
    found = metadata(result)
    assert found["version"] == 1
    assert found["customers"] == len(NOW)
    for name in (*FEATURES, "score"):
        assert 0 <= found[f"stability_index_{name}"] < 0.25
    assert found["roc_auc_low"] < found["roc_auc"] < found["roc_auc_high"]
    assert found["observed_share"] == pytest.approx(found["expected_share"], abs=0.05)
    assert is_small_png(found["plot"])


@pytest.mark.usefixtures("undrawn")
def test_only_cut_offs_after_the_test_are_asked_about(bank: LakeWarehouse, settings: Settings, trained: Trained):
    assert trained.model.card["training"]["test"]["cut_offs"][1] == f"{FIRST + (WEEKS - 1) * WEEK}"

    found = metadata(measure(bank, settings))

    assert (found["matured_cut_offs"], found["matured_rows"]) == (1, 300)


@pytest.mark.usefixtures("undrawn")
def test_features_that_moved_make_a_warning_that_names_them_and_stops_nothing(bank: LakeWarehouse, settings: Settings):
    bank.transact(lambda tx: tx.execute("UPDATE dyn_customer_features SET wire_out_30d = 3 * wire_out_30d"))

    result = measure(bank, settings)

    assert result.success
    assert list(failed(result)) == [FEATURES_CHECK]
    assert (failed(result)[FEATURES_CHECK] or "").startswith("wire_out_30d has a stability index of ")
    assert metadata(result)["stability_index_wire_out_30d"] > 0.25


@pytest.mark.usefixtures("undrawn")
def test_scores_that_moved_make_a_warning(bank: LakeWarehouse, settings: Settings):
    bank.transact(lambda tx: tx.execute("UPDATE dyn_churn_predictions SET model_score = sqrt(model_score)"))

    assert list(failed(measure(bank, settings))) == [SCORES_CHECK]


@pytest.mark.usefixtures("undrawn")
def test_scores_of_an_earlier_champion_are_not_compared(bank: LakeWarehouse, settings: Settings):
    bank.transact(lambda tx: tx.execute("UPDATE dyn_churn_predictions SET model_score = 1, model_version = 0"))

    result = measure(bank, settings)

    assert failed(result) == {}
    assert metadata(result)["stability_index_score"] is None


@pytest.mark.usefixtures("undrawn")
def test_customers_who_leave_against_expectation_make_a_warning(bank: LakeWarehouse, settings: Settings):
    bank.transact(lambda tx: tx.execute("UPDATE churn_training_set SET has_left = error_count_30d < 4"))

    assert list(failed(measure(bank, settings))) == [PROBABILITIES_CHECK]


def test_a_damaged_model_is_named_with_what_to_do(bank: LakeWarehouse, settings: Settings):
    (path,) = (settings.lake_path / "models").glob("*.model")
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ArtefactError, match=r"is damaged.*churn model rollback"):
        measure(bank, settings)


@pytest.mark.parametrize(("scored", "matured"), [(False, 0), (True, 0), (False, 300)])
def test_a_plot_is_a_small_png_however_little_is_known_and_however_much_moved(
    trained: Trained, scored: bool, matured: int
):
    live = NOW.assign(score=score(trained.model, NOW) if scored else np.nan, wire_out_30d=3 * NOW["wire_out_30d"])

    found = drift_plot(drift(trained.model, live, at(FIRST + WEEKS * WEEK)[:matured])).value

    assert is_small_png(found)


def test_of_an_empty_bank_there_are_words_and_no_empty_picture(trained: Trained):
    nobody = NOW[:0].assign(score=np.nan)

    assert drift_plot(drift(trained.model, nobody, nobody)).value.startswith("- nothing to compare yet")


@pytest.mark.usefixtures("live_bank", "undrawn")
def test_drift_is_measured_as_soon_as_a_champion_serves_and_then_once_a_day(graph: Graph, trained: Trained):
    for _ in range(2):
        version = registry.register(graph.lake, trained.model, judge(trained, None), utc_now())
        registry.promote(graph.lake, version, utc_now(), "a test", "", force=True)
        assert not graph.tick("drift_sensor").run_requests, "no prediction is of it yet"

        assert graph.run("refresh_dynamic_tables").success
        assert graph.tick("drift_sensor").run_requests
        assert graph.run("measure_drift").success
        assert graph.tick("drift_sensor").skip_message == "measure_drift ran a short while ago"
