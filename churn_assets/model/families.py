"""The three families of models: how each is learned, what it says of rows, and what of it is kept to serve.

    logistic   a logistic regression over standardized numbers; categories become columns of 0 and 1
    forest     a random forest whose trees have at most MAX_LEAVES leaves
    boosting   gradient boosting of small trees; held-out rows say of which shape and how many

They are scikit-learn's. Rows are float32 matrices, NaN where a value is missing: forest and boosting send missing values to
the better side of each test, the logistic regression fills in the median and adds a column that says so. A column may hold the
numbers of a category's levels, from 0. With more than MOST_LEVELS, each level counts by its share of leavers, drawn towards that
of all, and found on other rows than those that are learned from (D Micci-Barreca, "A preprocessing scheme for high-cardinality
categorical attributes", SIGKDD Explorations 3, 2001). Boosting tries the same for pairs of levels, because trees grow test by
test and do not find what two categories say only together. Calibration, and which family is chosen, are in `choice`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from churn_assets.model.scoring import Family, Line
from churn_assets.model.trees import MAX_LEAVES, Floats, Tree, write

FAMILIES: tuple[Family, ...] = ("logistic", "forest", "boosting")  # the simplest first
TREES = 100  # of a forest
LEAST_LEAF_ROWS, MOST_LEAF_ROWS = 5, 100  # of a forest's leaf: a thousandth of the rows, within these
# Of boosting: the most trees, after how many their sum is looked at again, and the share of each tree that counts.
STAGES, STAGE_STEP, STAGE_RATE = 200, 5, 0.05
# Small trees suit few leavers and effects that add up, larger ones that look at some of the features suit interactions.
SHAPES: tuple[dict[str, Any], ...] = (
    {"max_leaf_nodes": 8},
    {"max_leaf_nodes": 31, "max_features": 0.3, "l2_regularization": 5.0},
)
MOST_LEVELS = 100  # of a category that is learned from level by level
MOST_PAIRED = 10  # categories whose pairs boosting tries, so that there are at most 45
PARALLEL_ROWS = 20_000  # with fewer, threads wait for one another for longer than they work
ROWS_PER_TREE = 200_000  # at most, so that a long history does not make training ever slower
Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Size:
    """How boosting grows: the shape of its trees, by place in SHAPES, their number, and whether pairs of categories count."""

    shape: int
    trees: int
    pairs: bool = False


@dataclass(frozen=True)
class Categories:
    """The columns that hold numbers of levels."""

    few: tuple[int, ...] = ()
    """Those of at most MOST_LEVELS."""
    many: tuple[int, ...] = ()


@dataclass(frozen=True)
class Learned:
    """What a family learned, and what it says of rows that were held out."""

    family: Family
    estimators: list[Any]
    """Of scikit-learn, one for each split. Boosting has STAGES trees; `size` says how many of them count."""
    raw: Floats
    """The raw outputs of the held-out rows of all splits, one split after the other."""
    size: Size | None


NONE = Categories()
Split: TypeAlias = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
"""The places of the rows that are learned from, and of those that are held out."""


def threads(rows: int) -> AbstractContextManager[Any]:
    """Within it, one thread learns from so few rows; for many, as many as there are cores."""
    import sklearn.ensemble  # noqa: F401, PLC0415  # takes a second; only the threads of what is loaded are limited
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    return threadpool_limits(1) if rows < PARALLEL_ROWS else nullcontext()


def settings() -> dict[str, Any]:
    """What is fixed before a training, for a model's card."""
    return {
        "logistic": {"C": 1.0},
        "forest": {"trees": TREES, "leaves": MAX_LEAVES, "rows_in_a_leaf": [LEAST_LEAF_ROWS, MOST_LEAF_ROWS]},
        "boosting": {"most_trees": STAGES, "learning_rate": STAGE_RATE, "shapes": list(SHAPES)},
    }


def learn(
    family: Family, matrix: Floats, left: Bools, splits: Sequence[Split], seed: int, categories: Categories = NONE
) -> Learned:
    """Learn in each split. Boosting takes the size with the smallest log loss on all held-out rows."""
    if family != "boosting":
        estimators = [fit(family, matrix[known], left[known], seed, categories) for known, _ in splits]
        raws = [raw(family, one, matrix[held_out]) for one, (_, held_out) in zip(estimators, splits, strict=True)]
        return Learned(family, estimators, np.concatenate(raws), None)
    happened = left[np.concatenate([held_out for _, held_out in splits])]

    def grown(shape: int, *, pairs: bool) -> tuple[float, Learned]:
        size = Size(shape, STAGES, pairs)
        estimators = [fit(family, matrix[known], left[known], seed, categories, size) for known, _ in splits]
        staged = np.concatenate(
            [_staged(one, matrix[held_out]) for one, (_, held_out) in zip(estimators, splits, strict=True)], axis=1
        )
        losses = [log_losses(found, happened).sum() for found in staged]
        stage = int(np.argmin(losses))
        size = Size(shape, STAGE_STEP * (stage + 1), pairs)
        return losses[stage], Learned(family, estimators, staged[stage].astype(np.float64), size)

    def loss(found: tuple[float, Learned]) -> float:
        return found[0]

    loss_, best = min((grown(shape, pairs=False) for shape in range(len(SHAPES))), key=loss)
    if best.size and 1 < len(categories.few) <= MOST_PAIRED:
        _, best = min((loss_, best), grown(best.size.shape, pairs=True), key=loss)
    return best


