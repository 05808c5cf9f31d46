"""What analysts read, as queries over the lake: the same SQL that makes the secure views of Snowflake.

Here belongs how the files of `sql/snowflake` become queries of the lake, which has one user and so no policies. What the
views mean is said in their files.
"""

from churn_assets.retention.effect import outcomes_in_sql
from churn_assets.settings import PROJECT_ROOT

_FOLDER = PROJECT_ROOT / "sql" / "snowflake" / "after_dbt"
_FILES = {
    "customer_risk": "070_customer_risk.sql",
    "interventions": "080_interventions.sql",
    "intervention_outcomes": "090_intervention_outcomes.sql",
    "live_metrics": "100_live_metrics.sql",
}
LAKE = "lake.main."


def serving_views() -> dict[str, str]:
    """The query of each serving view, by the view's name."""
    return {name: _query(file) for name, file in _FILES.items()}


def with_serving_views(sql: str) -> str:
    """A query over serving views as one that the lake answers."""
    views = ", ".join(f"{name} AS ({query})" for name, query in serving_views().items())
    return f"WITH {views} SELECT * FROM ({sql}) AS answer"


def _query(file: str) -> str:
    _, _, query = (_FOLDER / file).read_text().partition("\nAS\n")
    query = query.replace("{{ outcomes }}", outcomes_in_sql(LAKE)).replace("{{ database }}.{{ schema }}.", LAKE)
    return query.strip().rstrip(";")
