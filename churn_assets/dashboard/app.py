"""The dashboard's first page: customers at risk as numbers, as a chart and as a table, from the serving view customer_risk.

`streamlit run churn_assets/dashboard/app.py` shows the lake of CHURN_HOME; in Snowflake the app reads the view with the rights
of its owner, the analyst's role. This file alone is copied there, so that it needs nothing of the project but on the lake.
By documentation: the page has been drawn by a stand-in of Streamlit's only, it has not run in Snowflake.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

Query = Callable[[str], Any]  # a SELECT over serving views -> a pandas DataFrame with columns in small letters

CLASSES = ("HIGH", "MEDIUM", "LOW")
ROWS = 500  # in the table

COUNTS = "SELECT risk_class, COUNT(*) AS customers FROM customer_risk GROUP BY risk_class"
AT_RISK = f"""
    SELECT customer_id, full_name, segment, risk_class, risk_score, reason_codes, last_email_status, last_email_at
    FROM customer_risk
    WHERE risk_class IN ('HIGH', 'MEDIUM')
    ORDER BY risk_score DESC, customer_id
    LIMIT {ROWS}
"""


def choose_query() -> Query:
    """The one of the place where this runs: the session of Snowflake, or the lake."""
    return query_snowflake if find_spec("_snowflake") else query_lake


def query_snowflake(sql: str) -> Any:
    """Ask in the app's own session, whose schema is that of the serving views."""
    from snowflake.snowpark.context import get_active_session  # noqa: PLC0415

    return get_active_session().sql(sql).to_pandas().rename(columns=str.lower)


def query_lake(sql: str) -> Any:
    """Ask the lake of CHURN_HOME, reading only."""
    from churn_assets.analyst.serving_views import with_serving_views  # noqa: PLC0415
    from churn_assets.settings import load_settings  # noqa: PLC0415
    from churn_assets.warehouse.lake import LakeWarehouse  # noqa: PLC0415

    return LakeWarehouse(load_settings().lake_path, read_only=True).query(with_serving_views(sql)).to_pandas()


def page(st: Any, query: Query) -> None:
    """Draw the page; `st` is the module streamlit."""
    st.title("Customers at risk")
    found = query(COUNTS)
    counts = {row.risk_class: int(row.customers) for row in found.itertuples()}
    if not counts:
        st.info("There is no customer to show: nothing is scored yet, or no segment is granted to this role.")
        return
    for column, risk_class in zip(st.columns(len(CLASSES)), CLASSES, strict=True):
        column.metric(risk_class, f"{counts.get(risk_class, 0):,}")
    st.bar_chart(found, x="risk_class", y="customers")
    st.subheader("Who, and why")
    st.dataframe(query(AT_RISK), hide_index=True)


def main() -> None:
    """Draw the page where it is run."""
    import streamlit as st  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  # only the dashboard needs it

    page(st, choose_query())


if __name__ == "__main__":
    main()
