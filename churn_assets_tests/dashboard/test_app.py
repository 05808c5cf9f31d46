"""The dashboard's page, drawn by a stand-in for Streamlit that records what it is asked."""

import sys
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import yaml

from churn_assets.dashboard import app
from churn_assets.dashboard.app import CLASSES, choose_query, page, query_lake, query_snowflake
from churn_assets.dashboard.files import APP_FILE, app_files
from churn_assets.settings import PROJECT_ROOT
from churn_assets_tests.retention.bank import HIGH, LOW, MEDIUM, predict


class FakeStreamlit(ModuleType):
    """Records calls as (name, arguments); columns record as `metric`."""

    def __init__(self) -> None:
        super().__init__("streamlit")
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def columns(self, number: int) -> list["FakeStreamlit"]:
        return [self] * number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **_: self.calls.append((name, arguments))

    def said(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def streamlit(monkeypatch: pytest.MonkeyPatch) -> FakeStreamlit:
    fake = FakeStreamlit()
    monkeypatch.setitem(sys.modules, "streamlit", fake)
    return fake


def test_the_page_shows_the_classes_as_numbers_and_bars_and_who_is_at_risk_as_a_table(lake, streamlit: FakeStreamlit):
    predict(lake, {"Ann": HIGH, "Bob": MEDIUM, "Cat": LOW, "Dan": LOW})

    app.main()

    assert streamlit.said("metric") == [("HIGH", "1"), ("MEDIUM", "1"), ("LOW", "2")]
    [(bars,)] = streamlit.said("bar_chart")
    assert dict(zip(bars["risk_class"], bars["customers"], strict=True)) == {"HIGH": 1, "MEDIUM": 1, "LOW": 2}
    [(table,)] = streamlit.said("dataframe")
    assert table["customer_id"].tolist() == ["Ann", "Bob"]
    assert table["reason_codes"].notna().all()


def test_a_page_without_customers_says_what_that_means(lake, streamlit: FakeStreamlit):
    page(streamlit, query_lake)

    [(text,)] = streamlit.said("info")
    assert "no segment is granted" in text
    assert not streamlit.said("dataframe")


def test_on_snowflake_the_apps_own_session_is_asked(monkeypatch: pytest.MonkeyPatch, streamlit: FakeStreamlit):
    class Session:
        def sql(self, sql: str) -> "Session":
            self.asked = sql
            return self

        def to_pandas(self) -> pd.DataFrame:
            if "COUNT" in self.asked:
                return pd.DataFrame({"RISK_CLASS": ["HIGH"], "CUSTOMERS": [7]})
            return pd.DataFrame({"CUSTOMER_ID": ["C1"]})

    monkeypatch.setattr("snowflake.snowpark.context.get_active_session", Session)
    monkeypatch.setattr(app, "find_spec", lambda name: name == "_snowflake")
    assert choose_query() is query_snowflake

    app.main()

    assert streamlit.said("metric") == [("HIGH", "7"), ("MEDIUM", "0"), ("LOW", "0")]


def test_elsewhere_the_lake_is_asked():
    assert choose_query() is query_lake


def test_nothing_imports_streamlit_but_the_page_that_is_drawn():
    assert "streamlit" not in sys.modules
    assert CLASSES == ("HIGH", "MEDIUM", "LOW")


def test_the_snow_cli_takes_the_same_files_as_the_deployment():
    folder = PROJECT_ROOT / "churn_assets" / "dashboard"
    definition = yaml.safe_load((folder / "snowflake.yml").read_text())
    entity = definition["entities"]["churn_dashboard"]

    assert definition["definition_version"] == 2
    assert entity["main_file"] == APP_FILE
    assert entity["artifacts"] == list(app_files())
    assert all((folder / name).read_bytes() == content for name, content in app_files().items())
    assert {"pandas", "streamlit"} == set(yaml.safe_load(app_files()["environment.yml"])["dependencies"])
