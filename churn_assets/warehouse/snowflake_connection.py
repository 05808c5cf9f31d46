"""How the project signs in to Snowflake, and what Snowflake's errors mean.

This module holds the connection's parameters, the sign-in, and the line that says what to do about an error. Statements
are run by `snowflake` and by `churn_assets.operations`.
"""

import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.cursor import SnowflakeCursor
from snowflake.connector.errors import Error

from churn_assets.settings import Settings, SettingsError
from churn_assets.warehouse.protocol import WarehouseError

LOGIN_SECONDS = 60  # until a sign-in counts as failed
# How long a statement waits for another transaction's lock. Snowflake takes five minutes to abort the transaction of a
# killed client: https://docs.snowflake.com/en/sql-reference/transactions#aborting-transactions
LOCK_SECONDS = 600
NETWORK_SECONDS = 300  # during which the client repeats a request that the network lost

Connections = Callable[[], AbstractContextManager[SnowflakeConnection]]

# What to do about an error, by its number; {role}, {warehouse}, {user} ... come from the settings.
_WHAT_TO_DO: tuple[tuple[tuple[int, ...], str], ...] = (
    (
        (250001, 250003, 290404),
        "Snowflake was not reached or refused the sign-in; check SNOWFLAKE_ACCOUNT, the network and the user",
    ),
    (
        (390144,),
        "the private key does not belong to user {user}; set it with ALTER USER {user} SET RSA_PUBLIC_KEY = '…'",
    ),
    (
        (394304, 394300),
        "the clock of this machine or the key is off; compare the time with a time server, then the key of {user}",
    ),
    (
        (390318, 390111, 390112, 390114),
        "the token or session has expired; get a new SNOWFLAKE_TOKEN, or sign in with a key",
    ),
    (
        (390189, 3013),
        "the role does not exist or user {user} does not have it; as an administrator: GRANT ROLE {role} TO USER {user}",
    ),
    (
        (390100, 390101, 390102),
        "user or password is wrong; service users sign in with a key (SNOWFLAKE_PRIVATE_KEY_PATH)",
    ),
    (
        (606,),
        "no warehouse is in use; GRANT USAGE, OPERATE ON WAREHOUSE {warehouse} TO ROLE {role}, or set SNOWFLAKE_WAREHOUSE",
    ),
    (
        (90073,),
        "the resource monitor of warehouse {warehouse} has used up its credits; raise its quota, or wait for its next interval",
    ),
    (
        (90063, 90064),
        "the state of warehouse {warehouse} does not allow this; see SHOW WAREHOUSES, or run ALTER WAREHOUSE {warehouse} RESUME",
    ),
    (
        (90105, 90106),
        "database {database} or its schema {schema} is not there yet; run `churn deploy --target snowflake`",
    ),
    (
        (2003, 2043),
        "it does not exist or role {role} may not see it; run `churn deploy --target snowflake`, or grant it",
    ),
    ((3001,), "role {role} lacks a privilege; `churn doctor` lists what to grant"),
)
# The same by Snowflake's wording, for wordings that errors of many numbers share.
_WHAT_TO_DO_IF_IT_SAYS: tuple[tuple[str, str], ...] = (
    (
        r"unknown model|unavailable in your region",
        "set CHURN_WRITER_MODEL to a model of the account's region, or let an administrator run"
        " ALTER ACCOUNT SET CORTEX_ENABLED_CROSS_REGION = 'ANY_REGION'",
    ),
    (
        r"cannot read from stream|stream .*\bstale\b",
        "the stream's table was created again; `churn deploy --target snowflake` recreates the stream and loses no customer",
    ),
    (
        r"JWT token is invalid",
        "the key does not belong to user {user}, or the clock of this machine is off; set the key with"
        " ALTER USER {user} SET RSA_PUBLIC_KEY = '…', and compare the time with a time server",
    ),
    (
        r"\bis suspended\b",
        "run ALTER WAREHOUSE {warehouse} RESUME, or let it resume automatically with"
        " ALTER WAREHOUSE {warehouse} SET AUTO_RESUME = TRUE",
    ),
)
_CHOSEN = ("role", "warehouse", "database", "schema")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}")


class PasswordWarning(UserWarning):
    """A password is used instead of a key."""


class SnowflakeError(WarehouseError):
    """Snowflake refused a sign-in or a statement; the message is one line that says what to do."""


