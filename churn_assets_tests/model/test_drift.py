"""When a champion no longer fits: shares that moved beyond chance, and probabilities that did not come true."""

import json
import math
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from churn_assets.model.drift import WEEKS, Drift, drift, outcome
from churn_assets.model.metrics import Floats
from churn_assets.model.scoring import Calibration, Model
from churn_assets.model.stability import SCORE, index_of, limit, reference, shares, stability_index
from churn_assets.model.training import last_tested
from churn_assets.rules import MAX_CALIBRATION_ERROR, MAX_STABILITY_INDEX

TESTED_UNTIL = date(2026, 3, 1)
WEEK = timedelta(weeks=1)
FEATURES = ("wires", "cases", "sentiment", "risk")


class Oracle(Model):
    """A model that knows the probability: it is the feature `risk`."""

    def raw(self, features: Floats) -> Floats:
        return features[:, self.features.index("risk")].astype(np.float64)


def customers(count: int, seed: int) -> pd.DataFrame:
    """Customers of one population: amounts with a long tail and many zeros, a rare count, a mood that is mostly neutral."""
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "customer_id": [f"{number}" for number in range(count)],
            "wires": np.round(rng.lognormal(6, 2, count) * (rng.random(count) < 0.5), 2),
            "cases": rng.poisson(0.3, count),
            "sentiment": np.where(rng.random(count) < 0.8, 0.5, rng.random(count)),
            "risk": rng.beta(0.5, 4.5, count),
        }
    )
    return found.assign(score=found["risk"])


POPULATION = customers(20_000, seed=1)


def oracle(calibration: Calibration | None = None) -> Model:
    """A champion that was trained and tested on the population, and that says what `calibration` makes of the truth."""
    return Oracle(
        FEATURES,
        "forest",
        b"",
        calibration or Calibration("isotonic", (0.0, 1.0), (0.0, 1.0)),
        (0.0,) * len(FEATURES),
        {
            "reference": reference(POPULATION, [*FEATURES, SCORE]),
            "training": {"test": {"cut_offs": ["2026-01-25", f"{TESTED_UNTIL}"]}},
        },
    )


DOUBLED = Calibration("isotonic", (0.0, 0.5, 1.0), (0.0, 1.0, 1.0))


def matured(count: int, weeks: int = 1, seed: int = 0) -> pd.DataFrame:
    """The population at cut-offs after the test, of whom as many left as their risk says."""
    found = [customers(count, seed + week).assign(cut_off=TESTED_UNTIL + (week + 1) * WEEK) for week in range(weeks)]
    rows = pd.concat(found) if found else customers(0, 0).assign(cut_off=[])
    return rows.assign(has_left=np.random.default_rng(seed).random(len(rows)) < rows["risk"])


def drift_of(live: pd.DataFrame) -> Drift:
    return drift(oracle(), live, matured(0))


def with_shares(bins: dict[float, int]) -> pd.DataFrame:
    values = [value for value, count in bins.items() for _ in range(count)]
    return pd.DataFrame({"customer_id": range(len(values)), "count": values})


def test_the_index_is_that_computed_by_hand():
    # (0.25 - 0.5) ln (0.25 / 0.5) + (0.75 - 0.5) ln (0.75 / 0.5)
    assert index_of([0.5, 0.5], [0.25, 0.75], 1000) == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(1.5))


def test_the_index_of_values_is_that_of_their_shares():
    found = reference(with_shares({0: 50, 1: 30, 7: 20}), ["count"])["count"]

    expected = (
        0.3 * math.log(8 / 5) - 0.1 * math.log(2 / 3) - 0.2 * math.log(0.005 / 0.2) + 0.005 * math.log(0.005 / 0.2)
    )
    assert stability_index(found, [0] * 80 + [1] * 20) == pytest.approx(expected)


