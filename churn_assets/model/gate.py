"""The rules by which a newly trained model may replace the champion. Acting on a verdict is elsewhere."""

from dataclasses import dataclass

from churn_assets.model.metrics import Evaluation, Measure, auc_gain
from churn_assets.model.scoring import Model, score
from churn_assets.model.training import Trained
from churn_assets.rules import MAX_CALIBRATION_ERROR, MAX_RELATIVE_CALIBRATION_ERROR


@dataclass(frozen=True)
class Verdict:
    """Whether one rule holds, and the finding in words."""

    passed: bool
    finding: str


@dataclass(frozen=True)
class Gate:
    """The findings about a challenger on the test rows."""

    incumbent: str
    """What it was compared with: `version 3`, or `the heuristic` if no model serves."""
    gain: Measure
    """ROC AUC of the challenger minus that of the incumbent, on the same rows."""
    not_worse: Verdict
    calibrated: Verdict

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return self.not_worse.passed and self.calibrated.passed


def judge(trained: Trained, champion: tuple[str, Model] | None) -> Gate:
    """Judge a challenger against the champion (its name and model), or against the heuristic if there is no champion.

    "Not worse" means that the interval of the difference in ROC AUC reaches at least zero. An equally good challenger passes,
    because it has learned from more recent customers.
    """
    test = trained.test
    incumbent, scores = (
        (champion[0], score(champion[1], test)) if champion else ("the heuristic", test["heuristic"].to_numpy())
    )
    gain = auc_gain(test["has_left"], test["model"], scores, test["customer_id"])
    low, high = gain.interval
    return Gate(
        incumbent=incumbent,
        gain=gain,
        not_worse=Verdict(
            high >= 0,
            f"ROC AUC {gain.value:+.4f} ({low:+.4f} to {high:+.4f}) against {incumbent}",
        ),
        calibrated=calibration_verdict(trained.evaluations["model"]),
    )


def calibration_verdict(found: Evaluation) -> Verdict:
    """Whether probabilities with this evaluation may be used: their expected calibration error beyond noise is small.

    If few customers leave, a model that says nothing could have an error below 0.02. So a fraction of the leavers' share is
    a second bound.
    """
    left_share = found.leavers / found.rows
    allowed = min(MAX_CALIBRATION_ERROR, MAX_RELATIVE_CALIBRATION_ERROR * left_share)
    return Verdict(
        found.calibration_error_beyond_noise <= allowed,
        f"expected calibration error {found.calibration_error.value:.4f}, of which {found.calibration_error_beyond_noise:.4f}"
        f" are beyond noise; allowed {allowed:.4f} ({left_share:.2%} left)",
    )
