"""The dashboard's tabs as Streamlit runs them, without a browser: what they show, to whom, and what they let nobody do."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from churn_assets.dashboard import app
from churn_assets.retention.outbox.approval import waiting
from churn_assets.rules import ANALYST_ROLE
from churn_assets.serving.reading import Freshness, LakeServing
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Damage
from churn_assets.wiring import open_lake

INJECTIONS = [
    "' OR 1 = 1 --",
    "'; DROP TABLE dim_customers; --",
    "%",
    "_",
    "\\",
    '" OR ""="',
    "C1\x00",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
    "a" * 5000,
    "🦆" * 200,
    "UNION SELECT email FROM lake.main.dim_customers",
]


def tab(name: str, role: str | None = None, **address: str) -> AppTest:
    """One tab, drawn for a role; `address` is what stands behind the ? of the page's address."""

    def script(name: str) -> None:
        from churn_assets.dashboard import app

        app._tab(app.TABS[name])

    page = AppTest.from_function(script, kwargs={"name": name}, default_timeout=60)
    for key, value in address.items():
        page.query_params[key] = value
    if role:
        page.session_state["role"] = role
    return page.run()


def words(page: AppTest) -> str:
    """Every text of a page."""
    kinds = (
        "title",
        "header",
        "subheader",
        "markdown",
        "caption",
        "text",
        "info",
        "warning",
        "error",
        "code",
        "metric",
    )
    parts = [
        f"{part.value} {getattr(part, 'label', '')}".replace("\\", "") for kind in kinds for part in page.get(kind)
    ]
    return "\n".join([*parts, *(frame.value.to_string() for frame in page.dataframe)])


