"""One training from end to end: read the training set, train, judge against the champion; and when it is time for that.

Here belongs the order of these steps, for the asset and the command alike; each step has a module of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from churn_assets.model import registry, training, training_set
from churn_assets.model.artefact import ArtefactError
from churn_assets.model.gate import Gate, judge
from churn_assets.model.scoring import Model
from churn_assets.settings import RETRAINING_SECONDS
from churn_assets.warehouse.protocol import Warehouse


@dataclass(frozen=True)
class Challenge:
    """A trained model and what was found of it; `registry.register` makes it the challenger."""

    trained: training.Trained
    gate: Gate


def challenge(warehouse: Warehouse, folder: Path, report: Callable[[str], None] = lambda _: None) -> Challenge:
    """Train and judge; nothing is kept. `TrainingError` where the training set is too small."""
    rows = training_set.read(warehouse)
    report(f"training on {len(rows):,} rows")
    trained = training.train(rows)
    return Challenge(trained, judge(trained, _champion(warehouse, folder, report)))


def is_training_due(warehouse: Warehouse, drifted: Sequence[str], now: datetime) -> tuple[bool, str]:
    """Whether a challenger should be trained at `now` (UTC), and why or why not.

    Only where a cut-off has come in that the newest model does not know: of the same rows, the same model would come. Then
    every week, or at once where checks, named in `drifted`, say that the customers are not those of the training set any more.
    """
    rows = training_set.leavers_by_cut_off(warehouse)
    try:
        training.split_by_time(rows)
    except training.TrainingError as error:
        return False, f"too early to train: {error}"
    newest = next(iter(registry.versions(warehouse)), None)
    if newest is None:
        return True, "the first training"
    if max(rows) <= newest.latest_cut_off:
        return False, f"version {newest.version} knows the latest cut-off, {max(rows)}"
    if drifted:
        return True, f"drift: {', '.join(drifted)}"
    if newest.trained_at + timedelta(seconds=RETRAINING_SECONDS) <= now:
        return True, "a week has passed"
    return False, "less than a week has passed since the last training, and nothing has drifted"


def _champion(warehouse: Warehouse, folder: Path, report: Callable[[str], None]) -> tuple[str, Model] | None:
    """The champion to compare with; one that cannot be used any more must not stop the one that takes its place."""
    try:
        found = registry.champion(warehouse, folder)
    except ArtefactError as error:
        report(f"compared with the heuristic, because the champion cannot be used: {error}")
        return None
    return (f"version {found[0]}", found[1]) if found else None
