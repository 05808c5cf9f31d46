"""A trained model and what it says about customers: probabilities, and the features that cause them.

This module holds the pure functions, arrays in and arrays out, that the lake's SQL, Snowflake's `PREDICT_CHURN` and the
reports call. How a model is trained, stored or chosen is elsewhere. Nothing here needs scikit-learn, so a process that only
scores starts a second earlier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from churn_assets.errors import ChurnError
from churn_assets.model.trees import Floats, Trees, read

Family: TypeAlias = Literal["logistic", "forest", "boosting"]


class FeatureError(ChurnError):
    """Features are missing or infinite, or belong to another model; the message names them."""


@dataclass(frozen=True)
class Calibration:
    """Maps what a model found to a probability: `isotonic` between knots, or a `sigmoid` of log odds."""

    method: Literal["isotonic", "sigmoid"]
    x: tuple[float, ...]
    """Isotonic: raw outputs of the knots. Sigmoid: slope and intercept."""
    y: tuple[float, ...] = ()
    """Isotonic: probabilities of the knots."""

    def __call__(self, family: Family, raw: Floats) -> Floats:
        """Probabilities, 0 to 1, of raw outputs of a family's model."""
        if self.method == "isotonic":
            return np.interp(raw, self.x, self.y)
        slope, intercept = self.x
        return expit(slope * log_odds(family, raw) + intercept)


@dataclass(frozen=True)
class Line:
    """A logistic regression: the log odds are the intercept and, for each feature, its coefficient times its value."""

    intercept: float
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Model:
    """A calibrated model over `features`, in this order. It is data and runs no code when loaded."""

    features: tuple[str, ...]
    family: Family
    learned: bytes | Line
    """A line for the logistic regression, trees in ONNX for the other families."""
    calibration: Calibration
    typical: tuple[float, ...]
    """Each feature's median over the customers who stayed; the reasons compare a customer with it."""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Facts about the model and its training, JSON-serializable."""

    @cached_property
    def _function(self) -> Line | Trees:
        return self.learned if isinstance(self.learned, Line) else read(self.learned)

    def raw(self, features: Floats) -> Floats:
        """What the model finds before calibration; `features` are float32, rows by columns.

        Of a forest, the mean over the trees of the share of leavers in the leaf, 0 to 1. Of the other families, log odds.
        """
        if isinstance(found := self._function, Trees):
            return found.sums(features)
        return features.astype(np.float64) @ np.array(found.coefficients) + found.intercept

    def probability(self, features: Floats) -> Floats:
        """The calibrated probability of each row; `features` are as for `raw`, all finite."""
        return self.calibration(self.family, self.raw(features))

    def contributions(self, features: Floats) -> Floats:
        """How much each feature raises each customer's raw output above the typical customer's. Rows by features.

        These are Shapley values, exactly: the mean, over all orders in which the features of the typical customer can be
        replaced by the customer's own, of what each replacement adds. They sum to the difference between the two raw outputs.
        In the terms of the package shap they are interventional, with the typical customer as the only background row, on the
        raw output (SM Lundberg et al., "From local explanations to global understanding with explainable AI for trees",
        Nature Machine Intelligence 2, 2020). The raw output, because isotonic calibration has steps on which a feature would
        seem to have no effect.
        """
        typical = np.asarray(self.typical, dtype=np.float32)
        if isinstance(found := self._function, Trees):
            return found.shapley_values(features, typical)
        return (features.astype(np.float64) - typical) * np.array(found.coefficients)


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
    return model.probability(features) if len(features) else np.empty(0)


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


def log_odds(family: Family, raw: Floats) -> Floats:
    """The log odds of a family's raw outputs. Shares close to 0 and 1 are clipped to keep the result finite."""
    if family != "forest":
        return raw
    inside = np.clip(raw, 1e-4, 1 - 1e-4)
    return np.log(inside / (1 - inside))


def expit(log_odds: Floats) -> Floats:
    """The probabilities of log odds."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