class Rows(Protocol):
    """Runs a statement with parameters bound to `?`; returns its rows as dicts with lower-case column names."""

    def __call__(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of the result; `SnowflakeError` if Snowflake refuses the statement."""
        ...


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """The arguments for the connector; `SettingsError` if a setting is missing or wrong."""
    missing = [name for name in ("account", "user") if not getattr(settings, f"snowflake_{name}")]
    if missing:
        names = " and ".join(f"SNOWFLAKE_{name.upper()}" for name in missing)
        raise SettingsError(f"CHURN_TARGET=snowflake needs {names}; see docs/snowflake.md")
    chosen = {part: getattr(settings, f"snowflake_{part}") for part in _CHOSEN}
    for part, name in chosen.items():
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"SNOWFLAKE_{part.upper()} cannot be {name!r}: use letters, digits and _, as a name without quotes"
            )
    host = {part: getattr(settings, f"snowflake_{part}") for part in ("host", "port", "protocol")}
    return {
        "account": settings.snowflake_account,
        "user": settings.snowflake_user,
        **{part: name.upper() for part, name in chosen.items()},
        **_sign_in(settings),
        **(host if settings.snowflake_host else {}),
        "login_timeout": LOGIN_SECONDS,
        "network_timeout": NETWORK_SECONDS,
        # The server binds values; they are never written into a statement.
        "paramstyle": "qmark",
        "session_parameters": {
            "TIMEZONE": "UTC",
            "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
            "LOCK_TIMEOUT": LOCK_SECONDS,
            "ABORT_DETACHED_QUERY": True,
            "QUERY_TAG": "churn_assets",
        },
    }


def _sign_in(settings: Settings) -> dict[str, Any]:
    """A key, a token or, with a warning, a password."""
    if path := settings.snowflake_private_key_path:
        if not path.is_file():
            raise SettingsError(f"SNOWFLAKE_PRIVATE_KEY_PATH: there is no file {path}")
        phrase = settings.snowflake_private_key_passphrase
        return {
            "private_key_file": str(path),
            **({"private_key_file_pwd": phrase.get_secret_value()} if phrase else {}),
        }
    if settings.snowflake_token:
        return {"authenticator": "oauth", "token": settings.snowflake_token.get_secret_value()}
    if settings.snowflake_password:
        warnings.warn(
            "signing in to Snowflake with a password, which Snowflake refuses for service users; use SNOWFLAKE_PRIVATE_KEY_PATH",
            PasswordWarning,
            stacklevel=2,
        )
        return {"password": settings.snowflake_password.get_secret_value()}
    raise SettingsError(
        "CHURN_TARGET=snowflake needs SNOWFLAKE_PRIVATE_KEY_PATH (or SNOWFLAKE_TOKEN); see docs/snowflake.md"
    )


def connections(settings: Settings) -> Connections:
    """A function that opens a new connection with the project's role."""
    return partial(snowflake.connector.connect, **connection_parameters(settings))


def by_name(cursor: SnowflakeCursor) -> list[dict[str, Any]]:
    """All rows of a statement's result, as dicts with lower-case column names."""
    names = [column.name.lower() for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def opened(connect: Connections, settings: Settings) -> Generator[SnowflakeConnection]:
    """An open connection; `SnowflakeError` or `SettingsError` if it cannot be opened."""
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(connect())
        except Error as error:
            raise SnowflakeError(what_to_do(error, settings), error.errno, error.sfqid) from error
        except (TypeError, ValueError) as error:  # from the library that reads keys
            reason = " ".join(str(error).split())
            raise SettingsError(
                f"the key of SNOWFLAKE_PRIVATE_KEY_PATH cannot be read ({reason}); it must be a PEM file, and"
                " SNOWFLAKE_PRIVATE_KEY_PASSPHRASE its passphrase, if it has one"
            ) from error
        yield connection


@contextmanager
def signed_in(settings: Settings) -> Generator[Rows]:
    """A connection for deployments and the doctor; a refusal by Snowflake becomes a `SnowflakeError`.

    It uses the user's default role and chooses nothing, because role, warehouse and schema may not exist yet.
    """
    own = {name: value for name, value in connection_parameters(settings).items() if name not in _CHOSEN}
    with opened(partial(snowflake.connector.connect, **own), settings) as connection:

        def rows(sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(sql, list(parameters) or None)
                    return by_name(cursor)
            except Error as error:
                raise SnowflakeError(what_to_do(error, settings), error.errno, error.sfqid) from error

        yield rows


def what_to_do(error: Error, settings: Settings) -> str:
    """One line for a person: Snowflake's message, shortened, and what to do if that is known."""
    said = " ".join((error.raw_msg or error.msg or str(error)).split())[:300]
    line = f"Snowflake ({error.errno}): {said}"
    fix = known_fix(error.errno, said, settings)
    return f"{line}; {fix}" if fix else line


def known_fix(number: int | None, said: str, settings: Settings) -> str | None:
    """What to do about an error of Snowflake, if that is known: first by its wording, which says more, then by its number."""
    fix = next((fix for words, fix in _WHAT_TO_DO_IF_IT_SAYS if re.search(words, said, re.IGNORECASE)), None)
    fix = fix or next((fix for numbers, fix in _WHAT_TO_DO if number in numbers), None)
    names = ("user", "role", "warehouse", "database", "schema")
    return fix.format(**{name: getattr(settings, f"snowflake_{name}") for name in names}) if fix else None
