"""Fixtures of the Snowflake side: an emulated account in a process of its own."""

import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets.model import snowflake_functions
from churn_assets.operations.account import deploy
from churn_assets.operations.statements import statements
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.schema_version import NOTE_VERSION, SCHEMA_VERSION
from churn_assets.warehouse.snowflake_connection import signed_in
from churn_assets.warehouse.snowflake_names import Names
from churn_assets_tests.snowflake.emulator.process import RunningEmulator, running

# Read before the tests' settings are shut off from outside.
LIVE = {name: value for name, value in os.environ.items() if name.startswith("SNOWFLAKE_")}


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    """An emulator for the tests of one file; `reset` empties its account."""
    with running() as emulator:
        yield emulator


def is_live(config: pytest.Config) -> bool:
    """Whether `pytest -m snowflake` asks for a live account."""
    return config.option.markexpr == "snowflake"


@pytest.fixture
def empty_account(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """The settings of an account in which nothing was created yet, not even the role that they name.

    With `-m snowflake` it is a database of its own in the live account, dropped afterwards.
    """
    home = tmp_path / "home_of_snowflake"
    if is_live(request.config):
        with scratch_database(home) as settings:
            yield settings
    else:
        emulator: RunningEmulator = request.getfixturevalue("emulator")
        emulator.reset()
        yield load_settings(CHURN_HOME=home, **emulator.environment())


@contextmanager
def scratch_database(home: Path) -> Generator[Settings]:
    """Settings that name a database of their own in the live account, which is dropped afterwards."""
    if not LIVE.get("SNOWFLAKE_ACCOUNT"):
        pytest.skip("not run: SNOWFLAKE_ACCOUNT, SNOWFLAKE_USER and a key name no live account; see docs/snowflake.md")
    database = f"CHURN_TEST_{uuid.uuid4().hex[:8].upper()}"
    settings = load_settings(**LIVE | {"CHURN_HOME": home, "CHURN_TARGET": "snowflake", "SNOWFLAKE_DATABASE": database})
    try:
        yield settings
    finally:
        with signed_in(settings) as rows:
            rows(f"USE ROLE {Names().admin_role}")
            rows(f"DROP DATABASE IF EXISTS {database}")


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
        # Without binds, as what stands for them is a setting of the whole process.
        connection.cursor().execute(NOTE_VERSION.replace("(?, ?)", f"({SCHEMA_VERSION}, '{utc_now()}')"))
    return account


@pytest.fixture
def deployed(empty_account: Settings) -> Settings:
    """The settings of an account after a whole deployment."""
    deploy(empty_account, [], lambda _: None)
    return empty_account
