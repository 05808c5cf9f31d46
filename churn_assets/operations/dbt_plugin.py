"""Give dbt's DuckDB connection the lake's extensions and functions before it attaches the lake. Named in `dbt/profiles.yml`."""

import os
from pathlib import Path

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from churn_assets.model import serving
from churn_assets.warehouse.lake_place import LakePlace

# The lake that dbt works on, set by who starts dbt in this process. A person who starts it by hand has the one of dbt's profile.
deployed: list[LakePlace] = []


class Plugin(BasePlugin):
    """The hook that dbt-duckdb calls; dbt-duckdb prescribes its name."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Load the extensions from their wheels, as nothing may be downloaded, and register the functions of queries."""
        place = deployed[-1] if deployed else LakePlace.here(Path(os.environ.get("CHURN_LAKE", "../.churn/lake")))
        place.prepare(conn)
        serving.register(conn, place.read_model)
