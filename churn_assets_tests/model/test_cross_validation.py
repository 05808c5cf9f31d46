"""Cross-validation on a table without an order in time: what is held out, chosen, left out and said."""

import numpy as np
import pandas as pd
import pytest

from churn_assets.model import cross_validation, families
from churn_assets.model.cross_validation import GIVES_AWAY, CrossValidated, auc_alone, cross_validate, splits
from churn_assets.model.training import TrainingError
from churn_assets.rules import FEATURES
from churn_assets_tests.model.customers import training_rows

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_training")]


@pytest.fixture(autouse=True)
def few_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_validation, "FOLDS", 2)
    monkeypatch.setattr(cross_validation, "_INNER_FOLDS", 2)


def test_cross_validation_holds_out_whole_customers():
    # What tells who leaves is an id, the same in all of a customer's rows: nothing that helps with customers not seen.
    rng = np.random.default_rng(2)
    rows = training_rows(customers=300, weeks=8)
    leaves = dict(zip(rows["customer_id"].unique(), rng.random(300) < 0.3, strict=True))
    rows["has_left"] = rows["customer_id"].map(leaves)
    rows["number"] = rows["customer_id"].str[1:].astype(float)

    found = cross_validate(rows, ["number"]).evaluations["model"].roc_auc.value
    assert 0.4 < found < 0.6


def test_cross_validation_reports_like_a_training():
    found = cross_validate(training_rows(weeks=1, customers=2_000), FEATURES)

    assert set(found.evaluations) == {"model", "logistic", "forest", "boosting", "heuristic"}
    assert len(found.chosen) == 2
    assert set(found.importances) == set(found.alone) == set(FEATURES)
    assert found.evaluations["model"].rows == 2_000
    assert found.evaluations["model"].roc_auc.value > 0.6


def table(rows: int = 1_200, share: float = 0.25, seed: int = 0) -> pd.DataFrame:
    """Customers one by one, with a number that says something, one that says nothing, and a category."""
    rng = np.random.default_rng(seed)
    trouble, town = rng.normal(size=rows), rng.integers(0, 5, rows)
    left = rng.random(rows) < 1 / (1 + np.exp(np.log(1 / share - 1) - trouble - (town == 3)))
    frame = pd.DataFrame({"customer_id": np.arange(rows), "cut_off": 0, "has_left": left})
    return frame.assign(trouble=trouble, noise=rng.normal(size=rows), town=town.astype(float))


def judged(frame: pd.DataFrame, *more: str, **options) -> CrossValidated:
    return cross_validate(frame, ["trouble", "noise", "town", *more], ["town"], **options)


def test_categories_and_missing_values_are_learned_from_by_every_family():
    frame = table()
    frame.loc[frame.index % 3 == 0, "trouble"] = np.nan
    frame.loc[frame.index % 7 == 0, "town"] = np.nan
    frame["rare"] = np.where(frame.index < 2, frame.index, np.nan)  # and in some rounds nothing

    found = judged(frame, "rare")

    assert all(evaluation.roc_auc.value > 0.6 for evaluation in found.evaluations.values())
    assert found.importances["trouble"] > found.importances["noise"]
    assert found.giveaways == []


def test_a_category_of_many_values_counts_by_shares_of_leavers_that_the_learned_rows_do_not_know():
    rng = np.random.default_rng(3)
    frame = table(2_000).assign(street=rng.integers(0, 150, 2_000) * 1.0)  # says nothing
    branch = rng.integers(0, 150, 2_000)
    frame["has_left"] = rng.random(2_000) < np.where(rng.random(150) < 0.3, 0.7, 0.1)[branch]
    frame["branch"] = np.where(frame.index % 50 == 0, np.nan, branch)

    found = cross_validate(frame, ["street", "noise", "branch", "town"], ["town", "street", "branch"])

    for family in ("logistic", "forest", "boosting"):
        assert (
            found.evaluations[family].roc_auc.value > 0.7
        )  # shares of the rows' own labels would make trees trust `street`
    assert max(found.importances, key=lambda name: found.importances[name]) == "branch"
    assert found.importances["street"] < 0.02


