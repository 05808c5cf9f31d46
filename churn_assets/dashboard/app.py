"""The dashboard: four tabs over the serving views, on this machine (`churn dashboard`) and in Snowflake.

Here belong the frame around the tabs, the choice of the role, and the page for a warehouse that does not answer.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import streamlit as st

from churn_assets.dashboard import ask, customers, interventions, looks, overview
from churn_assets.dashboard.shown import Shown, damage
from churn_assets.dashboard.source import SessionSource, Source
from churn_assets.errors import ChurnError
from churn_assets.rules import ENGINEER_ROLE
from churn_assets.settings import load_settings

# Without icons, which the browser would fetch from another server.
TABS: dict[str, Callable[[Shown], None]] = {
    "Overview": overview.page,
    "Customers": customers.page,
    "Interventions": interventions.page,
    "Ask": ask.page,
}


@st.cache_resource(show_spinner=False)
def source_of(role: str) -> Source:
    """The source of a role; everybody who uses this role shares its connection.

    In Snowflake there is only one source: the app runs with the rights of its owner, the analyst's role.
    """
    if find_spec("_snowflake"):
        from snowflake.snowpark.context import get_active_session  # noqa: PLC0415

        return SessionSource(get_active_session())
    # Imported only here, as Snowflake has no DuckDB.
    from churn_assets.dashboard.warehouse_source import WarehouseSource  # noqa: PLC0415

    return WarehouseSource(load_settings(), role)


def main() -> None:
    """Draw the page of the address."""
    st.set_page_config("churn_assets", layout="wide")
    page = st.navigation(
        [
            st.Page(partial(_tab, draw), title=title, url_path=title.lower(), default=title == "Overview")
            for title, draw in TABS.items()
        ],
        position="top",
    )
    page.run()


def _tab(draw: Callable[[Shown], None]) -> None:
    try:
        source = _source()
        if found := damage(source):
            st.badge(looks.plain(f"damaged: {len(found):,} files"), color="red")
            st.error(
                looks.plain(f"{found[0]}. Figures may be wrong, and emails wait; `churn doctor` names the way out.")
            )
        draw(Shown(source))
    except ChurnError as error:
        st.session_state.pop("role", None)  # the cause may be a role that no longer exists
        st.error(looks.plain(f"The warehouse does not answer: {error}"), icon=":material/cloud_off:")
        st.caption("If this does not help, run `churn doctor`: it checks settings, warehouse and deployment.")
        if st.button("Try again"):
            st.cache_resource.clear()
            st.rerun()


def _source() -> Source:
    # Session state survives a change of the tab; a widget's own state does not.
    st.session_state.setdefault("role", ENGINEER_ROLE)
    roles = source_of(st.session_state["role"]).serving.roles()
    _, right = st.columns([4, 1])
    role = right.selectbox(
        "Role",
        roles,
        index=roles.index(st.session_state["role"]) if st.session_state["role"] in roles else 0,
        help="The pages show what this role may see in the serving views. On this machine anybody may choose another role,"
        " or read the files of CHURN_HOME.",
    )
    st.session_state["role"] = role
    return source_of(role)
