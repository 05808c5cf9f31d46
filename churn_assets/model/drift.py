"""Whether the champion still fits the bank: the customers it scores, its scores, and whether its probabilities came true.

This module holds the comparison and the verdicts as pure functions: rows in, findings out. The index is in `stability`, the
measures in `metrics`; reading, drawing and acting on a verdict are elsewhere.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from churn_assets.model import stability
from churn_assets.model.gate import Verdict, calibration_verdict
from churn_assets.model.metrics import Evaluation, bins, evaluate
from churn_assets.model.scoring import Model, score
from churn_assets.model.stability import SCORE, Reference

MIN_LEAVERS = 20  # and as many who stayed; with fewer, even the intervals mean nothing
WEEKS = 13  # of latest cut-offs that probabilities are judged on; older ones would hide a current problem


@dataclass(frozen=True)
class Shift:
    """How far one feature, or the score, has moved."""

    reference: Reference
    shares: tuple[float, ...]
    """Shares of the live customers, by bin of the reference; the last one is outside all bins."""
    index: float
    limit: float

    @property
    def is_stable(self) -> bool:
        """Whether the index is within its limit."""
        return self.index <= self.limit


@dataclass(frozen=True)
class Outcome:
    """Who left after the cut-offs that follow the model's test, against the model's probabilities at those cut-offs."""

    cut_offs: list[date]
    rows: int
    leavers: int
    """Customers who left; one customer may have rows at several cut-offs."""
    needed: int
    """How many more leavers (or customers who stayed, if those are fewer) are needed for a verdict."""
    evaluation: Evaluation | None = None
    expected_share: float | None = None
    """The mean probability."""
    observed_share: float | None = None
    """The share of rows whose customer left."""
    curve: tuple[tuple[float, float], ...] = ()
    """By calibration bin, expected and observed share."""


@dataclass(frozen=True)
class Drift:
    """The findings about a champion."""

    customers: int
    features: dict[str, Shift]
    """Empty if there are no customers."""
    score: Shift | None
    """None while no customer has a score of this model."""
    outcome: Outcome

    @property
    def features_are_stable(self) -> Verdict:
        """No feature is beyond its limit."""
        if not self.features:
            return Verdict(True, "nothing to compare yet: there are no customers")
        moved = {name: shift for name, shift in self.features.items() if not shift.is_stable}
        if moved:
            return Verdict(False, "; ".join(_words(name, shift) for name, shift in moved.items()))
        return Verdict(True, f"the largest: {_words(*max(self.features.items(), key=lambda item: item[1].index))}")

    @property
    def scores_are_stable(self) -> Verdict:
        """The score is not beyond its limit."""
        if self.score is None:
            return Verdict(True, "nothing to compare yet: no prediction comes from this model")
        return Verdict(self.score.is_stable, _words(SCORE, self.score))

    @property
    def probabilities_hold(self) -> Verdict:
        """The calibration error, less the part that chance can explain, would pass the gate."""
        found = self.outcome
        seen = f"{found.rows} rows of {len(found.cut_offs)} cut-offs since the test"
        if found.evaluation is None:
            return Verdict(
                True,
                f"not known yet: {found.leavers} customers left in {seen}, at least {found.needed} more are needed",
            )
        verdict = calibration_verdict(found.evaluation)
        return Verdict(verdict.passed, f"{verdict.finding} in {seen}; expected to leave {found.expected_share:.2%}")


def drift(model: Model, live: pd.DataFrame, matured: pd.DataFrame) -> Drift:
    """Compare a model with today's customers and with those at the cut-offs after its test.

    `live` has one row per customer with the model's features and `score`, which is missing if it comes from another model.
    `matured` has the rows of the training set after `training.last_tested`. The features' windows of 30 days smooth out weeks
    and pay days.
    """
    reference: dict[str, Reference] = model.card["reference"]
    return Drift(
        customers=len(live),
        features={name: _shift(reference[name], live[name]) for name in model.features if len(live)},
        score=_shift(reference[SCORE], scores) if len(scores := live[SCORE].dropna()) else None,
        outcome=outcome(model, matured),
    )


def outcome(model: Model, rows: pd.DataFrame) -> Outcome:
    """Score the training set's rows of the latest WEEKS cut-offs, and compare with who left.

    Their features are the live features of those days, so the model gave, or would have given, these probabilities then.
    """
    cut_offs = sorted(set(rows["cut_off"]))[-WEEKS:]
    rows = rows[rows["cut_off"].isin(cut_offs)]
    left = rows["has_left"].to_numpy(bool)
    customers = rows["customer_id"]
    leavers, stayers = (int(customers[which].nunique()) for which in (left, ~left))
    missing = max(0, MIN_LEAVERS - min(leavers, stayers))
    if missing:
        return Outcome(cut_offs, len(rows), leavers, missing)
    probability = score(model, rows)
    expected, observed, where = probability.mean(), left.mean(), bins(probability)
    return Outcome(
        cut_offs,
        len(rows),
        leavers,
        missing,
        evaluation=evaluate(left, probability, customers, rows["cut_off"]),
        expected_share=float(expected),
        observed_share=float(observed),
        curve=tuple(
            (float(probability[where == number].mean()), float(left[where == number].mean()))
            for number in np.unique(where)
        ),
    )


def _shift(reference: Reference, values: pd.Series) -> Shift:
    return Shift(
        reference,
        tuple(stability.shares(reference, values).tolist()),
        stability.stability_index(reference, values),
        stability.limit(reference, len(values)),
    )


def _words(name: str, shift: Shift) -> str:
    return f"{name} has a stability index of {shift.index:.3f}, allowed {shift.limit:.3f}"
