"""How far a population has moved from another: the population stability index (N Siddiqi, Credit Risk Scorecards, 2006, ch. 7).

Here belong the bins, the index over them and what chance alone makes of it. Which populations are compared, and what follows,
is `drift`.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from churn_assets.model.scoring import Floats
from churn_assets.rules import MAX_STABILITY_INDEX

BINS = 10  # of equal shares, as far as the values allow it
# The chance at most that an index of an unchanged population passes its limit, however small the population is.
FALSE_ALARMS = 0.001
SCORE = "score"  # what a model's own score is called beside the features
_DECIMALS = 6  # of values and shares, so that a reference is small

Reference: TypeAlias = dict[str, Any]
"""One feature's values in a population, JSON-serializable: `lowest`, `upper` (the highest value of each bin), `shares` (of the
rows, by bin) and `customers` (how many these rows are of)."""


def reference(frame: pd.DataFrame, features: Sequence[str]) -> dict[str, Reference]:
    """Deciles of each feature over rows with `customer_id`; values must be finite.

    A value that more than one decile falls on, such as 0 of a count, is a bin of its own, so there may be fewer bins or more.
    """
    customers = int(frame["customer_id"].nunique())
    return {name: _reference(frame[name].to_numpy(np.float64), customers) for name in features}


def shares(reference: Reference, values: npt.ArrayLike) -> Floats:
    """The share of `values` in each bin of the reference, then that of values outside of all: beyond its range or missing."""
    found = np.round(np.asarray(values, dtype=np.float64), _DECIMALS)
    place = np.searchsorted(reference["upper"], found)  # what is higher than all, and NaN, come behind the last
    place[found < reference["lowest"]] = len(reference["upper"])
    return np.bincount(place, minlength=len(reference["upper"]) + 1) / len(found)


def stability_index(reference: Reference, values: npt.ArrayLike) -> float:
    """The index of `values`, one of each customer, against a reference: 0 where the shares are the same, without upper bound."""
    found = shares(reference, values)
    return index_of([*reference["shares"], 0.0], found, min(reference["customers"], np.size(values)))


def index_of(expected: npt.ArrayLike, found: npt.ArrayLike, customers: float) -> float:
    """The index of two lists of shares.

    A share of less than half a customer counts as half a customer of the smaller population, which has `customers`: an empty
    bin would make the index infinite, and a smaller share cannot be told from none.
    """
    one, other = (np.maximum(np.asarray(shares, dtype=np.float64), 0.5 / customers) for shares in (expected, found))
    return float(((other - one) * np.log(other / one)).sum())


def limit(reference: Reference, customers: int) -> float:
    """The index that so many customers must not pass: MAX_STABILITY_INDEX, or what chance makes of few of them.

    Without a change, the index over 1/n + 1/m is chi-squared with one degree of freedom less than there are bins (B Yurdakul,
    "Statistical Properties of Population Stability Index", 2018). It is more than MAX_STABILITY_INDEX for about 100 customers.
    """
    from scipy.stats import chi2  # noqa: PLC0415  # half a second, which only who measures drift has to pay

    chance = chi2.isf(FALSE_ALARMS, len(reference["upper"])) * (1 / customers + 1 / reference["customers"])
    return max(MAX_STABILITY_INDEX, float(chance))


def _reference(values: Floats, customers: int) -> Reference:
    order = np.sort(np.round(values, _DECIMALS))
    deciles = order[-(-np.arange(1, BINS + 1) * len(order) // BINS) - 1]
    common = deciles[1:][deciles[1:] == deciles[:-1]]
    begins = np.searchsorted(order, common)
    # The value before a common one ends a bin; before the lowest stands, at place -1, the highest, which ends one anyway.
    upper = np.unique(np.concatenate([deciles, order[begins - 1]]))
    found = {"lowest": float(order[0]), "upper": upper.tolist(), "customers": customers}
    return {**found, "shares": np.round(shares(found, order)[:-1], _DECIMALS).tolist()}