def test_the_same_shares_have_an_index_of_zero_in_whatever_order_and_number():
    found = reference(with_shares({0: 50, 1: 30, 7: 20}), ["count"])["count"]

    assert stability_index(found, [7, 7, 0, 0, 0, 0, 0, 1, 1, 1]) == 0
    assert stability_index(found, [0] * 500 + [1] * 300 + [7] * 200) == 0


def test_the_index_is_the_same_in_both_directions_and_never_negative():
    rng = np.random.default_rng(0)
    for one, other in rng.dirichlet(np.full(6, 0.3), (100, 2)):
        assert index_of(one, other, 500) == pytest.approx(index_of(other, one, 500)) != 0
        assert index_of(one, other, 500) > 0


def test_an_empty_bin_counts_as_half_a_customer():
    assert index_of([1.0, 0.0], [0.5, 0.5], 100) == pytest.approx(0.5 * math.log(2) + 0.495 * math.log(100))
    assert index_of([1.0, 0.0, 0.0], [0.5, 0.5, 0.0], 100) == index_of([1.0, 0.0], [0.5, 0.5], 100)


@pytest.mark.parametrize(
    ("bins", "upper"),
    [
        pytest.param({value: 1 for value in range(100)}, [9, 19, 29, 39, 49, 59, 69, 79, 89, 99], id="even values"),
        pytest.param({0: 95, 1: 4, 56: 1}, [0, 56], id="a rare count"),
        pytest.param({0.1: 3, 0.4: 4, 0.5: 85, 0.9: 8}, [0.4, 0.5, 0.9], id="a value in the middle that most have"),
        pytest.param({-5: 5, 0: 60, 3: 35}, [-5, 0, 3], id="a value above the lowest that most have"),
        pytest.param({3: 10}, [3], id="one value"),
    ],
)
def test_bins_are_deciles_and_what_many_share_is_a_bin_of_its_own(bins: dict[float, int], upper: list[float]):
    found = reference(with_shares(bins), ["count"])["count"]

    assert found["upper"] == upper
    assert sum(found["shares"]) == pytest.approx(1)


def test_what_was_never_seen_before_or_is_missing_has_a_bin_of_its_own():
    found = reference(with_shares({0: 5, 1: 5}), ["count"])["count"]

    assert shares(found, [0, 1, 0.5, -1, 2, math.nan, math.inf, -math.inf]).tolist() == [1 / 8, 2 / 8, 5 / 8]


def test_a_reference_is_small_and_the_same_after_it_was_stored_as_json():
    found = reference(POPULATION, FEATURES)

    text = json.dumps(found)
    assert len(text) < 250 * len(FEATURES)
    assert json.loads(text) == found
    assert found["wires"]["customers"] == len(POPULATION)


@pytest.mark.parametrize("count", [20, 100, 200, 1000])
def test_few_customers_of_the_same_population_hardly_ever_raise_an_alarm(count: int):
    references = reference(POPULATION, FEATURES)
    limits = {name: limit(references[name], count) for name in FEATURES}

    alarms = 0
    for seed in range(300):
        drawn = POPULATION.sample(count, random_state=seed)
        alarms += any(stability_index(references[name], drawn[name]) > limits[name] for name in FEATURES)

    assert alarms <= 4, f"{alarms} of 300"


def test_a_shift_is_found_among_200_customers_nearly_always():
    found = reference(POPULATION, ["wires"])["wires"]

    missed = sum(
        stability_index(found, POPULATION.sample(200, random_state=seed)["wires"] * 10) <= limit(found, 200)
        for seed in range(100)
    )

    assert missed <= 2


def test_only_of_few_customers_more_is_allowed_than_the_setting_says():
    found = reference(POPULATION, ["wires"])["wires"]

    assert limit(found, 200) == MAX_STABILITY_INDEX
    assert limit(found, 20) > limit(found, 50) > MAX_STABILITY_INDEX


