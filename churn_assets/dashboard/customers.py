"""The tab Customers: the list, which the warehouse filters, sorts and pages, and the page of one customer."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from churn_assets.clock import utc_now
from churn_assets.configuration import rules
from churn_assets.dashboard import looks, overview
from churn_assets.dashboard.shown import Shown
from churn_assets.rules import FEATURES, RiskRule

CUSTOMER = "customer"  # in the address of the page
PAGE_ROWS = 25
_LAST = 50  # transactions, cases and errors of one customer
_LONGEST = 100  # characters of a filter
_PAGE = "customers_page"
_FILTER = [f"customers_{part}" for part in ("text", "classes", "segments", "reasons", "order", "without_email")]
_OPENED = "customers_opened"  # how many were opened in this session
_LIST = "customer_id, full_name, segment, risk_class, risk_score, reason_codes, last_case_at, last_email_status, last_email_at"
_SORTED_BY = {
    "score, highest first": "risk_score DESC NULLS LAST",
    "score, lowest first": "risk_score",
    "spend in 30 days, highest first": "total_spend_30d DESC NULLS LAST",
    "latest support case first": "last_case_at DESC NULLS LAST",
    "latest email first": "last_email_at DESC NULLS LAST",
    "customer id": "customer_id",
}


@dataclass(frozen=True)
class Filter:
    """Which customers are shown. A person types the texts, so they are bound as parameters, never written into SQL."""

    text: str = ""
    classes: list[str] = field(default_factory=list[str])
    segments: list[str] = field(default_factory=list[str])
    reasons: list[str] = field(default_factory=list[str])
    only_without_email: bool = False

    def condition(self) -> tuple[str, list[Any]]:
        """The condition in SQL with its parameters."""
        parts, parameters = ["1 = 1"], list[Any]()
        if text := self.text.strip()[:_LONGEST]:
            parts.append("(CONTAINS(LOWER(customer_id), LOWER(?)) OR CONTAINS(LOWER(full_name), LOWER(?)))")
            parameters += [text, text]
        for column, values in (("risk_class", self.classes), ("segment", self.segments)):
            if values:
                parts.append(f"{column} IN ({', '.join('?' * len(values))})")
                parameters += values
        for reason in self.reasons:
            parts.append("CONTAINS(reason_codes, ?)")
            parameters.append(reason)
        if self.only_without_email:
            parts.append("last_email_at IS NULL")
        return " AND ".join(parts), parameters


def page(shown: Shown) -> None:
    """Draw one customer if the address names one, otherwise the list."""
    for key in (_PAGE, *_FILTER):  # keeps the list as it was left; a widget that is not drawn loses its state
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]
    if customer_id := st.query_params.get(CUSTOMER):
        _customer(shown, customer_id[:_LONGEST])
    else:
        _list(shown)


def _list(shown: Shown) -> None:
    filter_, order = _chosen_filter(shown)
    condition, parameters = filter_.condition()
    total = shown.records(f"SELECT COUNT(*) AS found FROM customer_risk WHERE {condition}", parameters)[0]["found"]
    if not total:
        st.info("No customers match. Clear a filter, or choose another role: this one may not see the segment.")
        return
    pages = -(-total // PAGE_ROWS)
    number = min(int(st.session_state.get(_PAGE, 1)), pages)
    rows = shown.rows(
        f"SELECT {_LIST} FROM customer_risk WHERE {condition} ORDER BY {_SORTED_BY[order]}, customer_id"
        f" LIMIT {PAGE_ROWS} OFFSET {(number - 1) * PAGE_ROWS}",
        parameters,
    )
    st.caption(f"{total:,} customers. Choose a row to open the customer.")
    # A new key clears the selection, so a selection applies to the rows on the screen and opens a customer once.
    key = f"customers_{st.session_state.get(_OPENED, 0)}_{number}_{hash((condition, *parameters, order))}"
    st.dataframe(
        rows,
        hide_index=True,
        height=35 * (len(rows) + 1) + 3,
        on_select=partial(_open, key, rows["customer_id"].tolist()),
        selection_mode="single-row",
        column_config={
            "risk_score": st.column_config.ProgressColumn("score", format="%.2f", min_value=0, max_value=1),
            "last_case_at": st.column_config.DatetimeColumn("latest case (UTC)", format="YYYY-MM-DD HH:mm"),
            "last_email_at": st.column_config.DatetimeColumn("latest email (UTC)", format="YYYY-MM-DD HH:mm"),
            "last_email_status": "email",
            "customer_id": "customer",
            "full_name": "name",
            "risk_class": "class",
            "reason_codes": st.column_config.TextColumn("reasons", width="medium"),
        },
        key=key,
    )
    if pages > 1:
        st.session_state[_PAGE] = number  # a new filter may have fewer pages
        st.number_input(f"Page of {pages:,}", 1, pages, key=_PAGE, width=160)


def _open(table: str, ids: list[str]) -> None:
    # A callback runs once per selection; the page itself is also redrawn for other reasons, or interrupted.
    for row in looks.picked(st.session_state[table]):
        st.query_params[CUSTOMER] = ids[row]
        st.session_state[_OPENED] = st.session_state.get(_OPENED, 0) + 1


def _close() -> None:
    st.query_params.pop(CUSTOMER, None)


def _chosen_filter(shown: Shown) -> tuple[Filter, str]:
    segments = sorted({row["segment"] for row in shown.records(overview.COUNTS)})
    of_text, of_classes, of_segments, of_reasons, of_order, of_email = _FILTER
    first, second, third, fourth = st.columns([2, 1.5, 1.5, 2])
    text = first.text_input("Customer", placeholder="id or name", max_chars=_LONGEST, key=of_text)
    classes = second.multiselect("Class", list(looks.CLASS_COLOURS), key=of_classes)
    chosen_segments = third.multiselect("Segment", segments, key=of_segments)
    reasons = fourth.multiselect("Reasons", [rule.reason for rule in rules().risk.rules], key=of_reasons)
    first, second, _ = st.columns([2, 3, 2], vertical_alignment="bottom")
    order = first.selectbox("Sorted by", list(_SORTED_BY), key=of_order)
    without = second.toggle("Only customers without any email", key=of_email)
    return Filter(text, classes, chosen_segments, reasons, without), order


def _customer(shown: Shown, customer_id: str) -> None:
    st.button("All customers", icon=":material/arrow_back:", on_click=_close)
    found = shown.records("SELECT * FROM customer_risk WHERE customer_id = ?", [customer_id])
    if not found:
        st.error(
            looks.plain(
                f"There is no customer {customer_id!r} that {shown.source.serving.role} may see: the id may be wrong, all"
                " accounts may be closed, or the segment may not be granted."
            )
        )
        return
    (customer,) = found
    st.header(looks.plain(f"{customer['full_name']} · {customer_id}"))
    since = f"{customer['join_date']:%Y-%m-%d}"
    st.text(f"{customer['segment']}, with the bank since {since}. {customer['email'] or 'No email address.'}")
    by_model = customer["model_score"] is not None and customer["risk_score"] == customer["model_score"]
    for column, (name, value) in zip(
        st.columns(4),
        {
            "Class": customer["risk_class"],
            "Score": _number(customer["risk_score"]),
            "Score of the rules": _number(customer["churn_score"]),
            "Score of the model": _number(customer["model_score"]),
        }.items(),
        strict=True,
    ):
        column.metric(name, value, border=True)
    reasons = [reason for reason in (customer["reason_codes"] or "").split("; ") if reason]
    st.markdown(
        "**Why:** "
        + ("; ".join(map(looks.plain, reasons)) if reasons else "no rule applies and the model gives no reason")
    )
    left, right = st.columns(2)
    with left:
        st.subheader("The last 30 days")
        st.dataframe(_features(customer), hide_index=True)
    with right:
        st.subheader("Score of the last day")
        limits = (
            (rules().model.high_from, rules().model.medium_from)
            if by_model
            else (rules().risk.high_from, rules().risk.medium_from)
        )
        history = shown.score_history(customer_id)
        if history.empty:
            st.caption("There is no score of the last day for this customer.")
        else:
            looks.draw(looks.score_over_time(_until_now(history), *limits), "The customer's score over time")
    _ledgers(shown, customer_id)


def _ledgers(shown: Shown, customer_id: str) -> None:
    st.subheader("Emails")
    emails = shown.records(
        "SELECT status, email_text, created_at FROM written_emails WHERE customer_id = ? ORDER BY created_at DESC",
        [customer_id],
    )
    moves = shown.rows(
        "SELECT moved_at, status_to, moved_by FROM email_moves WHERE customer_id = ? ORDER BY moved_at DESC",
        [customer_id],
    )
    for email in emails:
        with st.expander(f"{looks.minute(email['created_at'])}: {email['status']}"):
            st.text(email["email_text"])
    if moves.empty:
        st.caption("No emails, sent or planned.")
    else:
        st.dataframe(moves, hide_index=True, column_config=_columns("moved_at"))
    for title, sql, times in (
        (
            "Support cases",
            "SELECT open_timestamp, category, sentiment_score, case_text FROM customer_cases WHERE customer_id = ?"
            f" ORDER BY open_timestamp DESC LIMIT {_LAST}",
            "open_timestamp",
        ),
        (
            "Errors in the app",
            "SELECT event_timestamp, error_code, event_type, device FROM customer_activity WHERE customer_id = ?"
            f" AND error_code IS NOT NULL ORDER BY event_timestamp DESC LIMIT {_LAST}",
            "event_timestamp",
        ),
        (
            "Transactions",
            "SELECT posting_date, transaction_code, amount, channel_id, merchant FROM customer_transactions"
            f" WHERE customer_id = ? ORDER BY posting_date DESC LIMIT {_LAST}",
            "posting_date",
        ),
    ):
        st.subheader(title)
        rows = shown.rows(sql, [customer_id])
        if rows.empty:
            st.caption("None.")
        else:
            st.dataframe(rows, hide_index=True, column_config=_columns(times))
            if len(rows) == _LAST:
                st.caption(f"The latest {_LAST}.")


def _features(customer: dict[str, Any]) -> pd.DataFrame:
    def said(rule: RiskRule, value: float) -> str:
        holds = value > rule.threshold if rule.operator == ">" else value < rule.threshold
        return f"{rule.reason} {rule.operator} {rule.threshold:g}: {'yes' if holds else 'no'}"

    def row(feature: str) -> tuple[str, str, str]:
        value = customer[feature]
        if value is None:
            return feature, _number(value), ""
        return (
            feature,
            _number(value),
            "; ".join(said(rule, value) for rule in rules().risk.rules if rule.feature == feature),
        )

    return pd.DataFrame(map(row, FEATURES), columns=["feature", "value", "rule"])


def _until_now(history: pd.DataFrame) -> pd.DataFrame:
    """Extend the latest score until now; a chart of one point would show nothing."""
    latest = history.tail(1).assign(computed_at=utc_now())
    return pd.concat([history, latest], ignore_index=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}".removesuffix(".00")


def _columns(time: str) -> Any:
    return {
        time: st.column_config.DatetimeColumn("time (UTC)", format="YYYY-MM-DD HH:mm"),
        "status_to": "status",
        "moved_by": "by",
        "sentiment_score": "sentiment",
        "case_text": "text",
        "error_code": "error",
        "event_type": "action",
        "transaction_code": "code",
        "channel_id": "channel",
    }
