"""The tab Ask: questions in words, with the source of the answer, the reason, the SQL and the answer."""

from dataclasses import asdict

import pandas as pd
import streamlit as st

from churn_assets.analyst.answer import Answer
from churn_assets.dashboard import looks
from churn_assets.dashboard.shown import Shown
from churn_assets.search.hits import Filters
from churn_assets.serving.guard import ROW_LIMIT

_LONGEST = 500
_EXAMPLES = (
    "How many customers are in each class of risk?",
    "Which ten customers are most at risk, and why?",
    "Do emails keep customers?",
    "People who could not log in",
)


def page(shown: Shown) -> None:
    """Draw the tab."""
    st.caption(
        "Ask for figures on customers, risk and emails, or describe the errors and support cases to search for. You get no answer"
        " rather than a doubtful one."
    )
    example = st.pills("For example", _EXAMPLES, key="example", on_change=_take_example)
    with st.form("question", border=False):
        asked = st.text_input("Question", key="asked", max_chars=_LONGEST)
        is_sent = st.form_submit_button("Ask", type="primary")
    if not (is_sent or example) or not asked.strip():
        return
    with st.spinner("Answering"):
        answer = shown.source.agent.answer(asked)
    _draw(answer)


def _take_example() -> None:
    if example := st.session_state.get("example"):
        st.session_state["asked"] = example


def _draw(answer: Answer) -> None:
    source = {
        "figures": "From the figures",
        "search": "From the search of errors and cases",
        "none": "Not answered",
    }[answer.route]
    st.markdown(f"**{source}**: {answer.why}.")
    if answer.taken_for:
        sure = f" ({answer.confidence:.0%} sure)" if answer.confidence is not None else ""
        st.text(f"Understood as: {answer.taken_for}{sure}")
    if answer.sql:
        st.code(answer.sql, language="sql", wrap_lines=True)
    for refused in answer.refused:
        st.text(f"SQL that was not run: {refused.reason}")
        st.code(refused.sql[:2000], language="sql", wrap_lines=True)
    if answer.rows is not None:
        st.dataframe(answer.rows.to_pandas(), hide_index=True)
        if answer.rows.num_rows == ROW_LIMIT:
            st.caption(f"The first {ROW_LIMIT:,} rows; there may be more.")
        elif not answer.rows.num_rows:
            st.caption("No rows match.")
    elif answer.hits is not None:
        _draw_hits(answer)
    if answer.refusal:
        st.warning(looks.plain(answer.refusal[:1].upper() + answer.refusal[1:] + "."), icon=":material/block:")
    if answer.nearest:
        st.markdown("I can answer these:")
        st.text("\n".join(answer.nearest))


def _draw_hits(answer: Answer) -> None:
    hits = answer.hits or ()
    filters = {name: value for name, value in asdict(answer.filters or Filters()).items() if value is not None}
    narrowed = "".join(f", {name} {value}" for name, value in filters.items())
    st.text(f"Searched for “{answer.searched}”{narrowed}: {len(hits)} shown")
    if not hits:
        st.caption("No errors or cases match.")
        return
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "when": looks.minute(hit.happened_at),
                    "what": hit.title,
                    "code": hit.error_code,
                    "customer": hit.customer_id,
                    "segment": hit.segment,
                    "device": hit.device,
                    "score": hit.score if answer.searched else None,
                    "matched": hit.passage,
                }
                for hit in hits
            ]
        ),
        hide_index=True,
    )
