"""The column lineage of the dynamic tables, from the SQL that dbt compiled.

Computing it takes a second, so the deployment does it once and stores it beside the manifest, where the graph reads it.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from churn_assets.settings import Settings

Lineage: TypeAlias = dict[str, dict[str, list[tuple[str, str]]]]
"""By table and column: the (table, column) pairs that its value comes from; none for a count of rows."""

_FILE = "column_lineage.json"


def lineage_of(manifest: Mapping[str, Any]) -> Lineage:
    """The lineage of each dynamic table in dbt's compiled manifest, traced through ephemeral models."""
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    # The lineage depends on the names of the columns, not on their types.
    columns = {node["name"]: dict.fromkeys(node["columns"], "VARCHAR") for node in models}
    columns |= {source["name"]: dict.fromkeys(source["columns"], "VARCHAR") for source in manifest["sources"].values()}
    dialect = manifest["metadata"]["adapter_type"]  # sqlglot's dialects have the same names
    return {
        node["name"]: _of_query(node["compiled_code"], node["columns"], columns, dialect)
        for node in models
        if node["config"]["materialized"] == "dynamic_table"
    }


def store_lineage(settings: Settings, manifest: Mapping[str, Any]) -> None:
    """Store the lineage beside the manifest."""
    (settings.dbt_target_path / _FILE).write_text(json.dumps(lineage_of(manifest)))


def read_lineage(settings: Settings) -> Lineage:
    """The lineage that the last deployment stored; empty if that was an older version."""
    path = settings.dbt_target_path / _FILE
    if not path.exists():
        return {}
    found: dict[str, dict[str, list[list[str]]]] = json.loads(path.read_text())
    return {
        table: {column: [(source, name) for source, name in sources] for column, sources in columns.items()}
        for table, columns in found.items()
    }


def _of_query(
    sql: str, wanted: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]], dialect: str
) -> dict[str, list[tuple[str, str]]]:
    import sqlglot  # noqa: PLC0415  # half a second of imports, which `read_lineage` does not need
    from sqlglot import exp  # noqa: PLC0415
    from sqlglot.errors import SqlglotError  # noqa: PLC0415
    from sqlglot.lineage import lineage  # noqa: PLC0415

    query = sqlglot.parse_one(sql, dialect=dialect)
    for table in query.find_all(exp.Table):  # bare names, as assets have them
        table.set("db", None)
        table.set("catalog", None)
    found: dict[str, list[tuple[str, str]]] = {}
    for column in wanted:
        try:
            root = lineage(column, query.copy(), schema={**columns}, dialect=dialect)
        except SqlglotError:
            continue  # a column that the engine adds, such as the time of the refresh, is not in the query
        found[column] = sorted(
            {
                (leaf.source.name.lower(), leaf.name.rpartition(".")[2].strip('"').lower())
                for leaf in root.walk()
                if isinstance(leaf.source, exp.Table) and not leaf.downstream
            }
        )
    return found
