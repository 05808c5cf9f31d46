"""The dbt models compiled for Snowflake, without an account: would it keep them fresh incrementally?

Verified by parsing only; nothing here has run on Snowflake.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import pytest
import sqlglot
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dbt.adapters.snowflake.connections import SnowflakeCredentials
from dbt.config.renderer import ProfileRenderer
from dbt_common.context import set_invocation_context
from sqlfluff.core import Linter

from churn_assets.model.training_set import features_as_of
from churn_assets.operations.dbt import DBT_PROJECT, compiled
from churn_assets.project_files import CODE_ROOT
from churn_assets.settings import load_settings
from churn_assets_tests.snowflake.incremental_form import broken_rules

BREAKING = {
    "select current_date as day from t": "the clock outside",
    "select a from t group by a, current_timestamp": "the clock outside",
    "select a, (select max(b) from u) as b from t": "a scalar subquery",
    "select a from t where a in (select a from u)": "a subquery in",
    "select a from t where exists (select 1 from u where u.a = t.a)": "EXISTS",
    "select t.a from t left join u on t.a = u.a and u.day > t.day": "a join by something else than equality",
    "select t.a from t cross join u": "a join by something else than equality",
    "select a, count(distinct b) as b from t group by a": "COUNT(DISTINCT b)",
    "select a from t limit 3": "LIMIT",
    "select a from t minus select a from u": "EXCEPT",
    "select a, row_number() over (order by a) as n from t": "a window without PARTITION BY",
    "select a, uuid_string() as id from t": "which differs each time",
    "select a from t group by rollup (a)": "ROLLUP",
}


@pytest.fixture(scope="module")
def dynamic_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The compiled nodes of all dynamic tables, by name. dbt takes eight seconds, so its tests are marked `emulator`."""
    target = tmp_path_factory.mktemp("snowflake")
    command = [Path(sys.executable).with_name("dbt"), "compile", "--target", "snowflake", "--quiet"]
    offline = ["--no-populate-cache", "--no-introspect"]
    folders = [
        "--project-dir",
        DBT_PROJECT,
        "--profiles-dir",
        DBT_PROJECT,
        "--target-path",
        target,
        "--log-path",
        target,
    ]
    compiled = subprocess.run(
        [*command, *offline, *folders],
        env={**os.environ, "SNOWFLAKE_ACCOUNT": "none", "SNOWFLAKE_USER": "none"},
        capture_output=True,
        text=True,
    )
    assert compiled.returncode == 0, compiled.stdout
    nodes = json.loads((target / "manifest.json").read_text())["nodes"].values()
    return {node["name"]: node for node in nodes if node["config"]["materialized"] == "dynamic_table"}


@pytest.mark.emulator
def test_every_model_compiles_to_the_form_that_snowflake_refreshes_incrementally(dynamic_tables):
    broken = {name: broken_rules(node["compiled_code"]) for name, node in dynamic_tables.items()}

    assert broken == {
        name: [] for name in ("customer_day", "dyn_customer_features", "dyn_churn_predictions", "churn_metrics_live")
    }


@pytest.mark.emulator
def test_every_model_asks_for_incremental_refreshes_so_that_snowflake_would_refuse_another_form(dynamic_tables):
    assert {node["config"]["refresh_mode"] for node in dynamic_tables.values()} == {"INCREMENTAL"}
    assert all(node["config"]["target_lag"] for node in dynamic_tables.values())


@pytest.mark.emulator
def test_a_window_that_moves_reads_snowflakes_clock_and_no_variable_of_the_lake(dynamic_tables):
    features = dynamic_tables["dyn_customer_features"]["compiled_code"].lower()
    metrics = dynamic_tables["churn_metrics_live"]["compiled_code"].lower()

    assert "cast(convert_timezone('utc', current_timestamp) as date)" in features
    assert "current_timestamp" in metrics
    assert not any("getvariable" in node["compiled_code"] for node in dynamic_tables.values())


