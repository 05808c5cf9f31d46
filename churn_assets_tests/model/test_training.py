"""Training: what is learned from what, that it can be repeated, and what is refused."""

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_assets.model.artefact import dumps
from churn_assets.model.choice import calibrate, simplest
from churn_assets.model.metrics import Outcomes
from churn_assets.model.scoring import FeatureError
from churn_assets.model.training import (
    MIN_LEAVERS,
    Trained,
    TrainingError,
    heuristic,
    split_by_time,
    train,
)
from churn_assets.rules import Rules
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.model.customers import FEW, FIRST, put_features, training_rows

pytestmark = pytest.mark.heavy


@pytest.mark.usefixtures("quick_training")
def test_the_same_rows_in_any_order_give_the_same_model_to_the_byte():
    rows = training_rows()
    shuffled = rows.sample(frac=1, random_state=3)
    found = dumps(train(rows).model)

    assert dumps(train(shuffled).model) == found
    assert dumps(train(shuffled, seed=1).model) != found


@given(
    st.lists(st.integers(0, 300), min_size=FEW, max_size=60, unique=True).map(
        lambda weeks: sorted(FIRST + timedelta(weeks=week) for week in weeks)
    )
)
def test_no_label_of_one_part_reaches_into_the_next(days: list[date]):
    try:
        split = split_by_time(dict.fromkeys(days, (1_000, 100)))
    except TrainingError:
        return
    for before, after in pairwise((split.train, split.validation, split.test)):
        assert before[-1] + timedelta(days=Rules().labels.days) <= after[0]
    assert split.test[-1] == days[-1]
    assert not set(split.train) & set(split.validation) & set(split.test)


@pytest.mark.usefixtures("quick_training")
def test_the_card_tells_the_rows_apart(trained: Trained):  # that it is the same for the same rows is shown above
    rows = training_rows()
    rows.loc[5, "has_left"] = not rows.loc[5, "has_left"]

    assert train(rows).model.card["data_version"] != trained.model.card["data_version"]


@pytest.mark.usefixtures("quick_training")
def test_nobody_is_said_to_leave_or_stay_for_certain():
    rows = training_rows()
    rows["has_left"] = rows["support_cases_30d"] > 1
    found = train(rows).test["model"]

    assert 0 < found.min() < 0.001
    assert 0.999 < found.max() < 1


def test_the_test_is_the_latest_cut_offs_as_they_are(trained: Trained):
    rows = training_rows()
    latest = rows[rows["cut_off"].isin(sorted(set(rows["cut_off"]))[-1:])]

    assert len(trained.test) == len(latest)
    assert trained.test["has_left"].sum() == latest["has_left"].sum()
    days = [str(latest["cut_off"].min()), str(latest["cut_off"].max())]
    assert trained.model.card["training"]["test"]["cut_offs"] == days


def test_probabilities_mean_what_they_say_and_beat_the_heuristic():
    found = train(training_rows(customers=4_000))
    test, model = found.test, found.evaluations["model"]

    assert test["model"].mean() == pytest.approx(test["has_left"].mean(), rel=0.15)
    assert model.calibration_error.value < 0.02
    assert model.roc_auc.interval[0] > found.evaluations["heuristic"].roc_auc.value
    assert found.importances["support_cases_30d"] > found.importances["total_spend_30d"]
    # The fifth that is likeliest to leave, seen alone.
    likely = test[test["model"] > test["model"].quantile(0.8)]
    assert likely["model"].mean() == pytest.approx(likely["has_left"].mean(), rel=0.15)


def test_the_measures_are_those_of_the_test_rows(trained: Trained):
    model = trained.evaluations["model"]

    assert model.roc_auc.interval[0] < model.roc_auc.value < model.roc_auc.interval[1]
    assert model.roc_auc.value == pytest.approx(
        Outcomes(trained.test["has_left"], trained.test["model"]).roc_auc(np.ones(len(trained.test)))
    )


