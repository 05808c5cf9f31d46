"""The tab Interventions: emails waiting for a decision, the queue, the effect of emails, and past interventions."""

from typing import Any

import streamlit as st

from churn_assets.dashboard import looks, overview
from churn_assets.dashboard.shown import Shown
from churn_assets.dashboard.source import Decision
from churn_assets.errors import ChurnError

_READY_SHOWN, _WAITING_SHOWN, _PAST_SHOWN = 20, 100, 200
_STATUSES = "SELECT status, COUNT(*) AS interventions FROM customer_interventions GROUP BY status ORDER BY status"
_READY = f"""
SELECT emails.intervention_id, emails.customer_id, emails.full_name, emails.segment, emails.email_text, emails.created_at,
    interventions.churn_score, interventions.reason_codes, interventions.writer, interventions.is_fallback
FROM written_emails AS emails
INNER JOIN customer_interventions AS interventions ON emails.intervention_id = interventions.intervention_id
WHERE emails.status = 'READY'
ORDER BY interventions.churn_score DESC NULLS LAST, emails.intervention_id LIMIT {_READY_SHOWN}
"""
_WAITING = f"""
SELECT queued_at, customer_id, segment, source, churn_score, reason_codes FROM waiting_customers
ORDER BY churn_score DESC NULLS LAST, customer_id LIMIT {_WAITING_SHOWN}
"""
_PAST = f"""
SELECT created_at, customer_id, segment, status, source, churn_score, reason_codes, writer, is_fallback, tokens
FROM customer_interventions ORDER BY created_at DESC, intervention_id LIMIT {_PAST_SHOWN}
"""


def page(shown: Shown) -> None:
    """Draw the tab."""
    if said := st.session_state.pop("decided", None):
        st.toast(said)
    statuses = {row["status"]: int(row["interventions"]) for row in shown.records(_STATUSES)}
    if not statuses and shown.rows(_WAITING).empty:
        st.info("No customer has become high risk yet, so there are no emails.")
        return
    figures = {
        "Waiting for a decision": statuses.get("READY", 0),
        "Approved": statuses.get("APPROVED", 0),
        "Sent or exported": statuses.get("SENT", 0) + statuses.get("EXPORTED", 0),
        "Control group": statuses.get("CONTROL", 0),
        "Uncertain": statuses.get("UNCERTAIN", 0),
    }
    for column, (name, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(name, f"{value:,}", border=True)
    _decisions(shown, statuses.get("READY", 0))
    st.subheader("Queue")
    waiting = shown.rows(_WAITING)
    if waiting.empty:
        st.caption("No customers are waiting.")
    else:
        st.dataframe(waiting, hide_index=True, column_config=_columns("queued_at"))
    st.subheader("Do emails keep customers?")
    overview.effect(shown)
    st.caption(
        "One in ten customers who would get an email gets none: the control group. Both groups are followed for 30 days from"
        " the decision, whether or not the email was sent."
    )
    st.subheader("Past interventions")
    st.dataframe(shown.rows(_PAST), hide_index=True, column_config=_columns("created_at"))


def _decisions(shown: Shown, ready: int) -> None:
    st.subheader("Emails waiting for a decision")
    emails = shown.rows(_READY)
    if emails.empty:
        st.caption("None. With CHURN_APPROVAL=auto, emails are approved automatically.")
        return
    ids = emails["intervention_id"].tolist()
    chosen = st.dataframe(
        emails[
            [
                "customer_id",
                "full_name",
                "segment",
                "churn_score",
                "reason_codes",
                "writer",
                "is_fallback",
                "created_at",
            ]
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        column_config=_columns("created_at"),
        key=f"ready_{hash(tuple(ids))}",  # a new list of emails starts without a selection
    )
    if ready > len(emails):
        st.caption(f"The {len(emails)} emails with the highest scores, of {ready:,}.")
    rows = looks.picked(chosen)
    picked = [ids[row] for row in rows]
    for email in (shown.records(_READY)[row] for row in rows):
        with st.container(border=True):
            st.caption(looks.plain(f"To {email['full_name']} ({email['customer_id']})"))
            st.text(email["email_text"])
    approve, reject, note_place = st.columns([1, 1, 3], vertical_alignment="bottom")
    note = note_place.text_input("Reason for the rejection", max_chars=200, disabled=not picked)
    if approve.button(f"Approve {len(picked) or ''}", type="primary", disabled=not picked):
        _decide(shown, "approve", picked, None)
    if reject.button(f"Reject {len(picked) or ''}", disabled=not picked):
        _decide(shown, "reject", picked, note or None)
    if not picked:
        st.caption("Tick emails on the left of the list to read them and decide.")


def _decide(shown: Shown, decision: Decision, ids: list[str], note: str | None) -> None:
    try:
        shown.source.decide(decision, ids, note)
    except ChurnError as error:
        st.error(looks.plain(f"Nothing was changed: {error}"))
        return
    st.session_state["decided"] = f"{len(ids):,} emails are {'approved' if decision == 'approve' else 'rejected'}."
    st.rerun()


def _columns(time: str) -> dict[str, Any]:
    return {
        time: st.column_config.DatetimeColumn(f"{time.removesuffix('_at')} (UTC)", format="YYYY-MM-DD HH:mm"),
        "churn_score": st.column_config.ProgressColumn("score", format="%.2f", min_value=0, max_value=1),
        "reason_codes": "reasons",
        "customer_id": "customer",
        "full_name": "name",
        "is_fallback": "fallback to template",
    }
