"""Analyses a query's text: which rows of the result can change when its sources change, and how to compute only these.

A row of the result has a key (the refresh key). The analysis traces the key's columns through projections, groupings and
joins down to every table that the query reads. Where that works,

- the keys that a change touches are a short query over the changed rows (and, where a table has only a part of the key,
  over the tables that it is joined to), and
- the query over only the touched keys is the query with every table narrowed to the rows that such keys can come from.

Both may include too many rows, never too few. Nothing is executed here; `difference` does that.
The method is incremental view maintenance by affected groups (Gupta & Mumick, "Maintenance of Materialized Views:
Problems, Techniques, and Applications", 1995), without counting: touched groups are computed anew.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope

_DIALECT = "duckdb"
_UNSTEADY = (exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.CurrentDatetime, exp.Rand, exp.Uuid)
_DAYS = re.compile(
    r"date|timestamp(_s|_ms|_us|_ns)?", re.IGNORECASE
)  # types whose values are on the same day in every time zone


class NotIncrementalError(Exception):
    """The query cannot be refreshed incrementally; the message says why."""


@dataclass(frozen=True)
class Scan:
    """One scan of `table` in the narrowed query, under the name `placeholder`, which a relation has to replace.

    If `day_column` is set, only rows whose `day_column` lies on a touched day of the key are needed.
    """

    placeholder: str
    table: str
    day_column: str | None


@dataclass(frozen=True)
class Plan:
    """How to refresh incrementally.

    `columns` are the columns of each source that matter; changes in other columns are ignored. `touched` has, for each
    source, queries of the keys that its changed rows touch. They read `changes_of(source)` and may read `all_of(other)`, the
    current and the deleted rows of another table. `narrowed` is the query over the keys in the table `TOUCHED_KEYS`. It
    reads `scans`, and its result may also hold incomplete rows of other keys.
    """

    columns: dict[str, list[str]]
    touched: dict[str, list[str]]
    narrowed: str
    scans: list[Scan]


TOUCHED_KEYS = "refresh_keys"


def changes_of(table: str) -> str:
    """The name under which a query of touched keys reads the inserted and deleted rows of a table."""
    return f"refresh_changes_of_{table}"


def all_of(table: str) -> str:
    """The name under which it reads all rows of another table, including the deleted ones."""
    return f"refresh_all_of_{table}"


@dataclass(frozen=True)
class Reads:
    """What a query reads: tables by their unqualified names, and variables by `getvariable`, in lower case."""

    tables: frozenset[str]
    variables: frozenset[str]


@cache
def reads_of(query: str) -> Reads:
    """What a query reads; `NotIncrementalError` if the query cannot be parsed."""
    with _understanding():
        tree = sqlglot.parse_one(query, dialect=_DIALECT)
        scopes = traverse_scope(tree)
    return Reads(
        frozenset(
            source.name for scope in scopes for source in scope.sources.values() if isinstance(source, exp.Table)
        ),
        frozenset(
            call.expressions[0].name.lower()
            for call in tree.find_all(exp.Anonymous)
            if call.name.lower() == "getvariable" and call.expressions
        ),
    )


@contextmanager
def _understanding() -> Generator[None]:
    try:
        yield
    except (SqlglotError, RecursionError) as error:
        raise NotIncrementalError(f"its query is not understood: {str(error).partition(chr(10))[0]}") from error


def analyse(
    query: str,
    key: Sequence[str],
    columns: Mapping[str, Mapping[str, str]],
    day_key: str | None = None,
    declared: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a query whose result has the unique columns `key`, or `NotIncrementalError`.

    `columns` gives the names and types of the columns of each table that is read. `day_key` is a date column of the key.
    `declared` holds hand-written queries of touched keys, by source.
    """
    with _understanding():
        tree = pushdown_projections(
            qualify(
                sqlglot.parse_one(query, dialect=_DIALECT),
                schema={name: dict(types) for name, types in columns.items()},
                dialect=_DIALECT,
            )
        )
    if found := tree.find(*_UNSTEADY):
        raise NotIncrementalError(f"it has {found.sql(_DIALECT)}, which is not the same at each refresh")
    missing = {name.lower() for name in key} - set(_named_selects(tree))
    if missing:
        raise NotIncrementalError(f"its result has no column {', '.join(sorted(missing))}")
    declared, key = declared or {}, [name.lower() for name in key]
    tracing = _Tracing(key)
    tracing.query(tree, {name: exp.column(name) for name in key}, {}, None)
    touched = {table: [sql] for table, sql in declared.items()}
    used: dict[str, set[str]] = {}
    for leaf in tracing.leaves:
        used.setdefault(leaf.table.name, set()).update(leaf.columns)
        table = leaf.table.name
        if table not in declared:
            found = touched.setdefault(table, [])
            sql = _touched_keys(leaf, key)
            if sql not in found:
                found.append(sql)
    return Plan(
        {table: sorted(names) for table, names in used.items()},
        touched,
        *_narrow(tree, tracing.leaves, day_key, columns),
    )


