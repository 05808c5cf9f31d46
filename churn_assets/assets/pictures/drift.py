"""The plot of `model_drift`: distributions then and now, and who left beside what was expected."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np

from churn_assets.assets.pictures.charts import picture, png_of
from churn_assets.model.drift import Drift, Outcome, Shift
from churn_assets.model.gate import Verdict
from churn_assets.model.stability import SCORE

_THEN, _NOW, _MOVED = "#888888", "#4f43dd", "#cc3333"


def drift_plot(found: Drift) -> dg.MarkdownMetadataValue:
    """The shares of each feature and of the score, then and now, red where they moved; and who left beside the expectation."""
    shifts = {**found.features, **({SCORE: found.score} if found.score else {})}
    findings = [found.features_are_stable, found.scores_are_stable, found.probabilities_hold]
    words = "\n".join(f"- {verdict.finding}" for verdict in findings)
    if not shifts:
        return dg.MetadataValue.md(words)
    return picture(_png(shifts, found.outcome, found.probabilities_hold), "drift of the champion", words)


def _png(shifts: dict[str, Shift], outcome: Outcome, holds: Verdict) -> bytes:
    # Matplotlib takes half a second to import, which only a run of this asset has to pay for.
    from matplotlib.figure import Figure  # noqa: PLC0415

    columns = 3
    rows = -(-(len(shifts) + 1) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), dpi=75, layout="constrained")
    panels = figure.subplots(rows, columns).flatten()
    for panel in panels[len(shifts) :]:
        panel.axis("off")
    for panel, (name, shift) in zip(panels, shifts.items(), strict=False):
        _draw_shift(panel, name, shift)
    _draw_outcome(panels[len(shifts)], outcome, holds)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    return png_of(figure)


def _draw_shift(panel: Any, name: str, shift: Shift) -> None:
    labels = [*(_short(value) for value in shift.reference["upper"]), "outside"]
    shown = len(labels) if shift.shares[-1] else len(labels) - 1
    _draw_pairs(
        panel,
        [*shift.reference["shares"], 0.0][:shown],
        shift.shares[:shown],
        labels[:shown],
        "customers, %; bins by their highest value",
    )
    _title(panel, f"{name}: PSI {shift.index:.2f}, limit {shift.limit:.2f}", shift.is_stable)


def _draw_outcome(panel: Any, outcome: Outcome, holds: Verdict) -> None:
    if outcome.expected_share is None or outcome.observed_share is None:
        panel.text(0.5, 0.5, f"who left: not known yet,\n{outcome.needed} more needed", ha="center", va="center")
        return
    panel.axis("on")
    expected, observed = zip(*outcome.curve, strict=True)
    _draw_pairs(panel, expected, observed, [_short(100 * share) for share in expected], "left, %; bins by expectation")
    _title(panel, f"left: {outcome.observed_share:.2%}, expected {outcome.expected_share:.2%}", holds.passed)


def _draw_pairs(panel: Any, then: Sequence[float], now: Sequence[float], labels: list[str], what: str) -> None:
    places = np.arange(len(labels))
    panel.bar(
        places - 0.2, 100 * np.asarray(then), 0.4, color=_THEN, label="the model's training and test, or expected"
    )
    panel.bar(places + 0.2, 100 * np.asarray(now), 0.4, color=_NOW, label="now, or observed")
    panel.set_xticks(places, labels, rotation=30, ha="right", rotation_mode="anchor")
    panel.tick_params(labelsize=8)
    panel.set_xlabel(what, fontsize=8)


def _title(panel: Any, title: str, is_well: bool) -> None:
    panel.set_title(
        title, fontsize=11, color="black" if is_well else _MOVED, fontweight="normal" if is_well else "bold"
    )


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if abs(value) >= 1000 else f"{value:.3g}"
