"""On whose behalf a statement is run, as far as Dagster knows: for the warehouse's own history of queries."""

import json

import dagster as dg


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