Trace = dict[str, exp.Expr]  # by key column, its expression over columns of the traced relation


@dataclass(frozen=True)
class _Block:
    """A SELECT in which the whole key is known, as expressions over its sources."""

    select: exp.Select
    trace: Trace
    ctes: Mapping[str, "_Cte"]
    source: exp.Expr  # the one on the way to the leaf


@dataclass(frozen=True)
class _Cte:
    query: exp.Expr
    ctes: Mapping[str, "_Cte"]


@dataclass(frozen=True)
class _Leaf:
    """One way from the result down to a table. A CTE that is read twice gives two ways to the same place in the text."""

    table: exp.Table
    columns: frozenset[str]
    trace: Trace
    block: _Block | None


class _Tracing:
    """Follows the key from a query's result to the tables beneath."""

    def __init__(self, key: list[str]) -> None:
        self._key = key
        self.leaves: list[_Leaf] = []

    def query(self, query: exp.Expr, trace: Trace, ctes: Mapping[str, _Cte], block: _Block | None) -> None:
        """Trace columns of a query's result; `trace` is over its output names."""
        query = _unwrapped(query)
        ctes = _with_ctes(query, ctes)
        if isinstance(query, exp.Union) and not query.args.get("by_name"):
            names = _named_selects(query)
            for branch in (query.left, query.right):
                renamed = dict(zip(names, _named_selects(branch), strict=True))
                self.query(branch, {k: _renamed(e, renamed) for k, e in trace.items()}, ctes, block)
        elif isinstance(query, exp.Select):
            self._select(query, trace, ctes, block)
        else:
            raise NotIncrementalError(f"it has {_kind(query)}")

    def _select(self, select: exp.Select, trace: Trace, ctes: Mapping[str, _Cte], block: _Block | None) -> None:
        _refuse_what_is_not_traced(select)
        outputs = {output.alias_or_name: output.unalias() for output in select.selects}
        grouped = _groupings(select, outputs)
        inside: Trace = {}
        for key, expression in trace.items():
            used = [outputs[column.name] for column in expression.find_all(exp.Column)]
            if grouped is None or all(output in grouped or _is_constant(output) for output in used):
                inside[key] = _substituted(expression, outputs)
        equal = _equalities(select)
        for source in _sources(select):
            found = {key: _over(expression, source.alias_or_name, equal) for key, expression in inside.items()}
            traced = {key: expression for key, expression in found.items() if expression is not None}
            is_whole = len(inside) == len(self._key)
            here = _Block(select, inside, ctes, source) if is_whole else block
            if isinstance(source, exp.Subquery):
                self.query(source, {k: _unqualified(e) for k, e in traced.items()}, ctes, here)
            elif isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
                if source.name in ctes and not source.db:
                    cte = ctes[source.name]
                    self.query(cte.query, {k: _unqualified(e) for k, e in traced.items()}, cte.ctes, here)
                else:
                    names = frozenset(c.name for c in select.find_all(exp.Column) if c.table == source.alias_or_name)
                    self.leaves.append(_Leaf(source, names, {k: _unqualified(e) for k, e in traced.items()}, here))
            else:
                raise NotIncrementalError(f"it reads {_kind(source)}")


