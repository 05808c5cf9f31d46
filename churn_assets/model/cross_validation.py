"""Cross-validates the training on a user's own table, whose rows have no order in time.

In each round some customers are held out. Of the others, every family learns; which of them is taken, and its calibration, are
found by an inner cross-validation. So the figures are those of rows that nothing has seen, and the choice is judged along with
the model. What a column means is found in `table_columns`, the families are in `families`, the measures in `metrics`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from churn_assets.model import families
from churn_assets.model.choice import calibrate, simplest
from churn_assets.model.families import FAMILIES, Bools, Split
from churn_assets.model.metrics import Evaluation, Outcomes
from churn_assets.model.scoring import Family, Floats, matrix_of
from churn_assets.model.training import TrainingError, evaluate_ways, heuristic
from churn_assets.rules import FEATURES

FOLDS = 5
LEAST_IN_FOLD = 10  # leavers, and customers who stayed; with fewer there are fewer rounds
GIVES_AWAY = 0.98  # ROC AUC of one feature alone, from which on it is taken for a trace of the leaving itself
_INNER_FOLDS, _LEAST_IN_INNER_FOLD = 4, 5
_ROWS_OF_ALL_INNER_FOLDS = 20_000  # with more, a single held-out part tells enough
_MODEL, _HEURISTIC, _GIVEN_AWAY = "model", "heuristic", "with giveaways"


@dataclass(frozen=True)
class CrossValidated:
    """The evaluation on rows that each round's model had not seen, over all rounds."""

    evaluations: dict[str, Evaluation]
    """By way: the model, each family, if the features are the bank's, the heuristic, and the model with `giveaways`."""
    chosen: list[Family]
    """The family of each round's model."""
    importances: dict[str, float]
    """By feature of the model, the ROC AUC lost when the feature's values are shuffled between the held-out rows."""
    alone: dict[str, float]
    """By feature, the ROC AUC of a small tree that knows nothing else."""
    giveaways: list[str]
    """The features that alone reach GIVES_AWAY; the model does without them."""


