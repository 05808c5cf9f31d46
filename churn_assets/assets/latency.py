"""The latency of each hop as a table and a histogram. `churn_assets.operations.latency` measures it."""

from datetime import timedelta

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.pictures.charts import bar_charts
from churn_assets.clock import utc_now
from churn_assets.operations.latency import BOUNDS, SHARES, hops
from churn_assets.rules import LATENCY_HOURS, TREND_SECONDS
from churn_assets.warehouse.protocol import Warehouse

_UP_TO = [*(f"{bound:g} s" for bound in BOUNDS), "more"]


@dg.asset(
    deps=["dyn_churn_predictions"],
    description="How long events took to reach their ledger, features, score and email, hop by hop.",
    **groups.SERVING.spec("python"),
    freshness_policy=scheduled(TREND_SECONDS),
    pool=pools.UPKEEP,
)
def event_latency(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Measure the hops of the last hours."""
    found = hops(warehouse, utc_now() - timedelta(hours=LATENCY_HOURS))
    rows = [
        {
            "hop": hop.name,
            "events": hop.events,
            **{f"{name}_s": round(hop.quantile(share) or 0.0, 2) for name, share in SHARES.items()},
        }
        for hop in found
    ]
    score = next(hop for hop in found if hop.name == "message to score")
    return dg.MaterializeResult(
        metadata={
            "hops": dg.MetadataValue.table([dg.TableRecord(row) for row in rows]),
            "histogram": bar_charts(
                {hop.name: hop.histogram() for hop in found},
                _UP_TO,
                f"events by seconds, the last {LATENCY_HOURS} hours",
            ),
            **{
                f"message_to_score_{name}_seconds": round(seconds, 2)
                for name in ("p50", "p95")
                if (seconds := score.quantile(SHARES[name])) is not None
            },
        }
    )
