"""The columns that an account's tables lack because an earlier version created them.

Here belongs the comparison with the statements. Columns are only added, never changed or dropped.
"""

import re
from collections.abc import Iterable

import sqlglot
from sqlglot import exp

from churn_assets.operations.dbt import DeploymentError
from churn_assets.operations.history import bare
from churn_assets.operations.statements import Statement
from churn_assets.warehouse.snowflake_connection import Rows
from churn_assets.warehouse.snowflake_names import Names

_CREATES_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS ")
_HAS_COLUMNS = """
    SELECT table_name, column_name, data_type FROM {database}.INFORMATION_SCHEMA.COLUMNS WHERE table_schema = ?
"""
# Declared types under the names that information_schema gives them.
_FAMILIES = {
    **dict.fromkeys(("VARCHAR", "TEXT", "STRING", "CHAR"), "TEXT"),
    **dict.fromkeys(("DOUBLE", "FLOAT"), "FLOAT"),
    **dict.fromkeys(("INT", "INTEGER", "BIGINT", "SMALLINT", "DECIMAL", "NUMBER"), "NUMBER"),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMPNTZ", "TIMESTAMP_NTZ", "DATETIME"), "TIMESTAMP_NTZ"),
    **dict.fromkeys(("BINARY", "VARBINARY"), "BINARY"),
}


def additions(rows: Rows, names: Names, statements: Iterable[Statement]) -> list[str]:
    """The statements that add missing columns; `DeploymentError` if a table cannot be brought to its declaration."""
    wanted = [one for one in statements if _CREATES_TABLE.match(one.plain)]
    there: dict[str, dict[str, str]] = {}
    if wanted:
        for row in rows(_HAS_COLUMNS.format(database=names.database), [names.schema]):
            there.setdefault(row["table_name"].upper(), {})[row["column_name"].upper()] = row["data_type"].upper()
    additions = list[str]()
    for statement in wanted:
        table = sqlglot.parse_one(statement.text, dialect="snowflake").find_all(exp.ColumnDef)
        name = statement.about.rpartition(" ")[2]
        has = there.get(bare(name))
        if has is None:
            continue
        for column in table:
            type_ = column.args["kind"].sql("snowflake")
            family = _FAMILIES.get(type_.partition("(")[0], type_.partition("(")[0])
            add = f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column.name} {type_}"
            is_required = any(isinstance(one.kind, exp.NotNullColumnConstraint) for one in column.constraints)
            default = next(
                (one.kind for one in column.constraints if isinstance(one.kind, exp.DefaultColumnConstraint)), None
            )
            if column.name.upper() not in has:
                if default is not None:  # which the rows that are there get; it cannot be combined with IF NOT EXISTS
                    add = f"ALTER TABLE {name} ADD COLUMN {column.name} {type_} {default.sql('snowflake')}"
                elif is_required:
                    raise DeploymentError(
                        f"table {name} of {statement.path} lacks the column {column.name}, which may not be NULL; run {add};"
                        f" UPDATE {name} SET {column.name} = …; ALTER TABLE {name} ALTER COLUMN {column.name} SET NOT NULL;"
                        " and deploy again"
                    )
                additions.append(add)
            elif family != _family(has[column.name.upper()]):
                raise DeploymentError(
                    f"column {column.name} of table {name} is {has[column.name.upper()]}, and {statement.path} says {type_};"
                    f" fix it by hand: ALTER TABLE {name} RENAME COLUMN {column.name} TO {column.name}_before; {add};"
                    f" UPDATE {name} SET {column.name} = {column.name}_before; and deploy again"
                )
    return additions


def _family(type_: str) -> str:
    return _FAMILIES.get(type_, type_)
