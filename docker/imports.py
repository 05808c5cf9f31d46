"""Imports what the processes of the image use, so that its bytecode is there: nobody may write it later (`Dockerfile`)."""

from importlib import import_module
from pkgutil import walk_packages

import churn_assets
import dagster_warm

_PROCESSES = (
    "dagster._cli.api", "dagster._daemon.cli", "dagster_postgres", "dagster_webserver.cli", "dbt.cli.main",
    "dbt.adapters.duckdb.impl", "matplotlib.pyplot", "onnx", "openai", "scipy.stats", "sklearn.ensemble", "snowflake.snowpark",
    "streamlit.web.cli",
)  # fmt: skip
_SCRIPTS = {"churn_assets.dashboard.streamlit_app", "churn_assets.cli.__main__"}

for package in (churn_assets, dagster_warm):
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        if module.name not in _SCRIPTS:
            import_module(module.name)
for name in _PROCESSES:
    import_module(name)
