"""What keeps Snowflake from refreshing a dynamic table incrementally, read from a query's text.

The rules are those of "Supported queries for dynamic tables" in Snowflake's documentation, as far as models here could
break them. A query that breaks none may still be refused by Snowflake; one that breaks one falls back to FULL there.
"""

import sqlglot
from sqlglot import exp

_CLOCK = (exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.CurrentDatetime)
_CLOCK_MAY_STAND_IN = (exp.Where, exp.Having, exp.Qualify)
_UNSTEADY = (exp.Rand, exp.Uuid, exp.TableSample)
_REFUSED = {
    exp.Limit: "LIMIT",
    exp.Except: "EXCEPT",
    exp.Intersect: "INTERSECT",
    exp.GroupingSets: "GROUPING SETS",
    exp.Cube: "CUBE",
    exp.Rollup: "ROLLUP",
    exp.Exists: "EXISTS",
    exp.Pivot: "PIVOT",
}


def broken_rules(sql: str) -> list[str]:
    """In words, each rule that a query in Snowflake's SQL breaks."""
    tree = sqlglot.parse_one(sql, dialect="snowflake")
    broken = [name for kind, name in _REFUSED.items() if tree.find(kind)]
    broken += [
        "the clock outside of WHERE, HAVING and QUALIFY"
        for clock in tree.find_all(*_CLOCK)
        if not isinstance(clock.find_ancestor(*_CLOCK_MAY_STAND_IN, exp.Select), _CLOCK_MAY_STAND_IN)
    ]
    broken += [f"{node.sql()}, which differs each time" for node in tree.find_all(*_UNSTEADY)]
    broken += [f"a subquery in {node.parent.sql()[:60]}" for node in tree.find_all(exp.In) if node.args.get("query")]
    broken += [
        "a scalar subquery" for node in tree.find_all(exp.Subquery) if not isinstance(node.parent, exp.From | exp.Join)
    ]
    for join in tree.find_all(exp.Join):
        condition = join.args.get("on")
        parts = condition.flatten() if isinstance(condition, exp.And) else [condition]
        if join.kind == "CROSS" or not all(isinstance(part, exp.EQ) for part in parts):
            broken.append(f"a join by something else than equality: {join.sql()[:80]}")
    broken += [f"{count.sql()}" for count in tree.find_all(exp.Count) if isinstance(count.this, exp.Distinct)]
    broken += [
        f"a window without PARTITION BY: {window.sql()}"
        for window in tree.find_all(exp.Window)
        if not window.args.get("partition_by")
    ]
    return broken
