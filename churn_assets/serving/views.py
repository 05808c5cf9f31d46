"""The serving views: what people may see of customers in every tool, and how much of it each role sees.

The files of `sql/snowflake` create secure views on Snowflake. Here they become queries over the lake, with the same masks and
the same row rule. The files document what the views mean.

On the lake this is a convention of the project's programs, not a protection: anyone who can read the lake's files can read
all of its data.
"""

from dataclasses import dataclass
from functools import cache

import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.retention.effect import outcomes_in_sql
from churn_assets.rules import ENGINEER_ROLE
from churn_assets.warehouse.values import literal

LAKE = "lake.main."
_FOLDER = PROJECT_FILES / "sql" / "snowflake" / "after_dbt"
_CREATES_VIEW = ["CREATE", "OR", "REPLACE", "SECURE", "VIEW"]
# The masks of 060_policies.sql in DuckDB's SQL; a test compares the results of both.
_MASKS = {
    "mask_name": r"regexp_replace({column}, '(\S)\S*', '\1.', 'g')",
    "mask_email": "regexp_replace({column}, '^.*@', '***@')",
    "mask_text": "text_without_name",
    "mask_case_text": "CAST(NULL AS VARCHAR)",
}


@cache
def serving_views(role: str = ENGINEER_ROLE) -> dict[str, str]:
    """For each serving view, by name: the query over the lake that returns what a role sees of it."""
    return {view.name: _as_seen_by(role, view) for view in _views()}


def with_serving_views(sql: str, role: str = ENGINEER_ROLE) -> str:
    """Translate a query over serving views into one over the lake, for a role."""
    return with_tables(sql, serving_views(role))


def with_tables(sql: str, tables: dict[str, str]) -> str:
    """Prepend tables, each given as a query, to a query as a WITH; the query's own WITH may read them."""
    added = ", ".join(f"{name} AS ({query})" for name, query in tables.items())
    sql = sql.strip().rstrip(";")
    begins, _, rest = sql.partition(" ")
    return f"WITH {added}, {rest}" if begins.upper() == "WITH" else f"WITH {added} {sql}"


@dataclass(frozen=True)
class _View:
    """A secure view as its file declares it."""

    name: str
    masks: dict[str, str | None]  # by column: the masking policy, if it has one
    segment: str  # the column by which the row access policy granted_segments filters rows
    query: str  # over the lake's tables


@cache
def _views() -> tuple[_View, ...]:
    found = (_view(file.read_text()) for file in files_in(_FOLDER, "*.sql"))
    return tuple(view for view in found if view)


def _view(text: str) -> _View | None:
    """The secure view that a file creates; None if it creates something else."""
    text = text.replace("{{ outcomes }}", outcomes_in_sql(LAKE)).replace("{{ database }}.{{ schema }}.", LAKE)
    text = text.replace("{{ database }}.{{ serving_schema }}.", "")
    tokens = sqlglot.tokenize(text, read="snowflake")
    if [token.text.upper() for token in tokens[: len(_CREATES_VIEW)]] != _CREATES_VIEW:
        return None
    end = next(token.end for token in tokens if token.token_type == TokenType.ALIAS) + 1
    # Keep the query as written, not as sqlglot would rewrite it.
    created = sqlglot.parse_one(f"{text[:end]} SELECT 1", read="snowflake")
    policies = {
        column.name: [constraint.this.name for constraint in column.find_all(exp.MaskingPolicyColumnConstraint)]
        for column in created.this.expressions
    }
    (rows,) = [rule for rule in created.find_all(exp.RowAccessProperty) if rule.this.name == "granted_segments"]
    return _View(
        name=created.this.this.name,
        masks={column: found[0] if found else None for column, found in policies.items()},
        segment=rows.expressions[0].name,
        query=text[end:].strip().rstrip(";"),
    )


def _as_seen_by(role: str, view: _View) -> str:
    if role == ENGINEER_ROLE:
        return view.query
    columns = [
        f"{_MASKS[mask].format(column=column)} AS {column}" if mask else column for column, mask in view.masks.items()
    ]
    granted = f"SELECT segment FROM {LAKE}segment_grants WHERE role_name = {literal(role)}"
    return (
        f"SELECT {', '.join(columns)} FROM ({view.query}) AS every_row"
        f" WHERE {view.segment} IN ({granted}) OR '*' IN ({granted})"
    )