@pytest.mark.emulator
def test_what_the_training_set_makes_of_the_features_is_sql_that_snowflake_takes(dynamic_tables):
    compiled = dynamic_tables["dyn_customer_features"]["compiled_code"]
    then = features_as_of(compiled, date(2026, 3, 1), "snowflake")

    assert "CURRENT_TIMESTAMP" not in then.upper()
    assert "CAST(CAST('2026-03-01' AS DATE) AS DATE)" in then
    assert not Linter(dialect="snowflake").parse_string(then).violations


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("rule", "read"),
    [
        ('churn = "silent"\ndays = 60', "heard_of"),
        ('churn = "column"\ncolumn = "left_on"', "extra_fields"),
        ('churn = "event"\nevent = "CONTRACT_ENDED"', "departures"),
    ],
)
def test_by_any_rule_of_who_has_left_snowflake_would_refresh_the_features_incrementally(
    rule: str, read: str, with_rules: Callable[[str], None]
):
    with_rules(f"[labels]\n{rule}\n")

    (features,) = [
        model.query
        for model in compiled(load_settings(CHURN_TARGET="snowflake"))
        if model.name == "dyn_customer_features"
    ]

    assert [name for name in ("heard_of", "extra_fields", "departures") if name in features] == [read]
    assert broken_rules(features) == []
    then = features_as_of(features, date(2026, 3, 1), "snowflake")
    assert "CURRENT_TIMESTAMP" not in then.upper()
    assert not Linter(dialect="snowflake").parse_string(then).violations


def test_a_day_is_a_day_of_utc_and_never_of_a_sessions_time_zone():
    files = [path for folder in ("churn_assets", "dbt", "sql") for path in (CODE_ROOT / folder).rglob("*")]
    statements = {path: path.read_text() for path in files if path.suffix in {".sql", ".py", ".yaml", ".yml"}}

    of_a_session = re.compile(r"\bcurrent_date\b|\b(today|getdate)\(\)", re.IGNORECASE)
    assert len(statements) > 100
    assert [path.name for path, text in statements.items() if of_a_session.search(text)] == []


@pytest.mark.parametrize(("sql", "rule"), BREAKING.items())
def test_a_query_that_snowflake_would_refresh_in_full_is_found(sql, rule):
    assert any(found.startswith(rule) or rule in found for found in broken_rules(sql)), sqlglot.parse_one(sql).sql()


def profile(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    """What the connector would be given by dbt, with these variables of the environment."""
    for name in list(os.environ):
        if name.startswith("SNOWFLAKE_"):
            monkeypatch.delenv(name)
    for name, value in {"ACCOUNT": "org-bank", "USER": "ann", **variables}.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)
    set_invocation_context(os.environ)
    raw = yaml.safe_load((DBT_PROJECT / "profiles.yml").read_text())["churn_assets"]["outputs"]["snowflake"]
    rendered = ProfileRenderer({}).render_data(raw)
    credentials = SnowflakeCredentials(**{name: rendered[name] for name in set(raw) - {"type", "threads"}})
    return {name: value for name, value in credentials.auth_args().items() if value is not None}


def test_dbt_signs_in_with_a_key_a_token_or_a_password_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"123"),
        )
    )
    of_key = {"PRIVATE_KEY_PATH": str(path), "PRIVATE_KEY_PASSPHRASE": "123"}

    with_key = profile(monkeypatch, **of_key, TOKEN="t", PASSWORD="p")
    with_token = profile(monkeypatch, TOKEN="42", PASSWORD="p")
    with_password = profile(monkeypatch, PASSWORD="007")

    assert with_key["private_key"]
    assert not {"token", "password", "authenticator"} & set(with_key)
    assert (with_token["authenticator"], with_token["token"]) == ("oauth", "42")
    assert "password" not in with_token
    assert with_password["password"] == "007"


def test_dbt_goes_to_the_account_itself_or_to_the_host_that_is_named(monkeypatch: pytest.MonkeyPatch):
    itself = profile(monkeypatch, PASSWORD="p")
    named = profile(monkeypatch, PASSWORD="p", HOST="127.0.0.1", PORT="8123", PROTOCOL="http")

    assert "host" not in itself
    assert (itself["port"], itself["protocol"]) == (443, "https")
    assert (named["host"], named["port"], named["protocol"]) == ("127.0.0.1", 8123, "http")


@pytest.mark.parametrize(("full", "rebuilt", "expected"), [(False, [], False), (False, ["a"], True), (True, [], True)])
def test_a_model_that_the_deployment_names_is_created_anew(full: bool, rebuilt: list[str], expected: bool):
    macro = (DBT_PROJECT / "macros" / "should_full_refresh.sql").read_text()
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    answers: list[bool] = []
    environment.from_string(macro + "{{ should_full_refresh() }}").render(
        {
            "model": {"name": "a"},
            "var": lambda name, default: rebuilt,
            "dbt": {"should_full_refresh": lambda: full},
            "return": lambda value: answers.append(bool(value)) or "",
        }
    )

    assert answers == [expected]
