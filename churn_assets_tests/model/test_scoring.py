"""What a model says of rows, and its file: the same as scikit-learn said, and nothing where it cannot know."""

import json
import zipfile
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from churn_assets.model import training
from churn_assets.model.artefact import ArtefactError, digest, dumps, loads
from churn_assets.model.by_digest import servable
from churn_assets.model.reasons import NO_EVENTS, reasons
from churn_assets.model.scoring import Calibration, FeatureError, Model, contributions, score
from churn_assets.model.training import Trained
from churn_assets.rules import FEATURES
from churn_assets_tests.model.customers import training_rows


def matrix(rows: pd.DataFrame) -> np.ndarray:
    return rows[list(FEATURES)].to_numpy(np.float32)


def test_the_votes_are_those_of_the_forest_that_was_fitted(monkeypatch: pytest.MonkeyPatch):
    fitted = list[RandomForestClassifier]()
    fit = RandomForestClassifier.fit

    def remembered(self, *args, **kwargs):
        fitted.append(self)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(RandomForestClassifier, "fit", remembered)
    rows = training_rows()
    model = training.fit(rows, rows, FEATURES, seed=0)

    # On the thresholds themselves too, where <= and < differ.
    thresholds = np.concatenate([tree.tree_.threshold for tree in fitted[-1].estimators_])
    asked = np.concatenate(
        [matrix(rows), np.float32(np.random.default_rng(0).choice(thresholds, (2_000, len(FEATURES))))]
    )

    assert np.abs(model.votes(asked) - fitted[-1].predict_proba(asked)[:, 1]).max() < 1e-6


@pytest.mark.parametrize(
    "calibration", [Calibration("sigmoid", (0.8, -1.0)), Calibration("isotonic", (0.1, 0.4, 0.9), (0.0, 0.3, 1.0))]
)
def test_a_calibration_keeps_the_order_and_gives_probabilities(calibration: Calibration):
    found = calibration(np.linspace(0, 1, 101))

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


def shapley(model: Model, row: np.ndarray) -> np.ndarray:
    """By definition, over all sets of features."""
    count = len(row)
    typical = np.asarray(model.typical, np.float32)
    sets = [subset for size in range(count + 1) for subset in combinations(range(count), size)]
    asked = np.array([np.where(np.isin(np.arange(count), subset), row, typical) for subset in sets], np.float32)
    worth = dict(zip(sets, model.votes(asked), strict=True))
    return np.array(
        [
            sum(
                factorial(len(subset)) * factorial(count - len(subset) - 1) / factorial(count)
                * (worth[tuple(sorted((*subset, one)))] - worth[subset])
                for subset in sets
                if one not in subset
            )
            for one in range(count)
        ]
    )  # fmt: skip


def test_contributions_are_near_the_shapley_values_of_customers_at_risk(trained: Trained):
    rows = trained.test.nlargest(40, "model")
    found = contributions(trained.model, matrix(rows))
    exact = np.array([shapley(trained.model, row) for row in matrix(rows)])

    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.95
    strongest_two = np.argsort(-exact, axis=1)[:, :2]
    assert np.mean([best in two for best, two in zip(found.argmax(axis=1), strongest_two, strict=True)]) > 0.9


def test_contributions_are_exact_where_features_interact_in_pairs_only(
    monkeypatch: pytest.MonkeyPatch, trained: Trained
):
    def votes(_: Model, x: np.ndarray) -> np.ndarray:
        return x[:, 0] + 2 * x[:, 1] * x[:, 2] - x[:, 3] * x[:, 0] + 0.5 * x[:, 5]

    monkeypatch.setattr(Model, "votes", votes)
    model = replace(trained.model, typical=(1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.0))
    rows = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)

    assert contributions(model, rows) == pytest.approx(np.array([shapley(model, row) for row in rows]), abs=1e-5)


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


def test_a_model_is_the_same_after_it_was_stored(trained: Trained):
    content = dumps(trained.model)
    read = loads(content)

    assert dumps(read) == content
    assert (score(read, trained.test) == trained.test["model"]).all()


def rewritten(content: bytes, **changes: object) -> bytes:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        head, forest = json.loads(archive.read("card.json")), archive.read("forest.onnx")
    stored = BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("card.json", json.dumps(head | changes))
        archive.writestr("forest.onnx", forest)
    return stored.getvalue()


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
    with pytest.raises(ArtefactError, match="format 2, this version of churn_assets reads 1"):
        loads(rewritten(content, format=2))
    with pytest.raises(ArtefactError, match=r"is not a model.s file"):
        loads(b"cos\nsystem\n(S'touch /tmp/hacked'\ntR.")
    other = rewritten(content, features=["age", *FEATURES[1:]])
    with pytest.raises(ArtefactError, match=r"trained on age, .* train another one"):
        servable(lambda _: other, digest(other))
