"""The model's stage: the training set, the training, the model that serves. The rules are in `churn_assets.model`."""

from pathlib import Path
from time import perf_counter
from typing import Any

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.columns import table_metadata
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.pictures.model_report import report
from churn_assets.assets.readable import rounded, table
from churn_assets.clock import utc_now
from churn_assets.model import registry, training, training_set
from churn_assets.model.challenge import challenge
from churn_assets.model.gate import Verdict
from churn_assets.model.metrics import Evaluation, Measure
from churn_assets.operations.dbt import features_query
from churn_assets.rules import RETRAINING_SECONDS, TRAINING_SET_SECONDS
from churn_assets.warehouse.protocol import Warehouse, row_count

NOT_WORSE_CHECK, CALIBRATED_CHECK = "not_worse_than_the_champion", "probabilities_are_calibrated"


def training_set_asset(manifest_path: Path) -> dg.AssetsDefinition:
    """`churn_training_set`, from the features' query as it stands in the dbt manifest."""
    features_sql, dialect = features_query(manifest_path)

    @dg.asset(
        name="churn_training_set",
        deps=["customer_day", "dim_customers", "dim_accounts"],
        description=(
            "One row per customer on the books and weekly cut-off: the features as the live query would have given them that"
            " evening, and whether the customer left afterwards by the rule `[labels]` of churn.toml. A cut-off is added once its"
            " label is known, and its labels follow what is stored later."
        ),
        **groups.MODEL.spec("ducklake", "training_set"),
        metadata=table_metadata("churn_training_set"),
        freshness_policy=scheduled(TRAINING_SET_SECONDS),
        pool=pools.UPKEEP,
    )
    def churn_training_set(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        """Add the cut-offs that are missing, and correct the labels of the others."""
        found = training_set.extend(warehouse, features_sql, utc_now(), context.log.info, dialect)
        (shape,) = warehouse.query(
            "SELECT count(DISTINCT cut_off) AS cut_offs, max(cut_off) AS latest_cut_off,"
            " CAST(avg(CASE WHEN has_left THEN 1 ELSE 0 END) AS DOUBLE) AS left_share FROM churn_training_set"
        ).to_pylist()
        shape["latest_cut_off"] = shape["latest_cut_off"] and f"{shape['latest_cut_off']}"
        return dg.MaterializeResult(
            metadata={
                "rows_added": found.added,
                "rows_corrected": found.corrected,
                **rounded({name: value for name, value in shape.items() if value is not None}),
                "dagster/row_count": row_count(warehouse, "churn_training_set"),
            }
        )

    return churn_training_set


@dg.asset(
    deps=["churn_training_set"],
    description=(
        "A logistic regression, a forest or gradient boosting over the training set, chosen and calibrated on later cut-offs,"
        " and judged on the latest beside the other two and the heuristic. It becomes the challenger; the two checks decide"
        " whether it may serve."
    ),
    **groups.MODEL.spec("ducklake", "sklearn", "onnx"),
    metadata=table_metadata("churn_models"),
    freshness_policy=scheduled(RETRAINING_SECONDS),
    pool=pools.UPKEEP,
    check_specs=[
        dg.AssetCheckSpec(
            NOT_WORSE_CHECK,
            asset="churn_model",
            blocking=True,
            description="ROC AUC on the test is not below the champion's (the heuristic's, if there is none) by more than noise.",
        ),
        dg.AssetCheckSpec(
            CALIBRATED_CHECK,
            asset="churn_model",
            blocking=True,
            description="The expected calibration error on the test is within its bounds.",
        ),
    ],
)
def churn_model(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Train a challenger and judge it."""
    started = perf_counter()
    found = challenge(training_set.read(warehouse), lambda: registry.champion(warehouse), context.log.info)
    trained, gate = found.trained, found.gate
    card, picture = trained.model.card, report(trained)
    version = registry.register(warehouse, trained.model, gate, utc_now())
    return dg.MaterializeResult(
        metadata={
            "version": version,
            "report": picture,
            **rounded(_numbers_of(trained.evaluations["model"])),
            **rounded(
                {
                    f"roc_auc_of_{way}": trained.evaluations[way].roc_auc.value
                    for way in training.ways(trained.test)
                    if way != "model"
                }
            ),
            "compared_with": gate.incumbent,
            "gain_in_roc_auc": round(gate.gain.value, 4),
            "family": card["family"],
            "calibration": card["calibration"],
            "training_data": table(
                [
                    {"part": name, **shape, "from": shape["cut_offs"][0], "to": shape["cut_offs"][1]}
                    for name, shape in card["training"].items()
                ],
                ["part", "from", "to", "weeks", "rows", "leavers"],
            ),
            "training_data_version": card["data_version"],
            "duration_seconds": round(perf_counter() - started, 2),
            "dagster/row_count": row_count(warehouse, "churn_models"),
            "card": dg.MetadataValue.json(dict(card)),
        },
        check_results=[
            result_of(name, verdict)
            for name, verdict in ((NOT_WORSE_CHECK, gate.not_worse), (CALIBRATED_CHECK, gate.calibrated))
        ],
    )


@dg.asset(
    deps=["churn_model"],
    description=(
        "The model that serves. A challenger that passed the gate replaces the champion; after a failed check the champion"
        " stays. `churn model` promotes and rolls back by hand."
    ),
    **groups.MODEL.spec("ducklake", "onnx"),
    metadata=table_metadata("churn_champion"),
    freshness_policy=scheduled(RETRAINING_SECONDS),
    pool=pools.UPKEEP,
)
def churn_champion(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Promote the challenger, if there is one."""
    models = registry.versions(warehouse)
    if challenger := next((model for model in models if model.status == "challenger"), None):
        registry.promote(warehouse, challenger.version, utc_now(), f"run {context.run.run_id}", "passed the gate")
        models = registry.versions(warehouse)
    serving = next((model for model in models if model.status == "champion"), None)
    if serving is None:
        raise registry.RegistryError("no model was trained yet; materialize churn_model first")
    return dg.MaterializeResult(
        metadata={
            "version": serving.version,
            "trained_at": serving.trained_at.isoformat(sep=" ", timespec="seconds"),
            "promoted_by": serving.changed_by,
            "reason": serving.reason,
            "versions": versions_table(models),
            "dagster/row_count": row_count(warehouse, "churn_champion"),
        }
    )


def result_of(
    check: str, verdict: Verdict, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
) -> dg.AssetCheckResult:
    """A verdict as the result of a check, with what was found in words."""
    return dg.AssetCheckResult(
        check_name=check,
        passed=verdict.passed,
        severity=severity,
        description=verdict.finding,
        metadata={"finding": verdict.finding},
    )


def versions_table(models: list[registry.Version]) -> dg.MarkdownMetadataValue:
    """The models as a table, newest first."""
    lines = [
        "| version | family | place | trained | ROC AUC | calibration error | passed the gate | by | why |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        found = model.card["evaluations"]["model"]
        lines.append(
            f"| {model.version} | {model.family} | {model.status} | {model.trained_at:%Y-%m-%d %H:%M}"
            f" | {found['roc_auc']['value']:.3f}"
            f" | {found['calibration_error']['value']:.4f} | {'yes' if model.passed_gate else 'no'} | {model.changed_by}"
            f" | {model.reason} |"
        )
    return dg.MetadataValue.md("\n".join(lines))


def _numbers_of(evaluation: Evaluation) -> dict[str, Any]:
    """Every measure with its interval, for the UI to plot."""
    numbers: dict[str, Any] = {"test_rows": evaluation.rows, "test_leavers": evaluation.leavers}
    for name, measure in vars(evaluation).items():
        if isinstance(measure, Measure):
            low, high = measure.interval
            numbers |= {name: measure.value, f"{name}_low": low, f"{name}_high": high}
    return numbers
