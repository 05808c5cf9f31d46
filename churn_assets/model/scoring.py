"""A trained model and what it says about customers: probabilities, and the features that cause them.

This module holds the pure functions, arrays in and arrays out, that the lake's SQL, Snowflake's `PREDICT_CHURN` and the
reports call. How a model is trained, stored or chosen is elsewhere. Nothing here needs scikit-learn, so a process that only
scores starts a second earlier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from churn_assets.errors import ChurnError
from churn_assets.model.forest import Floats, Forest, read


class FeatureError(ChurnError):
    """Features are missing or infinite, or belong to another model; the message names them."""


@dataclass(frozen=True)
class Calibration:
    """Maps the trees' votes to a probability: `isotonic` between knots, or a `sigmoid` of the log odds."""

    method: Literal["isotonic", "sigmoid"]
    x: tuple[float, ...]
    """Isotonic: votes of the knots. Sigmoid: slope and intercept."""
    y: tuple[float, ...] = ()
    """Isotonic: probabilities of the knots."""

    def __call__(self, votes: Floats) -> Floats:
        """Probabilities, 0 to 1, of votes, 0 to 1."""
        if self.method == "isotonic":
            return np.interp(votes, self.x, self.y)
        slope, intercept = self.x
        return 1 / (1 + np.exp(-(slope * log_odds(votes) + intercept)))


@dataclass(frozen=True)
class Model:
    """A calibrated forest over `features`, in this order; `forest` is ONNX, which is data and runs no code when loaded."""

    features: tuple[str, ...]
    forest: bytes
    calibration: Calibration
    typical: tuple[float, ...]
    """Each feature's median over the customers who stayed; the reasons compare a customer with it."""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Facts about the model and its training, JSON-serializable."""

    @cached_property
    def _trees(self) -> Forest:
        return read(self.forest)

    def votes(self, features: Floats) -> Floats:
        """The mean over the trees of the share of leavers in the leaf; `features` are float32, rows by columns."""
        return self._trees.votes(features)


def score(model: Model, features: Any) -> Floats:
    """The probability, 0 to 1, that each customer leaves within the label window.

    `features` is a DataFrame with the model's features among its columns. `FeatureError` names what is missing or not finite.
    """
    if lacking := [name for name in model.features if name not in features.columns]:
        raise FeatureError(f"the model needs the features {', '.join(lacking)}, which are missing")
    matrix = matrix_of(features, model.features)
    refuse_unknown(matrix, model.features)
    return score_matrix(model, matrix)


def score_matrix(model: Model, features: Floats) -> Floats:
    """Like `score`, for float32 rows whose columns are the model's features, all finite."""
    return model.calibration(model.votes(features)) if len(features) else np.empty(0)


def contributions(model: Model, features: Floats) -> Floats:
    """How much each feature raises each customer's votes above the typical customer's. Rows by features; input is float32.

    The result is the mean of two effects: giving the typical customer this customer's value, and giving this customer the
    typical value. If features interact only in pairs, that is the Shapley value against the typical customer; if three or
    more interact, it is an approximation (Shapley weighs all 2^k subsets; these are the smallest and the largest). It takes
    2 k + 2 scorings instead of 2^k. It uses votes, not probabilities, because isotonic calibration has steps on which a
    feature would seem to have no effect.
    """
    rows, count = features.shape
    if not rows:
        return np.empty((0, count))
    typical = np.asarray(model.typical, dtype=np.float32)
    one = np.eye(count, dtype=bool)
    alone = np.where(one, features[:, None, :], typical)
    without = np.where(one, typical, features[:, None, :])
    asked = np.concatenate([alone.reshape(-1, count), without.reshape(-1, count), features, typical[None]])
    votes = model.votes(np.ascontiguousarray(asked, dtype=np.float32))
    votes_alone, votes_without = votes[: 2 * rows * count].reshape(2, rows, count)
    own, base = votes[2 * rows * count : -1, None], votes[-1]
    return ((votes_alone - base) + (own - votes_without)) / 2


def matrix_of(frame: Any, features: Sequence[str]) -> Floats:
    """The columns `features` of a DataFrame as float32, rows by features; values too large for float32 become infinite."""
    with np.errstate(over="ignore"):
        return frame[list(features)].to_numpy(np.float32)


def refuse_unknown(features: Floats, names: Sequence[str]) -> None:
    """Raise `FeatureError` if a value is missing or infinite; the message says in which features and how often."""
    unknown = (~np.isfinite(features)).sum(axis=0)
    if unknown.any():
        found = ", ".join(f"{name}: {count}" for name, count in zip(names, unknown, strict=True) if count)
        raise FeatureError(
            f"some of the {len(features)} rows have missing or infinite features ({found}); fix them or leave them out"
        )


def log_odds(votes: Floats) -> Floats:
    """The log odds of votes, 0 to 1; votes close to 0 and 1 are clipped to keep the result finite."""
    inside = np.clip(votes, 1e-4, 1 - 1e-4)
    return np.log(inside / (1 - inside))
