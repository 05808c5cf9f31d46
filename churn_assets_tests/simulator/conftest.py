from collections.abc import Callable
from datetime import date
from typing import Any

import duckdb
import pytest

from churn_assets.simulator.bank import Bank
from churn_assets_tests.simulator.scoring import Ledgers, collect


@pytest.fixture(scope="session")
def bank() -> Bank:
    return Bank(customers=3_000, seed=11, first_day=date(2025, 1, 1), days=120)


@pytest.fixture(scope="session")
def history(bank: Bank) -> Ledgers:
    return collect(bank)


@pytest.fixture(scope="session")
def query(history: Ledgers) -> Callable[[str], list[tuple[Any, ...]]]:
    """Return a function that runs SQL on the history."""
    connection = duckdb.connect()
    for ledger, rows in history.items():
        connection.register(ledger, rows)
    return lambda sql: connection.execute(sql).fetchall()
