"""The plot of `intervention_effect`: churn of both groups and their difference."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import dagster as dg

from churn_assets.assets.pictures.charts import picture, png_of
from churn_assets.configuration import rules
from churn_assets.retention.effect import Effect, Group, Interval

_ENOUGH_FOR_A_MONTH = 10  # customers in each group; fewer give an interval from nearly 0 to nearly 100
_MONTHS_SHOWN = 12
_WITHOUT, _WITH = "#888888", "#4f43dd"


def effect_plot(found: Effect, by_month: Mapping[date, Effect]) -> dg.MarkdownMetadataValue:
    """Churn of both groups and their difference, with 95 % intervals, and the conclusion in words below.

    All customers come first, then the months of the intervention, if two or more have enough customers in each group.
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
    churn.set_ylabel(f"left within {rules().emails.effect_days} days, %")
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
        # Matplotlib refuses a bound that rounding has put on the wrong side of its share.
        [
            [max(0.0, 100 * (share - low)) for _, share, low, _ in known],
            [max(0.0, 100 * (high - share)) for _, share, _, high in known],
        ],
        fmt="o",
        color=colour,
        capsize=4,
        label=name,
    )
