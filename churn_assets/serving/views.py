"""The serving views: what people see of customers, whatever they look with, and how much of it a role sees.

Here belongs how the files of `sql/snowflake`, which make secure views there, become queries of the lake with the same masks
and the same rule for rows. What the views mean is said in their files.

On the lake this is an order among programs, no wall: who may read its files can read all that is in them.
"""

import re
from functools import cache

from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.retention.effect import outcomes_in_sql
from churn_assets.rules import ENGINEER_ROLE

LAKE = "lake.main."
_FOLDER = PROJECT_FILES / "sql" / "snowflake" / "after_dbt"
_VIEW = re.compile(r"^CREATE OR REPLACE SECURE VIEW .+\.(\w+) \($", re.MULTILINE)
_COLUMN = re.compile(r"^    (\w+)(?: WITH MASKING POLICY .+\.(\w+)(?: USING .+)?)?,?$", re.MULTILINE)
_SEGMENT_RULE = re.compile(r"^WITH ROW ACCESS POLICY .+\.granted_segments ON \((\w+)\)$", re.MULTILINE)
# The masks of 060_policies.sql, as this engine says them; a test holds the two to the same results.
_MASKS = {
    "mask_name": r"regexp_replace({column}, '(\S)\S*', '\1.', 'g')",
    "mask_email": "regexp_replace({column}, '^.*@', '***@')",
    "mask_text": "text_without_name",
}


@cache
def serving_views(role: str = ENGINEER_ROLE) -> dict[str, str]:
    """The query over the lake that gives what a role sees of each serving view, by the view's name."""
    texts = (file.read_text() for file in files_in(_FOLDER, "*.sql"))
    return {found[1]: _as_seen_by(role, text) for text in texts if (found := _VIEW.search(text))}


def with_serving_views(sql: str, role: str = ENGINEER_ROLE) -> str:
    """A query over serving views as one that the lake answers, for a role."""
    return with_tables(sql, serving_views(role))


def with_tables(sql: str, tables: dict[str, str]) -> str:
    """A query with tables that it may name, each given as a query; its own WITH may read them."""
    added = ", ".join(f"{name} AS ({query})" for name, query in tables.items())
    sql = sql.strip().rstrip(";")
    begins, _, rest = sql.partition(" ")
    return f"WITH {added}, {rest}" if begins.upper() == "WITH" else f"WITH {added} {sql}"


def _as_seen_by(role: str, text: str) -> str:
    header, _, query = text.partition("\nAS\n")
    query = query.replace("{{ outcomes }}", outcomes_in_sql(LAKE)).replace("{{ database }}.{{ schema }}.", LAKE)
    query = query.strip().rstrip(";")
    if role == ENGINEER_ROLE:
        return query
    columns = [
        f"{_MASKS[mask].format(column=column)} AS {column}" if mask else column
        for column, mask in _COLUMN.findall(header.partition("\n)\n")[0])
    ]
    (segment,) = _SEGMENT_RULE.findall(header)
    granted = f"SELECT segment FROM {LAKE}segment_grants WHERE role_name = {_literal(role)}"
    return (
        f"SELECT {', '.join(columns)} FROM ({query}) AS every_row WHERE {segment} IN ({granted}) OR '*' IN ({granted})"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
