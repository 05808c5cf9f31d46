"""Fixtures of the Snowflake side: an emulated account in a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_assets.model import snowflake_functions
from churn_assets.settings import Settings, load_settings
from churn_assets.snowflake_deployment import deploy
from churn_assets.snowflake_sql import Names, statements
from churn_assets_tests.snowflake.emulator.process import RunningEmulator, running


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    """An emulator for the tests of one file; `reset` empties its account."""
    with running() as emulator:
        yield emulator


@pytest.fixture
def empty_account(emulator: RunningEmulator, tmp_path: Path) -> Settings:
    """The settings of an account in which nothing was created yet, not even the role that they name."""
    emulator.reset()
    return load_settings(CHURN_HOME=tmp_path / "home_of_snowflake", **emulator.environment())


@pytest.fixture
def account(emulator: RunningEmulator, empty_account: Settings) -> Settings:
    """The settings of an account that an administrator has prepared: roles, warehouse, database and schemas, and nothing more."""
    with emulator.connect() as connection:
        for statement in statements(Names()):
            if statement.phase == "account":
                connection.cursor().execute(statement.text)
    return empty_account


@pytest.fixture
def tables(emulator: RunningEmulator, account: Settings) -> Settings:
    """The settings of an account with every table and stage, and no dynamic table."""
    code = snowflake_functions.package_zip()
    stage, *_ = snowflake_functions.statements(f"{Names().database}.{Names().schema}", code)
    with emulator.connect() as connection:
        for text in [*(one.text for one in statements(Names()) if one.phase == "schema"), stage]:
            connection.cursor().execute(text)
    return account


@pytest.fixture
def deployed(empty_account: Settings) -> Settings:
    """The settings of an account after a whole deployment."""
    deploy(empty_account, [], lambda _: None)
    return empty_account
