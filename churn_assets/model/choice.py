"""Calibrates raw outputs, and chooses: between two calibrations, and among the families.

Both choices are the same rule over the log loss on customers that were held out: the simplest whose loss is within one standard
error of the smallest (L Breiman et al., "Classification and Regression Trees", 1984, ch. 3.4.3). The standard error is that of
the difference, over customers, because the rows of one customer are not independent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from churn_assets.model.families import Bools, log_losses
from churn_assets.model.scoring import Calibration, Family, log_odds
from churn_assets.model.trees import Floats

_CALIBRATION_FOLDS = 5
_LEAST_LEAVERS_OF_STEPS = 100  # with fewer, isotonic calibration has a few broad steps
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and how well it did on customers that were held out from it."""

    calibration: Calibration
    losses: Floats
    """For each row, the log loss of its probability when its customer was held out."""


def calibrate(family: Family, raw: Floats, left: Bools, customers: pd.Series, seed: int) -> Calibrated:
    """Fit a sigmoid, or isotonic steps if these are better beyond noise, to raw outputs that are not of the learned rows."""
    from sklearn.model_selection import GroupKFold  # noqa: PLC0415

    who = pd.factorize(customers)[0]
    methods = ("sigmoid", "isotonic") if left.sum() >= _LEAST_LEAVERS_OF_STEPS else ("sigmoid",)
    losses = {method: np.empty(len(raw)) for method in methods}
    for known, held_out in GroupKFold(_CALIBRATION_FOLDS, shuffle=True, random_state=seed).split(raw, left, who):
        for method, found in losses.items():
            guess = _fitted(method, family, raw[known], left[known])(family, raw[held_out])
            guess = np.clip(guess, 1e-9, 1 - 1e-9)
            found[held_out] = log_losses(np.log(guess / (1 - guess)), left[held_out])
    best = simplest(losses, customers)
    return Calibrated(_fitted(best, family, raw, left), losses[best])


def simplest(losses: Mapping[Name, Floats], customers: pd.Series) -> Name:
    """The first whose summed loss is within one standard error of the smallest; `losses` are row by row, the simplest first."""
    best = min(losses, key=lambda name: losses[name].sum())
    who = pd.factorize(customers)[0]
    for name, found in losses.items():
        by_customer = np.bincount(who, found - losses[best])
        if by_customer.sum() <= by_customer.std() * np.sqrt(len(by_customer)):
            return name
    return best


def _fitted(method: str, family: Family, raw: Floats, left: Bools) -> Calibration:
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415

        never = 0.5 / len(raw)  # what never happened in so few rows is still not impossible
        steps = IsotonicRegression(y_min=never, y_max=1 - never, out_of_bounds="clip").fit(raw, left).predict(raw)
        # Straight lines from the middle of a step to that of the next: within a step, too, the higher output is the likelier
        # leaver (AP Oron & N Flournoy, "Centered Isotonic Regression", Statistics in Biopharmaceutical Research 9, 2017).
        shares, step = np.unique(steps, return_inverse=True)
        middles = np.bincount(step, raw) / np.bincount(step)
        return Calibration("isotonic", tuple(map(float, middles)), tuple(map(float, shares)))
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    # JC Platt, "Probabilistic outputs for support vector machines" (1999), over the log odds. His targets are not quite 0 and 1,
    # so that nobody is said to leave or stay for certain. A row counts for both outcomes, with such weights.
    target = np.where(left, (left.sum() + 1) / (left.sum() + 2), 1 / ((~left).sum() + 2))
    outcomes, weights = np.repeat([True, False], len(raw)), np.concatenate([target, 1 - target])
    line = LogisticRegression(C=np.inf).fit(np.tile(log_odds(family, raw), 2)[:, None], outcomes, weights)
    slope, intercept = float(line.coef_[0, 0]), float(line.intercept_[0])
    if slope < 0:  # what is worse than chance tells nothing; it is not turned round
        slope, intercept = 0.0, float(np.log(target.mean() / (1 - target.mean())))
    return Calibration("sigmoid", (slope, intercept))