def cross_validate(
    frame: pd.DataFrame,
    features: Sequence[str],
    categories: Collection[str] = (),
    keep: Collection[str] = (),
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> CrossValidated:
    """Train and judge in rounds; each row is scored by a model that has seen no row of its customer.

    `frame` has `customer_id`, `cut_off`, `has_left` and `features`: numbers or, of `categories`, the places of levels, from 0;
    NaN where a value is missing. Features that give the label away are left out unless they are in `keep`. `TrainingError` if
    there are too few customers, or nothing is left to learn from.
    """
    with families.threads(len(frame)):
        return _cross_validated(frame, features, categories, keep, seed, report)


def _cross_validated(
    frame: pd.DataFrame,
    features: Sequence[str],
    categories: Collection[str],
    keep: Collection[str],
    seed: int,
    report: Callable[[str], None],
) -> CrossValidated:
    left = frame["has_left"].to_numpy(bool)
    rounds = splits(left, frame["customer_id"], FOLDS, LEAST_IN_FOLD, seed)
    report(f"{len(features)} features, each alone")
    alone = {name: auc_alone(frame[name].to_numpy(np.float64), left, rounds, name in categories) for name in features}
    giveaways = [name for name in features if alone[name] >= GIVES_AWAY and name not in keep]
    honest = [name for name in features if name not in giveaways]
    if not honest:
        raise TrainingError(
            "every column gives away who left; give others, or name with --keep those that were known before"
        )
    scores, chosen, importances = _scored(frame, honest, categories, rounds, seed, report)
    if set(FEATURES) <= set(honest):
        scores[_HEURISTIC] = heuristic(frame)
    if giveaways:
        report(f"again with {len(giveaways)} features that give away who left")
        scores[_GIVEN_AWAY] = _scored(frame, features, categories, rounds, seed, report)[0][_MODEL]
    return CrossValidated(evaluate_ways(frame.assign(**scores), scores), chosen, importances, alone, giveaways)


def splits(left: Bools, customers: pd.Series, folds: int, least: int, seed: int) -> list[Split]:
    """Splits by customer, each with as many leavers; fewer than `folds` if a part would have fewer leavers than `least`."""
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415

    who = pd.factorize(customers)[0]
    ever = np.bincount(who, left) > 0
    fewest = min(int(ever.sum()), int((~ever).sum()))
    folds = min(folds, fewest // least)
    if folds < 2:
        kind = "customers left" if ever.sum() == fewest else "customers stayed"
        raise TrainingError(f"{fewest} {kind}; at least {2 * least} are needed to learn from some and judge on others")
    found = list[Split]()
    for known, _ in StratifiedKFold(folds, shuffle=True, random_state=seed).split(ever, ever):
        is_known = np.isin(who, known)
        found.append((np.flatnonzero(is_known), np.flatnonzero(~is_known)))
    return found


def auc_alone(values: Floats, left: Bools, rounds: Sequence[Split], is_category: bool) -> float:
    """The ROC AUC of one feature on held-out rows: of a small tree, or of the share of leavers in each level."""
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415

    guess = np.empty(len(values))
    column = np.clip(values, *np.array([-1, 1]) * np.finfo(np.float32).max)[:, None]
    for known, held_out in rounds:
        if is_category:
            level = np.where(np.isnan(values), np.nanmax(values) + 1, values).astype(np.int64)
            of, all_ = (np.bincount(level[known], weights, level.max() + 1) for weights in (left[known], None))
            guess[held_out] = ((of + left[known].mean()) / (all_ + 1))[level[held_out]]
        else:
            least = int(np.clip(len(known) // 1_000, families.LEAST_LEAF_ROWS, families.MOST_LEAF_ROWS))
            tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=least, random_state=0)
            shares = tree.fit(column[known], left[known]).predict_proba(column[held_out])
            guess[held_out] = np.asarray(shares)[:, 1]
    return _auc(guess, left)


def _scored(
    frame: pd.DataFrame,
    features: Sequence[str],
    categories: Collection[str],
    rounds: Sequence[Split],
    seed: int,
    report: Callable[[str], None],
) -> tuple[dict[str, Floats], list[Family], dict[str, float]]:
    """The scores of each way, the family of each round, and the importances."""
    matrix, left, customers = matrix_of(frame, features), frame["has_left"].to_numpy(bool), frame["customer_id"]
    few, many = list[int](), list[int]()
    for place, name in enumerate(features):
        if name in categories:
            (many if frame[name].max() >= families.MOST_LEVELS else few).append(place)
    places = families.Categories(tuple(few), tuple(many))
    scores: dict[str, Floats] = {way: np.empty(len(frame)) for way in (_MODEL, *FAMILIES)}
    chosen = list[Family]()
    lost = np.zeros(len(features))
    rng = np.random.default_rng(seed)
    for number, (known, held_out) in enumerate(rounds, 1):
        inner = splits(left[known], customers.iloc[known], _INNER_FOLDS, _LEAST_IN_INNER_FOLD, seed)
        if len(known) > _ROWS_OF_ALL_INNER_FOLDS:
            inner = inner[:1]
        validated = known[np.concatenate([part for _, part in inner])]
        estimators, losses, probabilities = {}, {}, {}
        for family in FAMILIES:
            report(f"round {number} of {len(rounds)}: {family}")
            learned = families.learn(family, matrix[known], left[known], inner, seed, places)
            calibrated = calibrate(family, learned.raw, left[validated], customers.iloc[validated], seed)
            losses[family] = calibrated.losses
            estimators[family] = families.fit(family, matrix[known], left[known], seed, places, learned.size)
            raw = families.raw(family, estimators[family], matrix[held_out])
            probabilities[family] = calibrated.calibration(family, raw)
            scores[family][held_out] = probabilities[family]
        best = simplest(losses, customers.iloc[validated])
        chosen.append(best)
        scores[_MODEL][held_out] = probabilities[best]
        whole = _auc(families.raw(best, estimators[best], matrix[held_out]), left[held_out])
        for place in range(len(features)):
            shuffled = matrix[held_out]
            shuffled[:, place] = rng.permutation(shuffled[:, place])
            lost[place] += whole - _auc(families.raw(best, estimators[best], shuffled), left[held_out])
    return scores, chosen, dict(zip(features, (lost / len(rounds)).tolist(), strict=True))


def _auc(guess: Floats, left: Bools) -> float:
    found = Outcomes(left, guess)
    return found.roc_auc(found.all)
