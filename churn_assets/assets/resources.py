"""The resources of the graph as Dagster's UI shows them: named, described and with their configuration, never a secret.

Here too: what Dagster adds to a connection to Snowflake: its Snowflake resource, and a tag that names the run of a statement.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import dagster as dg
from pydantic import Field, SecretStr, create_model

from churn_assets.retention.emails import EmailRun
from churn_assets.settings import DEFAULT_MODELS, Settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.wiring import make_email_run, open_warehouse, place_of

if TYPE_CHECKING:
    from churn_assets.warehouse.snowflake_connection import Connections

# Parameters that dagster-snowflake's resource names differently from the connector, and all that it knows.
_CALLED = {"private_key_file": "private_key_path", "private_key_file_pwd": "private_key_password"}
_KNOWN = {"account", "user", "role", "warehouse", "database", "schema", "password", "authenticator", "paramstyle"}
_KNOWN |= {"login_timeout", "network_timeout", *_CALLED}
_HIDDEN = "(hidden)"  # a secret that is set

R = TypeVar("R", bound=dg.ConfigurableResource[Any])


class _SettingsResource(dg.ConfigurableResource[Settings]):
    """What a user has set by environment variable or in `.env`, otherwise the default. Secrets are hidden."""


_FIELDS: dict[str, Any] = {
    field.alias: (str, Field(description=field.description)) for field in Settings.model_fields.values() if field.alias
}
SettingsResource = create_model(
    "SettingsResource",
    __base__=_SettingsResource,
    __module__=__name__,
    __doc__=_SettingsResource.__doc__,
    **_FIELDS,
)


class WarehouseResource(dg.ConfigurableResource[Warehouse]):
    """Tables, transactions, dynamic tables and the files of models: the DuckLake on this machine or Snowflake."""

    target: str = Field(description="CHURN_TARGET: local or snowflake.")
    place: str = Field(description="Where the tables are.")
    tables_in: str = Field(description="The prefix of a table's name.")


class EmailRunResource(dg.ConfigurableResource[EmailRun]):
    """Who writes the retention emails, by which prompts and text checks, and what a day may cost."""

    writer: str = Field(description="CHURN_WRITER: who writes.")
    model: str = Field(description="The writer's language model; empty for fixed sentences.")
    emails_per_day: int = Field(description="Emails that may be written a day (UTC).")
    tokens_per_day: int = Field(description="Tokens of a language model that may be used a day (UTC).")


def resources_of(settings: Settings) -> dict[str, dg.ConfigurableResource[Any]]:
    """The graph's resources by the names that assets and sensors ask for: `settings`, `warehouse` and `email_run`.

    One warehouse serves all runs and sensors of a process, so that its connection stays open. The email run is made only where
    Dagster needs it, so that a mistake in marketing's file stops nothing but emails.
    """
    place = place_of(settings)
    warehouse = open_warehouse(settings, tag=query_tag, connect=connections)
    return {
        "settings": _giving(SettingsResource, lambda: settings)(
            **{
                field.alias: _shown(getattr(settings, name))
                for name, field in Settings.model_fields.items()
                if field.alias
            }
        ),
        "warehouse": _giving(WarehouseResource, lambda: warehouse)(
            target=settings.target, place=place.described, tables_in=place.schema
        ),
        "email_run": _giving(EmailRunResource, lambda: make_email_run(settings, warehouse))(
            writer=settings.writer,
            model=settings.writer_model or DEFAULT_MODELS.get(settings.writer, ""),
            emails_per_day=settings.emails_per_day,
            tokens_per_day=settings.tokens_per_day,
        ),
    }


def _giving(resource: type[R], give: Callable[[], object]) -> type[R]:
    """The resource, giving assets what `give` returns.

    Dagster copies a resource from its configuration alone, so a copy has nothing but that and its class. What is given holds
    secrets and open connections, which must not be configuration. So it belongs to the class.
    """
    members: dict[str, Any] = {"__module__": __name__, "__qualname__": resource.__name__, "__doc__": resource.__doc__}
    members["create_resource"] = lambda _self, _context: give()
    return cast(type[R], type(resource)(resource.__name__, (resource,), members))


def _shown(value: object) -> str:
    """A setting as text; of a secret, only whether it is set."""
    if isinstance(value, SecretStr):
        return _HIDDEN
    return "" if value is None else str(value)


def connections(settings: Settings) -> Connections:
    """What opens a connection through dagster-snowflake's resource each time it is called."""
    # The imports take seconds, which nobody without an account should pay.
    from dagster_snowflake import SnowflakeResource  # noqa: PLC0415

    from churn_assets.warehouse.snowflake_connection import connection_parameters  # noqa: PLC0415

    parameters = connection_parameters(settings)
    return SnowflakeResource(
        **{_CALLED.get(name, name): value for name, value in parameters.items() if name in _KNOWN},
        additional_snowflake_connection_args={name: value for name, value in parameters.items() if name not in _KNOWN},
    ).get_connection


def query_tag() -> str:
    """JSON: the run, and the assets or checks of its current step; only the app's name outside of a step."""
    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # there is no way to ask first
        return json.dumps({"app": "churn_assets"})
    assets = sorted(key.to_user_string() for key in context.selected_asset_keys)
    checks = sorted(f"{key.asset_key.to_user_string()}: {key.name}" for key in context.selected_asset_check_keys)
    # Snowflake keeps 2,000 characters. A step has few assets, and the names of its assets imply their checks.
    return json.dumps(
        {"app": "churn_assets", "run_id": context.run_id, **({"assets": assets} if assets else {"checks": checks})}
    )
