"""A trained model and what it says of customers: probabilities and what they come from.

Here belong the pure functions that every engine calls: the lake's SQL, Snowflake's `PREDICT_CHURN`, the reports. Arrays in,
arrays out. How a model is trained, kept or chosen is elsewhere; scikit-learn is not needed here, so that a process that only
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
    """Features are missing, infinite or of another model; the message names them."""


@dataclass(frozen=True)
class Calibration:
    """From the share of trees' votes to a probability: `isotonic` between knots, or a `sigmoid` of the log odds."""

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
    """Each feature's median over the customers who stayed: what a customer is compared with for the reasons."""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What is worth knowing of it, JSON-serializable."""

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
    """Like `score`, of float32 rows whose columns are the model's features, all finite."""
    return model.calibration(model.votes(features)) if len(features) else np.empty(0)


def contributions(model: Model, features: Floats) -> Floats:
    """How much each feature raises each customer's votes above those of the typical one: rows by features, float32 in.

    The mean of two effects: of setting the feature as it is on the typical customer, and as it is typical on this one. That
    is the Shapley value against the typical customer where features interact in pairs only, and an approximation where
    three or more do (Shapley weighs all 2^k orders; these are the first and the last place). It takes 2 k + 2 scorings instead
    of 2^k. Votes, not probabilities: an isotonic calibration has steps on which a feature would seem to do nothing.
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
    """Those columns of a DataFrame as float32, rows by features; what that cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return frame[list(features)].to_numpy(np.float32)


def refuse_unknown(features: Floats, names: Sequence[str]) -> None:
    """`FeatureError` where a value is missing or infinite, saying in which features and how often."""
    unknown = (~np.isfinite(features)).sum(axis=0)
    if unknown.any():
        found = ", ".join(f"{name}: {count}" for name, count in zip(names, unknown, strict=True) if count)
        raise FeatureError(
            f"of {len(features)} rows some have missing or infinite features ({found}); mend or leave them out"
        )


def log_odds(votes: Floats) -> Floats:
    """Of votes, 0 to 1; those of nearly nobody and nearly everybody are held off infinity."""
    inside = np.clip(votes, 1e-4, 1 - 1e-4)
    return np.log(inside / (1 - inside))
