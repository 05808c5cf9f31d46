"""The guard of a mapping's SQL: which expressions may run over a source's fields, and what they are as DuckDB's SQL.

Only scalar expressions of the allow-list here pass: no query, aggregate, window, lambda, setting, file, clock or chance. So an
expression gives the same value whenever a message is read again, and sees nothing but the message. The SQL that runs is
generated from the checked tree. Messages name the expression.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from churn_assets.ingestion.mapping.file import MappingError

Path: TypeAlias = tuple[str, ...]  # the names of a field's objects from the outermost on, then its own

# The parser is recursive and compiled: deep nesting would crash the process, so tokens are counted first.
_MAX_TOKENS, _MAX_BRACKETS, _MAX_PATH, _MAX_PAD = 500, 20, 8, 255

_PLAIN = frozenset(
    (
        exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Column, exp.Dot, exp.Case, exp.If,
        exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.NullSafeEQ,
        exp.NullSafeNEQ, exp.Between, exp.In, exp.Like, exp.ILike, exp.Escape, exp.DPipe,
        exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg, exp.Cast, exp.TryCast, exp.DataType,
        exp.DataTypeParam,
    )
)  # fmt: skip
_FUNCTIONS = frozenset(
    (
        exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least, exp.Abs, exp.Round, exp.Ceil, exp.Floor, exp.Sign,
        exp.Lower, exp.Upper, exp.Trim, exp.Length, exp.Substring, exp.Left, exp.Right, exp.Replace, exp.Reverse,
        exp.Concat, exp.ConcatWs, exp.SplitPart, exp.Pad, exp.StrPosition, exp.Contains, exp.StartsWith, exp.EndsWith,
        exp.RegexpReplace, exp.RegexpExtract, exp.RegexpLike, exp.RegexpFullMatch, exp.MD5, exp.SHA2,
        exp.StrToTime, exp.TimeToStr, exp.Year, exp.Month, exp.Day,
    )
)  # fmt: skip
# Functions that the parser knows by name only.
_NAMED = frozenset(("prefix", "suffix", "try_strptime", "strip_accents"))
_ALLOWED = _PLAIN | _FUNCTIONS
# Arguments that other dialects have, or that change what a node is.
_NO_ARGUMENTS: dict[type[exp.Expr], tuple[str, ...]] = {
    exp.Cast: ("format", "action"),
    exp.TryCast: ("format", "action"),
    exp.In: ("query", "unnest", "field"),
    exp.Column: ("join_mark",),
}
_TYPES = frozenset(
    (
        exp.DType.BIGINT, exp.DType.INT, exp.DType.DOUBLE, exp.DType.DECIMAL, exp.DType.BOOLEAN, exp.DType.VARCHAR,
        exp.DType.TEXT, exp.DType.DATE, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ,
    )
)  # fmt: skip
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod)
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_OF_NUMBERS = (exp.Neg, exp.Abs, exp.Round, exp.Ceil, exp.Floor, exp.Sign)
# Their values are as much numbers as their arguments are.
_PASS_ON = (exp.Paren, exp.Coalesce, exp.Greatest, exp.Least, exp.Nullif, *_OF_NUMBERS)


@dataclass
class Fields:
    """The fields that the expressions of a source use: each is a column of text, f0, f1 ..."""

    paths: list[Path] = field(default_factory=list[Path])

    def column(self, path: Path) -> str:
        """The column of a field."""
        if path not in self.paths:
            self.paths.append(path)
        return f"f{self.paths.index(path)}"


def compiled(text: str, fields: Fields, number: str) -> str:
    """DuckDB's SQL of an expression over the columns of `fields`; `MappingError` if it may not run.

    A field is text. Where it stands in arithmetic, or is compared with a number, it is read as one, by the macro `number`. A
    number that cannot be read is an error of the row.
    """
    tree = _parsed(text)
    for node in tree.walk():
        _check(node, text)
    tree = _with_columns(tree, fields, text)
    sql = _with_numbers(tree, number).sql(dialect="duckdb", comments=False)
    # The parser takes more than SQL; then what it writes may differ from what was checked.
    if _parsed(sql, 2 * _MAX_TOKENS).sql(dialect="duckdb", comments=False) != sql:
        raise MappingError(f"{_quoted(text)} is no SQL expression that can be understood")
    return sql


def _parsed(text: str, limit: int = _MAX_TOKENS) -> exp.Expr:
    if any(ord(character) < 32 and character not in "\n\r\t" for character in text):
        raise MappingError(f"{_quoted(text)} has a control character")
    try:
        tokens = sqlglot.tokenize(text, dialect="duckdb")
    except SqlglotError as error:
        raise MappingError(f"{_quoted(text)} cannot be read: a string or a comment in it does not end") from error
    if len(tokens) > limit:
        raise MappingError(f"{_quoted(text)} has {len(tokens):,} words and signs; at most {_MAX_TOKENS:,} are allowed")
    depth = 0
    for token in tokens:
        depth += token.text in ("(", "[", "{") or token.text.upper() == "CASE"
        depth -= token.text in (")", "]", "}") or token.text.upper() == "END"
        if depth > _MAX_BRACKETS:
            raise MappingError(f"{_quoted(text)} is nested too deeply; at most {_MAX_BRACKETS} levels are allowed")
    try:
        trees = sqlglot.parse(text, dialect="duckdb")
    except (SqlglotError, RecursionError) as error:
        raise _no_expression(text) from error
    (tree, *others) = trees
    if tree is None or others:
        raise MappingError(f"{_quoted(text)} is not one expression")
    return tree


def _check(node: exp.Expr, text: str) -> None:
    kind = type(node)
    if isinstance(node, exp.Anonymous):
        if node.name.lower() not in _NAMED:
            raise MappingError(f"{_quoted(text)}: the function {node.name} is not allowed in a mapping")
        return
    if kind not in _ALLOWED:
        if isinstance(node, exp.Alias):  # two words, as in Betrag EUR
            raise _no_expression(text)
        if isinstance(node, exp.AggFunc | exp.Window):
            raise MappingError(f"{_quoted(text)} is over many rows; a mapping sees one row at a time")
        if isinstance(node, exp.Query | exp.Subquery | exp.Exists):
            raise MappingError(f"{_quoted(text)} has a query; a mapping is an expression over the fields")
        what = f"the function {node.key}" if isinstance(node, exp.Func) else node.key
        raise MappingError(f"{_quoted(text)}: {what} is not allowed in a mapping")
    if more := [name for name in _NO_ARGUMENTS.get(kind, ()) if node.args.get(name)]:
        raise MappingError(f"{_quoted(text)}: {node.key} with {more[0]} is not allowed in a mapping")
    if isinstance(node, exp.DataType) and node.this not in _TYPES:
        raise MappingError(f"{_quoted(text)}: the type {node.sql(dialect='duckdb')} is not allowed in a mapping")
    if isinstance(node, exp.Pad) and not (
        isinstance(node.expression, exp.Literal)
        and node.expression.name.isdecimal()
        and int(node.expression.name) <= _MAX_PAD
    ):
        raise MappingError(f"{_quoted(text)}: the length of lpad and rpad is a number up to {_MAX_PAD}")


def _with_columns(tree: exp.Expr, fields: Fields, text: str) -> exp.Expr:
    """The tree with a column of `fields` in the place of each field."""

    def replaced(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column | exp.Dot):
            return node
        path = tuple(part.name for part in node.parts)
        if not all(isinstance(part, exp.Identifier) for part in node.parts) or not all(path):
            raise MappingError(f"{_quoted(text)}: {node.sql(dialect='duckdb')} is no field")
        if len(path) > _MAX_PATH:
            raise MappingError(f"{_quoted(text)}: a field is nested too deeply; at most {_MAX_PATH} levels are allowed")
        return exp.column(fields.column(path))

    return tree.transform(replaced)


def _with_numbers(tree: exp.Expr, number: str) -> exp.Expr:
    """The tree with each field that stands in arithmetic read as a number."""
    for node in list(tree.walk()):
        for operand in _operands(node):
            _read_as_number(operand, number)
    return tree


def _operands(node: exp.Expr) -> list[exp.Expr]:
    """What of a node must be numbers."""
    if isinstance(node, _ARITHMETIC):
        return [node.left, node.right]
    if isinstance(node, _OF_NUMBERS):
        return [node.this]
    if isinstance(node, _COMPARISONS):
        sides = [node.left, node.right]
        return sides if any(map(_is_number, sides)) else []
    if isinstance(node, exp.Between):
        return [node.this] if any(map(_is_number, (node.args["low"], node.args["high"]))) else []
    if isinstance(node, exp.In):
        return [node.this] if node.expressions and all(map(_is_number, node.expressions)) else []
    return []


def _is_number(node: exp.Expr) -> bool:
    inner = node.unnest()
    inner = inner.this if isinstance(inner, exp.Neg) else inner
    return (isinstance(inner, exp.Literal) and not inner.is_string) or isinstance(inner, _ARITHMETIC + _OF_NUMBERS)


def _read_as_number(node: exp.Expr, number: str) -> None:
    if isinstance(node, exp.Column):
        node.replace(exp.Anonymous(this=number, expressions=[node.copy()]))
    elif isinstance(node, exp.Case):
        for branch in (*(choice.args["true"] for choice in node.args["ifs"]), node.args.get("default")):
            if branch is not None:
                _read_as_number(branch, number)
    elif isinstance(node, _PASS_ON):
        for part in (node.this, *node.expressions):
            if isinstance(part, exp.Expr):
                _read_as_number(part, number)


def _no_expression(text: str) -> MappingError:
    return MappingError(
        f"{_quoted(text)} is no SQL expression; a field's name with other characters than letters, digits and _, or that is a"
        " word of SQL, needs double quotes around it, or `field` in place of SQL"
    )


def _quoted(text: str) -> str:
    shown = " ".join(text.split())
    return f"“{shown[:80]}{'…' if len(shown) > 80 else ''}”"
