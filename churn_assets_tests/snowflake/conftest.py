"""Fixtures of the Snowflake side: an emulated account in a process of its own."""

from collections.abc import Iterator

import pytest

from churn_assets.settings import Settings, load_settings
from churn_assets.snowflake_sql import Names, statements
from churn_assets_tests.snowflake.emulator.process import RunningEmulator, running


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    """An emulator for the tests of one file; `reset` empties its account."""
    with running() as emulator:
        yield emulator


@pytest.fixture
def empty_account(emulator: RunningEmulator) -> Settings:
    """The settings of an account in which nothing was created yet, not even the role that they name."""
    emulator.reset()
    return load_settings(**emulator.environment())


@pytest.fixture
def account(emulator: RunningEmulator, empty_account: Settings) -> Settings:
    """The settings of an account that an administrator has prepared: roles, warehouse, database and schemas, and nothing more."""
    with emulator.connect() as connection:
        for statement in statements(Names()):
            if statement.phase == "account":
                connection.cursor().execute(statement.text)
    return empty_account


@pytest.fixture
def deployed(emulator: RunningEmulator, account: Settings) -> Settings:
    """The settings of an account with every table, and no dynamic table yet."""
    with emulator.connect() as connection:
        for statement in statements(Names()):
            if statement.phase == "schema":
                connection.cursor().execute(statement.text)
        connection.cursor().execute("CREATE TABLE IF NOT EXISTS write_turn (taken_at TIMESTAMP)")
        connection.cursor().execute("INSERT INTO write_turn VALUES (NULL)")
        connection.cursor().execute("CREATE STAGE IF NOT EXISTS churn_models ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
    return account
