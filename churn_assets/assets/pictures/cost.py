"""The bars of `daily_cost`."""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg

from churn_assets.assets.pictures.charts import picture, png_of
from churn_assets.retention.tokens import Tokens
from churn_assets.warehouse.protocol import Credits

_COLOURS = ("#4f43dd", "#e0893a", "#2f9e6e", "#888888", "#b0409a", "#c9b037")


def cost_by_day(days: Sequence[date], tokens: Sequence[Tokens], credits: Sequence[Credits]) -> dg.MarkdownMetadataValue:
    """A bar for each day, in parts by model or service; credits below tokens, if there are any."""
    words = f"{sum(used.tokens for used in tokens):,} tokens"
    if credits:
        words += f" and {sum(used.credits for used in credits):,.2f} credits"
    words += f" in {len(days)} days."
    bars = {
        "tokens": _by_name(days, [(used.day, used.model, used.tokens) for used in tokens]),
        "credits": _by_name(days, [(used.day, used.service, used.credits) for used in credits]),
    }
    shown = {unit: heights for unit, heights in bars.items() if heights}
    return picture(_png(days, shown), "cost by day", words) if shown else dg.MetadataValue.md(words)


def _by_name(days: Sequence[date], used: Sequence[tuple[date, str, float]]) -> dict[str, list[float]]:
    """By model or service: the height of each day."""
    return {
        name: [sum(amount for at, what, amount in used if (at, what) == (day, name)) for day in days]
        for name in sorted({what for _, what, _ in used})
    }


def _png(days: Sequence[date], bars: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    # Matplotlib takes half a second to import, which only a run of this asset has to pay for.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 2.8 * len(bars)), dpi=80, layout="constrained")
    every = figure.subplots(len(bars), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (unit, heights) in zip(every, bars.items(), strict=True):
        below = [0.0] * len(days)
        for number, (name, values) in enumerate(heights.items()):
            axes.bar(range(len(days)), values, bottom=below, color=_COLOURS[number % len(_COLOURS)], label=name)
            below = [height + value for height, value in zip(below, values, strict=True)]
        axes.set_ylabel(unit)
        axes.legend(frameon=False, fontsize="small")
    every[-1].set_xticks(range(0, len(days), 7), [f"{day:%d %b}" for day in days[::7]])
    return png_of(figure)
