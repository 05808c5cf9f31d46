"""The look of the dashboard's charts and texts, in light and dark mode. Here belongs the drawing; pages choose the content."""

from datetime import datetime
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

# Distinguishable in grey, too; text on the page has Streamlit's own colours.
CLASS_COLOURS = {"HIGH": "#d1495b", "MEDIUM": "#edae49", "LOW": "#5b8e9e"}
CONTROL, TREATED = "#8a8f98", "#6f66e8"
_HEIGHT = 240
_MARKDOWN = frozenset(r"\`*_{}[]()<>#+-.!|~$:@&")
_TIME = "%d %b %H:%M"


def ago(seconds: float) -> str:
    """A duration in its largest unit, rounded."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def minute(time: datetime | None) -> str:
    """A time of the warehouse (UTC), to the minute."""
    return "–" if time is None or pd.isna(time) else f"{time:%Y-%m-%d %H:%M} UTC"


def plain(text: str) -> str:
    """Escape a text of the data for Streamlit, so that Markdown draws, links and loads nothing."""
    return "".join(f"\\{character}" if character in _MARKDOWN else character for character in text)


def picked(chosen: Any) -> list[int]:
    """The indices of the rows that a person has selected in a table."""
    return list(chosen["selection"]["rows"])


def draw(chart: alt.Chart | alt.LayerChart | alt.FacetChart, description: str) -> None:
    """Draw a chart; a screen reader reads `description`."""
    st.altair_chart(chart.properties(description=description))


def bars_by_class(rows: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """The number of customers by risk class: columns risk_class and customers."""
    base = alt.Chart(rows, height=_HEIGHT).encode(
        y=alt.Y("risk_class:N", sort=list(CLASS_COLOURS), title=None), x=alt.X("customers:Q", title="customers")
    )
    return base.mark_bar().encode(color=_by_class(legend=None), tooltip=["risk_class", "customers"]) + base.mark_text(
        align="left", dx=4, color="gray"
    ).encode(text=alt.Text("customers:Q", format=","))


def shares_by_segment(rows: pd.DataFrame) -> alt.Chart:
    """The share of each segment that is at risk: columns segment, risk_class and share (0 to 1)."""
    return (
        alt.Chart(rows, height=_HEIGHT)
        .mark_bar()
        .encode(
            y=alt.Y("segment:N", title=None),
            x=alt.X("share:Q", title="share of the segment", axis=alt.Axis(format=".1%")),
            color=_by_class(),
            order=alt.Order("risk_class:N", sort="ascending"),
            tooltip=["segment", "risk_class", alt.Tooltip("share:Q", format=".2%"), "customers"],
        )
    )


def trend_of_risk(rows: pd.DataFrame) -> alt.Chart:
    """Customers at risk over time: columns counted_at, risk_class and customers."""
    return (
        alt.Chart(rows, height=_HEIGHT)
        .mark_line(point=True)
        .encode(
            x=alt.X("counted_at:T", title=None, axis=alt.Axis(format=_TIME)),
            y=alt.Y("customers:Q", title="customers", scale=alt.Scale(zero=False)),
            color=_by_class(),
            tooltip=[alt.Tooltip("counted_at:T", format=_TIME), "risk_class", "customers"],
        )
    )


def score_over_time(rows: pd.DataFrame, high_from: float, medium_from: float) -> alt.LayerChart | alt.FacetChart:
    """One customer's score with the limits of the classes: columns computed_at, risk_score and risk_class."""
    scores = (
        alt.Chart(rows, height=_HEIGHT)
        .mark_line(interpolate="step-after", point=True, color=TREATED)
        .encode(
            x=alt.X("computed_at:T", title=None, axis=alt.Axis(format=_TIME)),
            y=alt.Y("risk_score:Q", title="score", scale=alt.Scale(domain=[0, 1])),
            tooltip=[alt.Tooltip("computed_at:T", format="%Y-%m-%d %H:%M:%S"), "risk_score", "risk_class"],
        )
    )
    limits = pd.DataFrame({"score": [high_from, medium_from], "risk_class": ["HIGH", "MEDIUM"]})
    rules = alt.Chart(limits).mark_rule(strokeDash=[4, 4]).encode(y="score:Q", color=_by_class(legend=None))
    return rules + scores


def bars(rows: pd.DataFrame, category: str, number: str) -> alt.Chart:
    """Plain bars, the longest first, of a text column and a number column."""
    return (
        alt.Chart(rows, height=_HEIGHT)
        .mark_bar(color=TREATED)
        .encode(y=alt.Y(f"{category}:N", sort="-x", title=None), x=alt.X(f"{number}:Q"), tooltip=[category, number])
    )


def shares_with_intervals(rows: pd.DataFrame, title: str) -> alt.LayerChart | alt.FacetChart:
    """Shares with their 95 % intervals: columns group, share, low and high (0 to 1)."""
    base = alt.Chart(rows, height=140).encode(y=alt.Y("group:N", title=None))
    percent = alt.Axis(format=".0%")
    interval = base.mark_rule().encode(
        x=alt.X("low:Q", title=title, axis=percent), x2="high:Q", color=alt.Color("group:N", legend=None, scale=_GROUPS)
    )
    points = base.mark_circle(size=90, opacity=1).encode(
        x="share:Q",
        color=alt.Color("group:N", legend=None, scale=_GROUPS),
        tooltip=[
            "group",
            *(alt.Tooltip(f"{column}:Q", format=".2%") for column in ("share", "low", "high")),
            "customers",
        ],
    )
    return interval + points


_GROUPS = alt.Scale(domain=["no email", "email"], range=[CONTROL, TREATED])


def _by_class(legend: Any = alt.Undefined) -> alt.Color:
    scale = alt.Scale(domain=list(CLASS_COLOURS), range=list(CLASS_COLOURS.values()))
    return alt.Color("risk_class:N", scale=scale, legend=alt.Legend(title=None) if legend is alt.Undefined else legend)
