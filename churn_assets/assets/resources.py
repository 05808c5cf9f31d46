"""What Dagster adds to a warehouse's connection: its Snowflake resource, and on whose behalf a statement is run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dagster as dg

from churn_assets.settings import Settings

if TYPE_CHECKING:
    from churn_assets.warehouse.snowflake_connection import Connections

# What dagster-snowflake's resource calls otherwise than the connector, and what else it knows.
_CALLED = {"private_key_file": "private_key_path", "private_key_file_pwd": "private_key_password"}
_KNOWN = {"account", "user", "role", "warehouse", "database", "schema", "password", "authenticator", "paramstyle"}
_KNOWN |= {"login_timeout", "network_timeout", *_CALLED}


def connections(settings: Settings) -> Connections:
    """What opens a connection through dagster-snowflake's resource each time it is called."""
    # Seconds of imports, which nobody without an account should pay.
    from dagster_snowflake import SnowflakeResource  # noqa: PLC0415

    from churn_assets.warehouse.snowflake_connection import connection_parameters  # noqa: PLC0415

    parameters = connection_parameters(settings)
    return SnowflakeResource(
        **{_CALLED.get(name, name): value for name, value in parameters.items() if name in _KNOWN},
        additional_snowflake_connection_args={name: value for name, value in parameters.items() if name not in _KNOWN},
    ).get_connection


def query_tag() -> str:
    """JSON: the run, and the assets or checks of its step under way; only the app's name outside of a step."""
    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # there is no way to ask first
        return json.dumps({"app": "churn_assets"})
    assets = sorted(key.to_user_string() for key in context.selected_asset_keys)
    checks = sorted(f"{key.asset_key.to_user_string()}: {key.name}" for key in context.selected_asset_check_keys)
    # Snowflake keeps 2,000 characters; a step has few assets, and where it has some their checks are known.
    return json.dumps(
        {"app": "churn_assets", "run_id": context.run_id, **({"assets": assets} if assets else {"checks": checks})}
    )
