"""Whether the emails of stage 4 keep customers, as numbers and as a plot. The estimate is `churn_assets.retention.effect`."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import dagster as dg

from churn_assets.assets.charts import picture, png_of
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.interventions import GROUP, OWNER
from churn_assets.assets.readable import rounded
from churn_assets.clock import utc_now
from churn_assets.retention import effect
from churn_assets.retention.effect import Effect, Group, Interval
from churn_assets.rules import CONTROL_SHARE, EFFECT_DAYS, EFFECT_SECONDS
from churn_assets.warehouse.protocol import Warehouse

_ENOUGH_FOR_A_MONTH = 10  # customers in each group; fewer give an interval from nearly 0 to nearly 100
_MONTHS_SHOWN = 12
_WITHOUT, _WITH = "#888888", "#4f43dd"


@dg.asset(
    deps=["retention_emails", "dim_accounts"],
    description=(
        f"How many customers the emails keep from leaving within {EFFECT_DAYS} days: those chosen for an email, whatever became"
        f" of it, against the {CONTROL_SHARE:.0%} that get none."
    ),
    kinds={"ducklake", "experiment"},
    group_name=GROUP,
    owners=[OWNER],
    freshness_policy=scheduled(EFFECT_SECONDS),
)
def intervention_effect(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Estimate the effect over all customers and over those of each month."""
    now = utc_now()
    found = effect.intervention_effect(warehouse, now)
    return dg.MaterializeResult(
        metadata={**rounded(numbers_of(found)), "plot": plot(found, effect.effect_by_month(warehouse, now))}
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


def plot(found: Effect, by_month: Mapping[date, Effect]) -> dg.MarkdownMetadataValue:
    """Churn of both groups and their difference with 95 % intervals: of all customers and, from two months with enough
    customers in each group on, by the month of the intervention. The words below say what may be concluded.
    """
    if found.control.interval is None and found.treated.interval is None:
        return dg.MetadataValue.md(found.conclusion)
    months = {
        f"{month:%b %Y}": there
        for month, there in by_month.items()
        if min(there.control.customers, there.treated.customers) >= _ENOUGH_FOR_A_MONTH
    }
    shown = dict(list(months.items())[-_MONTHS_SHOWN:]) if len(months) > 1 else {}
    return picture(_png({"all": found, **shown}), "churn with and without emails", found.conclusion)


def _numbers_of_group(name: str, group: Group) -> dict[str, Any]:
    low, high = group.interval or (None, None)
    return {
        f"{name}_customers": group.customers,
        f"{name}_left": group.left,
        f"{name}_churn": group.churn,
        f"{name}_churn_low": low,
        f"{name}_churn_high": high,
    }


def _png(effects: Mapping[str, Effect]) -> bytes:
    # Matplotlib takes half a second to import, which only a run of this asset has to pay for.
    from matplotlib.figure import Figure  # noqa: PLC0415

    # No more than 1,080 pixels fit into Dagster's dialog on a screen that is 1,440 wide.
    figure = Figure(figsize=(min(4 + len(effects), 13.5), 5), dpi=80, layout="constrained")
    churn, difference = figure.subplots(2, 1, sharex=True)
    for name, colour, shift in (("control", _WITHOUT, -0.1), ("treated", _WITH, 0.1)):
        groups: list[Group] = [getattr(there, name) for there in effects.values()]
        _draw(churn, [(group.churn, group.interval) for group in groups], colour, shift, name)
    _draw(difference, [(there.difference, there.interval) for there in effects.values()], _WITH, 0.0, "difference")
    difference.axhline(0, color="#cc3333", linewidth=1)
    churn.set_ylabel(f"left within {EFFECT_DAYS} days, %")
    churn.set_ylim(bottom=0)
    churn.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)  # above, where no point can be
    difference.set_ylabel("control - treated, points")
    difference.set_xticks(range(len(effects)), list(effects))
    difference.set_xlim(-0.6, len(effects) - 0.4)
    return png_of(figure)


def _draw(axes: Any, points: list[tuple[float | None, Interval | None]], colour: str, shift: float, name: str) -> None:
    """Draw shares with their intervals as percentages, side by side; unknown ones leave their place empty."""
    known = [
        (place + shift, share, *bounds) for place, (share, bounds) in enumerate(points) if share is not None and bounds
    ]
    axes.errorbar(
        [place for place, *_ in known],
        [100 * share for _, share, _, _ in known],
        # A bound that rounding has put on the wrong side of its share would be refused.
        [
            [max(0.0, 100 * (share - low)) for _, share, low, _ in known],
            [max(0.0, 100 * (high - share)) for _, share, _, high in known],
        ],
        fmt="o",
        color=colour,
        capsize=4,
        label=name,
    )
