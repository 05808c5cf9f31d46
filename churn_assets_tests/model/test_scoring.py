"""What a model says of rows, and its file: the same as scikit-learn said, and nothing where it cannot know."""

import json
import zipfile
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from skl2onnx import to_onnx

from churn_assets.model import families, training
from churn_assets.model.artefact import ArtefactError, digest, dumps, loads, zipped
from churn_assets.model.by_digest import servable
from churn_assets.model.reasons import NO_EVENTS, reasons
from churn_assets.model.scoring import Calibration, FeatureError, Line, Model, score
from churn_assets.model.training import Trained
from churn_assets.rules import FEATURES
from churn_assets_tests.model.customers import training_rows


def matrix(rows: pd.DataFrame) -> np.ndarray:
    return rows[list(FEATURES)].to_numpy(np.float32)


def models() -> dict[str, Model]:
    """One of each family."""
    rows = training_rows(customers=500)
    return {family: model for family, (model, _) in training.fit(rows, rows, FEATURES, seed=0).items()}


@pytest.mark.usefixtures("quick_training")
def test_what_serves_says_what_was_fitted(monkeypatch: pytest.MonkeyPatch):
    fitted = dict[str, object]()
    fit = families.fit

    def remembered(family, *args):
        fitted[family] = fit(family, *args)
        return fitted[family]

    monkeypatch.setattr(families, "SHAPES", families.SHAPES[:1])
    monkeypatch.setattr(families, "STAGE_STEP", families.STAGES)
    monkeypatch.setattr(families, "fit", remembered)
    found = models()

    rows = matrix(training_rows())
    assert set(found) == {"logistic", "forest", "boosting"}
    for family, model in found.items():
        assert model.raw(rows) == pytest.approx(families.raw(family, fitted[family], rows), abs=1e-5)
        assert 0 < model.probability(rows).min() < model.probability(rows).max() < 1


@pytest.mark.parametrize(
    "calibration", [Calibration("sigmoid", (0.8, -1.0)), Calibration("isotonic", (0.1, 0.4, 0.9), (0.0, 0.3, 1.0))]
)
def test_a_calibration_keeps_the_order_and_gives_probabilities(calibration: Calibration):
    found = calibration("forest", np.linspace(0, 1, 101))

    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_score_is_refused_where_a_feature_is_missing_or_not_finite(trained: Trained):
    rows = training_rows(weeks=1)
    with pytest.raises(FeatureError, match="needs the features avg_sentiment, which are missing"):
        score(trained.model, rows.drop(columns="avg_sentiment"))
    rows.loc[3, "wire_out_30d"] = np.nan
    with pytest.raises(FeatureError, match="wire_out_30d: 1"):
        score(trained.model, rows)


def test_the_order_of_columns_and_other_columns_do_not_matter(trained: Trained):
    rows = training_rows(weeks=1)

    assert (score(trained.model, rows) == score(trained.model, rows[rows.columns[::-1]])).all()
    assert score(trained.model, rows.iloc[:0]).shape == (0,)


@pytest.mark.usefixtures("quick_training")
def test_contributions_of_a_line_are_those_of_the_package_shap():
    import shap

    model, rows = models()["logistic"], matrix(training_rows(weeks=1))[:300]
    assert isinstance(model.learned, Line)
    typical = np.array([model.typical])
    explainer = shap.LinearExplainer((np.array(model.learned.coefficients), model.learned.intercept), typical)

    assert model.contributions(rows) == pytest.approx(explainer.shap_values(rows.astype(float)), abs=1e-9)


@pytest.mark.usefixtures("quick_training")
def test_contributions_sum_to_what_a_customer_is_above_the_typical_one_in_every_family():
    rows = matrix(training_rows(weeks=1))[:300]
    for family, model in models().items():
        above = model.raw(rows) - model.raw(np.array([model.typical], np.float32))
        assert model.contributions(rows).sum(axis=1) == pytest.approx(above, abs=1e-6), family


def test_reasons_name_what_stands_out_in_the_words_of_the_rules(trained: Trained):
    typical = dict(zip(FEATURES, trained.model.typical, strict=True))
    rows = pd.DataFrame(
        [
            {**typical, "support_cases_30d": 6, "avg_sentiment": 0.1, "error_count_30d": 8},
            typical,
            {**dict.fromkeys(FEATURES, 0), "avg_sentiment": 0.5},
        ]
    )
    unhappy, nothing, silent = reasons(trained.model, matrix(rows))

    assert set(unhappy.split("; ")) <= {"many support cases", "unhappy with support", "many app errors"}
    assert "many support cases" in unhappy
    assert nothing == ""
    assert silent == NO_EVENTS


# The file


@pytest.mark.usefixtures("quick_training")
def test_a_model_of_any_family_is_the_same_after_it_was_stored():
    rows = training_rows(weeks=1)
    for model in models().values():
        content = dumps(model)
        read = loads(content)

        assert dumps(read) == content
        assert (score(read, rows) == score(model, rows)).all()


def test_a_file_of_version_02_is_read():
    rows = training_rows(customers=500)
    forest = families.fit("forest", matrix(rows), rows["has_left"].to_numpy(bool), 0)
    onnx = to_onnx(forest, matrix(rows)[:1], options={"zipmap": False}).SerializeToString()
    head = {"format": 1, "features": FEATURES, "typical": [0.0] * len(FEATURES), "card": {"label": "then"}}
    for calibration in (Calibration("sigmoid", (0.8, -1.0)), Calibration("isotonic", (0.1, 0.9), (0.01, 0.5))):
        said = {"method": calibration.method, "x": calibration.x, "y": calibration.y}
        content = zipped({"card.json": json.dumps(head | {"calibration": said}).encode(), "forest.onnx": onnx})

        model = servable(lambda _, content=content: content, digest(content))

        assert (model.family, model.card) == ("forest", {"label": "then"})
        shares = forest.predict_proba(matrix(rows))[:, 1]
        assert score(model, rows) == pytest.approx(calibration("forest", shares), abs=1e-5)


def rewritten(content: bytes, **changes: object) -> bytes:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(files["card.json"]) | changes
    return zipped({**files, "card.json": json.dumps(head).encode()})


def test_a_damaged_file_is_refused_wherever_a_byte_is_wrong(trained: Trained):
    content = dumps(trained.model)
    name = digest(content)
    for place in range(0, len(content), len(content) // 50):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(ArtefactError, match=r"damaged.*churn model rollback"):
            servable(lambda _, damaged=bytes(damaged): damaged, name)
    with pytest.raises(ArtefactError, match=f"{name}.model is damaged"):
        servable(lambda _: content[:-1], name)


def test_a_file_of_another_format_or_of_other_features_is_refused_saying_so(trained: Trained):
    content = dumps(trained.model)
    with pytest.raises(ArtefactError, match="format 3, this version of churn_assets reads 1 and 2"):
        loads(rewritten(content, format=3))
    with pytest.raises(ArtefactError, match=r"is not a model.s file"):
        loads(b"cos\nsystem\n(S'touch /tmp/hacked'\ntR.")
    other = rewritten(content, features=["age", *FEATURES[1:]])
    with pytest.raises(ArtefactError, match=r"trained on age, .* train another one"):
        servable(lambda _: other, digest(other))
