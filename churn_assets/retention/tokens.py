"""What the emails cost in tokens of language models, by day and model.

Here belongs the count of used tokens. `emails.Limits` holds the limit of a day.
"""

from dataclasses import dataclass
from datetime import date

from churn_assets.warehouse.protocol import Warehouse


@dataclass(frozen=True)
class Tokens:
    """What one model used for the emails of one day (UTC)."""

    day: date
    model: str
    emails: int
    tokens: int


def tokens_by_day(warehouse: Warehouse, since: date) -> list[Tokens]:
    """The tokens by day and model from `since` on, in that order. Days and models without tokens are missing."""
    rows = warehouse.query(
        "SELECT log.partition_day AS usage_day, coalesce(log.model, 'unknown') AS model, count(*) AS emails,"
        " cast(sum(log.prompt_tokens + log.completion_tokens) AS bigint) AS tokens FROM agent_intervention_log AS log"
        " WHERE log.partition_day >= cast(? AS date) AND log.prompt_tokens + log.completion_tokens > 0"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        [since],
    ).to_pylist()
    return [Tokens(row["usage_day"], row["model"], int(row["emails"]), int(row["tokens"])) for row in rows]
