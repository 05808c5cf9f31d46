"""The model's stage: what it learns from. The rules are in `churn_assets.model`."""

import json
from pathlib import Path

import dagster as dg

from churn_assets.assets.ledgers import row_count
from churn_assets.clock import utc_now
from churn_assets.model.training_set import extend
from churn_assets.settings import LABEL_DAYS
from churn_assets.warehouse.protocol import Warehouse

GROUP = "model"
OWNER = "team:data-science"
_FEATURES_MODEL = "dyn_customer_features"


def training_set_asset(manifest_path: Path) -> dg.AssetsDefinition:
    """`churn_training_set`, from the features' query as it stands in the dbt manifest."""
    nodes = json.loads(manifest_path.read_text())["nodes"].values()
    (features_sql,) = [node["compiled_code"] for node in nodes if node["name"] == _FEATURES_MODEL]

    @dg.asset(
        name="churn_training_set",
        deps=["customer_day", "dim_customers", "dim_accounts"],
        description=(
            "One row per customer on the books and weekly cut-off: the features as the live query would have given them that"
            f" evening, and whether the customer left within {LABEL_DAYS} days. A cut-off comes in when its label is known."
        ),
        kinds={"ducklake", "training_set"},
        group_name=GROUP,
        owners=[OWNER],
        metadata={"dagster/table_name": "lake.main.churn_training_set"},
    )
    def churn_training_set(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        """Add the cut-offs that are missing."""
        added = extend(warehouse, features_sql, utc_now(), context.log.info)
        (shape,) = warehouse.query(
            "SELECT count(DISTINCT cut_off) AS cut_offs, CAST(max(cut_off) AS varchar) AS latest_cut_off,"
            " CAST(avg(CASE WHEN has_left THEN 1 ELSE 0 END) AS double) AS left_share FROM churn_training_set"
        ).to_pylist()
        return dg.MaterializeResult(
            metadata={
                "rows_added": added,
                **{name: value for name, value in shape.items() if value is not None},
                "dagster/row_count": row_count(warehouse, "churn_training_set"),
                "dagster/column_schema": dg.TableSchema(
                    [dg.TableColumn(column.name, column.type) for column in warehouse.columns("churn_training_set")]
                ),
            }
        )

    return churn_training_set
