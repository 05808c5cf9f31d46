"""Give dbt's DuckDB connection the lake's extensions and functions before it attaches the lake. Named in `dbt/profiles.yml`."""

import os
from functools import partial
from pathlib import Path

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from churn_assets.model import serving
from churn_assets.warehouse.lake import load_extensions, read_model


class Plugin(BasePlugin):
    """The hook that dbt-duckdb calls; dbt-duckdb prescribes its name."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Load the extensions from their wheels, as nothing may be downloaded, and register the functions of queries."""
        load_extensions(conn)
        serving.register(conn, partial(read_model, Path(os.environ.get("CHURN_LAKE", "../.churn/lake"))))
