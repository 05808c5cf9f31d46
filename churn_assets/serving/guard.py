"""Decide which SQL may run, whether a person wrote it or a language model that somebody has manipulated.

Here belong the rules and the messages of refusals. Everything that is not on an allow-list here is refused; SQL syntax that
the parser learns in a later version is refused until somebody adds it. The query that runs is generated from the checked
tree, so nothing reaches the warehouse that the parser did not see, such as comments. The caller must run it on a read-only
connection and with a time limit.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import sqlglot
from sqlglot import exp
from sqlglot.errors import OptimizeError, SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.tokenizer_core import Token, TokenType

from churn_assets.errors import ChurnError

Tables: TypeAlias = Mapping[str, Mapping[str, str]]  # name -> column -> type; what a query may read
Dialect: TypeAlias = Literal["duckdb", "snowflake"]

ROW_LIMIT = 1000
TIMEOUT_SECONDS = 10.0
# The parser is recursive and compiled: deep nesting would crash the process, so tokens are counted first.
_MAX_CHARACTERS, _MAX_TOKENS, _MAX_BRACKETS = 5000, 800, 12
_MAX_QUERIES, _MAX_JOINS = 12, 4

# The clauses that are allowed, each with the arguments that may be set.
_CLAUSES: dict[type[exp.Expr], frozenset[str]] = {
    exp.Select: frozenset(
        ("expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset", "distinct", "with_")
    ),
    **dict.fromkeys(
        (exp.Union, exp.Intersect, exp.Except),
        frozenset(("this", "expression", "distinct", "order", "limit", "offset", "with_")),
    ),
    exp.With: frozenset(("expressions",)),
    exp.CTE: frozenset(("this", "alias")),
    exp.Subquery: frozenset(("this", "alias")),
    exp.From: frozenset(("this",)),
    exp.Join: frozenset(("this", "on", "using", "side", "kind")),
    exp.Table: frozenset(("this", "alias")),
    exp.TableAlias: frozenset(("this", "columns")),
    exp.Column: frozenset(("this", "table")),
    exp.Star: frozenset(),
    exp.Where: frozenset(("this",)),
    exp.Group: frozenset(("expressions",)),
    exp.Having: frozenset(("this",)),
    exp.Order: frozenset(("expressions",)),
    exp.Ordered: frozenset(("this", "desc", "nulls_first")),
    exp.Limit: frozenset(("expression",)),
    exp.Offset: frozenset(("expression",)),
    exp.Distinct: frozenset(("expressions",)),
    exp.Window: frozenset(("this", "partition_by", "order", "spec", "over")),
    exp.In: frozenset(("this", "expressions", "query")),
    exp.Interval: frozenset(("this", "unit")),
    exp.Cast: frozenset(("this", "to")),
    exp.DataType: frozenset(("this", "expressions", "nested")),
}
_VALUES = frozenset(
    (
        exp.Alias,
        exp.Identifier,
        exp.Literal,
        exp.Boolean,
        exp.Null,
        exp.Paren,
        exp.Var,
        exp.WindowSpec,
        exp.DataTypeParam,
    )
)
_OPERATORS = frozenset(
    (
        exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.NullSafeEQ,
        exp.NullSafeNEQ, exp.Between, exp.Like, exp.ILike, exp.Exists, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod,
        exp.Neg, exp.Case, exp.If,
    )
)  # fmt: skip
# None of them turns a short text into a long one, returns rows, or reads a setting, a file or the time of another zone.
_FUNCTIONS = frozenset(
    (
        exp.Count, exp.CountIf, exp.Sum, exp.Avg, exp.Min, exp.Max, exp.Median, exp.Stddev, exp.Variance,
        exp.RowNumber, exp.Rank, exp.DenseRank, exp.Lag, exp.Lead,
        exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least, exp.Round, exp.Abs, exp.Ceil, exp.Floor,
        exp.Lower, exp.Upper, exp.Trim, exp.Length, exp.Substring, exp.Left, exp.Right,
        exp.CurrentDate, exp.CurrentTimestamp, exp.ConvertTimezone, exp.AtTimeZone,
        exp.Extract, exp.TimestampTrunc, exp.DateTrunc, exp.DateDiff,
        exp.DateAdd, exp.Year, exp.Quarter, exp.Month, exp.Week, exp.Day, exp.DayOfWeek, exp.Hour,
    )
)  # fmt: skip
# The only time zone that is allowed, in Snowflake's form, which the lake's verified queries share, and in the lake's.
_UTC_NOW = (
    sqlglot.parse_one("CONVERT_TIMEZONE('UTC', CURRENT_TIMESTAMP)", dialect="duckdb"),
    sqlglot.parse_one("CURRENT_TIMESTAMP AT TIME ZONE 'UTC'", dialect="duckdb"),
)
_ALLOWED = frozenset(_CLAUSES) | _VALUES | _OPERATORS | _FUNCTIONS
_TYPES = frozenset(
    (
        exp.DType.BIGINT, exp.DType.INT, exp.DType.DOUBLE, exp.DType.FLOAT, exp.DType.DECIMAL, exp.DType.BOOLEAN,
        exp.DType.VARCHAR, exp.DType.TEXT, exp.DType.DATE, exp.DType.TIMESTAMP,
        exp.DType.TIMESTAMPNTZ,
    )
)  # fmt: skip
_UNITS = frozenset(
    unit + plural
    for unit in ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "DAYOFWEEK", "DOW")
    for plural in ("", "S")
)
_KINDS_OF_JOIN = {("", ""), ("", "INNER"), ("LEFT", ""), ("RIGHT", ""), ("FULL", "")} | {
    (side, "OUTER") for side in ("LEFT", "RIGHT", "FULL")
}


class RefusedSqlError(ChurnError):
    """The query may not run; the message gives the reason in one sentence."""


def checked(
    sql: str,
    tables: Tables,
    row_limit: int | None = ROW_LIMIT,
    dialect: Dialect = "duckdb",
    stands_for: Mapping[str, str] | None = None,
) -> str:
    """The query, generated anew from its checked tree, with at most `row_limit` rows; `RefusedSqlError` if it may not run.

    It may read `tables` only. `stands_for` maps full names (DATABASE.SCHEMA.TABLE, in capitals) to names in `tables`.
    """
    tree = _parsed(sql, dialect)
    _name_tables(tree, tables, stands_for or {})
    for node in tree.walk():
        _check_node(node, dialect)
        if isinstance(node, exp.ConvertTimezone | exp.AtTimeZone) and node not in _UTC_NOW:
            raise RefusedSqlError("CONVERT_TIMEZONE is allowed as CONVERT_TIMEZONE('UTC', CURRENT_TIMESTAMP) only")
    _check_tables(tree, set(tables))
    _check_size(tree, row_limit)
    _check_joins(tree)
    _check_columns(tree, tables, dialect)
    understood = _limited(tree, row_limit).sql(dialect=dialect, comments=False)
    # The parser accepts more than SQL, such as a SELECT of nothing; then the generated SQL may differ from the checked tree.
    if _parsed(understood, dialect).sql(dialect=dialect, comments=False) != understood:
        raise RefusedSqlError("this is not SQL that can be understood")
    return understood


def _parsed(sql: str, dialect: Dialect) -> exp.Query:
    if len(sql) > _MAX_CHARACTERS:
        raise RefusedSqlError(f"the SQL has {len(sql):,} characters; at most {_MAX_CHARACTERS:,} are allowed")
    if any(ord(character) < 32 and character not in "\n\r\t" for character in sql):
        raise RefusedSqlError("the SQL has a control character")
    try:
        tokens = sqlglot.tokenize(sql, dialect=dialect)
    except SqlglotError as error:
        raise RefusedSqlError("the SQL cannot be read: a string or a comment in it does not end") from error
    _check_tokens(tokens)
    try:
        parsed = sqlglot.parse(sql, dialect=dialect)
    except (SqlglotError, RecursionError) as error:
        raise RefusedSqlError("this is not SQL that can be understood") from error
    trees = [tree for tree in parsed if not isinstance(tree, exp.Semicolon)]  # a comment behind the last semicolon
    if len(trees) != 1:
        raise RefusedSqlError("these are several statements; one SELECT is allowed")
    (tree,) = trees
    if not isinstance(tree, exp.Select | exp.SetOperation):
        raise RefusedSqlError("this is not a SELECT; only one SELECT, without brackets around it, is allowed")
    return tree


def _check_tokens(tokens: list[Token]) -> None:
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens = tokens[:-1]
    if not tokens:
        raise RefusedSqlError("there is no SQL; one SELECT is needed")
    if any(token.token_type == TokenType.SEMICOLON for token in tokens):
        raise RefusedSqlError("these are several statements; one SELECT is allowed")
    if tokens[0].token_type not in {TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN}:
        raise RefusedSqlError(f"it begins with {_quoted(tokens[0].text)}; only a SELECT is allowed")
    if len(tokens) > _MAX_TOKENS:
        raise RefusedSqlError(f"the SQL has {len(tokens):,} words and signs; at most {_MAX_TOKENS:,} are allowed")
    depth = 0
    for token in tokens:
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        if depth > _MAX_BRACKETS:
            raise RefusedSqlError(f"brackets are nested too deeply; at most {_MAX_BRACKETS} levels are allowed")


def _name_tables(tree: exp.Query, tables: Tables, stands_for: Mapping[str, str]) -> None:
    """Replace full table names by the names in `tables`, with aliases so that the columns' prefixes stay valid."""
    for table in tree.find_all(exp.Table):
        # To Snowflake, a quoted name could mean a different table than the one that is checked.
        if isinstance(table.this, exp.Identifier) and table.name.lower() in tables:
            table.this.set("quoted", False)
        if name := stands_for.get(".".join(part.name.upper() for part in table.parts)):
            alias = table.alias or table.name
            table.set("catalog", None)
            table.set("db", None)
            table.set("this", exp.to_identifier(name))
            table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))


