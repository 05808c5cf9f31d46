"""The semantic model: its form is Snowflake's, and what it says is so on a seeded lake."""

from typing import Any, get_args

import pytest
import sqlglot
import yaml
from pydantic import ValidationError
from sqlfluff.core import Linter
from sqlglot import exp

from churn_assets.analyst.semantic_model import (
    SEMANTIC_MODEL_FILE,
    SemanticModel,
    for_snowflake,
    load_semantic_model,
    on_views,
)
from churn_assets.retention.statuses import Status
from churn_assets.rules import ANALYST_ROLE, Rules
from churn_assets.serving.guard import checked
from churn_assets.serving.views import with_serving_views
from churn_assets.simulator.population import SEGMENTS
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.serving.remembering import Remembering

MODEL = load_semantic_model()
LINTER = Linter(dialect="snowflake")
QUERIES = {query.name: query for query in MODEL.verified_queries}


@pytest.fixture(scope="module")
def analyst(bank: LakeWarehouse) -> Remembering:
    return Remembering(bank, ANALYST_ROLE)


def answer(lake: LakeWarehouse, sql: str) -> list[dict[str, Any]]:
    understood = checked(sql, MODEL.columns_of_tables)  # as it would run: in the lake's own dialect
    return lake.query(with_serving_views(on_views(MODEL, understood, "duckdb"))).to_pylist()


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_verified_query_runs_on_the_lake_and_parses_for_snowflake(query, bank: LakeWarehouse, analyst: Remembering):
    shown = on_views(MODEL, checked(query.sql, MODEL.columns_of_tables), "duckdb")

    # What `ask` shows runs in `query --role` as well.
    assert analyst.query_from_outside(shown).num_rows == len(answer(bank, query.sql))
    assert LINTER.parse_string(f"{query.sql};\n").violations == []
    tree = sqlglot.parse_one(query.sql, dialect="snowflake")
    assert {table.name for table in tree.find_all(exp.Table)} <= {table.name for table in MODEL.tables}
    assert isinstance(tree, exp.Select)


def test_there_are_verified_queries_of_every_table_and_some_to_begin_with():
    used = {table.name for query in QUERIES.values() for table in sqlglot.parse_one(query.sql).find_all(exp.Table)}

    assert len(QUERIES) >= 10
    assert used == {table.name for table in MODEL.tables}
    assert sum(query.use_as_onboarding_question for query in QUERIES.values()) >= 3


def test_the_answers_are_those_of_the_tables(bank: LakeWarehouse):
    classes = {row["risk_class"]: row["customer_count"] for row in answer(bank, QUERIES["customers_by_class"].sql)}
    counted = bank.query("SELECT risk_class, count(*) AS n FROM dyn_churn_predictions GROUP BY 1").to_pylist()
    assert classes == {row["risk_class"]: row["n"] for row in counted}

    highest = answer(bank, QUERIES["highest_scores"].sql)
    assert (
        highest[0]["risk_score"] == bank.query("SELECT max(risk_score) AS m FROM dyn_churn_predictions")["m"][0].as_py()
    )

    statuses = answer(bank, QUERIES["interventions_by_status"].sql)
    recent = bank.query("SELECT count(*) - 1 AS n FROM agent_intervention_log")["n"][0].as_py()
    assert sum(row["intervention_count"] for row in statuses) == recent > 0

    assert sum(row["customer_count"] for row in answer(bank, QUERIES["effect_of_emails"].sql)) == 1


@pytest.mark.parametrize("table", MODEL.tables, ids=lambda table: table.name)
def test_every_expression_of_a_table_can_be_evaluated_and_its_key_is_unique(table, bank: LakeWarehouse):
    answer(bank, f"SELECT {', '.join(column.name for column in table.columns)} FROM {table.name}")
    for part in table.metrics:
        answer(bank, f"SELECT {part.expr} AS {part.name} FROM {table.name}")
    for part in table.filters:
        answer(bank, f"SELECT count(*) AS found FROM {table.name} WHERE {part.expr}")
    (key,) = table.primary_key.columns
    (row,) = answer(bank, f"SELECT count(*) AS row_count, count(DISTINCT {key}) AS keys FROM {table.name}")
    assert row["row_count"] == row["keys"]


@pytest.mark.parametrize("table", MODEL.tables, ids=lambda table: table.name)
def test_a_table_tells_every_column_of_its_view_but_the_address(table, bank: LakeWarehouse):
    view = table.base_table.table.lower()
    columns = bank.query(with_serving_views(f"SELECT * FROM {view}")).column_names

    assert {column.expr for column in table.columns} == set(columns) - {"email"}


def test_the_values_that_are_named_are_those_that_there_are():
    samples = {(table.name, column.name): column.sample_values for table in MODEL.tables for column in table.dimensions}

    assert samples["customers", "segment"] == list(SEGMENTS)
    assert samples["customers", "reason_codes"] == [rule.reason for rule in Rules().risk.rules]
    assert set(samples["interventions", "status"]) == set(get_args(Status))
    assert samples["customers", "last_email_status"] == samples["interventions", "status"]


def test_the_text_for_snowflake_differs_from_the_file_in_database_and_schema_only():
    text = for_snowflake("LAKE", "SHOP")
    file, rendered = yaml.safe_load(SEMANTIC_MODEL_FILE.read_text()), yaml.safe_load(text)

    assert {(table["base_table"]["database"], table["base_table"]["schema"]) for table in rendered["tables"]} == {
        ("LAKE", "SHOP")
    }
    for table, original in zip(rendered["tables"], file["tables"], strict=True):
        table["base_table"] = original["base_table"]
    assert rendered == file
    assert "$$" not in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda model: model["tables"][0].update(measures=[]), "measures"),
        (lambda model: model["tables"][0]["dimensions"][0].pop("expr"), "expr"),
        (lambda model: model["relationships"][0].update(join_type="inner"), "join_type"),
        (lambda model: model["relationships"][0].update(right_table="nobody"), "nobody"),
        (lambda model: model["tables"][0]["facts"][0].update(synonyms=["customer name"]), "customer name"),
    ],
)
def test_what_snowflake_would_refuse_is_refused(change, complaint: str):
    content = yaml.safe_load(SEMANTIC_MODEL_FILE.read_text())
    change(content)

    with pytest.raises(ValidationError, match=complaint):
        SemanticModel.model_validate(content)
