"""Trains a calibrated forest to predict who will leave, and compares it with simpler ways.

`train` is a pure function from the rows of `churn_training_set` to a model and its evaluation on rows that it never saw.
Reading the rows, storing the model and deciding whether it serves are elsewhere.

Rows are split by time, because the model predicts the future: it learns from older cut-offs, is calibrated on later ones and
judged on the latest. Between two parts lie as many days as a label looks ahead, so that the labels of one part were known
before the next began (purging: López de Prado, "Advances in Financial Machine Learning", 2018, ch. 7). The judged model is
the one that serves. It is not trained again on all rows, so a later test never uses rows that the champion has seen.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from churn_assets.errors import ChurnError
from churn_assets.model.metrics import Evaluation, evaluate
from churn_assets.model.scoring import (
    Calibration,
    FeatureError,
    Floats,
    Model,
    log_odds,
    matrix_of,
    refuse_unknown,
    score_matrix,
)
from churn_assets.model.stability import SCORE, reference
from churn_assets.rules import FEATURES, LABEL_DAYS, RISK_RULES

TREES, LEAVES, LEAF_ROWS = 100, 64, 100
ROWS_PER_TREE = 200_000  # at most, so that a long history does not make training ever slower
TESTED_SHARE = 0.2  # of the cut-offs, for the test and again for the validation
MIN_LEAVERS = 30  # in each part; fewer tell nothing about a calibration or a difference
IMPORTANCE_REPEATS, IMPORTANCE_ROWS = 5, 50_000
FOLDS = 5
_MODEL, _LOGISTIC, _HEURISTIC = "model", "logistic", "heuristic"
_LIBRARIES = ("scikit-learn", "skl2onnx", "onnx", "numpy")


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
    """By way: model, logistic (regression on the same rows) and, if the features are the bank's, heuristic."""
    importances: dict[str, float]
    """By feature, the ROC AUC lost on the test rows when the feature's values are shuffled between them."""


@dataclass(frozen=True)
class CrossValidated:
    """The evaluation on rows that each round's model had not seen, over all rounds; fields as in `Trained`."""

    evaluations: dict[str, Evaluation]
    importances: dict[str, float]


def train(frame: pd.DataFrame, features: Sequence[str] = FEATURES, seed: int = 0) -> Trained:
    """Train on rows with `customer_id`, `cut_off` (date), `has_left` (bool) and `features` (numbers).

    The same rows and seed give the same model. `TrainingError` if there is too little to learn from, `FeatureError` if a
    feature is missing or infinite.
    """
    _refuse_unusable(frame, features)
    frame = frame.sort_values(["cut_off", "customer_id"], kind="stable", ignore_index=True)
    parts = parts_of(frame)
    train_rows, validation, test = parts.values()
    model = fit(train_rows, validation, features, seed)
    test = _scored(model, pd.concat([train_rows, validation]), test, features)
    evaluations = evaluate_ways(test)
    importances = _importances(model, test, features, seed)
    card = {
        "label": f"all accounts closed within {LABEL_DAYS} days after the cut-off",
        "training": {name: _shape(part) for name, part in parts.items()},
        "data_version": _data_version(frame, features),
        "features": list(features),
        "calibration": model.calibration.method,
        "forest": {"trees": TREES, "leaves": LEAVES, "rows_in_a_leaf": LEAF_ROWS, "seed": seed},
        "evaluations": {way: asdict(evaluation) for way, evaluation in evaluations.items()},
        "importances": importances,
        "reference": {**reference(train_rows, features), SCORE: reference(test, [_MODEL])[_MODEL]},
        "versions": versions(),
    }
    return Trained(replace(model, card=card), test, evaluations, importances)