def fit(
    family: Family, matrix: Floats, left: Bools, seed: int, categories: Categories = NONE, size: Size | None = None
) -> Any:
    """A scikit-learn estimator; the same rows and seed give the same one. `size` is for boosting."""
    # A column without any value in these rows tells nothing; scikit-learn's boosting takes a constant, but no such column.
    matrix = np.where(np.isnan(matrix).all(axis=0), np.float32(0), matrix)
    width = matrix.shape[1]
    pairs = list(combinations(categories.few, 2)) if size and size.pairs else []
    by_share = [*categories.many, *range(width, width + len(pairs))]
    # The shares come first, then the other columns in their order.
    others = [column for column in range(width) if column not in categories.many]
    few = [len(by_share) + others.index(column) for column in categories.few]
    new = whole = _new(family, len(matrix), width + len(pairs), few, seed, size)
    if by_share:
        from sklearn.compose import ColumnTransformer  # noqa: PLC0415  # takes a second, as those below
        from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import FunctionTransformer, TargetEncoder  # noqa: PLC0415

        parts: Any = StratifiedKFold(5, shuffle=True, random_state=seed)
        shares = TargetEncoder(target_type="binary", cv=parts)
        whole = make_pipeline(
            FunctionTransformer(partial(_with_pairs, pairs=pairs)),
            ColumnTransformer([("shares", shares, by_share)], remainder="passthrough"),
            new,
        )
    whole.fit(matrix, left)
    if family == "forest":
        new.set_params(n_jobs=1)  # several threads sum the trees in a varying order, which changes the last digits
    return whole


def _with_pairs(matrix: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """The columns, and after them one of numbers of levels for each pair of categories; that a value is missing is a level."""
    level = np.nan_to_num(matrix, nan=MOST_LEVELS)
    return np.column_stack([matrix, *(level[:, one] * (MOST_LEVELS + 1) + level[:, other] for one, other in pairs)])


def raw(family: Family, estimator: Any, matrix: Floats) -> Floats:
    """What `scoring.Model.raw` says: shares of a forest, otherwise log odds."""
    if family == "forest":
        return estimator.predict_proba(matrix)[:, 1]
    return estimator.decision_function(matrix).astype(np.float64)


def log_losses(log_odds: Floats, left: Bools) -> Floats:
    """For each row, the logarithm of the probability that was given to what did not happen, as a loss."""
    return np.logaddexp(0, np.where(left, -log_odds, log_odds))


def served(family: Family, estimator: Any, size: Size | None = None) -> bytes | Line:
    """What serves of an estimator of rows without categories and missing values; of boosting, the first trees."""
    if family == "logistic":
        columns, line = estimator
        scale = columns.named_transformers_["numbers"][-1]
        coefficients = line.coef_[0] / scale.scale_
        return Line(float(line.intercept_[0] - coefficients @ scale.mean_), tuple(map(float, coefficients)))
    if family == "forest":
        count = len(estimator.estimators_)
        grown = [tree.tree_ for tree in estimator.estimators_]
        return write(
            [
                Tree(
                    tree.children_left,
                    tree.children_right,
                    tree.feature,
                    tree.threshold,
                    tree.value[:, 0, 1] / count,
                )
                for tree in grown
            ],
            base=0.0,
            columns=estimator.n_features_in_,
        )
    # scikit-learn has no public way to these trees; a test holds the sums to its decision_function.
    nodes = [predictor.nodes for (predictor,) in estimator._predictors[: size.trees if size else None]]
    return write(
        [
            Tree(
                np.where(of["is_leaf"], -1, of["left"].astype(np.int64)),
                np.where(of["is_leaf"], -1, of["right"].astype(np.int64)),
                of["feature_idx"],
                of["num_threshold"],
                of["value"],
            )
            for of in nodes
        ],
        base=float(estimator._baseline_prediction.item()),
        columns=estimator.n_features_in_,
    )


def _staged(estimator: Any, matrix: Floats) -> Floats:
    """The log odds after every STAGE_STEP trees of boosting; float32, because there are many."""
    if hasattr(estimator, "steps"):  # a pipeline has no stages
        matrix, estimator = estimator[:-1].transform(matrix), estimator[-1]
    found = estimator.staged_decision_function(matrix)
    return np.array([one.ravel() for number, one in enumerate(found, 1) if number % STAGE_STEP == 0], np.float32)


def _new(family: Family, rows: int, columns: int, categories: Sequence[int], seed: int, size: Size | None) -> Any:
    if family == "logistic":
        return _logistic(columns, categories)
    if family == "forest":
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

        return RandomForestClassifier(
            TREES,
            max_leaf_nodes=MAX_LEAVES,
            min_samples_leaf=int(np.clip(rows // 1_000, LEAST_LEAF_ROWS, MOST_LEAF_ROWS)),
            max_samples=min(rows, ROWS_PER_TREE),
            max_features="sqrt",
            n_jobs=-1 if rows >= PARALLEL_ROWS else 1,
            random_state=seed,
        )
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

    assert size
    # Given apart, because scikit-learn's types take the defaults for all that is allowed.
    options: dict[str, Any] = {"early_stopping": False, "categorical_features": list(categories) or None}
    options |= SHAPES[size.shape]
    return HistGradientBoostingClassifier(max_iter=size.trees, learning_rate=STAGE_RATE, random_state=seed, **options)


def _logistic(columns: int, categories: Sequence[int]) -> Any:
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    numbers = [column for column in range(columns) if column not in categories]
    filled = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    parts = [
        ("numbers", filled, numbers),
        ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), list(categories)),
    ]
    return make_pipeline(ColumnTransformer(parts), LogisticRegression(max_iter=1_000))