def _joins(select: exp.Select) -> list[exp.Join]:
    return select.args.get("joins") or []


def _sources(select: exp.Select) -> list[exp.Expr]:
    return [select.args["from_"].this, *(join.this for join in _joins(select))]


def _refuse_what_is_not_traced(select: exp.Select) -> None:
    if select.args.get("from_") is None:
        raise NotIncrementalError("a part of it reads no table")
    for argument, what in (("limit", "LIMIT"), ("offset", "OFFSET"), ("sample", "a sample"), ("laterals", "LATERAL")):
        if select.args.get(argument):
            raise NotIncrementalError(f"it has {what}")
    distinct = select.args.get("distinct")
    if distinct is not None and distinct.args.get("on"):
        raise NotIncrementalError("it has DISTINCT ON")
    for join in _joins(select):
        if join.side not in ("", "LEFT") or join.kind not in ("", "INNER", "OUTER", "CROSS") or join.method:
            raise NotIncrementalError(f"it has a join other than INNER, LEFT and CROSS ({join.sql(_DIALECT)[:60]})")
    asked = [*select.selects, *(select.args.get(part) for part in ("where", "having", "qualify", "group", "order"))]
    asked += [join.args.get("on") for join in _joins(select)]
    for part in asked:
        if part is not None and part.find(exp.Query) is not None:
            raise NotIncrementalError("it has a subquery within an expression (IN, EXISTS or a scalar)")


def _groupings(select: exp.Select, outputs: Mapping[str, exp.Expr]) -> list[exp.Expr] | None:
    """The expressions by which rows are grouped or partitioned; None if every row stands for itself."""
    grouped: list[exp.Expr] | None = None
    group = select.args.get("group")
    if group is not None:
        if any(group.args.get(kind) for kind in ("grouping_sets", "cube", "rollup", "all")):
            raise NotIncrementalError("it has GROUP BY ALL, GROUPING SETS, CUBE or ROLLUP")
        groups: list[exp.Expr] = group.expressions
        grouped = [_resolved(expression, outputs) for expression in groups]
    elif any(output.find(exp.AggFunc) and not output.find(exp.Window) for output in select.selects):
        return []
    windows = [
        window for part in (*select.selects, select.args.get("qualify")) if part for window in part.find_all(exp.Window)
    ]
    for window in windows:
        parts: list[exp.Expr] = window.args.get("partition_by") or []
        partition = [_resolved(expression, outputs) for expression in parts]
        grouped = partition if grouped is None else [each for each in grouped if each in partition]
    return grouped


def _is_constant(expression: exp.Expr) -> bool:
    return expression.find(exp.Column, exp.AggFunc, exp.Window) is None


def _resolved(expression: exp.Expr, outputs: Mapping[str, exp.Expr]) -> exp.Expr:
    """The expression of a grouping, which may be written by position, by an output's name or in full."""
    if isinstance(expression, exp.Literal) and not expression.is_string:
        return list(outputs.values())[int(expression.name) - 1]
    if isinstance(expression, exp.Column) and not expression.table and expression.name in outputs:
        return outputs[expression.name]
    return expression


def _equalities(select: exp.Select) -> dict[str, dict[tuple[str, str], exp.Column]]:
    """By relation, its columns that equal a column of another relation in every row of the result.

    In a LEFT JOIN only the right side can stand for the left, because the right may have no row.
    """
    pairs: list[tuple[exp.Column, exp.Column]] = []  # the second one may stand for the first
    for join in _joins(select):
        right = join.this.alias_or_name
        for left_column, right_column in _equal_columns(join.args.get("on")):
            for one, other in ((left_column, right_column), (right_column, left_column)):
                if not join.side or other.table == right:
                    pairs.append((one, other))
    where = select.args.get("where")
    for one, other in _equal_columns(where.this if where else None):
        pairs += [(one, other), (other, one)]
    known: dict[tuple[str, str], dict[tuple[str, str], exp.Column]] = {}
    for one, other in pairs:
        known.setdefault((one.table, one.name), {})[other.table, other.name] = other
    equal: dict[str, dict[tuple[str, str], exp.Column]] = {}
    for start in known:
        seen, waiting = {start}, [start]
        while waiting:
            for place, column in known.get(waiting.pop(), {}).items():
                if place not in seen:
                    seen.add(place)
                    waiting.append(place)
                    equal.setdefault(column.table, {}).setdefault(start, column)
    return equal


