"""Whether the emails of stage 4 keep customers, as numbers and as a plot. The estimate is `churn_assets.retention.effect`."""

from typing import Any

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.pictures.effect import effect_plot
from churn_assets.assets.readable import rounded
from churn_assets.clock import utc_now
from churn_assets.retention import effect
from churn_assets.retention.effect import Effect, Group
from churn_assets.rules import EFFECT_SECONDS
from churn_assets.warehouse.protocol import Warehouse


@dg.asset(
    deps=["retention_emails", "dim_accounts"],
    description=(
        "How many customers the emails keep from leaving within `emails.effect_days` of churn.toml (30 days): those chosen for an"
        " email, whatever became of it, against the control group, which gets none."
    ),
    **groups.INTERVENTIONS.spec("ducklake", "experiment"),
    freshness_policy=scheduled(EFFECT_SECONDS),
    pool=pools.UPKEEP,
)
def intervention_effect(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Estimate the effect over all customers and over those of each month."""
    now = utc_now()
    found = effect.intervention_effect(warehouse, now)
    return dg.MaterializeResult(
        metadata={**rounded(numbers_of(found)), "plot": effect_plot(found, effect.effect_by_month(warehouse, now))}
    )


def numbers_of(found: Effect) -> dict[str, Any]:
    """The effect as metadata; shares are 0 to 1, and what is not known yet is null."""
    low, high = found.interval or (None, None)
    return {
        "conclusion": found.conclusion,
        "difference": found.difference,
        "difference_low": low,
        "difference_high": high,
        "relative_reduction": found.relative_reduction,
        **_numbers_of_group("control", found.control),
        **_numbers_of_group("treated", found.treated),
        "still_needed": found.still_needed,
        "maturing": found.maturing,
    }


def _numbers_of_group(name: str, group: Group) -> dict[str, Any]:
    low, high = group.interval or (None, None)
    return {
        f"{name}_customers": group.customers,
        f"{name}_left": group.left,
        f"{name}_churn": group.churn,
        f"{name}_churn_low": low,
        f"{name}_churn_high": high,
    }
