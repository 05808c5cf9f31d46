"""What the days cost: tokens of language models and, on Snowflake, credits. Here belongs how it looks in Dagster."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import dagster as dg

from churn_assets.assets.charts import picture, png_of
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.ledgers import OWNER
from churn_assets.clock import utc_now
from churn_assets.retention.tokens import Tokens, tokens_by_day
from churn_assets.rules import COST_DAYS, COST_SECONDS
from churn_assets.warehouse.protocol import Credits, Warehouse

_COLOURS = ("#4f43dd", "#e0893a", "#2f9e6e", "#888888", "#b0409a", "#c9b037")


@dg.asset(
    deps=["retention_emails"],
    description=(
        f"Tokens of the emails by day and model, over {COST_DAYS} days, and on Snowflake credits by day and service: the"
        " project's warehouse, AI functions and search. Snowflake tells of credits up to three hours late, and what people"
        " ask the agent is not among them."
    ),
    kinds={"ducklake", "cost"},
    group_name="maintenance",
    owners=[OWNER],
    freshness_policy=scheduled(COST_SECONDS),
)
def daily_cost(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Count what was used on each day."""
    today = utc_now().date()
    since = today - timedelta(days=COST_DAYS - 1)
    tokens, credits = tokens_by_day(warehouse, since), warehouse.credits(since)
    days = [since + timedelta(days=number) for number in range(COST_DAYS)]
    return dg.MaterializeResult(
        metadata={
            "tokens": sum(used.tokens for used in tokens),
            "credits": round(float(sum(used.credits for used in credits)), 4),
            "tokens_today": sum(used.tokens for used in tokens if used.day == today),
            "days": table(tokens, credits),
            "plot": plot(days, tokens, credits),
        }
    )


def table(tokens: Sequence[Tokens], credits: Sequence[Credits]) -> dg.TableMetadataValue:
    """A line for each day and what it went into, the latest first."""
    lines = [
        *((used.day, used.model, used.emails, used.tokens, None) for used in tokens),
        *((used.day, used.service, None, None, used.credits) for used in credits),
    ]
    names = ("day", "what", "emails", "tokens", "credits")
    types = ("string", "string", "int", "int", "float")
    return dg.MetadataValue.table(
        [
            dg.TableRecord(dict(zip(names, (day.isoformat(), *rest), strict=True)))
            for day, *rest in sorted(lines, key=lambda line: (line[0], line[1]), reverse=True)
        ],
        dg.TableSchema([dg.TableColumn(name, type_) for name, type_ in zip(names, types, strict=True)]),
    )


def plot(days: Sequence[date], tokens: Sequence[Tokens], credits: Sequence[Credits]) -> dg.MarkdownMetadataValue:
    """A bar for each day, of what it went into; credits below tokens, where there are any."""
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