def _equal_columns(condition: exp.Expr | None) -> Iterator[tuple[exp.Column, exp.Column]]:
    parts = condition.flatten() if isinstance(condition, exp.And) else [condition] if condition else []
    for part in (part.unnest() for part in parts):
        if isinstance(part, exp.EQ) and isinstance(part.left, exp.Column) and isinstance(part.right, exp.Column):
            yield part.left, part.right


def _over(
    expression: exp.Expr, relation: str, equal: Mapping[str, Mapping[tuple[str, str], exp.Column]]
) -> exp.Expr | None:
    """The expression written over columns of one relation, or None if that is impossible."""
    replaced = expression.copy()
    for column in list(replaced.find_all(exp.Column)):
        if column.table == relation:
            continue
        same = equal.get(relation, {}).get((column.table, column.name))
        if same is None:
            return None
        if column is replaced:
            replaced = same.copy()
        else:
            column.replace(same.copy())
    return replaced


def _touched_keys(leaf: _Leaf, key: Sequence[str]) -> str:
    """A query of the keys that changed rows of the leaf's table touch on this way."""
    table = leaf.table.name
    if len(leaf.trace) == len(key):
        listed = ", ".join(f'{leaf.trace[name].sql(_DIALECT)} AS "{name}"' for name in key)
        return f'SELECT DISTINCT {listed} FROM "{changes_of(table)}"'
    reason = (
        f"the query does not show which rows a change in {table} touches; declare that as changed_keys of the model"
    )
    if leaf.block is None:
        raise NotIncrementalError(reason)
    block = leaf.block
    joins = _joins(block.select)
    if any(join.side for join in joins):
        raise NotIncrementalError(f"{reason} (a LEFT JOIN connects it with the rest of the key)")
    sources: dict[str, str] = {}
    first, *_ = _sources(block.select)
    for source in _sources(block.select):
        base = _base_of(source, block.ctes)
        if base is None:
            raise NotIncrementalError(f"{reason} (the rest of the key does not come from a plain table)")
        projection, beneath = base
        named = changes_of if source is block.source else all_of
        sources[source.alias_or_name] = (
            f'({_read(projection, beneath, named(beneath.name))}) AS "{source.alias_or_name}"'
        )
    text = sources[first.alias_or_name]
    for join in joins:
        on = join.args.get("on")
        text += f" INNER JOIN {sources[join.this.alias_or_name]} ON {on.sql(_DIALECT) if on else 'true'}"
    listed = ", ".join(f'{block.trace[name].sql(_DIALECT)} AS "{name}"' for name in key)
    return f"SELECT DISTINCT {listed} FROM {text}"


def _base_of(source: exp.Expr, ctes: Mapping[str, _Cte]) -> tuple[exp.Expr, exp.Table] | None:
    """The query and the table of a source that only renames and computes columns of one table, otherwise None."""
    if isinstance(source, exp.Table) and (source.db or source.name not in ctes):
        return source, source
    query = _unwrapped(ctes[source.name].query if isinstance(source, exp.Table) else source)
    beneath = ctes[source.name].ctes if isinstance(source, exp.Table) else ctes
    if not isinstance(query, exp.Select) or query.args.get("joins") or query.args.get("distinct"):
        return None
    if _groupings(query, {}) is not None or query.args.get("qualify"):
        return None
    inner = query.args["from_"].this
    if not isinstance(inner, exp.Table) or (not inner.db and inner.name in _with_ctes(query, beneath)):
        return None
    return query, inner


