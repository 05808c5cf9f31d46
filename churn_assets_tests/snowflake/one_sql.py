"""What keeps a statement from being one that the lake and Snowflake both take with the same meaning, read from its text.

The rules are those that this project has met or could meet, by Snowflake's documentation and DuckDB's. A statement that breaks
none may still be refused by Snowflake, or mean something else there.
"""

import re
from collections.abc import Callable, Iterator

import sqlglot
from sqlfluff.core import Linter
from sqlglot import exp

from churn_assets_tests.repository import REPOSITORY

FUNCTIONS = {
    "AVG",
    "CAST",
    "COALESCE",
    "COUNT",
    "DATE_TRUNC",
    "JSON_EXTRACT_PATH_TEXT",  # of a name of letters, which is no path
    "LAG",
    "LEAD",
    "LOWER",
    "MAX",
    "MIN",
    "NULLIF",
    "ROW_NUMBER",
    "SHA1",
    "SUBSTR",
    "SUM",
    "TRIM",
    "TRY_CAST",
    "UPPER",
}
TYPES = {"BIGINT", "BOOLEAN", "DATE", "DOUBLE", "INTEGER", "TIMESTAMP", "VARCHAR"}
# https://docs.snowflake.com/en/sql-reference/reserved-keywords, and the clauses of FROM that an alias can be taken for.
RESERVED = {
    "ACCOUNT", "ALL", "ALTER", "AND", "ANY", "AS", "BETWEEN", "BY", "CASE", "CAST", "CHECK", "COLUMN", "CONNECT",
    "CONNECTION", "CONSTRAINT", "CREATE", "CROSS", "CURRENT", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP",
    "CURRENT_USER", "DATABASE", "DELETE", "DISTINCT", "DROP", "ELSE", "EXISTS", "FALSE", "FOLLOWING", "FOR", "FROM",
    "FULL", "GRANT", "GROUP", "GSCLUSTER", "HAVING", "ILIKE", "IN", "INCREMENT", "INNER", "INSERT", "INTERSECT",
    "INTO", "IS", "ISSUE", "JOIN", "LATERAL", "LEFT", "LIKE", "LOCALTIME", "LOCALTIMESTAMP", "MINUS", "NATURAL",
    "NOT", "NULL", "OF", "ON", "OR", "ORDER", "ORGANIZATION", "QUALIFY", "REGEXP", "REVOKE", "RIGHT", "RLIKE",
    "ROW", "ROWS", "SAMPLE", "SCHEMA", "SELECT", "SET", "SOME", "START", "TABLE", "TABLESAMPLE", "THEN", "TO",
    "TRIGGER", "TRUE", "TRY_CAST", "UNION", "UNIQUE", "UPDATE", "USING", "VALUES", "VIEW", "WHEN", "WHENEVER",
    "WHERE", "WITH", "AFTER", "ASOF", "AT", "BEFORE", "CHANGES", "MATCH_RECOGNIZE", "PIVOT", "UNPIVOT",
}  # fmt: skip
_DML = (exp.Select, exp.SetOperation, exp.Insert, exp.Update, exp.Delete, exp.Merge)
_TEXTS = re.compile(r"'(?:[^']|'')*'")
# By what is wrong: how it looks where texts are ''.
_PATTERNS = {
    "a query that begins with FROM": r"(?:^|\()\s*FROM\b",
    "ANTI or SEMI JOIN": r"\b(?:ANTI|SEMI)\s+JOIN\b",
    "FILTER behind an aggregate": r"\)\s*FILTER\s*\(",
    "a numbered or named parameter": r"\?\d|\$\w",
    "an alias of UPDATE's target": r"^\s*UPDATE\s+\w+\s+(?!SET\b)",
    "INTERVAL with its unit outside of the text": r"\bINTERVAL\s*(?:''\s*(?:YEAR|MONTH|WEEK|DAY|HOUR|MINUTE|SECOND)|[\d(])",
    "a literal of a type": r"\b(?:TIMESTAMP|TIMESTAMPTZ|DATE|TIME)\s*''",
    "DESC without NULLS: Snowflake has them first, DuckDB last": r"\bDESC\b(?!\s+NULLS\b)",
    "ALL in ORDER BY or GROUP BY": r"\bBY\s+ALL\b",
    "DISTINCT ON": r"\bDISTINCT\s+ON\b",
    "BY NAME": r"\bBY\s+NAME\b",
    "EXCLUDE, REPLACE or COLUMNS": r"\b(?:EXCLUDE|REPLACE|COLUMNS)\b",
    "a list, a struct or a lambda": r"[\[{]|->",
    "a parameter with ::": r"\?\s*::",
    "a parameter behind LIMIT": r"\b(?:LIMIT|OFFSET)\s+\?",
    "a name in quotes, whose case counts": r'"',
    "division: whole numbers give a whole number or not": r"/",
}


def broken_rules(sql: str) -> list[str]:
    """In words, each rule that a statement breaks."""
    bare = _TEXTS.sub("''", sql)
    broken = [rule for rule, pattern in _PATTERNS.items() if re.search(pattern, bare, re.IGNORECASE)]
    broken += _unknown_to_sqlfluff(sql)
    try:
        tree = sqlglot.parse_one(sql, dialect="snowflake")
    except sqlglot.ParseError as error:
        return [*broken, f"not parsed by sqlglot: {error}"]
    if not isinstance(tree, _DML):
        return [*broken, f"{tree.key.upper()} is no query and no DML: in Snowflake, DDL ends the transaction"]
    return [*broken, *(rule for rule, nodes in _NODES.items() for node in tree.walk() if nodes(node))]


