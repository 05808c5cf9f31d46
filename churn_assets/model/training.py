"""Trains a calibrated model to predict who will leave: of each family one, of which the validation chooses.

`train` is a pure function from the rows of `churn_training_set` to a model and its evaluation on rows that it never saw.
Reading the rows, storing the model and deciding whether it serves are elsewhere. So is the evaluation of a user's own table, in
`cross_validation`.

Rows are split by time, because the model predicts the future: it learns from older cut-offs, is chosen and calibrated on
later ones and judged on the latest. Between two parts lie as many days as a label looks ahead, so that the labels of one part
were known before the next began (purging: López de Prado, "Advances in Financial Machine Learning", 2018, ch. 7). The judged
model is the one that serves. It is not trained again on all rows, so a later test never uses rows that the champion has seen.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from churn_assets.configuration import rules
from churn_assets.errors import ChurnError
from churn_assets.model import families
from churn_assets.model.choice import Calibrated, calibrate, simplest
from churn_assets.model.families import FAMILIES
from churn_assets.model.labels import without_leavers
from churn_assets.model.metrics import Evaluation, evaluate
from churn_assets.model.scoring import Family, FeatureError, Floats, Model, matrix_of, refuse_unknown
from churn_assets.model.stability import SCORE, reference
from churn_assets.rules import FEATURES

TESTED_SHARE = 0.2  # of the cut-offs, for the test and again for the validation
MIN_LEAVERS = 30  # in each part; fewer tell nothing about a calibration or a difference
IMPORTANCE_REPEATS, IMPORTANCE_ROWS = 5, 50_000
_MODEL, _HEURISTIC = "model", "heuristic"
_LIBRARIES = ("scikit-learn", "onnx", "numpy")


class TrainingError(ChurnError):
    """There are too few rows, or only leavers or only others; the message says how many are missing."""


@dataclass(frozen=True)
class Split:
    """The cut-offs of each part, in order."""

    train: list[date]
    validation: list[date]
    test: list[date]


@dataclass(frozen=True)
class Trained:
    """A model and its evaluation on the test rows."""

    model: Model
    test: pd.DataFrame
    """customer_id, cut_off, has_left, the features, and a column of scores for each of `ways`."""
    evaluations: dict[str, Evaluation]
    """By way: model, the families that were not chosen and, if the features are the bank's, heuristic."""
    importances: dict[str, float]
    """By feature, the ROC AUC lost on the test rows when the feature's values are shuffled between them."""


def train(frame: pd.DataFrame, features: Sequence[str] = FEATURES, seed: int = 0) -> Trained:
    """Train on rows with `customer_id`, `cut_off` (date), `has_left` (bool) and `features` (numbers).

    The model is that of the family whose log loss on the validation is the smallest, or of a simpler one within a standard
    error of it. The same rows and seed give the same model. `TrainingError` if there is too little to learn from,
    `FeatureError` if a feature is missing or infinite.
    """
    _refuse_unusable(frame, features)
    frame = frame.sort_values(["cut_off", "customer_id"], kind="stable", ignore_index=True)
    parts = parts_of(frame)
    train_rows, validation, test = parts.values()
    with families.threads(len(train_rows)):
        found = fit(train_rows, validation, features, seed)
    losses: dict[Family, Floats] = {family: calibrated.losses for family, (_, calibrated) in found.items()}
    chosen = simplest(losses, validation["customer_id"])
    model = found[chosen][0]
    test = _scored(model, {family: other for family, (other, _) in found.items() if family != chosen}, test, features)
    evaluations = evaluate_ways(test, ways(test))
    importances = _importances(model, test, features, seed)
    card = {
        "label": rules().labels.in_words,
        "training": {name: _shape(part) for name, part in parts.items()},
        "data_version": _data_version(frame, features),
        "features": list(features),
        "family": chosen,
        "validation_log_loss": {family: float(of_rows.mean()) for family, of_rows in losses.items()},
        "calibration": model.calibration.method,
        "families": {**families.settings(), "seed": seed},
        "evaluations": {way: asdict(evaluation) for way, evaluation in evaluations.items()},
        "importances": importances,
        "reference": {**reference(train_rows, features), SCORE: reference(test, [_MODEL])[_MODEL]},
        "versions": versions(),
    }
    return Trained(replace(model, card=card), test, evaluations, importances)