def _read(projection: exp.Expr, table: exp.Table, name: str) -> str:
    """The SQL of a projection of a table, with the relation `name` in the table's place."""
    relation = exp.to_table(f'"{name}"', alias=table.alias_or_name)
    if projection is table:
        return exp.select("*").from_(relation).sql(_DIALECT)
    path = projection.copy()
    path.args["from_"].this.replace(relation)
    return path.sql(_DIALECT)


def _narrow(
    tree: exp.Expr, leaves: Sequence[_Leaf], day_key: str | None, columns: Mapping[str, Mapping[str, str]]
) -> tuple[str, list[Scan]]:
    """The query with every table narrowed to rows that touched keys can come from, and its scans."""
    traces: dict[int, list[_Leaf]] = {}
    for leaf in leaves:
        traces.setdefault(id(leaf.table), []).append(leaf)
    scans: list[Scan] = []
    for ways in traces.values():
        table = ways[0].table
        # Rows are left out only by conditions that all ways to this place in the text share.
        first, *others = (way.trace for way in ways)
        agreed = {
            name: expression for name, expression in first.items() if all(expression == way.get(name) for way in others)
        }
        day_column = _day_column(agreed.get(day_key) if day_key else None, columns[table.name])
        placeholder = f"refresh_scan_{len(scans)}"
        scans.append(Scan(placeholder, table.name, day_column))
        relation: exp.Expr = exp.to_table(f'"{placeholder}"')
        narrowed = exp.select("*").from_(relation)
        if set(agreed) - ({day_key} if day_column else set()):
            values = ", ".join(expression.sql(_DIALECT) for expression in agreed.values())
            wanted = ", ".join(f'"{name}"' for name in agreed)
            narrowed = narrowed.where(f"({values}) IN (SELECT ({wanted}) FROM {TOUCHED_KEYS})", dialect=_DIALECT)
        table.replace(narrowed.subquery(exp.to_identifier(table.alias_or_name, quoted=True)))
    return tree.sql(_DIALECT), scans


def _day_column(day: exp.Expr | None, types: Mapping[str, str]) -> str | None:
    """The column whose date is the day of the key, so that files of other days are not opened."""
    if isinstance(day, exp.Cast) and day.to.is_type("date"):
        day = day.this
    return day.name if isinstance(day, exp.Column) and _DAYS.fullmatch(types[day.name]) else None


def _with_ctes(query: exp.Expr, ctes: Mapping[str, _Cte]) -> Mapping[str, _Cte]:
    with_ = query.args.get("with_")
    if with_ is None:
        return ctes
    if with_.recursive:
        raise NotIncrementalError("it has a recursive CTE")
    return reduce(lambda known, cte: {**known, cte.alias: _Cte(cte.this, known)}, with_.expressions, dict(ctes))


def _named_selects(query: exp.Expr) -> list[str]:
    query = _unwrapped(query)
    return query.named_selects if isinstance(query, exp.Query) else []


def _unwrapped(query: exp.Expr) -> exp.Expr:
    while isinstance(query, exp.Subquery | exp.Paren):
        query = query.this
    return query


def _substituted(expression: exp.Expr, columns: Mapping[str, exp.Expr]) -> exp.Expr:
    def substitute(node: exp.Expr) -> exp.Expr:
        return columns[node.name].copy() if isinstance(node, exp.Column) and node.name in columns else node

    return expression.transform(substitute)


def _renamed(expression: exp.Expr, names: Mapping[str, str]) -> exp.Expr:
    return _substituted(expression, {old: exp.column(new, quoted=True) for old, new in names.items()})


def _unqualified(expression: exp.Expr) -> exp.Expr:
    names = {column.name for column in expression.find_all(exp.Column)}
    return _renamed(expression, {name: name for name in names})


def _kind(node: exp.Expr) -> str:
    if isinstance(node, exp.Except | exp.Intersect):
        return "EXCEPT or INTERSECT"
    return type(node).__name__.upper()
