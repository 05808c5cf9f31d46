"""How the project signs in to Snowflake, and what its errors mean.

Here belong the connection's parameters, the sign-in, and the line that says what to do about an error. What is run over a
connection is `snowflake`'s and the deployment's.
"""

import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error

from churn_assets.settings import Settings, SettingsError
from churn_assets.warehouse.protocol import WarehouseError

LOGIN_SECONDS = 60  # until a sign-in counts as failed
# For which a statement waits for another transaction's lock. Snowflake takes five minutes to give up the transaction of a
# client that was killed: https://docs.snowflake.com/en/sql-reference/transactions#aborting-transactions
LOCK_SECONDS = 600
NETWORK_SECONDS = 300  # for which the client itself repeats a request that the network lost

Connections = Callable[[], AbstractContextManager[SnowflakeConnection]]

# What is said of an error, by its number; {role}, {warehouse}, {user} ... are the settings' own words.
_WHAT_TO_DO: tuple[tuple[tuple[int, ...], str], ...] = (
    (
        (250001, 250003, 290404),
        "Snowflake was not reached or refused the sign-in; check SNOWFLAKE_ACCOUNT, the network and the user",
    ),
    (
        (390144,),
        "the private key is not the one of user {user}; set it with ALTER USER {user} SET RSA_PUBLIC_KEY = '…'",
    ),
    (
        (394304, 394300),
        "the clock of this machine or the key is off; compare the time with a time server, then the key of {user}",
    ),
    (
        (390318, 390111, 390112, 390114),
        "the token or session has expired; get a new SNOWFLAKE_TOKEN, or sign in with a key",
    ),
    ((390189,), "role {role} does not exist or user {user} does not have it; GRANT ROLE {role} TO USER {user}"),
    (
        (390100, 390101, 390102),
        "user or password is wrong; service users sign in with a key (SNOWFLAKE_PRIVATE_KEY_PATH)",
    ),
    ((606, 90073), "no warehouse runs; GRANT USAGE, OPERATE ON WAREHOUSE {warehouse} TO ROLE {role}, or resume it"),
    (
        (90064, 90106),
        "warehouse {warehouse} is suspended or its resource monitor has stopped it; ALTER WAREHOUSE {warehouse} RESUME",
    ),
    (
        (2003, 2043),
        "it does not exist or role {role} may not see it; run `churn deploy --target snowflake`, or grant it",
    ),
    ((3001,), "role {role} lacks a privilege; `churn doctor` lists what to grant"),
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}")


class SnowflakeError(WarehouseError):
    """Snowflake refused a sign-in or a statement; the message is one line that says what to do."""


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """What dagster-snowflake's resource is configured with; `SettingsError` where something is missing or wrong."""
    missing = [name for name in ("account", "user") if not getattr(settings, f"snowflake_{name}")]
    if missing:
        names = " and ".join(f"SNOWFLAKE_{name.upper()}" for name in missing)
        raise SettingsError(f"CHURN_TARGET=snowflake needs {names}; see docs/snowflake.md")
    parts = {part: getattr(settings, f"snowflake_{part}") for part in ("role", "warehouse", "database", "schema")}
    for part, name in parts.items():
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"SNOWFLAKE_{part.upper()} cannot be {name!r}: use letters, digits and _, as a name without quotes"
            )
    parts = {part: name.upper() for part, name in parts.items()}
    extra: dict[str, Any] = {
        # Values are bound by the server, never written into a statement.
        "paramstyle": "qmark",
        "session_parameters": {
            "TIMEZONE": "UTC",
            "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
            "QUERY_TAG": "churn_assets",
        },
        **(
            {
                "host": settings.snowflake_host,
                "port": settings.snowflake_port,
                "protocol": settings.snowflake_protocol,
            }
            if settings.snowflake_host
            else {}
        ),
    }
    return {
        "account": settings.snowflake_account,
        "user": settings.snowflake_user,
        "role": parts["role"],
        "warehouse": parts["warehouse"],
        "database": parts["database"],
        "schema": parts["schema"],
        "login_timeout": LOGIN_SECONDS,
        "network_timeout": NETWORK_SECONDS,
        **_sign_in(settings, extra),
        "additional_snowflake_connection_args": extra,
    }


def _sign_in(settings: Settings, extra: dict[str, Any]) -> dict[str, Any]:
    """A key, a token or, with a warning, a password. The resource knows no token, so it joins what is passed on as it is."""
    if path := settings.snowflake_private_key_path:
        if not path.is_file():
            raise SettingsError(f"SNOWFLAKE_PRIVATE_KEY_PATH: there is no file {path}")
        phrase = settings.snowflake_private_key_passphrase
        return {
            "private_key_path": str(path),
            **({"private_key_password": phrase.get_secret_value()} if phrase else {}),
        }
    if settings.snowflake_token:
        extra["token"] = settings.snowflake_token.get_secret_value()
        return {"authenticator": "oauth"}
    if settings.snowflake_password:
        warnings.warn(
            "signing in to Snowflake with a password, which it refuses for service users; use SNOWFLAKE_PRIVATE_KEY_PATH",
            stacklevel=2,
        )
        return {"password": settings.snowflake_password.get_secret_value()}
    raise SettingsError(
        "CHURN_TARGET=snowflake needs SNOWFLAKE_PRIVATE_KEY_PATH (or SNOWFLAKE_TOKEN); see docs/snowflake.md"
    )


def connections(settings: Settings) -> Connections:
    """What opens a connection each time it is called, through dagster-snowflake's resource."""
    from dagster_snowflake import SnowflakeResource  # noqa: PLC0415  # seconds of imports

    parameters = connection_parameters(settings)
    return SnowflakeResource(**parameters).get_connection


def what_to_do(error: Error, settings: Settings) -> str:
    """One line for a person: Snowflake's own words, cut to the first line, and what to do where that is known."""
    said = " ".join((error.raw_msg or error.msg or str(error)).split())[:300]
    fix = next((text for numbers, text in _WHAT_TO_DO if error.errno in numbers), None)
    line = f"Snowflake ({error.errno}): {said}"
    names = {name: getattr(settings, f"snowflake_{name}") for name in ("user", "role", "warehouse")}
    return f"{line}; {fix.format(**names)}" if fix else line