def cross_validate(frame: pd.DataFrame, features: Sequence[str], seed: int = 0) -> CrossValidated:
    """Train and judge in FOLDS rounds on rows without an order in time; each row is scored by a model that has not seen it.

    `frame` is like that of `train`; all rows of a customer are held out together. A quarter of the others calibrates.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415

    _refuse_unusable(frame, features)
    _refuse_few(int(frame["has_left"].sum()), len(frame), 3 * MIN_LEAVERS, "the file has")

    def split(rows: pd.DataFrame, parts: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        for kept, held_out in folds.split(rows, rows["has_left"], pd.factorize(rows["customer_id"])[0]):
            yield rows.iloc[kept], rows.iloc[held_out]

    tests: list[pd.DataFrame] = []
    importances: list[dict[str, float]] = []
    for known, test in split(frame, FOLDS):
        train_rows, validation = next(split(known, 4))
        model = fit(train_rows, validation, features, seed)
        tests.append(_scored(model, known, test, features))
        importances.append(_importances(model, test, features, seed))
    whole = pd.concat(tests)
    return CrossValidated(
        evaluate_ways(whole),
        {name: float(np.mean([found[name] for found in importances])) for name in features},
    )


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
    cut_offs = sorted(rows)
    purged = timedelta(days=LABEL_DAYS)
    train, validation, test = list[date](), list[date](), list[date]()
    # The test gets at most TESTED_SHARE, and at least as many cut-offs are left to learn from.
    for size in range(max(1, round(TESTED_SHARE * len(cut_offs))), 0, -1):
        test = cut_offs[-size:]
        validation = [day for day in cut_offs if day <= test[0] - purged][-size:] if test else []
        train = [day for day in cut_offs if day <= validation[0] - purged] if validation else []
        if len(train) >= size:
            break
    if not train:
        weeks = -(-LABEL_DAYS // 7)
        raise TrainingError(
            f"{len(cut_offs)} weekly cut-offs with a known label are too few to train, validate and test {weeks} weeks apart;"
            f" at least {2 * weeks + 1} are needed, and one comes each week"
        )
    for part, days in (("training", train), ("validation", validation), ("test", test)):
        customers, leavers = (sum(rows[day][place] for day in days) for place in (0, 1))
        _refuse_few(leavers, customers, MIN_LEAVERS, f"the {part} from {days[0]} to {days[-1]} has")
    return Split(train, validation, test)


def fit(train_rows: pd.DataFrame, validation: pd.DataFrame, features: Sequence[str], seed: int) -> Model:
    """A forest trained on the one rows and calibrated on the other. Votes are shares, so rare leavers need no resampling."""
    from skl2onnx import to_onnx  # noqa: PLC0415  # takes more than a second, as below

    matrix, left = matrix_of(train_rows, features), train_rows["has_left"].to_numpy(bool)
    forest = grow(matrix, left, seed)
    onnx: Any = to_onnx(forest, matrix[:1], options={"zipmap": False})
    forest.set_params(n_jobs=1)  # several threads sum the trees in a varying order, which changes the last digits
    votes = forest.predict_proba(matrix_of(validation, features))[:, 1]
    return Model(
        features=tuple(features),
        forest=onnx.SerializeToString(),
        calibration=_calibration(votes, validation["has_left"].to_numpy(bool), validation["customer_id"], seed),
        typical=tuple(float(value) for value in np.median(matrix[~left], axis=0)),
    )


def grow(matrix: Floats, left: Floats, seed: int) -> Any:
    """A scikit-learn forest; the same rows and seed give the same trees."""
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    return RandomForestClassifier(
        TREES,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=min(LEAF_ROWS, max(1, len(matrix) // LEAVES)),
        max_samples=min(len(matrix), ROWS_PER_TREE),
        max_features="sqrt",
        n_jobs=-1,
        random_state=seed,
    ).fit(matrix, left)


def evaluate_ways(test: pd.DataFrame) -> dict[str, Evaluation]:
    """The evaluation of each column of scores."""
    # As numbers, because each evaluation sorts customers and cut-offs, which takes longer for strings and dates.
    who, when = (np.unique(test[name].to_numpy(), return_inverse=True)[1] for name in ("customer_id", "cut_off"))
    return {way: evaluate(test["has_left"], test[way], who, when) for way in ways(test)}


def ways(test: pd.DataFrame) -> list[str]:
    """The columns of scores, the model's first."""
    return [name for name in (_MODEL, _LOGISTIC, _HEURISTIC) if name in test.columns]


def heuristic(features: pd.DataFrame) -> Floats:
    """The score of RISK_RULES, 0 to 1, as the SQL of `dyn_churn_predictions` computes it."""
    total = np.zeros(len(features))
    for rule in RISK_RULES:
        values = features[rule.feature].to_numpy(np.float64)
        total += rule.weight * (values > rule.threshold if rule.operator == ">" else values < rule.threshold)
    return total


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that make a model."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _scored(model: Model, known: pd.DataFrame, test: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    """The test rows with a column of scores for each way."""
    scores = {
        _MODEL: score_matrix(model, matrix_of(test, features)),
        _LOGISTIC: _logistic(known, test, features),
    }
    if set(FEATURES) <= set(features):
        scores[_HEURISTIC] = heuristic(test)
    return test.assign(**scores)


def _calibration(votes: Floats, left: Floats, customers: pd.Series, seed: int) -> Calibration:
    """The method, isotonic or sigmoid, with the smaller squared error on held-out customers, fitted to all of them."""
    from sklearn.model_selection import GroupKFold  # noqa: PLC0415

    errors = {"isotonic": 0.0, "sigmoid": 0.0}
    folds = GroupKFold(5, shuffle=True, random_state=seed)
    for fold, held_out in folds.split(votes, left, pd.factorize(customers)[0]):
        for method in errors:
            guess = _fitted(method, votes[fold], left[fold])(votes[held_out])
            errors[method] += float(((guess - left[held_out]) ** 2).sum())
    return _fitted(min(errors, key=lambda method: errors[method]), votes, left)


def _fitted(method: str, votes: Floats, left: Floats) -> Calibration:
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415

        never = 0.5 / len(votes)  # what never happened in so few rows is still not impossible
        found = IsotonicRegression(y_min=never, y_max=1 - never, out_of_bounds="clip").fit(votes, left)
        return Calibration("isotonic", tuple(map(float, found.X_thresholds_)), tuple(map(float, found.y_thresholds_)))
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    # JC Platt, "Probabilistic outputs for support vector machines" (1999), over the log odds.
    line = LogisticRegression(C=np.inf).fit(log_odds(votes)[:, None], left)
    return Calibration("sigmoid", (float(line.coef_[0, 0]), float(line.intercept_[0])))


def _logistic(known: pd.DataFrame, test: pd.DataFrame, features: Sequence[str]) -> Floats:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    line.fit(matrix_of(known, features), known["has_left"].to_numpy(bool))
    return line.predict_proba(matrix_of(test, features))[:, 1]


def _importances(model: Model, test: pd.DataFrame, features: Sequence[str], seed: int) -> dict[str, float]:
    """L Breiman, "Random Forests", Machine Learning 45 (2001), ch. 10, by ROC AUC."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    test = test.sample(min(len(test), IMPORTANCE_ROWS), random_state=seed)
    matrix, left = matrix_of(test, features), test["has_left"].to_numpy(bool)
    whole = roc_auc_score(left, model.votes(matrix))
    lost: dict[str, float] = {}
    for place, name in enumerate(features):
        shuffled = matrix.copy()
        found: list[float] = []
        for _ in range(IMPORTANCE_REPEATS):
            shuffled[:, place] = rng.permutation(matrix[:, place])
            found.append(float(whole - roc_auc_score(left, model.votes(shuffled))))
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
