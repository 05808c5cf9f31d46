"""A lake's catalog in another database: how a lake is moved between one machine and many hosts, and how it is backed up.

Here belongs the copy of the rows. The files that they name are copied by who calls this.
"""

import duckdb

from churn_assets.dynamic_tables.difference import quoted
from churn_assets.warehouse.lake_place import CONFIG, LakePlace
from churn_assets.warehouse.protocol import WarehouseError
from churn_assets.warehouse.values import literal

# Rows that are not in files yet have a table for each table and form of it, which DuckLake makes where it needs one.
_INLINED = "ducklake_inlined_"


def copy_catalog(source: LakePlace, target: LakePlace) -> None:
    """Copy the rows of a catalog to a database that has none yet; all of them, or none.

    No row may wait in the source's catalog for its file: have them flushed, and let nobody write meanwhile.
    """
    with duckdb.connect(":memory:", config=CONFIG) as connection:
        for place in (source, target):
            place.prepare(connection)
        target.attach(connection, read_only=False)  # makes the tables
        connection.execute("DETACH lake")
        for name, place in (("source", source), ("target", target)):
            kind, _, address = place.catalog.address().partition(":")
            options = [f"TYPE {kind}", *place.catalog.raw_options, *(["READ_ONLY"] if name == "source" else [])]
            connection.execute(f"ATTACH {literal(address)} AS {name} ({', '.join(options)})")
        connection.begin()
        for table, columns in _tables(connection, "source").items():
            if table.startswith(_INLINED):
                _must_be_empty(connection, table)
                continue
            if table not in (wanted := _tables(connection, "target")):
                raise WarehouseError(f"the catalog of {source} is of another version: it has a table {table}")
            into = f"target.{quoted(table)}"
            connection.execute(f"DELETE FROM {into}")
            listed = ", ".join(quoted(column) for column in columns)
            typed = ", ".join(f"CAST({quoted(column)} AS {wanted[table][column]})" for column in columns)
            connection.execute(f"INSERT INTO {into} ({listed}) SELECT {typed} FROM source.{quoted(table)}")
        connection.execute("DELETE FROM target.ducklake_inlined_data_tables")
        folder = [f"{target.data_path}/"]
        connection.execute("UPDATE target.ducklake_metadata SET value = ? WHERE key = 'data_path'", folder)
        connection.commit()


def _tables(connection: duckdb.DuckDBPyConnection, database: str) -> dict[str, dict[str, str]]:
    """The columns of each table of a catalog, with their types."""
    rows = connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns()"
        " WHERE database_name = ? AND table_name LIKE 'ducklake_%'",
        [database],
    ).fetchall()
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        found.setdefault(table, {})[column] = kind
    return found


def _must_be_empty(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    if table == "ducklake_inlined_data_tables":
        return
    [(rows,)] = connection.execute(f"SELECT count(*) FROM source.{quoted(table)}").fetchall()
    if rows:
        raise WarehouseError(f"{rows:,} rows of the lake are in {table} and not in a file; try again")