def test_an_unchanged_bank_is_stable():
    found = drift_of(customers(2000, seed=2))

    assert found.features_are_stable.passed
    assert found.scores_are_stable.passed
    assert found.features_are_stable.finding.startswith("the largest: ")
    assert all(shift.index < 0.05 for shift in found.features.values())


def test_the_feature_that_moved_is_found_and_named_and_no_other():
    live = customers(2000, seed=2)

    found = drift_of(live.assign(wires=live["wires"] * 10))

    assert [name for name, shift in found.features.items() if not shift.is_stable] == ["wires"]
    assert not found.features_are_stable.passed
    assert found.features_are_stable.finding.startswith("wires has a stability index of ")
    assert "cases" not in found.features_are_stable.finding
    assert found.scores_are_stable.passed


def test_scores_that_moved_are_found():
    live = customers(2000, seed=2)

    found = drift_of(live.assign(score=live["score"] ** 0.5))

    assert not found.scores_are_stable.passed
    assert found.features_are_stable.passed


def test_only_customers_with_a_score_of_this_model_are_compared():
    live = customers(2000, seed=2)
    live.loc[live.index[:1000], "score"] = math.nan

    assert drift_of(live).scores_are_stable.passed
    none = drift_of(live.assign(score=math.nan))
    assert none.score is None
    assert none.scores_are_stable.passed
    assert "no prediction comes from this model" in none.scores_are_stable.finding


def test_an_empty_bank_has_nothing_to_compare():
    found = drift_of(customers(0, seed=0))

    assert found.features_are_stable.passed
    assert found.features_are_stable.finding == "nothing to compare yet: there are no customers"
    assert found.probabilities_hold.finding == (
        "not known yet: 0 customers left in 0 rows of 0 cut-offs since the test, at least 20 more are needed"
    )


def test_a_model_is_judged_by_what_came_after_its_test():
    assert last_tested(oracle().card) == TESTED_UNTIL


def test_probabilities_that_came_true_hold():
    found = drift(oracle(), POPULATION, matured(2000, weeks=3))

    assert found.probabilities_hold.passed
    assert found.outcome.expected_share == pytest.approx(found.outcome.observed_share, abs=0.01)
    assert found.outcome.evaluation
    low, high = found.outcome.evaluation.roc_auc.interval
    assert 0.5 < low < found.outcome.evaluation.roc_auc.value < high
    assert len(found.outcome.curve) == 10


def test_probabilities_that_are_twice_the_truth_do_not_hold():
    found = drift(oracle(DOUBLED), POPULATION, matured(2000))

    assert not found.probabilities_hold.passed
    assert found.outcome.evaluation
    assert found.outcome.evaluation.calibration_error_beyond_noise > MAX_CALIBRATION_ERROR
    assert found.outcome.expected_share == pytest.approx(2 * 0.1, abs=0.02)


def test_too_few_leavers_say_how_many_are_missing():
    rows = matured(100)
    rows["has_left"] = np.arange(len(rows)) < 7

    found = outcome(oracle(), rows)

    assert (found.rows, found.leavers, found.needed) == (100, 7, 13)
    assert found.evaluation is found.observed_share is found.expected_share is None


def test_a_customer_who_left_counts_once_however_many_cut_offs_saw_it_coming():
    rows = pd.concat([matured(100).assign(cut_off=TESTED_UNTIL + week * WEEK) for week in (1, 2, 3, 4)])
    rows["has_left"] = rows["customer_id"].isin([f"{number}" for number in range(7)])

    assert outcome(oracle(), rows).needed == 13


def test_a_bank_that_everybody_leaves_says_nothing_yet_either():
    assert outcome(oracle(), matured(100).assign(has_left=True)).needed == 20


def test_old_cut_offs_do_not_hide_what_goes_wrong_now():
    rows = matured(100, weeks=WEEKS + 2)

    found = outcome(oracle(), rows)

    assert found.cut_offs == [TESTED_UNTIL + week * WEEK for week in range(3, WEEKS + 3)]
    assert found.rows == 100 * WEEKS
