"""Which SQL a mapping may hold: expressions over the fields of one row, and nothing that sees or does more."""

import json

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn_assets.ingestion.mapping.expressions import Fields, compiled
from churn_assets.ingestion.mapping.file import MappingError
from churn_assets_tests.ingestion.mapping.mapped import POSTING, decoded, mappings, postings


@pytest.mark.parametrize(
    "expression",
    [
        "(SELECT 1)", "x IN (SELECT 1)", "EXISTS (SELECT 1)", "SELECT 1", "x; DROP TABLE y", "x AS y", "*", "a.*",
        "count(*)", "sum(x) OVER ()", "row_number() OVER ()", "unnest([1])", "columns('a')",
        "read_text('/etc/passwd')", "read_csv('x')", "getenv('HOME')", "current_setting('home_directory')",
        "getvariable('x')", "nextval('s')", "now()", "current_date", "current_timestamp", "random()", "uuid()", "today()",
        "list_transform([1], y -> y)", "x[1]", "[1, 2]", "{'a': 1}", "repeat(x, 100000000)", "lpad(x, 1000000000, 'x')",
        "lpad(x, n, 'x')", "x COLLATE nocase", "$1", "?", "CAST(x AS BLOB)", "x::INTEGER[]", "query('SELECT 1')",
        "regexp_split_to_table(x, 'a')", "version()", "pg_typeof(x)", "error('x')", "", "   ", "-- nothing", "x -- y\n; y",
        "'not closed", "(" * 30 + "x" + ")" * 30, "a" * 3 + " || x" * 600, "\0", "x \x07",
    ],
)  # fmt: skip
def test_what_is_no_scalar_expression_over_the_fields_is_refused_in_one_line(expression: str):
    with pytest.raises(MappingError) as error:
        compiled(expression, Fields(), "number_plain")

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("account || '-' || kind", "A1-POS"),
        ('"account"', "A1"),
        ("upper(left(account, 1)) || substr(account, 2)", "A1"),
        ("CASE WHEN amount < 20 THEN 'small' ELSE 'large' END", "small"),
        ("CASE kind WHEN 'POS' THEN 'card' END", "card"),
        ("coalesce(nothing, nullif(account, 'A1'), 'none')", "none"),
        ("amount * 2 - 1", "24.0"),
        ("coalesce(nothing, 0) - amount", "-12.5"),
        ("CAST(round(abs(-amount)) AS BIGINT)", "13"),
        ("greatest(amount, 100) + 0.5", "100.5"),
        ("amount BETWEEN 12 AND 13", "true"),
        ("amount IN (12.5)", "true"),
        ("kind IN ('POS', 'ATM') AND NOT kind LIKE 'A%'", "true"),
        ("regexp_extract(booked, '^([0-9]+)-', 1)", "2026"),
        ("split_part(booked, 'T', 1)", "2026-03-01"),
        ("lpad(account, 5, '0')", "000A1"),
        ("strftime(CAST(booked AS TIMESTAMP), '%d.%m.%Y')", "01.03.2026"),
        ("md5(account)", "bc3ff5ac6c53c5a5b2efad5cfd2ec1d8"),
        ("nothing IS NULL", "true"),
        ("deep.er.most", "x"),
        ('"a.b"', "dotted"),
        ("try_cast(account AS DOUBLE) IS NULL", "true"),
    ],
)
def test_an_expression_gives_its_value(expression: str, value: str):
    found = decoded(
        mappings(postings({"merchant": expression})), POSTING | {"deep": {"er": {"most": "x"}}, "a.b": "dotted"}
    )

    merchant = found.rows["fact_transaction_ledger"]["merchant"].to_pylist()[0]
    assert merchant == value or (expression.startswith("md5") and len(merchant) == 32)


names = st.sampled_from(["a", "b.c", '"d e"', "nothing"])
literals = st.sampled_from(["1", "2.5", "'x'", "''", "NULL", "true", "'1.5'"])


def _call(parts: tuple[str, list[str]]) -> str:
    return f"{parts[0]}({', '.join(parts[1])})"


anything = st.recursive(
    names | literals,
    lambda inner: (
        st.tuples(
            st.sampled_from(
                ["coalesce", "abs", "lower", "concat", "read_text", "getenv", "sum", "glob", "left", "replace"]
            ),
            st.lists(inner, min_size=1, max_size=3),
        ).map(_call)
        | st.tuples(inner, st.sampled_from(["+", "||", "<", "=", "AND", "LIKE", "/"]), inner).map(" ".join)
        | inner.map("({})".format)
        | inner.map("CAST({} AS DOUBLE)".format)
        | inner.map("(SELECT {})".format)
        | st.tuples(inner, inner).map(lambda pair: f"CASE WHEN {pair[0]} = 'x' THEN {pair[1]} END")
    ),
    max_leaves=12,
) | st.text(max_size=60)


@settings(max_examples=60, deadline=None)
@given(anything)
def test_what_passes_reads_its_columns_and_nothing_else(expression: str):
    fields = Fields()
    try:
        sql = compiled(expression, fields, "number_plain")
    except MappingError:
        return
    columns = {f"f{number}" for number in range(len(fields.paths))}
    with duckdb.connect(":memory:") as plain:
        parsed = plain.execute("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [f"SELECT {sql}"]).fetchall()[0][0]
    if json.loads(parsed)["error"]:
        return  # no SQL of DuckDB's, which is said when the mapping is read
    tree = plain_names(parsed)
    assert not {"SUBQUERY", "WINDOW", "LAMBDA", "STAR", "PARAMETER"} & tree["classes"]
    assert tree["columns"] <= columns


def plain_names(serialized: str) -> dict[str, set[str]]:
    """The classes of expressions and the columns in DuckDB's own parse of a query."""
    found: dict[str, set[str]] = {"classes": set(), "columns": set()}
    waiting: list[object] = [json.loads(serialized)["statements"][0]["node"]["select_list"]]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found["classes"].add(str(node.get("class")))
            if node.get("class") == "COLUMN_REF":
                found["columns"].add(".".join(node["column_names"]))
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found
