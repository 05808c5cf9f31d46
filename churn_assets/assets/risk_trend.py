"""The trend of risk, as a table and a plot. `churn_assets.serving.risk_trend` counts."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.columns import table_metadata
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.pictures.charts import line_charts
from churn_assets.clock import utc_now
from churn_assets.rules import TREND_DAYS, TREND_SECONDS
from churn_assets.serving.risk_trend import count_risk
from churn_assets.warehouse.protocol import Warehouse, row_count

_TABLE = "risk_by_segment"


@dg.asset(
    name=_TABLE,
    deps=["dyn_churn_predictions", "dim_customers"],
    description="How many customers of each segment were at risk, over time: the dashboard's trend.",
    **replace(groups.SERVING, owner=groups.DATA_SCIENCE).spec("ducklake", "table"),
    metadata=table_metadata(_TABLE),
    freshness_policy=scheduled(TREND_SECONDS),
    pool=pools.UPKEEP,
)
def risk_by_segment(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Count now, and show the last days."""
    now = utc_now()
    segments = count_risk(warehouse, now)
    past = warehouse.query(
        f"SELECT counted_at, sum(high_count) AS high, sum(medium_count) AS medium FROM {_TABLE}"
        " WHERE counted_at > ? GROUP BY counted_at ORDER BY counted_at",
        [now - timedelta(days=TREND_DAYS)],
    ).to_pydict()
    return dg.MaterializeResult(
        metadata={
            "segments": segments,
            "customers_at_high_risk": int(past["high"][-1]) if past["high"] else 0,
            "customers_at_medium_risk": int(past["medium"][-1]) if past["medium"] else 0,
            "trend": line_charts(
                {
                    "customers at HIGH": [float(count) for count in past["high"]],
                    "customers at MEDIUM": [float(count) for count in past["medium"]],
                },
                f"the last {TREND_DAYS} days",
            ),
            "dagster/row_count": row_count(warehouse, _TABLE),
        }
    )
