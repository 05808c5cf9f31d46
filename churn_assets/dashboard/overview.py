"""The tab Overview: customers at risk by class and segment, the trend, freshness, and the emails with their effect."""

from datetime import timedelta

import pandas as pd
import streamlit as st

from churn_assets.clock import utc_now
from churn_assets.configuration import rules
from churn_assets.dashboard import looks
from churn_assets.dashboard.shown import Shown
from churn_assets.retention.effect import Effect, Group, estimate
from churn_assets.rules import TREND_DAYS, TREND_SECONDS

_EMAIL_DAYS = 30
COUNTS = """
SELECT segment, risk_class, COUNT(*) AS customers, SUM(risk_score) AS score_sum FROM customer_risk
GROUP BY segment, risk_class
"""
_TREND = """
SELECT counted_at, CAST(SUM(high_count) AS BIGINT) AS high_count, CAST(SUM(medium_count) AS BIGINT) AS medium_count
FROM risk_trend
WHERE counted_at > CAST(? AS DATE) GROUP BY counted_at ORDER BY counted_at
"""
_WAITING = "SELECT COUNT(*) AS waiting FROM waiting_customers"
_EMAILS = """
SELECT status, COUNT(*) AS interventions FROM customer_interventions
WHERE created_at > CAST(? AS DATE) GROUP BY status
"""
_OUTCOMES = """
SELECT is_control, COUNT(*) AS customers, SUM(CASE WHEN has_left THEN 1 ELSE 0 END) AS customers_left
FROM intervention_outcomes WHERE created_at <= CAST(? AS DATE) GROUP BY is_control
"""


def page(shown: Shown) -> None:
    """Draw the tab."""
    counts = shown.rows(COUNTS)
    if counts.empty:
        st.info(
            "There are no customers to show: nothing is scored yet, or no segment is granted to this role"
            " (table segment_grants)."
        )
        return
    _figures(shown)
    left, right = st.columns(2)
    with left:
        st.subheader("Customers by risk class")
        by_class = counts.groupby("risk_class", as_index=False)[["customers"]].sum()
        looks.draw(looks.bars_by_class(by_class), "Customers by risk class")
    with right:
        st.subheader("Share at risk by segment")
        looks.draw(looks.shares_by_segment(_shares_at_risk(counts)), "Share of each segment at risk")
    left, right = st.columns(2)
    with left:
        st.subheader("Trend")
        _trend(shown)
    with right:
        st.subheader("Freshness")
        _freshness(shown)
    left, right = st.columns(2)
    with left:
        st.subheader(f"Emails of the last {_EMAIL_DAYS} days")
        emails = shown.rows(_EMAILS, [_days_ago(_EMAIL_DAYS)])
        if emails.empty:
            st.caption("None yet.")
        else:
            looks.draw(looks.bars(emails, "status", "interventions"), "Interventions by status")
    with right:
        st.subheader("Do emails keep customers?")
        effect(shown)


def _days_ago(days: int) -> str:
    """A day (UTC) as a parameter. SQL's own today depends on the session's time zone, which an app cannot set in Snowflake."""
    return (utc_now().date() - timedelta(days=days)).isoformat()


def effect(shown: Shown) -> None:
    """Draw churn with and without emails, and the conclusion."""
    outcomes = {
        row["is_control"]: (row["customers"], int(row["customers_left"]))
        for row in shown.records(_OUTCOMES, [_days_ago(rules().emails.effect_days)])
    }
    found = estimate(*outcomes.get(False, (0, 0)), *outcomes.get(True, (0, 0)))
    st.write(found.conclusion)
    if found.interval is not None:
        chart = looks.shares_with_intervals(
            _groups(found), f"left within {rules().emails.effect_days} days, with 95 % intervals"
        )
        looks.draw(chart, found.conclusion)


def _groups(found: Effect) -> pd.DataFrame:
    def row(name: str, group: Group) -> dict[str, object]:
        low, high = group.interval or (None, None)
        return {"group": name, "share": group.churn, "low": low, "high": high, "customers": group.customers}

    return pd.DataFrame([row("email", found.treated), row("no email", found.control)])


def _figures(shown: Shown) -> None:
    counts = shown.records(COUNTS)
    customers = sum(row["customers"] for row in counts)
    by_class = {
        name: sum(row["customers"] for row in counts if row["risk_class"] == name) for name in looks.CLASS_COLOURS
    }
    (waiting,) = shown.records(_WAITING)
    figures = {
        "Customers": f"{customers:,}",
        "At high risk": f"{by_class['HIGH']:,}",
        "At medium risk": f"{by_class['MEDIUM']:,}",
        "Average score": f"{sum(row['score_sum'] for row in counts) / customers:.3f}",
        "Waiting for an email": f"{waiting['waiting']:,}",
    }
    for column, (name, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(name, value, border=True)


def _shares_at_risk(counts: pd.DataFrame) -> pd.DataFrame:
    in_segment = counts.groupby("segment")["customers"].transform("sum")
    return counts.assign(share=counts["customers"] / in_segment).query("risk_class != 'LOW'")


def _trend(shown: Shown) -> None:
    trend = shown.rows(_TREND, [_days_ago(TREND_DAYS)])
    if len(trend) < 2:
        st.caption(f"No trend yet: the customers at risk are counted every {TREND_SECONDS / 60:g} minutes.")
        return
    long = trend.melt("counted_at", ["high_count", "medium_count"], "risk_class", "customers")
    named = long.replace({"high_count": "HIGH", "medium_count": "MEDIUM"})
    looks.draw(looks.trend_of_risk(named), "Customers at risk over time")


def _freshness(shown: Shown) -> None:
    tables = shown.source.serving.freshness()  # not cached, as a lag grows with time
    if late := [table for table in tables if table.lag_seconds > table.target_lag_seconds]:
        st.warning(
            f"Stale: {', '.join(table.name for table in late)} should be at most"
            f" {looks.ago(max(table.target_lag_seconds for table in late))} behind, but the oldest missing change is"
            f" {looks.ago(max(table.lag_seconds for table in late))} old. See refresh_sensor in Dagster for the reason."
        )
    st.dataframe(
        pd.DataFrame(
            [(table.name, looks.ago(table.lag_seconds), looks.ago(table.target_lag_seconds)) for table in tables],
            columns=["table", "behind", "target lag"],
        ),
        hide_index=True,
    )