@pytest.fixture
def home(home_of_a_bank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a bank that tests read."""
    monkeypatch.setenv("CHURN_HOME", str(home_of_a_bank))
    return home_of_a_bank


@pytest.fixture
def other_home() -> Iterator[None]:
    """For a test with a home of its own: the sources that are cached are those of `home`, to open them takes long."""
    app.source_of.clear()
    yield
    app.source_of.clear()


@pytest.fixture(scope="module", autouse=True)
def _other_files_have_other_homes() -> Iterator[None]:
    app.source_of.clear()
    yield
    app.source_of.clear()


@pytest.fixture
def own_home(home_of_a_bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_home: None) -> Path:
    """The same, for a test that changes something."""
    shutil.copytree(home_of_a_bank, tmp_path / "own")
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "own"))
    return tmp_path / "own"


def lake_of(home: Path) -> LakeWarehouse:
    return open_lake(load_settings(CHURN_HOME=home).lake_path)


def test_the_overview_counts_what_the_predictions_say(home: Path):
    page = tab("Overview")

    assert not page.exception
    counted = lake_of(home).query("SELECT risk_class, count(*) AS n FROM dyn_churn_predictions GROUP BY 1").to_pylist()
    by_class = {row["risk_class"]: row["n"] for row in counted}
    figures = {metric.label: metric.value for metric in page.metric}
    assert figures["Customers"] == f"{sum(by_class.values()):,}"
    assert figures["At high risk"] == f"{by_class['HIGH']:,}"
    assert "dyn_churn_predictions" in words(page)


@pytest.mark.parametrize("name", list(app.TABS))
def test_every_tab_is_drawn_for_every_role_and_shows_an_analyst_no_name_or_address(home: Path, name: str):
    names = lake_of(home).query("SELECT full_name, email FROM dim_customers").to_pylist()
    secrets = [value for row in names for value in row.values()]

    shown = {role: tab(name, role) for role in ("DATA_ENGINEER", ANALYST_ROLE)}

    assert not any(page.exception for page in shown.values())
    text = words(shown[ANALYST_ROLE])
    assert not [secret for secret in secrets if secret in text]


def test_an_analysts_customer_page_has_initials_and_the_email_without_the_name(home: Path):
    found = lake_of(home).query(
        "SELECT customer_id, full_name, email FROM agent_intervention_log JOIN dim_customers USING (customer_id)"
        # A merchant is called Green Valley Foods.
        " WHERE generated_email IS NOT NULL AND full_name NOT LIKE '% Green' ORDER BY customer_id LIMIT 1"
    )
    (customer,) = found.to_pylist()

    full = words(tab("Customers", customer=customer["customer_id"]))
    masked = words(tab("Customers", ANALYST_ROLE, customer=customer["customer_id"]))

    assert customer["full_name"] in full
    assert f"Dear {customer['full_name']}" in full
    assert not [part for part in customer["full_name"].split() if part in masked]
    assert "[name]" in masked
    assert "Transactions" in masked


def test_what_is_typed_as_a_customer_is_only_a_text(home: Path):
    page = tab("Customers")
    for text in INJECTIONS:
        page.text_input[0].set_value(text[:100]).run()
        assert not page.exception, text
        assert "No customers match" in words(page), text


@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: text[:20])
def test_what_stands_in_the_address_as_a_customer_is_only_a_text(home: Path, text: str):
    page = tab("Customers", customer=text)

    assert not page.exception
    assert "There is no customer" in words(page)


def test_filters_narrow_and_pages_go_on(home: Path):
    page = tab("Customers")
    all_customers = page.caption[0].value
    page.multiselect[0].set_value(["HIGH"]).run()
    high = (
        lake_of(home).query("SELECT count(*) AS n FROM dyn_churn_predictions WHERE risk_class = 'HIGH'")["n"][0].as_py()
    )

    assert page.caption[0].value != all_customers
    assert page.caption[0].value.startswith(f"{high:,} customers")
    assert set(page.dataframe[0].value["risk_class"]) == {"HIGH"}
    page.text_input[0].set_value(page.dataframe[0].value["customer_id"][0][1:]).run()
    assert page.caption[0].value.startswith("1 customers")


def test_a_page_of_customers_is_turned_and_a_filter_that_leaves_fewer_pages_turns_back(home: Path):
    page = tab("Customers")
    first = set(page.dataframe[0].value["customer_id"])
    page.number_input[0].set_value(2).run()
    second = set(page.dataframe[0].value["customer_id"])
    page.number_input[0].set_value(page.number_input[0].max).run()
    page.multiselect[0].set_value(["MEDIUM"]).run()

    assert first
    assert second
    assert not first & second
    assert not page.exception
    assert set(page.dataframe[0].value["risk_class"]) == {"MEDIUM"}


def test_a_decision_moves_the_email_and_says_who_decided(own_home: Path):
    lake = lake_of(own_home)
    source = app.source_of(ANALYST_ROLE)
    first, second = [entry.intervention_id for entry in waiting(lake, ["READY"])][:2]

    source.decide("approve", [first])
    source.decide("reject", [second], "too warm")

    moves = lake.query(
        "SELECT intervention_id, status_to, moved_by, note FROM intervention_moves WHERE moved_by LIKE '% as %'"
        " ORDER BY moved_at"
    ).to_pylist()
    assert [(move["intervention_id"], move["status_to"], move["note"]) for move in moves] == [
        (first, "APPROVED", None),
        (second, "REJECTED", "too warm"),
    ]
    assert all(move["moved_by"].endswith(ANALYST_ROLE) for move in moves)


def test_nobody_decides_about_an_email_twice_or_about_one_that_the_role_does_not_see(own_home: Path):
    lake = lake_of(own_home)
    source = app.source_of(ANALYST_ROLE)
    first, second = [entry.intervention_id for entry in waiting(lake, ["READY"])][:2]
    source.decide("approve", [first])

    with pytest.raises(Exception, match="no longer waits for a decision"):
        source.decide("reject", [first])
    lake.transact(lambda tx: tx.execute("DELETE FROM segment_grants"))
    with pytest.raises(Exception, match="no longer waits for a decision"):
        source.decide("approve", [second])
    assert [entry.status for entry in waiting(lake) if entry.intervention_id == second] == ["READY"]


def test_a_name_with_markup_is_shown_as_it_is(own_home: Path):
    lake = lake_of(own_home)
    name = "[free](http://evil.example) <img src=x> **Ann**"
    customer = lake.query("SELECT customer_id FROM dyn_churn_predictions LIMIT 1")["customer_id"][0].as_py()
    lake.transact(
        lambda tx: tx.execute(
            "UPDATE dim_customers SET full_name = ?, email = ? WHERE customer_id = ?", [name, name, customer]
        )
    )

    page = tab("Customers", customer=customer)
    assert not [part.value for kind in ("markdown", "caption") for part in page.get(kind) if name in part.value]
    header = page.header[0].value

    assert header.replace("\\", "").startswith(name)
    assert not re.search(r"(?<!\\)[\[<*]", header)  # each is escaped


@pytest.mark.usefixtures("other_home")
def test_an_empty_lake_is_said_to_be_empty(settings: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHURN_HOME", str(settings.home))

    assert "nothing is scored yet" in words(tab("Overview"))
    assert "No customers match" in words(tab("Customers"))
    assert "No customer has become high risk yet" in words(tab("Interventions"))


@pytest.mark.usefixtures("other_home")
def test_where_there_is_no_lake_every_tab_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "nothing"))

    for name in app.TABS:
        page = tab(name)
        assert not page.exception
        assert "run `churn deploy` first" in words(page)


def test_a_damaged_file_is_a_red_mark_on_each_tab_and_none_is_none(
    home: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
):
    assert not tab("Customers").error
    monkeypatch.setattr(
        LakeWarehouse, "damage", lambda self: [Damage("main/dim_customers/x.parquet", "dim_customers", "is missing")]
    )
    st.cache_data.clear()

    for name in ("Overview", "Customers"):
        (error,) = tab(name).error
        assert "dim" in error.value
        assert "is missing" in error.value
        assert "churn doctor" in error.value
    st.cache_data.clear()


def test_late_tables_are_said_to_be_stale(home: Path, monkeypatch: pytest.MonkeyPatch):
    late = [Freshness("dyn_churn_predictions", 3700.0, 300.0), Freshness("customer_day", 2.0, 300.0)]
    monkeypatch.setattr(LakeServing, "freshness", lambda self: late)

    (warning,) = tab("Overview").warning

    assert "Stale: dyn_churn_predictions should be at most 5 min behind" in warning.value
    assert "1 h old" in warning.value