def test_labels_by_chance_teach_nothing():
    rows = training_rows(customers=2_000)
    rows["has_left"] = np.random.default_rng(1).random(len(rows)) < 0.1
    found = train(rows).evaluations["model"].roc_auc

    assert found.interval[0] <= 0.5 <= found.interval[1]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (training_rows(weeks=FEW - 2), "10 weekly cut-offs .* at least 11 are needed"),
        (training_rows(customers=60), f"leavers; at least {MIN_LEAVERS} are needed, .* more"),
        (training_rows().assign(has_left=False), "nobody left at 12 cut-offs"),
        (training_rows().assign(has_left=True), "0 customers who stayed"),
        (training_rows().iloc[:0], "the training set is empty"),
    ],
)
def test_too_little_to_learn_from_is_refused_saying_how_much_is_missing(rows: pd.DataFrame, says: str):
    with pytest.raises(TrainingError, match=says):
        train(rows)


def test_missing_and_infinite_features_are_refused_by_name():
    rows = training_rows()
    rows.loc[3, "avg_sentiment"] = np.nan
    rows.loc[[4, 5], "total_spend_30d"] = [np.inf, -np.inf]

    with pytest.raises(FeatureError, match=r"total_spend_30d: 2, avg_sentiment: 1"):
        train(rows)
    with pytest.raises(FeatureError, match="lacks the features wire_out_30d"):
        train(training_rows().drop(columns="wire_out_30d"))


def test_a_value_that_float32_cannot_hold_is_not_taken_for_another():
    rows = training_rows()
    rows.loc[7, "total_spend_30d"] = 1e39

    with pytest.raises(FeatureError, match="total_spend_30d: 1"):
        train(rows)


def test_the_heuristic_is_the_one_of_the_predictions(lake: LakeWarehouse):
    rows = training_rows(customers=500, weeks=1)
    put_features(lake, rows)
    now = pd.Timestamp("2026-06-01").to_pydatetime()
    lake.refresh(["dyn_churn_predictions"], now)

    found = lake.query("SELECT churn_score FROM dyn_churn_predictions ORDER BY customer_id")["churn_score"].to_numpy()
    assert np.allclose(found, heuristic(rows))
    assert len(set(found)) > 5


def test_the_simplest_family_within_a_standard_error_is_the_model(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    who = pd.Series(np.arange(1_000))
    losses = {"logistic": rng.normal(0.3, 0.1, 1_000), "forest": np.empty(1_000), "boosting": np.empty(1_000)}
    # Per customer 0.001 better with a spread of 0.1 is within the standard error, 0.1 / sqrt 1,000; 0.02 is beyond it.
    losses["forest"] = losses["logistic"] - 0.001 + rng.permutation(np.repeat([-0.1, 0.1], 500))
    losses["boosting"] = losses["logistic"] - 0.0005
    assert simplest({name: losses[name] for name in ("logistic", "forest")}, who) == "logistic"

    losses["forest"] -= 0.02
    assert simplest(losses, who) == "forest"
    # A customer with many rows is one customer.
    assert simplest(losses, pd.Series(np.repeat([1, 2], 500))) in ("logistic", "forest")


def test_isotonic_steps_need_many_leavers_and_a_shape_that_no_sigmoid_has():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=20_000)
    who = pd.Series(np.arange(20_000))
    by_sigmoid = rng.random(20_000) < 1 / (1 + np.exp(2 - raw))
    by_step = rng.random(20_000) < np.where(raw > 1, 0.3, 0.01)

    assert calibrate("boosting", raw, by_sigmoid, who, 0).calibration.method == "sigmoid"
    assert calibrate("boosting", raw, by_step, who, 0).calibration.method == "isotonic"
    assert calibrate("boosting", raw[:800], by_step[:800], who[:800], 0).calibration.method == "sigmoid"
    slope, _ = calibrate("boosting", -raw[:800], by_step[:800], who[:800], 0).calibration.x
    assert slope == 0  # what is worse than chance is not turned round
