"""Gives dbt's DuckDB connection the lake's extensions before it attaches the lake. Named in `dbt/profiles.yml`."""

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from churn_assets.warehouse.lake import load_extensions


class Plugin(BasePlugin):
    """The hook that dbt-duckdb calls; its name is dbt-duckdb's."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Load the extensions from their wheels, as nothing may be downloaded."""
        load_extensions(conn)
