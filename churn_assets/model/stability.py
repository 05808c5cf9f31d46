"""How far a population has moved from another: the population stability index (N Siddiqi, Credit Risk Scorecards, 2006, ch. 7).

This module holds the bins, the index over them, and how large chance alone makes it. `drift` decides which populations are
compared and what follows.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from churn_assets.model.scoring import Floats
from churn_assets.rules import MAX_STABILITY_INDEX

BINS = 10  # with equal shares, as far as the values allow
# The highest chance that the index of an unchanged population passes its limit, however small the population is.
FALSE_ALARMS = 0.001
SCORE = "score"  # the name of the model's own score among the features
_DECIMALS = 6  # of values and shares, to keep a reference small

Reference: TypeAlias = dict[str, Any]
"""One feature's values in a population, JSON-serializable: `lowest`, `upper` (the highest value of each bin), `shares` (of
the rows, by bin) and `customers` (the number of customers with these rows)."""


def reference(frame: pd.DataFrame, features: Sequence[str]) -> dict[str, Reference]:
    """Deciles of each feature over rows with `customer_id`; values must be finite.

    A value that several deciles fall on, such as 0 of a count, gets a bin of its own, so there may be fewer or more bins.
    """
    customers = int(frame["customer_id"].nunique())
    return {name: _reference(frame[name].to_numpy(np.float64), customers) for name in features}


def shares(reference: Reference, values: npt.ArrayLike) -> Floats:
    """The share of `values` in each bin of the reference, then of values outside all bins: out of range or missing."""
    found = np.round(np.asarray(values, dtype=np.float64), _DECIMALS)
    place = np.searchsorted(reference["upper"], found)  # values above all bins, and NaN, come after the last
    place[found < reference["lowest"]] = len(reference["upper"])
    return np.bincount(place, minlength=len(reference["upper"]) + 1) / len(found)


def stability_index(reference: Reference, values: npt.ArrayLike) -> float:
    """The index of `values`, one per customer, against a reference: 0 if the shares are equal, without upper bound."""
    found = shares(reference, values)
    return index_of([*reference["shares"], 0.0], found, min(reference["customers"], np.size(values)))


def index_of(expected: npt.ArrayLike, found: npt.ArrayLike, customers: float) -> float:
    """The index of two lists of shares.

    A share of less than half a customer counts as half a customer of the smaller population, which has `customers`. An empty
    bin would make the index infinite, and a smaller share cannot be told from zero.
    """
    one, other = (np.maximum(np.asarray(shares, dtype=np.float64), 0.5 / customers) for shares in (expected, found))
    return float(((other - one) * np.log(other / one)).sum())


def limit(reference: Reference, customers: int) -> float:
    """The highest allowed index for so many customers: MAX_STABILITY_INDEX, or what chance can reach if they are few.

    Without a change, the index divided by 1/n + 1/m is chi-squared, with one degree of freedom less than there are bins
    (B Yurdakul, "Statistical Properties of Population Stability Index", 2018). For about 100 customers, that limit is above
    MAX_STABILITY_INDEX.
    """
    from scipy.stats import chi2  # noqa: PLC0415  # takes 0.5 s, which only measuring drift needs

    chance = chi2.isf(FALSE_ALARMS, len(reference["upper"])) * (1 / customers + 1 / reference["customers"])
    return max(MAX_STABILITY_INDEX, float(chance))


def _reference(values: Floats, customers: int) -> Reference:
    order = np.sort(np.round(values, _DECIMALS))
    deciles = order[-(-np.arange(1, BINS + 1) * len(order) // BINS) - 1]
    common = deciles[1:][deciles[1:] == deciles[:-1]]
    begins = np.searchsorted(order, common)
    # The value before a common one ends a bin. Before the lowest comes, by index -1, the highest, which ends one anyway.
    upper = np.unique(np.concatenate([deciles, order[begins - 1]]))
    found = {"lowest": float(order[0]), "upper": upper.tolist(), "customers": customers}
    return {**found, "shares": np.round(shares(found, order)[:-1], _DECIMALS).tolist()}
