"""A shop on a lake, for tests of dynamic tables, which know nothing of banks: what one does in it."""

from datetime import datetime, timedelta
from typing import Any

from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction

# Later than every snapshot that a test makes, so that lags are positive and windows stand still.
NOON = datetime.fromisoformat("2100-01-01T12:00:00")


def declare(lake: LakeWarehouse, name: str, query: str, key: str | list[str], row_timestamp: str | None = None) -> None:
    """Declare a dynamic table as a deployment does: a table with the query's columns and a definition."""
    stamp = f", CAST(NULL AS TIMESTAMP) AS {row_timestamp}" if row_timestamp else ""

    def work(tx: Transaction) -> None:
        tx.execute(f"CREATE TABLE IF NOT EXISTS {name} AS SELECT *{stamp} FROM ({query}) WHERE false")
        tx.execute(
            "INSERT INTO dynamic_tables (name, query, refresh_key, row_timestamp, target_lag, declared_at)"
            " VALUES (?, ?, ?, ?, '5 minutes', ?)",
            [name, query, [key] if isinstance(key, str) else key, row_timestamp, NOON - timedelta(seconds=90)],
        )

    lake.transact(work)


def order(lake: LakeWarehouse, *orders: tuple[int, str, int], on: datetime = NOON) -> None:
    values = ", ".join(f"({number}, '{customer}', {amount}, '{on.date()}')" for number, customer, amount in orders)
    change(lake, f"INSERT INTO orders VALUES {values}")


def change(lake: LakeWarehouse, *statements: str) -> None:
    """Run statements in one transaction."""

    def work(tx: Transaction) -> None:
        for statement in statements:
            tx.execute(statement)

    lake.transact(work)


def rows(lake: LakeWarehouse, sql: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in lake.query(sql).to_pylist())