def _check_node(node: exp.Expr, dialect: Dialect) -> None:
    kind = type(node)
    if isinstance(node, exp.With) and node.args.get("recursive"):
        raise RefusedSqlError("WITH RECURSIVE is not allowed: it may never end")
    if isinstance(node, exp.Table) and not isinstance(node.this, exp.Identifier):
        raise RefusedSqlError(
            f"{_quoted(_name(node.this))} in FROM is a function, not a table; functions in FROM are not allowed"
        )
    if isinstance(node, exp.Table) and (node.args.get("db") or node.args.get("catalog")):
        raise RefusedSqlError(f"{_quoted(node.sql(dialect=dialect))} names a schema; tables are named without one")
    if kind not in _ALLOWED:
        if isinstance(node, exp.Func):
            raise RefusedSqlError(f"the function {_quoted(_name(node))} is not on the list of allowed functions")
        raise RefusedSqlError(f"{_words(kind)} is not allowed in a question's SQL")
    filled = {part for part, value in node.args.items() if value not in (None, False, [], "")}
    if kind in _CLAUSES and (more := filled - _CLAUSES[kind]):
        raise RefusedSqlError(f"{_words(kind)} with {_quoted(min(more).strip('_').upper())} is not allowed")
    # A node type that is on no list gets its own message later in the walk.
    if isinstance(node, exp.From | exp.Join) and type(node.this) in _ALLOWED - {exp.Table, exp.Subquery}:
        raise RefusedSqlError("a SELECT in FROM needs brackets around it")
    if isinstance(node, exp.Select) and not node.expressions:
        raise RefusedSqlError("a SELECT in it asks for no column")
    if isinstance(node, exp.Var) and node.name.upper() not in _UNITS:
        raise RefusedSqlError(f"{_quoted(node.name)} is not on the list of allowed date parts")
    if isinstance(node, exp.DataType) and node.this not in _TYPES:
        raise RefusedSqlError(f"the type {_quoted(node.sql(dialect=dialect))} is not on the list of allowed types")
    if isinstance(node, exp.Limit | exp.Offset) and not _is_count(node.expression):
        raise RefusedSqlError(f"{_words(kind)} must be a whole number of at most nine digits")
    if isinstance(node, exp.With) and node.parent is not None and node.parent.parent is not None:
        raise RefusedSqlError("WITH is allowed at the beginning of the SQL only")


