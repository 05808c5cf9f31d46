"""Measures of how good probabilities are, with intervals. What is measured, and what must hold, is decided elsewhere.

A customer has a row at each cut-off, and these rows are not independent. So intervals come from drawing customers, not rows,
with replacement (the cluster bootstrap: Cameron, Gelbach & Miller, "Bootstrap-Based Improvements for Inference with
Clustered Errors", 2008).

An interval contains its estimate, because both are made of the same thing: it is the spread of the draws about their own
median, laid about the estimate. The plain percentiles of the draws may leave the estimate out. A draw holds copies of
customers, and copies help measures that look at the highest scores (Efron & Tibshirani, "An Introduction to the Bootstrap",
1993, ch. 14.3, on bias). The calibration error is a sum of distances, which noise can only lengthen, and so has an interval
of its own: see `Evaluation.calibration_error`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from churn_assets.model.trees import Floats

Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Interval: TypeAlias = tuple[float, float]

CONFIDENCE = 0.95  # two-sided
RESAMPLES = 200
CALIBRATION_BINS = 10
LIFT_AT = 50  # customers with the highest probability at a cut-off, as many as one run writes to


@dataclass(frozen=True)
class Measure:
    """One number and its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Evaluation:
    """How good the probabilities of some rows are."""

    rows: int
    leavers: int
    roc_auc: Measure
    pr_auc: Measure
    """Average precision over rows in order of probability. A random order gives the share of leavers."""
    calibration_error: Measure
    """Expected calibration error: mean distance between probability and share of leavers, in bins of equally many rows.

    Distances do not cancel out, so with few rows even perfect probabilities have an error. What a draw adds to the gap of each
    bin estimates what chance added to it in the first place. The error of the true gaps differs from the error found by at
    most the sum of these additions (triangle inequality). The interval reaches as far as that sum does in CONFIDENCE of the
    draws, to both sides.
    """
    brier: Measure
    """Mean squared distance between probability and outcome."""
    lift: Measure
    """Share of leavers among the LIFT_AT highest of each cut-off, as a multiple of their share among all."""

    @property
    def calibration_error_beyond_noise(self) -> float:
        """The calibration error minus what chance explains in all but 5 % of cases; 0 if chance explains all of it."""
        return self.calibration_error.interval[0]


def evaluate(
    left: npt.ArrayLike, probability: npt.ArrayLike, customers: npt.ArrayLike, cut_offs: npt.ArrayLike, seed: int = 0
) -> Evaluation:
    """Compare probabilities (0 to 1) with what happened, row by row; `left` must have both classes."""
    rows = Outcomes(left, probability, cut_offs)
    measures = (rows.roc_auc, rows.pr_auc, rows.brier, rows.lift)
    *found, shifts = _measured([*measures, rows.calibration_shift], customers, rows.left, seed)
    roc_auc, pr_auc, brier, lift = (
        Measure(of(rows.all), interval(of(rows.all), drawn, *bounds))
        for of, drawn, bounds in zip(measures, found, ((0, 1), (0, 1), (0, 1), (0, np.inf)), strict=True)
    )
    error, noise = rows.calibration_error(rows.all), float(np.quantile(shifts, CONFIDENCE))
    calibration_error = Measure(error, (max(0.0, error - noise), min(1.0, error + noise)))
    return Evaluation(
        rows=len(rows.left),
        leavers=int(rows.left.sum()),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        calibration_error=calibration_error,
        brier=brier,
        lift=lift,
    )


def auc_gain(
    left: npt.ArrayLike, of: npt.ArrayLike, over: npt.ArrayLike, customers: npt.ArrayLike, seed: int = 0
) -> Measure:
    """How much the ROC AUC `of` one score exceeds that of the score `over`, on the same rows.

    Both are measured on the same drawn customers, so that a sample that is hard for both does not count as noise.
    """
    one, other = Outcomes(left, of), Outcomes(left, over)

    def gain(weight: Floats) -> float:
        return one.roc_auc(weight) - other.roc_auc(weight)

    (drawn,) = _measured([gain], customers, one.left, seed)
    return Measure(gain(one.all), interval(gain(one.all), drawn, -1, 1))


def resamples(customers: npt.ArrayLike, left: Floats, seed: int) -> Iterator[Floats]:
    """RESAMPLES times, the weight of each row when customers are drawn with replacement, with both classes present."""
    _, who = np.unique(np.asarray(customers), return_inverse=True)
    size = int(who.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = 0
    while drawn < RESAMPLES:
        weight = np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float64)[who]
        # With only leavers, or none, there is nothing to measure.
        if 0 < (weight * left).sum() < weight.sum():
            drawn += 1
            yield weight


