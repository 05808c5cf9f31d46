"""Whether the champion still fits the bank, as checks, numbers and a plot. What is compared is `churn_assets.model.drift`."""

from typing import Any

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.model import result_of
from churn_assets.assets.pictures.drift import drift_plot
from churn_assets.assets.readable import rounded
from churn_assets.model import registry, training_set
from churn_assets.model.drift import MIN_LEAVERS, Drift, drift
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


@dg.asset(
    deps=["churn_champion", "dyn_churn_predictions", "churn_training_set"],
    description=(
        "How far today's customers and their scores have moved from those that the champion was trained and tested on, and, as"
        " labels become known, whether as many left as it predicted. It warns; it changes nothing."
    ),
    **groups.MODEL.spec("ducklake", "onnx"),
    freshness_policy=scheduled(DRIFT_SECONDS),
    pool=pools.UPKEEP,
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
                "The expected calibration error at the cut-offs after the model's test is not above what the gate allows by more"
                f" than noise. It takes {MIN_LEAVERS} leavers."
            ),
        ),
    ],
)
def model_drift(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Compare the champion with today's customers, and with what became of earlier ones."""
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
        metadata={"version": version, **rounded(numbers_of(found)), "plot": drift_plot(found)},
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


def _checks(*verdicts: Verdict) -> list[dg.AssetCheckResult]:
    return [
        result_of(name, verdict, dg.AssetCheckSeverity.WARN)
        for name, verdict in zip((FEATURES_CHECK, SCORES_CHECK, PROBABILITIES_CHECK), verdicts, strict=True)
    ]