def _is_count(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and not node.is_string and node.name.isdecimal() and len(node.name) < 10


def _check_tables(tree: exp.Query, logical: set[str]) -> None:
    known = set(logical)
    # Before or outside of the WITH that defines it, a name would mean a table of the warehouse.
    for cte in tree.ctes:
        _check_names(cte.this, known, logical)
        name = cte.alias.lower()
        if name in known:
            raise RefusedSqlError(f"WITH defines {_quoted(name)}, which is the name of another table")
        known.add(name)
    with_ = tree.args.get("with_")
    _check_names(tree, known, logical, besides=with_)
    if not any(table.name.lower() in logical for table in tree.find_all(exp.Table)):
        raise RefusedSqlError(f"it reads no table; the tables are {_listed(logical)}")


def _check_names(tree: exp.Expr, known: set[str], logical: set[str], besides: exp.Expr | None = None) -> None:
    for node in tree.walk(prune=lambda node: node is besides):
        if isinstance(node, exp.Table) and node.name.lower() not in known:
            raise RefusedSqlError(f"there is no table {_quoted(node.name)}; the tables are {_listed(logical)}")


def _check_size(tree: exp.Query, row_limit: int | None) -> None:
    queries = sum(1 for _ in tree.find_all(exp.Select))
    if queries > _MAX_QUERIES:
        raise RefusedSqlError(f"it has {queries} SELECTs; at most {_MAX_QUERIES} are allowed")
    limit = tree.args.get("limit")
    if row_limit is not None and isinstance(limit, exp.Limit) and int(limit.expression.name) > row_limit:
        raise RefusedSqlError(f"it asks for {int(limit.expression.name):,} rows; at most {row_limit:,} are allowed")


def _check_joins(tree: exp.Query) -> None:
    joins = list(tree.find_all(exp.Join))
    if len(joins) > _MAX_JOINS:
        raise RefusedSqlError(f"it has {len(joins)} joins; at most {_MAX_JOINS} are allowed")
    for join in joins:
        if (join.side, join.kind) not in _KINDS_OF_JOIN:
            raise RefusedSqlError(f"{' '.join(filter(None, (join.side, join.kind)))} JOIN is not allowed")
        if not join.args.get("using") and not any(map(_joins_columns, _conjuncts(join.args.get("on")))):
            raise RefusedSqlError(
                "a join has no condition that a column of one table equals a column of another; add ON a.x = b.x"
            )


def _conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    if condition is not None:
        inner = condition.unnest()
        yield from inner.flatten() if isinstance(inner, exp.And) else [inner]


def _joins_columns(condition: exp.Expr) -> bool:
    sides = (condition.left, condition.right) if isinstance(condition, exp.EQ) else ()
    return len({side.table.lower() for side in sides if isinstance(side, exp.Column) and side.table}) == 2


def _check_columns(tree: exp.Query, tables: Tables, dialect: Dialect) -> None:
    schema: dict[str, object] = {name: dict(columns) for name, columns in tables.items()}
    columns = {column for columns in tables.values() for column in columns}
    named = {node.alias.lower() for node in tree.find_all(exp.Alias)}
    named |= {column.name.lower() for alias in tree.find_all(exp.TableAlias) for column in alias.columns}
    for column in tree.find_all(exp.Column):
        if not isinstance(column.this, exp.Star) and column.name.lower() not in columns | named:
            raise RefusedSqlError(f"there is no column {_quoted(column.name)} in these tables")
    try:
        qualify(tree.copy(), schema=schema, dialect=dialect)
    except OptimizeError as error:
        raise RefusedSqlError(f"a column does not belong to the tables of its query: {_first_line(error)}") from error
    except (SqlglotError, RecursionError) as error:
        raise RefusedSqlError("its columns cannot be traced to tables") from error


def _limited(tree: exp.Query, row_limit: int | None) -> exp.Query:
    if row_limit is not None and not tree.args.get("limit"):
        tree.set("limit", exp.Limit(expression=exp.Literal.number(row_limit)))
    return tree


def _name(node: exp.Expr) -> str:
    return node.name if isinstance(node, exp.Anonymous) else node.key


def _words(kind: type[exp.Expr]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).upper()


def _quoted(text: str) -> str:
    shown = "".join(character if character.isprintable() else " " for character in text)
    return f"“{shown[:60]}{'…' if len(shown) > 60 else ''}”"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].partition(". Line:")[0]