def bins(probability: Floats) -> Ints:
    """The calibration bin of each row, 0 to CALIBRATION_BINS - 1: in order of probability, equal ones in one bin."""
    order = np.sort(probability)
    edges = order[(np.arange(1, CALIBRATION_BINS) * len(order)) // CALIBRATION_BINS]
    return np.searchsorted(edges, probability, side="right")


class Outcomes:
    """Probabilities and outcomes, sorted once for many measurements; a weight says how often a row counts."""

    def __init__(self, left: npt.ArrayLike, probability: npt.ArrayLike, cut_offs: npt.ArrayLike | None = None) -> None:
        self.left = np.asarray(left, dtype=np.float64)
        self.probability = np.asarray(probability, dtype=np.float64)
        _, self._rank = np.unique(self.probability, return_inverse=True)
        self._ranks = int(self._rank.max()) + 1
        self._bin = bins(self.probability)
        self.all = np.ones_like(self.left)
        self._gaps_of_all = self._gaps(self.all)
        self._cut_offs: list[tuple[Any, Ints, int]] = []
        if cut_offs is not None:
            _, when = np.unique(np.asarray(cut_offs), return_inverse=True)
            for number in range(int(when.max()) + 1):
                rows = np.flatnonzero(when == number)
                _, rank = np.unique(-self.probability[rows], return_inverse=True)
                self._cut_offs.append((rows, rank, int(rank.max()) + 1))

    def roc_auc(self, weight: Floats) -> float:
        """The chance that a leaver has a higher score than a customer who stays; equal scores count half."""
        left, stayed = self._by_rank(weight)
        below = np.cumsum(stayed) - stayed
        return float((left * (below + stayed / 2)).sum() / (left.sum() * stayed.sum()))

    def pr_auc(self, weight: Floats) -> float:
        """Precision at each score, weighted by the leavers who have it."""
        left, stayed = (counts[::-1] for counts in self._by_rank(weight))
        found, taken = np.cumsum(left), np.cumsum(left + stayed)
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        return float((precision * left).sum() / left.sum())

    def calibration_error(self, weight: Floats) -> float:
        """Mean over the bins, weighted by rows, of the distance between share of leavers and mean probability."""
        return float(np.abs(self._gaps(weight)).sum() / weight.sum())

    def calibration_shift(self, weight: Floats) -> float:
        """How far the bins' gaps are from those without weights, summed like the calibration error."""
        return float(np.abs(self._gaps(weight) - self._gaps_of_all).sum() / len(self.left))

    def brier(self, weight: Floats) -> float:
        """Mean squared distance between probability and outcome."""
        return float((weight * (self.left - self.probability) ** 2).sum() / weight.sum())

    def lift(self, weight: Floats) -> float:
        """Share of leavers among the highest of each cut-off, as a multiple of the share among all."""
        found = taken = 0.0
        for rows, rank, ranks in self._cut_offs:
            every = np.bincount(rank, weight[rows], ranks)
            left = np.bincount(rank, weight[rows] * self.left[rows], ranks)
            room = LIFT_AT - (np.cumsum(every) - every)
            # Customers who tie for the last place each count as the same fraction.
            share = np.clip(np.divide(room, every, out=np.zeros_like(every), where=every > 0), 0, 1)
            found += float((share * left).sum())
            taken += float((share * every).sum())
        return (found / taken) / float((weight * self.left).sum() / weight.sum())

    def _gaps(self, weight: Floats) -> Floats:
        return np.bincount(self._bin, weight * (self.left - self.probability), CALIBRATION_BINS).astype(np.float64)

    def _by_rank(self, weight: Floats) -> tuple[Floats, Floats]:
        left: Floats = np.bincount(self._rank, weight * self.left, self._ranks)  # type: ignore[assignment]
        every: Floats = np.bincount(self._rank, weight, self._ranks)  # type: ignore[assignment]
        return left, every - left


def _measured(
    measures: Sequence[Callable[[Floats], float]], customers: npt.ArrayLike, left: Floats, seed: int
) -> list[Floats]:
    """The values of each measure over all draws; one draw is in memory at a time."""
    return list(np.array([[of(weight) for of in measures] for weight in resamples(customers, left, seed)]).T)


def interval(estimate: float, drawn: Floats, least: float, most: float) -> Interval:
    """The spread of the share CONFIDENCE of the drawn values about their median, laid about the estimate, within the bounds."""
    low, middle, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2])
    return max(least, float(estimate - (middle - low))), min(most, float(estimate + (high - middle)))
