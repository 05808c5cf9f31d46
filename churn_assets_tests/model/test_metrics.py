"""The measures against other implementations and against numbers by hand; intervals against what they promise."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from churn_assets.model.metrics import CALIBRATION_BINS, LIFT_AT, Outcomes, auc_gain, bins, evaluate


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("distinct", [3, 40, 10_000])
def test_the_measures_are_scikit_learns_also_with_ties_and_weights(rng: np.random.Generator, distinct: int):
    probability = np.round(rng.beta(1, 9, 2_000) * distinct) / distinct
    left = rng.random(2_000) < probability * 0.8 + 0.02
    weight = rng.integers(0, 4, 2_000).astype(float)
    rows = Outcomes(left, probability)

    assert rows.roc_auc(weight) == pytest.approx(roc_auc_score(left, probability, sample_weight=weight))
    assert rows.pr_auc(weight) == pytest.approx(average_precision_score(left, probability, sample_weight=weight))
    assert rows.brier(weight) == pytest.approx(brier_score_loss(left, probability, sample_weight=weight))


def test_the_calibration_error_is_the_mean_gap_of_the_bins():
    probability = np.repeat(np.arange(CALIBRATION_BINS) / 20, 10)
    left = np.tile([True] + [False] * 9, CALIBRATION_BINS)

    by_hand = np.mean([abs(0.1 - number / 20) for number in range(CALIBRATION_BINS)])
    assert Outcomes(left, probability).calibration_error(np.ones(len(left))) == pytest.approx(by_hand)


def beyond_noise(left: np.ndarray, probability: np.ndarray, customers: np.ndarray) -> float:
    return evaluate(left, probability, customers, np.zeros(len(left))).calibration_error_beyond_noise


def test_the_calibration_error_that_few_rows_give_to_perfect_probabilities_is_noise(rng: np.random.Generator):
    passed = 0
    for _ in range(20):
        risk = rng.beta(0.5, 4.5, 250)
        left = rng.random(250) < risk
        measured = evaluate(left, risk, np.arange(250), np.zeros(250))
        passed += measured.calibration_error_beyond_noise <= 0.02 < measured.calibration_error.value

    assert passed >= 17


def test_probabilities_that_are_too_high_are_told_from_noise(rng: np.random.Generator):
    risk = rng.beta(0.5, 4.5, 3_000)
    left = rng.random(3_000) < risk

    assert beyond_noise(left, np.minimum(1, 2 * risk), np.arange(3_000)) > 0.03


def test_one_customers_many_rows_are_no_further_evidence(rng: np.random.Generator):
    risk, who = rng.beta(0.5, 4.5, 400), np.arange(400)
    left = rng.random(400) < risk / 1.8

    once = beyond_noise(left, risk, who)
    nine = [np.tile(column, 9) for column in (left, risk, who)]
    assert once > 0
    assert beyond_noise(*nine) == pytest.approx(once, rel=0.25)
    assert beyond_noise(nine[0], nine[1], np.arange(3_600)) > 1.5 * once


def test_equal_probabilities_share_a_bin_and_others_fill_them_evenly(rng: np.random.Generator):
    assert set(bins(np.full(100, 0.2))) == {CALIBRATION_BINS - 1}
    assert set(np.bincount(bins(rng.permutation(1_000) / 1_000))) == {100}


def test_the_lift_counts_the_highest_of_each_cut_off():
    # Two cut-offs of 500; all 25 leavers of the first are on top, those of the second at the end.
    probability = np.tile(np.linspace(1, 0, 500), 2)
    left = np.zeros(1_000, bool)
    left[:25] = left[-25:] = True
    cut_offs = np.repeat([1, 2], 500)

    found = Outcomes(left, probability, cut_offs).lift(np.ones(1_000))
    assert found == pytest.approx((25 / (2 * LIFT_AT)) / (50 / 1_000))


def test_a_score_that_is_the_same_for_all_lifts_nothing(rng: np.random.Generator):
    left = np.sort(rng.random(1_000) < 0.1)[::-1]

    assert Outcomes(left, np.full(1_000, 0.1), np.zeros(1_000)).lift(np.ones(1_000)) == pytest.approx(1)


def test_a_handful_of_leavers_still_gives_an_interval(rng: np.random.Generator):
    left = np.repeat([True, False], [8, 392])
    found = evaluate(left, rng.random(400), np.repeat(np.arange(100), 4), np.zeros(400))

    assert all(np.isfinite([*found.roc_auc.interval, *found.lift.interval]))


def test_rows_of_the_same_customers_make_no_interval_narrower(rng: np.random.Generator):
    probability = rng.random(300)
    left = rng.random(300) < probability
    customers = np.arange(300)
    once = evaluate(left, probability, customers, np.zeros(300))
    ten_times = evaluate(np.tile(left, 10), np.tile(probability, 10), np.tile(customers, 10), np.zeros(3_000))

    assert ten_times.roc_auc.interval == pytest.approx(once.roc_auc.interval)
    assert ten_times.calibration_error.interval == pytest.approx(once.calibration_error.interval)


def test_the_interval_of_the_auc_covers_the_truth_as_often_as_it_says(rng: np.random.Generator):
    # Two normal distributions one standard deviation apart: the true AUC is Phi(1 / sqrt 2).
    covered = 0
    for _ in range(100):
        left = rng.random(400) < 0.2
        found = evaluate(left, rng.normal(left.astype(float)), np.arange(400), np.zeros(400)).roc_auc
        covered += found.interval[0] <= 0.7602 <= found.interval[1]

    assert covered >= 88  # of 100 where 95 are expected, fewer than 89 come in one of 300 experiments


def test_a_gain_is_told_from_noise_on_the_same_rows(rng: np.random.Generator):
    truth = rng.beta(1, 5, 3_000)
    left = rng.random(3_000) < truth
    blurred = truth + rng.normal(0, 0.3, 3_000)

    better = auc_gain(left, truth, blurred, np.arange(3_000))
    same = auc_gain(left, truth, truth * 0.5, np.arange(3_000))
    assert better.interval[0] > 0
    assert (same.value, same.interval) == (0, (0, 0))


@pytest.mark.parametrize("leavers", [1, 2, 5, 60])
@pytest.mark.parametrize("rows_of_each", [1, 4])
@pytest.mark.parametrize("scores", ["random", "perfect", "the same", "tied"])
def test_every_interval_contains_its_estimate(rng: np.random.Generator, leavers: int, rows_of_each: int, scores: str):
    left = np.repeat([True, False], [leavers, 120 - leavers])
    probability = {
        "random": rng.random(120),
        "perfect": left.astype(float),
        "the same": np.full(120, 0.3),
        "tied": np.round(rng.random(120), 1),
    }[scores]
    found = evaluate(left, probability, np.repeat(np.arange(120 // rows_of_each), rows_of_each), np.zeros(120))

    for measure in (found.roc_auc, found.pr_auc, found.calibration_error, found.brier, found.lift):
        assert measure.interval[0] <= measure.value <= measure.interval[1]
        assert measure.interval[0] >= 0
    gain = auc_gain(left, probability, rng.random(120), np.arange(120))
    assert gain.interval[0] <= gain.value <= gain.interval[1]


def test_the_interval_of_the_calibration_error_covers_the_true_one(rng: np.random.Generator):
    covered = 0
    for _ in range(50):
        risk = rng.beta(0.5, 4.5, 400)
        found = evaluate(rng.random(400) < risk / 1.5, risk, np.arange(400), np.zeros(400)).calibration_error
        covered += found.interval[0] <= np.mean(risk - risk / 1.5) <= found.interval[1]

    assert covered >= 45
