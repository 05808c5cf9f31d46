"""One training from end to end: train, and judge against the champion. Also when a training is due.

This module orders the steps for the asset, the command and Snowflake's procedure; each step has its own module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from churn_assets.model import registry, training, training_set
from churn_assets.model.artefact import ArtefactError
from churn_assets.model.gate import Gate, judge
from churn_assets.model.scoring import Model
from churn_assets.rules import RETRAINING_SECONDS
from churn_assets.warehouse.protocol import Warehouse


@dataclass(frozen=True)
class Challenge:
    """A trained model and the gate's findings; `registry.register` makes it the challenger."""

    trained: training.Trained
    gate: Gate


def challenge(
    rows: pd.DataFrame,
    champion: Callable[[], tuple[int, Model] | None],
    report: Callable[[str], None] = lambda _: None,
) -> Challenge:
    """Train on rows of the training set and judge; nothing is stored. `TrainingError` if there are too few rows.

    `champion` gives the serving version and its model. An unusable champion must not block its successor: then the heuristic
    takes its place in the comparison, and `report` gets the reason.
    """
    report(f"training on {len(rows):,} rows")
    trained = training.train(rows)
    try:
        found = champion()
    except ArtefactError as error:
        report(f"compared with the heuristic, because the champion cannot be used: {error}")
        found = None
    return Challenge(trained, judge(trained, (f"version {found[0]}", found[1]) if found else None))


def is_training_due(warehouse: Warehouse, drifted: Sequence[str], now: datetime) -> tuple[bool, str]:
    """Whether a challenger should be trained at `now` (UTC), and why or why not.

    A training needs a cut-off that the newest model does not know, because the same rows give the same model. With one, a
    training is due every week, or at once if checks (named in `drifted`) find that customers differ from the training set.
    """
    newest = next(iter(registry.versions(warehouse)), None)
    latest = training_set.latest_cut_off(warehouse)
    # Checked first: it is the usual case, and counting the rows takes longer the more there are.
    if newest and latest and latest <= newest.latest_cut_off:
        return False, f"version {newest.version} knows the latest cut-off, {latest}"
    try:
        training.split_by_time(training_set.leavers_by_cut_off(warehouse))
    except training.TrainingError as error:
        return False, f"too early to train: {error}"
    if newest is None:
        return True, "the first training"
    if drifted:
        return True, f"drift: {', '.join(drifted)}"
    if newest.trained_at + timedelta(seconds=RETRAINING_SECONDS) <= now:
        return True, "a week has passed"
    return False, "less than a week has passed since the last training, and nothing has drifted"
