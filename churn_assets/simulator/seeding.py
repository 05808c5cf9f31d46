"""Loads the simulated bank's history into the ledgers, in bulk. The history comes from `bank`."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pyarrow as pa

from churn_assets.errors import ChurnError
from churn_assets.simulator.bank import Bank
from churn_assets.warehouse.protocol import Transaction, Warehouse


class SeedError(ChurnError):
    """The ledgers hold other data, so this bank cannot be loaded."""


def new_bank(customers: int, days: int, seed: int, now: datetime) -> Bank:
    """A bank whose history covers `days` whole days before today and today until `now` (UTC)."""
    return Bank(customers, seed, (now - timedelta(days=days)).date(), days, until=now)


def seeded_bank(warehouse: Warehouse) -> Bank | None:
    """The bank whose history the ledgers hold, complete or not."""
    rows = warehouse.query("SELECT parameters FROM simulated_bank")["parameters"].to_pylist()
    return Bank.from_parameters(json.loads(rows[0])) if rows else None


def is_complete(warehouse: Warehouse) -> bool:
    """Whether the ledgers hold the whole history of the seeded bank."""
    return warehouse.query("SELECT is_complete FROM simulated_bank")["is_complete"].to_pylist() == [True]


def seed(warehouse: Warehouse, bank: Bank, now: datetime, report: Callable[[str, int], None]) -> None:
    """Load the history of `bank`, calling `report(ledger, rows)` for each chunk.

    Each chunk commits together with the count of chunks, so an interrupted seeding continues where it stopped when it is
    called again with the same bank. `now` (UTC) becomes `ingested_at`.
    """
    loaded = _chunks_loaded(warehouse, bank)
    for number, (ledger, rows) in enumerate(bank.history(), start=1):
        if number > loaded:
            warehouse.transact(
                lambda tx, ledger=ledger, rows=rows: _store_chunk(tx, ledger, rows, now), {"chunk": rows}
            )
            report(ledger, rows.num_rows)
    warehouse.transact(lambda tx: tx.execute("UPDATE simulated_bank SET is_complete = true"))


def _chunks_loaded(warehouse: Warehouse, bank: Bank) -> int:
    parameters = json.dumps(bank.parameters())

    def start(tx: Transaction) -> int:
        known = tx.rows("SELECT parameters, chunks_loaded FROM simulated_bank")
        if known and known[0][0] != parameters:
            raise SeedError(f"these ledgers hold another bank, {known[0][0]}; set CHURN_HOME to a new folder")
        if known:
            return known[0][1]
        if tx.rows("SELECT 1 FROM dim_customers LIMIT 1"):
            raise SeedError("these ledgers hold events that are not the simulator's; set CHURN_HOME to a new folder")
        tx.execute(
            "INSERT INTO simulated_bank (parameters, chunks_loaded, is_complete) VALUES (?, 0, false)", [parameters]
        )
        return 0

    return warehouse.transact(start)


def _store_chunk(tx: Transaction, ledger: str, rows: pa.Table, now: datetime) -> None:
    columns = ", ".join(rows.column_names)
    tx.execute(
        f"INSERT INTO {ledger} ({columns}, ingested_at) SELECT {columns}, CAST(? AS TIMESTAMP) FROM chunk", [now]
    )
    tx.execute("UPDATE simulated_bank SET chunks_loaded = chunks_loaded + 1")


def newest_event_time(warehouse: Warehouse) -> datetime:
    """When the newest posting or app action in the ledgers happened (UTC)."""
    return warehouse.query(
        "SELECT max(newest_of_ledger) AS newest FROM ("
        "SELECT max(posting_date) AS newest_of_ledger FROM fact_transaction_ledger UNION ALL"
        " SELECT max(event_timestamp) AS newest_of_ledger FROM app_activity_logs) AS ledgers"
    )["newest"][0].as_py()
