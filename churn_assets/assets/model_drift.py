"""Whether the champion still fits the bank, as checks, numbers and a plot. What is compared is `churn_assets.model.drift`."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np

from churn_assets.assets.charts import picture, png_of
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.model import GROUP, OWNER, result_of
from churn_assets.assets.readable import rounded
from churn_assets.model import registry, training_set
from churn_assets.model.drift import MIN_LEAVERS, Drift, Outcome, Shift, drift
from churn_assets.model.gate import Verdict
from churn_assets.model.stability import SCORE
from churn_assets.model.training import last_tested
from churn_assets.rules import DRIFT_SECONDS, FEATURES, MAX_STABILITY_INDEX
from churn_assets.warehouse.protocol import Warehouse

FEATURES_CHECK, SCORES_CHECK, PROBABILITIES_CHECK = "features_are_stable", "scores_are_stable", "probabilities_hold"
DRIFT_CHECKS = tuple(
    dg.AssetCheckKey(dg.AssetKey("model_drift"), name) for name in (FEATURES_CHECK, SCORES_CHECK, PROBABILITIES_CHECK)
)
_NO_MODEL = Verdict(True, "no model serves yet")
_THEN, _NOW, _MOVED = "#888888", "#4f43dd", "#cc3333"


@dg.asset(
    deps=["churn_champion", "dyn_churn_predictions", "churn_training_set"],
    description=(
        "How far today's customers and their scores have moved from those that the champion was trained and tested on, and, as"
        " labels become known, whether as many left as it had said. It warns; it changes nothing."
    ),
    kinds={"ducklake", "onnx"},
    group_name=GROUP,
    owners=[OWNER],
    freshness_policy=scheduled(DRIFT_SECONDS),
    check_specs=[
        dg.AssetCheckSpec(
            FEATURES_CHECK,
            asset="model_drift",
            description=f"No feature's population stability index is above {MAX_STABILITY_INDEX} and above chance.",
        ),
        dg.AssetCheckSpec(
            SCORES_CHECK,
            asset="model_drift",
            description=f"The score's population stability index is not above {MAX_STABILITY_INDEX} and above chance.",
        ),
        dg.AssetCheckSpec(
            PROBABILITIES_CHECK,
            asset="model_drift",
            description=(
                "The expected calibration error at the cut-offs after the model's test is not beyond noise above what the gate"
                f" allows. It takes {MIN_LEAVERS} leavers."
            ),
        ),
    ],
)
def model_drift(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Compare the champion with the customers of now and with what became of those of before."""
    champion = registry.champion(warehouse)
    if champion is None:
        return dg.MaterializeResult(
            metadata={"note": _NO_MODEL.finding}, check_results=_checks(_NO_MODEL, _NO_MODEL, _NO_MODEL)
        )
    version, model = champion
    live = warehouse.query(
        f"SELECT {', '.join(f'features.{name}' for name in FEATURES)}, predictions.model_score AS {SCORE}"
        " FROM dyn_customer_features AS features LEFT JOIN dyn_churn_predictions AS predictions"
        " ON features.customer_id = predictions.customer_id AND predictions.model_version = ?",
        [version],
    ).to_pandas()
    found = drift(model, live, training_set.read(warehouse, after=last_tested(model.card)))
    return dg.MaterializeResult(
        metadata={"version": version, **rounded(numbers_of(found)), "plot": plot(found)},
        check_results=_checks(found.features_are_stable, found.scores_are_stable, found.probabilities_hold),
    )


def numbers_of(found: Drift) -> dict[str, Any]:
    """The drift as metadata; shares are 0 to 1, and what is not known yet is null."""
    outcome = found.outcome
    numbers: dict[str, Any] = {
        "customers": found.customers,
        **{f"stability_index_{name}": shift.index for name, shift in found.features.items()},
        f"stability_index_{SCORE}": found.score.index if found.score else None,
        "matured_cut_offs": len(outcome.cut_offs),
        "matured_rows": outcome.rows,
        "matured_leavers": outcome.leavers,
        "matured_leavers_needed": outcome.needed,
        "expected_share": outcome.expected_share,
        "observed_share": outcome.observed_share,
        "calibration_error_beyond_noise": getattr(outcome.evaluation, "calibration_error_beyond_noise", None),
    }
    for name in ("calibration_error", "roc_auc"):
        measure = getattr(outcome.evaluation, name, None)
        low, high = measure.interval if measure else (None, None)
        numbers |= {name: measure.value if measure else None, f"{name}_low": low, f"{name}_high": high}
    return numbers


def plot(found: Drift) -> dg.MarkdownMetadataValue:
    """The shares of each feature and of the score, then and now, what moved in red; and who left beside what was expected."""
    shifts = {**found.features, **({SCORE: found.score} if found.score else {})}
    findings = [found.features_are_stable, found.scores_are_stable, found.probabilities_hold]
    words = "\n".join(f"- {verdict.finding}" for verdict in findings)
    if not shifts:
        return dg.MetadataValue.md(words)
    return picture(_png(shifts, found.outcome, found.probabilities_hold), "drift of the champion", words)


def _checks(*verdicts: Verdict) -> list[dg.AssetCheckResult]:
    return [
        result_of(name, verdict, dg.AssetCheckSeverity.WARN)
        for name, verdict in zip((FEATURES_CHECK, SCORES_CHECK, PROBABILITIES_CHECK), verdicts, strict=True)
    ]


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