def _unknown_to_sqlfluff(sql: str) -> Iterator[str]:
    """What sqlfluff's grammar of Snowflake does not know, and functions and types that are not listed above."""
    # It knows no bare parameter.
    parts = _TEXTS.split(sql)
    texts = [*_TEXTS.findall(sql), ""]
    parsed = _LINTER.parse_string(
        "".join(f"{part.replace('?', 'NULL')}{text}" for part, text in zip(parts, texts, strict=True))
    )
    yield from (f"not parsed by sqlfluff: {violation.desc()}" for violation in parsed.violations)
    if parsed.tree is None:
        return
    for kind, known, what in (("function_name", FUNCTIONS, "function"), ("data_type", TYPES, "type")):
        for segment in parsed.tree.recursive_crawl(kind):
            if segment.raw.upper() not in known:
                yield f"the {what} {segment.raw.upper()} is not on the list"


_LINTER = Linter(dialect="snowflake")


def _time_columns() -> set[str]:
    """The columns of the ledgers and other tables that hold a time or a day."""
    scripts = [path.read_text() for path in (REPOSITORY / "sql").glob("*.sql")]
    return {name for script in scripts for name in re.findall(r"^    (\w+) (?:TIMESTAMP|DATE)\b", script, re.MULTILINE)}


_TIMES = _time_columns()


def _is_time(node: exp.Expr | None) -> bool:
    return node is not None and any(column.name.lower() in _TIMES for column in node.find_all(exp.Column))


def _is_condition(node: exp.Expr) -> bool:
    """Whether it is one of WHERE's conditions, all of which must hold."""
    while isinstance(node.parent, exp.And | exp.Not | exp.Paren):
        node = node.parent
    return isinstance(node.parent, exp.Where)


def _reads_from_outside(query: exp.Expr) -> bool:
    inside = {table.alias_or_name for table in query.find_all(exp.Table, exp.Subquery)}
    return any(column.table and column.table not in inside for column in query.find_all(exp.Column))


def _is_scalar_subquery(node: exp.Expr) -> bool:
    return isinstance(node, exp.Subquery) and not isinstance(
        node.parent,
        exp.From | exp.Join | exp.In | exp.Insert | exp.Merge | exp.Exists | exp.Subquery | exp.SetOperation,
    )


def _is_untyped_values(node: exp.Expr) -> bool:
    """VALUES of parameters in FROM, unless what is selected from it is CAST( ) of its columns and nothing else."""
    if not isinstance(node, exp.Values) or isinstance(node.parent, exp.Insert) or not node.find(exp.Placeholder):
        return False
    source = node.parent
    select = source.parent if isinstance(source, exp.From) else None
    return not isinstance(select, exp.Select) or not all(
        isinstance(column, exp.Alias) and isinstance(column.this, exp.Cast) for column in select.expressions
    )


_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.NullSafeEQ, exp.NullSafeNEQ)
# By what is wrong: whether a part of a statement is.
_NODES: dict[str, Callable[[exp.Expr], bool]] = {
    "a name that is a word of Snowflake's": lambda node: (
        isinstance(node, exp.Identifier) and node.name.upper() in RESERVED
    ),
    "a comparison of rows": lambda node: (
        isinstance(node, _COMPARISONS)
        and any(isinstance(side, exp.Tuple) for side in (node.this, node.args.get("expression")))
    ),
    "a parameter that is a column of its own without a type": lambda node: (
        isinstance(node, exp.Select)
        and any(isinstance(column.unalias(), exp.Placeholder) for column in node.expressions)
    ),
    "IN or EXISTS over a query that is no condition of WHERE by itself": lambda node: (
        (isinstance(node, exp.Exists) or (isinstance(node, exp.In) and node.args.get("query") is not None))
        and not _is_condition(node)
    ),
    "IN over a subquery that reads from outside": lambda node: (
        isinstance(node, exp.In) and node.args.get("query") is not None and _reads_from_outside(node.args["query"])
    ),
    "a scalar subquery that reads from outside": lambda node: _is_scalar_subquery(node) and _reads_from_outside(node),
    "EXISTS over an aggregate or a LIMIT": lambda node: (
        isinstance(node, exp.Exists) and node.find(exp.AggFunc, exp.Limit) is not None
    ),
    "a difference of times, which is no interval in Snowflake": lambda node: (
        isinstance(node, exp.Sub) and _is_time(node.this) and (_is_time(node.expression))
    ),
    "a time as text, which each writes in its own way": lambda node: (
        isinstance(node, exp.Cast) and node.is_type(*exp.DataType.TEXT_TYPES) and _is_time(node.this)
    ),
    "a sum of truths": lambda node: isinstance(node, exp.Sum) and isinstance(node.this, exp.Predicate | exp.Connector),
    "VALUES that are read without a type": _is_untyped_values,
}
RULES = [*_PATTERNS, *_NODES]