def test_boosting_finds_what_two_categories_say_only_together():
    rng = np.random.default_rng(4)
    one, other = rng.integers(0, 8, (2, 2_000))
    signs = np.array([[1, -1] * 4, [-1, 1] * 4] * 4)[:, rng.permutation(8)]  # as many of each in every row and column
    frame = table(2_000).assign(one=one * 1.0, other=other * 1.0)
    frame["has_left"] = rng.random(2_000) < 0.3 + 0.2 * signs[one, other]

    found = cross_validate(frame, ["one", "noise", "other"], ["one", "other"])

    assert max(found.alone.values()) < 0.6
    assert found.evaluations["boosting"].roc_auc.value > 0.68


LEFT = np.random.default_rng(0).random(1_000) < 0.2
RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("values", "is_category", "gives_away"),
    [
        (LEFT + RNG.normal(0, 0.1, 1_000), False, True),
        (-1.0 * LEFT + RNG.normal(0, 0.1, 1_000), False, True),
        (np.where(LEFT, RNG.choice([-5, 5], 1_000), 0.0), False, True),  # neither high nor low
        (np.where(LEFT, 3.0, np.nan), False, True),  # filled in for leavers only
        (np.where(LEFT, RNG.integers(1, 9, 1_000), 0.0), True, True),
        (np.where(LEFT, RNG.integers(1, 9, 1_000), np.nan), True, True),
        (LEFT + RNG.normal(0, 1, 1_000), False, False),
        (RNG.permutation(1_000) / 1_000, False, False),
        (RNG.integers(0, 99, 1_000) * 1.0, True, False),
    ],
)
def test_what_one_feature_says_alone(values: np.ndarray, is_category: bool, gives_away: bool):
    rounds = splits(LEFT, pd.Series(range(1_000)), 5, 10, 0)

    found = auc_alone(values, LEFT, rounds, is_category)

    assert (found >= GIVES_AWAY) == gives_away


def test_a_feature_that_gives_away_who_left_is_named_and_left_out_unless_it_is_kept():
    frame = table()
    frame["closing"] = np.where(frame["has_left"], 1.0, np.nan)

    found = judged(frame, "closing")

    assert found.giveaways == ["closing"]
    assert found.evaluations["with giveaways"].roc_auc.value > 0.98 > found.evaluations["model"].roc_auc.value
    assert "closing" not in found.importances
    kept = judged(frame, "closing", keep=["closing"])
    assert (kept.giveaways, kept.importances["closing"] > 0.2) == ([], True)
    with pytest.raises(TrainingError, match="every column gives away who left"):
        cross_validate(frame, ["closing"])


@pytest.mark.parametrize(("leavers", "folds"), [(20, 2), (35, 3), (60, 5)])
def test_with_few_leavers_there_are_fewer_rounds(leavers: int, folds: int):
    left = np.repeat([True, False], [leavers, 1_000])

    found = splits(left, pd.Series(range(len(left))), 5, 10, 0)

    assert len(found) == folds
    assert all(left[held_out].sum() >= 10 for _, held_out in found)
    assert sorted(np.concatenate([held_out for _, held_out in found])) == list(range(len(left)))


def test_so_few_leavers_that_nothing_can_be_judged_are_refused():
    with pytest.raises(TrainingError, match="19 customers left; at least 20 are needed"):
        splits(np.repeat([True, False], [19, 1_000]), pd.Series(range(1_019)), 5, 10, 0)
    with pytest.raises(TrainingError, match="3 customers stayed"):
        splits(np.repeat([True, False], [1_000, 3]), pd.Series(range(1_003)), 5, 10, 0)


def test_of_many_rows_one_inner_part_is_enough(monkeypatch: pytest.MonkeyPatch):
    held_out = list[int]()
    learn = families.learn

    def counted(family, matrix, left, splits, *args):
        held_out.append(len(splits))
        return learn(family, matrix, left, splits, *args)

    monkeypatch.setattr(families, "learn", counted)
    monkeypatch.setattr(cross_validation, "_ROWS_OF_ALL_INNER_FOLDS", 500)
    judged(table())

    assert set(held_out) == {1}
