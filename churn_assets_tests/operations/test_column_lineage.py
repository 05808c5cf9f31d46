import json

import pytest

from churn_assets.operations.column_lineage import lineage_of, read_lineage
from churn_assets.operations.dbt import manifest_path
from churn_assets.settings import Settings, load_settings


def manifest(dialect: str, sql: str) -> dict:
    """A dynamic table `t` over the source `bank.main.Ledger`, as dbt compiles it."""
    return {
        "metadata": {"adapter_type": dialect},
        "nodes": {
            "model.t": {
                "name": "t",
                "resource_type": "model",
                "config": {"materialized": "dynamic_table"},
                "columns": {key: {} for key in ("customer_id", "spend", "events", "computed_at")},
                "compiled_code": sql,
            }
        },
        "sources": {
            "source.ledger": {"name": "ledger", "columns": {key: {} for key in ("customer_id", "amount", "code")}}
        },
    }


@pytest.mark.parametrize("dialect", ["duckdb", "snowflake"])
def test_a_column_comes_from_what_its_query_reads_and_a_count_from_nothing(dialect: str):
    sql = """
        WITH postings AS (SELECT customer_id, CASE WHEN code = 'FEE' THEN amount ELSE 0 END AS spend FROM bank.main.ledger)
        SELECT customer_id, sum(spend) AS spend, count(*) AS events FROM postings GROUP BY customer_id
    """

    assert lineage_of(manifest(dialect, sql)) == {
        "t": {
            "customer_id": [("ledger", "customer_id")],
            "spend": [("ledger", "amount"), ("ledger", "code")],
            "events": [],
        }
    }


def test_the_deployment_leaves_the_lineage_of_its_manifest_where_the_graph_reads_it(settings: Settings, tmp_path):
    assert read_lineage(settings) == lineage_of(json.loads(manifest_path(settings).read_text()))
    assert read_lineage(settings)["dyn_customer_features"]["wire_out_30d"] == [("customer_day", "wire_out")]
    assert read_lineage(load_settings(CHURN_HOME=tmp_path / "of an older version")) == {}
