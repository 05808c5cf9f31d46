"""The cost by day: tokens of language models and, on Snowflake, credits. Here belongs how it looks in Dagster."""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.pictures.cost import cost_by_day
from churn_assets.clock import utc_now
from churn_assets.retention.tokens import Tokens, tokens_by_day
from churn_assets.rules import COST_DAYS, COST_SECONDS
from churn_assets.warehouse.protocol import Credits, Warehouse


@dg.asset(
    deps=["retention_emails"],
    description=(
        f"Tokens of the emails by day and model, over {COST_DAYS} days, and on Snowflake credits by day and service: the"
        " project's warehouse, AI functions and search. Snowflake reports credits up to three hours late. Questions to the"
        " agent are not counted."
    ),
    **groups.MAINTENANCE.spec("ducklake", "cost"),
    freshness_policy=scheduled(COST_SECONDS),
    pool=pools.UPKEEP,
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
            "plot": cost_by_day(days, tokens, credits),
        }
    )


def table(tokens: Sequence[Tokens], credits: Sequence[Credits]) -> dg.TableMetadataValue:
    """A line for each day and each model or service, the latest first."""
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
