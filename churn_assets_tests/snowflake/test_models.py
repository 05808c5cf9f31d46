"""The dbt models compiled for Snowflake, without an account: would it keep them fresh incrementally?

Verified by parsing only; nothing here has run on Snowflake.
"""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlfluff.core import Linter

from churn_assets.deployment import DBT_PROJECT
from churn_assets.model.training_set import features_as_of
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
    """The compiled nodes of all dynamic tables, by name."""
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


def test_every_model_compiles_to_the_form_that_snowflake_refreshes_incrementally(dynamic_tables):
    broken = {name: broken_rules(node["compiled_code"]) for name, node in dynamic_tables.items()}

    assert broken == {
        name: [] for name in ("customer_day", "dyn_customer_features", "dyn_churn_predictions", "churn_metrics_live")
    }


def test_every_model_asks_for_incremental_refreshes_so_that_snowflake_would_refuse_another_form(dynamic_tables):
    assert {node["config"]["refresh_mode"] for node in dynamic_tables.values()} == {"INCREMENTAL"}
    assert all(node["config"]["target_lag"] for node in dynamic_tables.values())


def test_a_window_that_moves_reads_snowflakes_clock_and_no_variable_of_the_lake(dynamic_tables):
    features = dynamic_tables["dyn_customer_features"]["compiled_code"].lower()
    metrics = dynamic_tables["churn_metrics_live"]["compiled_code"].lower()

    assert "current_date" in features
    assert "current_timestamp" in metrics
    assert not any("getvariable" in node["compiled_code"] for node in dynamic_tables.values())


def test_what_the_training_set_makes_of_the_features_is_sql_that_snowflake_takes(dynamic_tables):
    compiled = dynamic_tables["dyn_customer_features"]["compiled_code"]
    then = features_as_of(compiled, date(2026, 3, 1), "snowflake")

    assert "CURRENT_DATE" not in then.upper()
    assert not Linter(dialect="snowflake").parse_string(then).violations


@pytest.mark.parametrize(("sql", "rule"), BREAKING.items())
def test_a_query_that_snowflake_would_refresh_in_full_is_found(sql, rule):
    assert any(found.startswith(rule) or rule in found for found in broken_rules(sql)), sqlglot.parse_one(sql).sql()
