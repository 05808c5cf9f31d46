"""Trees as bit masks say what ONNX Runtime and scikit-learn say; their Shapley values are those of the package shap."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier

from churn_assets.model import families
from churn_assets.model.trees import MAX_LEAVES, Floats, TreesError, read


def drawn(rows: int, seed: int) -> Floats:
    """Columns of many values, of few, of one, and of values between which 32 bits hardly tell."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.normal(0, 1e4, rows),
        rng.integers(0, 5, rows),
        np.full(rows, 3),
        1 + rng.integers(0, 9, rows) * 2.0**-23,
    ]
    return np.column_stack(columns).astype(np.float32)


def grown(rows: Floats, seed: int, **options: Any) -> RandomForestClassifier:
    chance = 1 / (1 + np.exp(-rows[:, 0] / 1e4 + rows[:, 1] - 2))
    left = np.random.default_rng(seed).random(len(rows)) < chance
    return RandomForestClassifier(20, random_state=seed, **options).fit(rows, left)


def in_onnx(forest: Any, rows: Floats) -> bytes:
    """As version 0.2 wrote forests."""
    model: Any = to_onnx(forest, rows[:1], options={"zipmap": False})
    return model.SerializeToString()


def by_onnxruntime(model: bytes, rows: Floats) -> Floats:
    session: Any = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    *_, output = session.get_outputs()  # of a classifier, the shares come after the classes
    return session.run([output.name], {session.get_inputs()[0].name: rows})[0][:, -1]


def boosted(rows: Floats, seed: int, **options: Any) -> HistGradientBoostingClassifier:
    chance = 1 / (1 + np.exp(-rows[:, 0] / 1e4 + rows[:, 1] - 2))
    left = np.random.default_rng(seed).random(len(rows)) < chance
    return HistGradientBoostingClassifier(max_iter=20, random_state=seed, **options).fit(rows, left)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("leaves", [2, 7, 17, 33, MAX_LEAVES])
def test_the_shares_are_those_of_scikit_learn_and_onnx_runtime(leaves: int, seed: int):
    rows = drawn(700, seed)
    forest = grown(rows, seed, max_leaf_nodes=leaves)
    old, model = in_onnx(forest, rows), families.served("forest", forest)
    others = np.concatenate([rows, drawn(700, seed + 100)])

    found = read(model).sums(others)

    assert found == pytest.approx(forest.predict_proba(others)[:, 1], abs=1e-6)
    assert found == pytest.approx(by_onnxruntime(model, others), abs=1e-6)
    assert read(old).sums(others) == pytest.approx(by_onnxruntime(old, others), abs=1e-6)
    assert len(set(found)) > leaves


@pytest.mark.parametrize("leaves", [2, 8, 31])
def test_the_log_odds_of_boosting_are_those_of_scikit_learn_and_onnx_runtime(leaves: int):
    rows = drawn(700, leaves)
    boosting = boosted(rows, 1, max_leaf_nodes=leaves)
    # Beside every threshold in float32, too.
    thresholds = np.concatenate([of.nodes["num_threshold"] for (of,) in boosting._predictors])
    near = np.float32(np.random.default_rng(0).choice(thresholds, (2_000, rows.shape[1])))
    others = np.concatenate([rows, near, np.nextafter(near, np.float32(np.inf))])

    found = read(families.served("boosting", boosting)).sums(others)

    assert found == pytest.approx(boosting.decision_function(others), abs=1e-5)
    assert found == pytest.approx(by_onnxruntime(families.served("boosting", boosting), others), abs=1e-5)
    fewer = read(families.served("boosting", boosting, families.Size(0, 5))).sums(others)
    assert fewer == pytest.approx(list(boosting.staged_decision_function(others))[4].ravel(), abs=1e-5)


@pytest.mark.parametrize("family", ["forest", "boosting"])
def test_shapley_values_are_those_of_the_package_shap(family: Any):
    import shap

    rows = drawn(700, 3)[:, :3]  # shap has other roundings where 32 bits hardly tell
    options = {"max_leaf_nodes": MAX_LEAVES} if family == "forest" else {"max_leaf_nodes": 31}
    estimator = grown(rows, 3, **options) if family == "forest" else boosted(rows, 3, **options)
    other = np.median(rows, axis=0)

    found = read(families.served(family, estimator)).shapley_values(rows[:200], other)

    explainer = shap.TreeExplainer(estimator, other[None], feature_perturbation="interventional", model_output="raw")
    expected = np.asarray(explainer.shap_values(rows[:200]))
    assert found == pytest.approx(expected[..., 1] if expected.ndim == 3 else expected, abs=1e-5)
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65])
def test_shapley_values_sum_to_the_difference_for_any_number_of_rows(rows: int):
    some = drawn(200, 1)
    trees = read(families.served("forest", grown(some, 1, max_leaf_nodes=MAX_LEAVES)))

    found = trees.shapley_values(some[:rows], some[-1])

    assert found.shape == (rows, some.shape[1])
    assert found.sum(axis=1) == pytest.approx(trees.sums(some[:rows]) - trees.sums(some[-1:]), abs=1e-12)


def test_a_value_on_a_threshold_passes_its_test():
    rows = drawn(500, 1)
    model = families.served("forest", grown(rows, 1, max_leaf_nodes=MAX_LEAVES))
    forest = read(model)
    thresholds = next(tests.thresholds for tests in forest.tests if tests.feature == 0)
    on_them = np.repeat(rows[:1], len(thresholds), axis=0)
    on_them[:, 0] = thresholds

    assert forest.sums(on_them) == pytest.approx(by_onnxruntime(model, on_them), abs=1e-6)


def test_trees_without_any_test_count_too():
    rows = drawn(100, 1)
    forest = grown(rows, 1, min_samples_leaf=100)

    found = read(families.served("forest", forest)).sums(rows)

    assert found == pytest.approx(forest.predict_proba(rows)[:, 1], abs=1e-6)


def test_no_rows_have_no_sums():
    rows = drawn(100, 1)

    assert read(families.served("forest", grown(rows, 1, max_leaf_nodes=4))).sums(rows[:0]).shape == (0,)


def test_what_is_no_such_ensemble_is_refused():
    rows = drawn(700, 1)
    two_classes = rows[:, 0] > 0
    with pytest.raises(TreesError, match=f"more than {MAX_LEAVES} leaves"):
        read(families.served("forest", grown(rows, 1)))
    with pytest.raises(TreesError, match="does not have exactly two classes"):
        read(in_onnx(RandomForestClassifier(2, max_leaf_nodes=4).fit(rows, rows[:, 1]), rows))
    with pytest.raises(TreesError, match="Identity"):
        read(in_onnx(GradientBoostingClassifier(n_estimators=2).fit(rows, two_classes), rows))
