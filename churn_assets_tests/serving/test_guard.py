"""What SQL may run over the semantic model, and that everything else is refused in words."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from churn_assets.analyst.semantic_model import load_semantic_model, on_views
from churn_assets.serving.guard import ROW_LIMIT, RefusedSqlError, checked
from churn_assets.serving.views import with_serving_views
from churn_assets.warehouse.lake import LakeWarehouse

MODEL = load_semantic_model()
TABLES = MODEL.columns_of_tables
COLUMNS = {table.name: [column.name for column in table.columns] for table in MODEL.tables}


def guarded(sql: str) -> str:
    """What the lake is asked."""
    return with_serving_views(on_views(MODEL, checked(sql, TABLES), "duckdb"))


REFUSED = [
    # no query at all
    ("", "there is no SQL"),
    ("  ;; ", "there is no SQL"),
    ("-- SELECT 1", "there is no SQL"),
    ("I think you want the customers at risk.", "begins with “I”"),
    ("Here is the query: SELECT segment FROM customers", "begins with “Here”"),
    ("```sql\nSELECT segment FROM customers\n```", "only a SELECT"),
    ("SELECT FROM WHERE", "not SQL that can be understood"),
    ("SELECT segment FROM customers WHERE", "not SQL that can be understood"),
    ("SELECT 'no end FROM customers", "does not end"),
    ("SELECT segment FROM customers /* no end", "does not end"),
    ("(SELECT segment FROM customers)", "without brackets around it"),
    ("SELECT segment FROM customers\x00", "control character"),
    # statements that write, and several at once
    ("DELETE FROM customers", "begins with “DELETE”"),
    ("UPDATE customers SET segment = 'X'", "begins with “UPDATE”"),
    ("INSERT INTO customers VALUES (1)", "begins with “INSERT”"),
    ("DROP TABLE customers", "begins with “DROP”"),
    ("CREATE TABLE t AS SELECT segment FROM customers", "begins with “CREATE”"),
    ("TRUNCATE customers", "begins with “TRUNCATE”"),
    ("MERGE INTO customers USING live ON TRUE WHEN MATCHED THEN DELETE", "begins with “MERGE”"),
    ("COPY (SELECT segment FROM customers) TO 'stolen.csv'", "begins with “COPY”"),
    ("ATTACH 'other.db'", "begins with “ATTACH”"),
    ("SET memory_limit = '1TB'", "begins with “SET”"),
    ("PRAGMA database_list", "begins with “PRAGMA”"),
    ("CALL ducklake_flush_inlined_data('lake')", "begins with “CALL”"),
    ("INSTALL httpfs", "begins with “INSTALL”"),
    ("LOAD httpfs", "begins with “LOAD”"),
    ("EXPLAIN ANALYZE DELETE FROM customers", "only a SELECT"),
    ("DESCRIBE customers", "begins with “DESCRIBE”"),
    ("SHOW TABLES", "begins with “SHOW”"),
    ("BEGIN", "begins with “BEGIN”"),
    ("EXECUTE IMMEDIATE 'DROP TABLE customers'", "only a SELECT"),
    ("USE lake", "begins with “USE”"),
    ("FROM customers", "begins with “FROM”"),
    ("VALUES (1), (2)", "begins with “VALUES”"),
    ("/* harmless */ DELETE FROM customers -- really", "begins with “DELETE”"),
    ("SELECT segment FROM customers; DROP TABLE dim_customers", "several statements"),
    ("SELECT segment FROM customers; SELECT segment FROM live", "several statements"),
    ("SELECT segment FROM customers;/**/DELETE FROM customers;--", "several statements"),
    ("SELECT segment INTO stolen FROM customers", "INTO"),
    ("SELECT segment FROM customers FOR UPDATE", "LOCK"),
    ("WITH gone AS (DELETE FROM customers RETURNING *) SELECT segment FROM gone", "DELETE is not allowed"),
    ("WITH a AS (INSERT INTO customers SELECT 1) SELECT segment FROM customers", "INSERT is not allowed"),
    # tables that are not of the model
    ("SELECT email FROM dim_customers", "no table “dim_customers”"),
    ("SELECT customer_id FROM customer_risk", "no table “customer_risk”"),
    ("SELECT * FROM lake.main.dim_customers", "names a schema"),
    ("SELECT * FROM main.customers", "names a schema"),
    ("SELECT * FROM information_schema.tables", "names a schema"),
    ("SELECT * FROM duckdb_settings()", "is a function"),
    ("SELECT * FROM pragma_table_info('customers')", "is a function"),
    ("SELECT * FROM read_csv('/etc/passwd')", "is a function"),
    ("SELECT * FROM read_csv_auto('/etc/passwd')", "is a function"),
    ("SELECT * FROM read_text('/etc/passwd')", "is a function"),
    ("SELECT * FROM glob('/**')", "is a function"),
    ("SELECT * FROM '/etc/passwd'", "no table “/etc/passwd”"),
    ('SELECT * FROM "data.parquet"', "no table “data.parquet”"),
    ("SELECT * FROM query('DROP TABLE dim_customers')", "is a function"),
    ("SELECT * FROM query_table('dim_customers')", "is a function"),
    ("SELECT * FROM range(1000000000)", "range|series"),
    ("SELECT * FROM generate_series(1, 1000000000)", "series"),
    ("SELECT segment FROM customers, read_csv('/etc/passwd')", "is a function"),
    ("SELECT segment FROM customers WHERE segment IN (SELECT email FROM dim_customers)", "no table “dim_customers”"),
    ("SELECT (SELECT max(email) FROM dim_customers) FROM customers", "no table “dim_customers”"),
    ("SELECT segment FROM customers UNION SELECT email FROM dim_customers", "no table “dim_customers”"),
    ("SELECT x FROM (VALUES (1)) AS t(x)", "VALUES is not allowed"),
    ("SELECT 1", "reads no table"),
    ("WITH a AS (SELECT 1 AS x) SELECT x FROM a", "reads no table"),
    # names that hide other ones
    ("WITH dim_customers AS (SELECT * FROM dim_customers) SELECT * FROM dim_customers", "no table “dim_customers”"),
    (
        "WITH a AS (SELECT * FROM dim_customers), dim_customers AS (SELECT * FROM customers) SELECT * FROM a",
        "no table “dim_customers”",
    ),
    (
        "SELECT b.email FROM (WITH dim_customers AS (SELECT * FROM customers) SELECT * FROM dim_customers) AS a"
        " JOIN dim_customers AS b ON a.customer_id = b.customer_id",
        "WITH is allowed at the beginning",
    ),
    ("WITH customers AS (SELECT * FROM live) SELECT * FROM customers", "name of another table"),
    # columns
    ("SELECT email FROM customers", "no column “email”"),
    ("SELECT password FROM customers", "no column “password”"),
    ("SELECT rowid FROM customers", "no column “rowid”"),
    ("SELECT customers FROM customers", "no column “customers”"),
    ("SELECT churn_score FROM live", "does not belong"),
    ("SELECT segment FROM customers WHERE segment = current_user", "not on the list|no column"),
    ("SELECT user FROM customers", "no column “user”|not on the list"),
    ("SELECT c.segment FROM customers", "does not belong"),
    ("SELECT lake.customers.segment FROM customers", "DB|does not belong"),
    ('SELECT segment FROM customers WHERE segment = \'\' OR "1" = "1"', "no column “1”"),
    ("SELECT segment.x.y.z.w FROM customers", "not allowed"),
    # functions
    ("SELECT getenv('HOME') FROM customers", "function “getenv”"),
    ("SELECT current_setting('temp_directory') FROM customers", "function “current_setting”"),
    ("SELECT version() FROM customers", "function"),
    ("SELECT sleep(1000) FROM customers", "function “sleep”"),
    ("SELECT system$wait(1000) FROM customers", "function|not SQL|not allowed"),
    ("SELECT read_text('/etc/passwd') FROM customers", "function “read_text”"),
    ("SELECT predict_churn(1) FROM customers", "function “predict_churn”"),
    ("SELECT repeat(segment, 1000000000) FROM customers", "function “repeat”"),
    ("SELECT lpad(segment, 1000000000, 'x') FROM customers", "function “pad”"),
    ("SELECT string_agg(segment, ',') FROM customers", "function"),
    ("SELECT regexp_matches(segment, '(a+)+$') FROM customers", "function"),
    ("SELECT unnest([1, 2]) FROM customers", "not allowed|function"),
    ("SELECT random() FROM customers", "function “rand”"),
    ("SELECT CAST(segment AS JSON) FROM customers", "type “JSON”"),
    ("SELECT extract(epoch FROM created_at) FROM interventions", "not on the list of allowed date parts"),
    # parts of SQL that are on no list
    ("SELECT segment || segment FROM customers", "PIPE"),
    ("SELECT segment FROM customers WHERE segment = ?", "PLACEHOLDER"),
    ("SELECT segment FROM customers WHERE segment = $1", "PARAMETER|PLACEHOLDER"),
    ("SELECT segment FROM customers WHERE segment = :name", "PLACEHOLDER"),
    ("SELECT segment FROM customers WHERE segment = {{ segment }}", "not allowed|not SQL|function"),
    ("SELECT [segment] FROM customers", "not allowed|function"),
    ("SELECT {'a': segment} FROM customers", "not allowed|function"),
    ("SELECT #1 FROM customers", "not allowed|not SQL"),
    ("SELECT COLUMNS('.*') FROM customers", "function|not allowed"),
    ("SELECT * EXCLUDE (segment) FROM customers", "STAR with “EXCEPT"),
    ("SELECT DISTINCT ON (segment) segment FROM customers", "DISTINCT with “ON”"),
    ("SELECT segment FROM customers GROUP BY ROLLUP (segment)", "GROUP with “ROLLUP”"),
    ("SELECT segment FROM customers GROUP BY ALL", "GROUP with “ALL”"),
    ("SELECT segment FROM customers TABLESAMPLE 10 PERCENT", "SAMPLE"),
    ("SELECT segment FROM customers AT (VERSION => 1)", "not allowed|not SQL"),
    ("SELECT * FROM customers PIVOT (count(*) FOR segment IN ('MASS'))", "PIVOT"),
    ("SELECT segment FROM customers LIMIT (SELECT count(*) FROM live)", "LIMIT must be a whole number"),
    ("SELECT segment FROM customers LIMIT -1", "LIMIT must be a whole number"),
    ("SELECT segment FROM customers LIMIT 5 OFFSET 99999999999", "OFFSET must be a whole number"),
    ("SELECT segment FROM customers LIMIT " + "9" * 4900, "LIMIT must be a whole number"),
    ("SELECT segment FROM customers LIMIT 10 PERCENT", "LIMIT with “LIMIT_OPTIONS”"),
    ("SELECT segment FROM customers WHERE segment = E'\\x41'", "BYTE STRING"),
    ("SELECT segment FROM customers WHERE segment = $$a$$", "RAW STRING"),
    ("SELECT segment IN dim_customers FROM customers", "IN with “FIELD”"),
    ("SELECT segment FROM customers, customers.segment", "names a schema"),
    ("SELECT * FROM (SUMMARIZE customers)", "SUMMARIZE"),
    ("WITH a AS (SELECT * FROM live) SELECT 1 FROM SELECT", "needs brackets"),
    ("SELECT FROM customers", "asks for no column"),
    ("SELECT * FROM (FROM dim_customers)", "no table “dim_customers”"),
    ("SELECT 1 FROM customers POSITIONAL JOIN live", "JOIN with “METHOD”"),
    # what would take too long
    ("WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a) SELECT x FROM a", "RECURSIVE"),
    (
        "WITH RECURSIVE a AS (SELECT segment FROM customers UNION ALL SELECT segment FROM a) SELECT 1 FROM a",
        "RECURSIVE",
    ),
    ("SELECT * FROM customers LIMIT 1000000", "1,000,000 rows; at most 1,000"),
    ("SELECT 1 FROM customers, live", "join has no condition"),
    ("SELECT 1 FROM customers CROSS JOIN live", "CROSS JOIN"),
    ("SELECT 1 FROM customers JOIN live ON TRUE", "join has no condition"),
    ("SELECT 1 FROM customers JOIN live ON 1 = 1", "join has no condition"),
    ("SELECT 1 FROM customers AS a JOIN customers AS b ON a.segment < b.segment", "join has no condition"),
    ("SELECT 1 FROM customers AS a JOIN customers AS b ON a.segment = a.segment", "join has no condition"),
    ("SELECT 1 FROM customers AS a JOIN live AS b ON a.customer_id = b.customer_id OR TRUE", "join has no condition"),
    ("SELECT 1 FROM customers NATURAL JOIN live", "JOIN with “METHOD”"),
    ("SELECT 1 FROM customers, LATERAL (SELECT 1) AS x", "LATERAL"),
    ("SELECT 1 FROM customers" + " JOIN live USING (customer_id)" * 5, "5 joins; at most 4"),
    (" UNION ALL ".join(["SELECT segment FROM customers"] * 13), "13 SELECTs; at most 12"),
    ("SELECT " + "(" * 300 + "1" + ")" * 300 + " FROM customers", "nested too deeply"),
    ("SELECT " + "1 + " * 500 + "1 FROM customers", "words and signs"),
    ("SELECT " + "NOT " * 780 + "TRUE FROM customers", "not SQL that can be understood"),
    ("SELECT segment FROM customers --" + "x" * 10_000, "10,032 characters"),
]

ALLOWED = [
    (
        "SELECT segment, COUNT(*) AS n FROM customers GROUP BY segment ORDER BY segment",
        "SELECT segment, count(*) AS n FROM dim_customers JOIN dyn_churn_predictions USING (customer_id) GROUP BY 1 ORDER BY 1",
    ),
    (
        "select customer_id from Customers where RISK_CLASS = 'HIGH' order by customer_id; -- DROP TABLE customers",
        "SELECT customer_id FROM dyn_churn_predictions WHERE risk_class = 'HIGH' ORDER BY 1",
    ),
    (
        "WITH high AS (SELECT customer_id, risk_score FROM customers WHERE risk_class = 'HIGH'),"
        " low AS (SELECT customer_id, risk_score FROM customers WHERE risk_class = 'LOW')"
        " SELECT COUNT(*) AS n FROM (SELECT * FROM high UNION ALL SELECT * FROM low) AS both_ends",
        "SELECT count(*) AS n FROM dyn_churn_predictions WHERE risk_class IN ('HIGH', 'LOW')",
    ),
    (
        "SELECT customers.customer_id FROM customers JOIN interventions ON customers.customer_id = interventions.customer_id"
        " ORDER BY 1 LIMIT 3",
        "SELECT DISTINCT customer_id FROM agent_intervention_log ORDER BY 1 LIMIT 3",
    ),
    (
        "SELECT customer_id, ROW_NUMBER() OVER (ORDER BY risk_score DESC, customer_id) AS place FROM customers"
        " ORDER BY place LIMIT 5 OFFSET 2",
        "SELECT customer_id, row_number() OVER (ORDER BY risk_score DESC, customer_id) AS place FROM dyn_churn_predictions"
        " ORDER BY 2 LIMIT 5 OFFSET 2",
    ),
    (
        "SELECT MAX(ROUND(COALESCE(risk_score, 0), 2)) AS highest FROM customers"
        " WHERE EXISTS (SELECT 1 FROM interventions AS i WHERE i.customer_id = customers.customer_id)",
        "SELECT max(round(risk_score, 2)) AS highest FROM dyn_churn_predictions"
        " WHERE customer_id IN (SELECT customer_id FROM agent_intervention_log)",
    ),
    (
        "SELECT EXTRACT(YEAR FROM created_at) AS y, DATE_TRUNC('month', created_at) AS m, COUNT(DISTINCT customer_id) AS n"
        " FROM interventions WHERE created_at < CURRENT_DATE - INTERVAL '7 days' GROUP BY 1, 2 HAVING COUNT(*) > 0",
        "SELECT year(created_at) AS y, date_trunc('month', created_at) AS m, 1 AS n"
        " FROM agent_intervention_log ORDER BY created_at LIMIT 1",
    ),
    (
        "SELECT COUNT(*) AS n FROM customers WHERE LOWER(segment) LIKE 's%' AND NOT segment IN ('SMB')",
        "SELECT count(*) AS n FROM dyn_churn_predictions JOIN dim_customers USING (customer_id) WHERE segment = 'STUDENT'",
    ),
    (
        "SELECT COUNT(*) AS n FROM customers WHERE segment = 'x''; DROP TABLE dim_customers; --'",
        "SELECT 0 AS n",
    ),
    (
        "SELECT segment FROM customers EXCEPT SELECT segment FROM live ORDER BY 1",
        "SELECT DISTINCT segment FROM dim_customers JOIN dyn_churn_predictions USING (customer_id) ORDER BY 1",
    ),
]


@pytest.mark.parametrize(("sql", "reason"), REFUSED, ids=lambda text: text[:60])
def test_what_is_on_no_list_is_refused_with_the_reason(sql: str, reason: str):
    with pytest.raises(RefusedSqlError, match=reason) as refusal:
        checked(sql, TABLES)

    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


def test_at_least_sixty_statements_are_refused():
    assert len({sql for sql, _ in REFUSED}) >= 60


@pytest.mark.parametrize(("sql", "same"), ALLOWED, ids=lambda text: text[:60])
def test_what_is_allowed_gives_the_rows_of_the_tables(sql: str, same: str, bank: LakeWarehouse):
    rows = bank.query(guarded(sql)).to_pylist()

    assert rows == bank.query(same).to_pylist() != []


@pytest.mark.parametrize("query", MODEL.verified_queries, ids=lambda query: query.name)
def test_a_verified_query_passes_and_means_the_same(query, bank: LakeWarehouse):
    (of_the_lake,) = sqlglot.transpile(on_views(MODEL, query.sql, "snowflake"), read="snowflake", write="duckdb")
    assert bank.query(guarded(query.sql)) == bank.query(with_serving_views(of_the_lake))


@pytest.mark.parametrize(
    "function",
    [
        "YEAR(d)", "QUARTER(d)", "MONTH(d)", "WEEK(d)", "DAY(d)", "DAYOFWEEK(d)", "HOUR(t)", "EXTRACT(HOUR FROM t)",
        "DATE_TRUNC('week', t)", "DATEDIFF('day', d, CURRENT_DATE)", "d + INTERVAL '1 month'", "CURRENT_TIMESTAMP > t",
        "UPPER(s)", "TRIM(s)", "LENGTH(s)", "SUBSTRING(s, 1, 2)", "LEFT(s, 1)", "RIGHT(s, 1)", "NULLIF(s, 'x')",
        "GREATEST(x, 1)", "LEAST(x, 1)", "ABS(-x)", "CEIL(x)", "FLOOR(x)", "x % 2", "CAST(x AS DECIMAL(10, 2))",
        "LAG(x) OVER (ORDER BY d)", "LEAD(x) OVER (ORDER BY d)", "RANK() OVER (ORDER BY d)",
        "DENSE_RANK() OVER (PARTITION BY s ORDER BY d)", "AVG(x) OVER (ORDER BY d ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
        "(SELECT MEDIAN(y.risk_score) FROM customers AS y)", "(SELECT STDDEV(risk_score) FROM customers)",
        "(SELECT VARIANCE(risk_score) FROM customers)", "(SELECT COUNT_IF(risk_score > 0.5) FROM customers)",
        "x IS DISTINCT FROM 1", "x BETWEEN 0 AND 1", "s ILIKE 'm%'", "CASE s WHEN 'MASS' THEN 1 ELSE 0 END", "IF(x > 0, 1, 2)",
    ],
)  # fmt: skip
def test_an_allowed_function_runs_on_the_lake(function: str, bank: LakeWarehouse):
    sql = (
        f"SELECT {function} AS value FROM (SELECT segment AS s, risk_score AS x, join_date AS d,"
        " CAST(join_date AS TIMESTAMP) AS t FROM customers) AS named LIMIT 3"
    )

    assert bank.query(guarded(sql)).num_rows == 3


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT segment FROM customers", ROW_LIMIT),
        ("SELECT segment FROM customers LIMIT 7", 7),
        ("SELECT segment FROM customers UNION ALL SELECT segment FROM live ORDER BY 1", ROW_LIMIT),
        ("SELECT segment FROM (SELECT segment FROM customers LIMIT 5) AS few", ROW_LIMIT),
    ],
)
def test_every_statement_has_a_limit_of_rows(sql: str, rows: int):
    limit = sqlglot.parse_one(checked(sql, TABLES), dialect="duckdb").args["limit"]

    assert int(limit.expression.name) == rows


def test_comments_are_dropped():
    sql = checked("SELECT /* a */ segment -- b\nFROM customers /*+ c */ -- d", TABLES)

    assert sql == "SELECT segment FROM customers LIMIT 1000"


def test_hidden_text_is_not_repeated_in_a_refusal():
    with pytest.raises(RefusedSqlError) as refusal:
        checked('SELECT segment FROM "a\nb\x1b' + "c" * 200 + '"', TABLES)

    assert str(refusal.value).isprintable()


# What is put together of these is sometimes SQL, and now and then even allowed.
_WORDS = st.sampled_from(
    [
        "SELECT", "DISTINCT", "*", "segment", "customer_id", "email", "COUNT(*)", "FROM", "customers", "live",
        "dim_customers", "lake.main.dim_customers", "read_csv('x')", "AS", "a", "JOIN", "USING (customer_id)",
        "ON a.customer_id = live.customer_id", "WHERE", "segment = 'MASS'", "(", ")", "(SELECT segment FROM live)", "IN",
        "UNION ALL", "SELECT segment FROM", "WITH a AS (SELECT * FROM customers)", "WITH dim_customers AS (SELECT * FROM live)",
        "GROUP BY 1", "ORDER BY 1", "LIMIT 5", ";", ",", "--", "/*", "*/", "'", '"',
    ]
)  # fmt: skip
_TAILS = st.lists(_WORDS, max_size=8).map(" ".join)


@given(st.tuples(st.sampled_from(["SELECT segment FROM", "SELECT * FROM", "WITH a AS (SELECT * FROM live) SELECT 1 FROM", ""]),
                 st.sampled_from(["customers", "live", "a", "dim_customers", ""]), _TAILS).map(" ".join))  # fmt: skip
def test_a_statement_that_passes_names_only_tables_and_columns_of_the_model_when_it_is_parsed_again(sql: str):
    try:
        passed = checked(sql, TABLES)
    except RefusedSqlError:
        return
    (tree,) = sqlglot.parse(passed, dialect="duckdb")

    assert isinstance(tree, exp.Select | exp.SetOperation)
    defined = {cte.alias for cte in tree.ctes}
    assert {table.name.lower() for table in tree.find_all(exp.Table)} <= {*COLUMNS, *defined}
    assert not any(table.db or table.catalog for table in tree.find_all(exp.Table))
    assert "email" not in {column.name for column in tree.find_all(exp.Column)}
    assert int(tree.args["limit"].expression.name) <= ROW_LIMIT
    assert checked(passed, TABLES) == passed


@given(st.text())
def test_any_text_passes_or_is_refused_and_nothing_else(text: str):
    with suppress(RefusedSqlError):
        assert checked(text, TABLES)


def answers(bank: LakeWarehouse, sql: str) -> list[dict[str, Any]]:
    return bank.query(guarded(sql)).to_pylist()


def test_the_day_of_utc_is_asked_for_as_snowflake_has_it_and_no_other_zone_is(bank: LakeWarehouse):
    (row,) = answers(
        bank, "SELECT MAX(CAST(CONVERT_TIMEZONE('UTC', CURRENT_TIMESTAMP) AS DATE)) AS today FROM customers"
    )

    assert abs((row["today"] - datetime.now(UTC).date()).days) <= 1
    for other in (
        "CONVERT_TIMEZONE('Asia/Tokyo', CURRENT_TIMESTAMP)",
        "CONVERT_TIMEZONE('UTC', 'Asia/Tokyo', CURRENT_TIMESTAMP)",
        "CONVERT_TIMEZONE('UTC', last_email_at)",
        "CURRENT_TIMESTAMP AT TIME ZONE 'Asia/Tokyo'",
    ):
        for dialect in ("duckdb", "snowflake"):
            with pytest.raises(RefusedSqlError, match="only"):
                checked(f"SELECT MAX({other}) FROM customers", TABLES, dialect=dialect)


def test_the_clock_of_a_query_is_that_of_the_warehouse(bank: LakeWarehouse):
    (row,) = answers(bank, "SELECT MAX(CURRENT_DATE) AS today FROM customers")

    assert abs((row["today"] - datetime.now(UTC).date()).days) <= 1