def parts_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each part of `split_by_time`: train, validation and test."""
    by_cut_off = frame.groupby("cut_off")["has_left"].agg(["size", "sum"])
    split = split_by_time({day: (int(size), int(left)) for day, size, left in by_cut_off.itertuples()})
    return {name: frame[frame["cut_off"].isin(days)] for name, days in asdict(split).items()}


def last_tested(card: Mapping[str, Any]) -> date:
    """The last cut-off that the model of a card was judged on; it has seen nothing later."""
    return date.fromisoformat(card["training"]["test"]["cut_offs"][1])


def split_by_time(rows: Mapping[date, tuple[int, int]]) -> Split:
    """The latest cut-offs for the test, some before them for the validation, the rest to learn from, with gaps in between.

    `rows` has, by cut-off, the number of customers and how many of them left. `TrainingError` says what a part lacks.
    """
    if nothing := without_leavers(rows):
        raise TrainingError(nothing)
    cut_offs = sorted(rows)
    purged = timedelta(days=rules().labels.days)
    train, validation, test = list[date](), list[date](), list[date]()
    # The test gets at most TESTED_SHARE, and at least as many cut-offs are left to learn from.
    for size in range(max(1, round(TESTED_SHARE * len(cut_offs))), 0, -1):
        test = cut_offs[-size:]
        validation = [day for day in cut_offs if day <= test[0] - purged][-size:] if test else []
        train = [day for day in cut_offs if day <= validation[0] - purged] if validation else []
        if len(train) >= size:
            break
    if not train:
        weeks = -(-rules().labels.days // 7)
        raise TrainingError(
            f"{len(cut_offs)} weekly cut-offs with a known label are too few to train, validate and test {weeks} weeks apart;"
            f" at least {2 * weeks + 1} are needed, and one comes each week"
        )
    for part, days in (("training", train), ("validation", validation), ("test", test)):
        customers, leavers = (sum(rows[day][place] for day in days) for place in (0, 1))
        _refuse_few(leavers, customers, MIN_LEAVERS, f"the {part} from {days[0]} to {days[-1]} has")
    return Split(train, validation, test)


def fit(
    train_rows: pd.DataFrame, validation: pd.DataFrame, features: Sequence[str], seed: int
) -> dict[Family, tuple[Model, Calibrated]]:
    """A model of each family, trained on the one rows and calibrated on the other, and how that went.

    Raw outputs mean shares and odds, so rare leavers need no resampling.
    """
    rows = pd.concat([train_rows, validation])
    matrix, left = matrix_of(rows, features), rows["has_left"].to_numpy(bool)
    split = np.split(np.arange(len(rows)), [len(train_rows)])
    learned_from = matrix[: len(train_rows)][~left[: len(train_rows)]]
    typical = tuple(float(value) for value in np.median(learned_from, axis=0))
    found: dict[Family, tuple[Model, Calibrated]] = {}
    for family in FAMILIES:
        learned = families.learn(family, matrix, left, [(split[0], split[1])], seed)
        calibrated = calibrate(family, learned.raw, left[split[1]], validation["customer_id"], seed)
        served = families.served(family, learned.estimators[0], learned.size)
        found[family] = Model(tuple(features), family, served, calibrated.calibration, typical), calibrated
    return found


def evaluate_ways(test: pd.DataFrame, of: Iterable[str]) -> dict[str, Evaluation]:
    """The evaluation of each of these columns of scores."""
    # As numbers, because each evaluation sorts customers and cut-offs, which takes longer for strings and dates.
    who, when = (np.unique(test[name].to_numpy(), return_inverse=True)[1] for name in ("customer_id", "cut_off"))
    return {way: evaluate(test["has_left"], test[way], who, when) for way in of}


def ways(test: pd.DataFrame) -> list[str]:
    """The columns of scores, the model's first."""
    return [name for name in (_MODEL, *FAMILIES, _HEURISTIC) if name in test.columns]


def heuristic(features: pd.DataFrame) -> Floats:
    """The score of the bank's risk rules, 0 to 1, as the SQL of `dyn_churn_predictions` computes it."""
    total = np.zeros(len(features))
    for rule in rules().risk.rules:
        values = features[rule.feature].to_numpy(np.float64)
        total += rule.weight * (values > rule.threshold if rule.operator == ">" else values < rule.threshold)
    return total


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that make a model."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _scored(model: Model, others: Mapping[Family, Model], test: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    """The test rows with a column of scores for each way."""
    matrix = matrix_of(test, features)
    scores = {
        _MODEL: model.probability(matrix),
        **{family: other.probability(matrix) for family, other in others.items()},
    }
    if set(FEATURES) <= set(features):
        scores[_HEURISTIC] = heuristic(test)
    return test.assign(**scores)


def _importances(model: Model, test: pd.DataFrame, features: Sequence[str], seed: int) -> dict[str, float]:
    """L Breiman, "Random Forests", Machine Learning 45 (2001), ch. 10, by ROC AUC."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    test = test.sample(min(len(test), IMPORTANCE_ROWS), random_state=seed)
    matrix, left = matrix_of(test, features), test["has_left"].to_numpy(bool)
    whole = roc_auc_score(left, model.raw(matrix))
    lost: dict[str, float] = {}
    for place, name in enumerate(features):
        shuffled = matrix.copy()
        found: list[float] = []
        for _ in range(IMPORTANCE_REPEATS):
            shuffled[:, place] = rng.permutation(matrix[:, place])
            found.append(float(whole - roc_auc_score(left, model.raw(shuffled))))
        lost[name] = float(np.mean(found))
    return lost


def _data_version(frame: pd.DataFrame, features: Sequence[str]) -> str:
    """A digest of the rows; models with the same digest have learned from the same rows."""
    known = frame[["customer_id", "has_left", *features]].assign(cut_off=frame["cut_off"].map(str))
    return sha256(pd.util.hash_pandas_object(known, index=False).to_numpy().tobytes()).hexdigest()[:16]


def _shape(part: pd.DataFrame) -> dict[str, Any]:
    days = sorted(set(part["cut_off"]))
    return {
        "cut_offs": [str(days[0]), str(days[-1])],
        "weeks": len(days),
        "rows": len(part),
        "leavers": int(part["has_left"].sum()),
    }


def _refuse_unusable(frame: pd.DataFrame, features: Sequence[str]) -> None:
    if frame.empty:
        raise TrainingError("the training set is empty; a cut-off is added when its label is known")
    if lacking := [name for name in features if name not in frame.columns]:
        raise FeatureError(f"the training set lacks the features {', '.join(lacking)}")
    refuse_unknown(matrix_of(frame, features), features)


def _refuse_few(leavers: int, rows: int, least: int, where: str) -> None:
    for count, who in ((leavers, "leavers"), (rows - leavers, "customers who stayed")):
        if count < least:
            raise TrainingError(f"{where} {count} {who}; at least {least} are needed, {least - count} more")
