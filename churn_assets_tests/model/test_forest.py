"""The forest as bit masks says what ONNX Runtime and scikit-learn say."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from churn_assets.model.forest import MAX_LEAVES, ForestError, read
from churn_assets.model.scoring import Floats
from churn_assets.model.training import LEAVES


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
    model: Any = to_onnx(forest, rows[:1], options={"zipmap": False})
    return model.SerializeToString()


def by_onnxruntime(model: bytes, rows: Floats) -> Floats:
    session: Any = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run([session.get_outputs()[1].name], {session.get_inputs()[0].name: rows})[0][:, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("leaves", [2, 7, MAX_LEAVES])
def test_the_votes_are_those_of_scikit_learn_and_onnx_runtime(leaves: int, seed: int):
    rows = drawn(700, seed)
    forest = grown(rows, seed, max_leaf_nodes=leaves)
    model = in_onnx(forest, rows)
    others = np.concatenate([rows, drawn(700, seed + 100)])

    found = read(model).votes(others)

    assert found == pytest.approx(forest.predict_proba(others)[:, 1], abs=1e-6)
    assert found == pytest.approx(by_onnxruntime(model, others), abs=1e-6)
    assert len(set(found)) > leaves


def test_a_value_on_a_threshold_passes_its_test():
    rows = drawn(500, 1)
    model = in_onnx(grown(rows, 1, max_leaf_nodes=MAX_LEAVES), rows)
    forest = read(model)
    thresholds = next(tests.thresholds for tests in forest.tests if tests.feature == 0)
    on_them = np.repeat(rows[:1], len(thresholds), axis=0)
    on_them[:, 0] = thresholds

    assert forest.votes(on_them) == pytest.approx(by_onnxruntime(model, on_them), abs=1e-6)


def test_trees_without_any_test_vote_too():
    rows = drawn(100, 1)
    forest = grown(rows, 1, min_samples_leaf=100)

    found = read(in_onnx(forest, rows)).votes(rows)

    assert found == pytest.approx(forest.predict_proba(rows)[:, 1], abs=1e-6)


def test_no_rows_have_no_votes():
    rows = drawn(100, 1)

    assert read(in_onnx(grown(rows, 1, max_leaf_nodes=4), rows)).votes(rows[:0]).shape == (0,)


def test_what_is_not_such_a_forest_is_refused():
    rows = drawn(700, 1)
    two_classes = rows[:, 0] > 0
    with pytest.raises(ForestError, match=f"more than {MAX_LEAVES} leaves"):
        read(in_onnx(grown(rows, 1), rows))
    with pytest.raises(ForestError, match="does not have exactly two classes"):
        read(in_onnx(RandomForestClassifier(2, max_leaf_nodes=4).fit(rows, rows[:, 1]), rows))
    with pytest.raises(ForestError, match="Identity"):
        read(in_onnx(GradientBoostingClassifier(n_estimators=2).fit(rows, two_classes), rows))


def test_the_forests_that_are_trained_can_be_read():
    assert LEAVES <= MAX_LEAVES
