"""Lakes as earlier versions left them: the tables of each version as a file, and some rows.

`versions/N.sql` holds the tables that version N declares; `0a` to `0e` are of before versions were counted, with the dynamic
tables of their time. When SCHEMA_VERSION is raised, `python -m churn_assets_tests.warehouse.old_lakes` writes the next file.
"""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from churn_assets.clock import utc_now
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.schema_version import SCHEMA_VERSION

VERSIONS = Path(__file__).parent / "versions"
EPOCH, TOPIC = "cluster/topic", "bank_transactions"
_AT = utc_now() - timedelta(hours=1)
_STORED = {"ingested_at": _AT, "kafka_topic": TOPIC, "kafka_partition": 0}
_UP_TO_DATE = "position = 2, base_position = 2, as_of_day = ?, refreshed_at = ?, refresh_action = 'FULL'"

# What is in a lake, by table: each version gets the columns that it has.
ROWS: dict[str, list[dict[str, Any]]] = {
    "dim_customers": [
        _STORED
        | {"customer_id": f"C{number}", "full_name": f"Ann {number}", "email": f"c{number}@post.example"}
        | {"segment": "MASS", "join_date": _AT.date(), "updated_at": _AT, "kafka_offset": number}
        for number in range(3)
    ],
    "dim_accounts": [
        _STORED
        | {"account_id": f"A{number}", "customer_id": f"C{number}", "product_code": "CHECKING"}
        | {"account_status": "OPEN", "opened_at": _AT, "updated_at": _AT, "kafka_offset": 10 + number}
        for number in range(3)
    ],
    "fact_transaction_ledger": [
        _STORED
        | {"transaction_ref": f"T{number}", "account_id": "A1", "posting_date": _AT, "transaction_code": "WIRE_OUT"}
        | {"amount": 9_000.0, "kafka_offset": 20 + number}
        for number in range(600)  # more than the catalog keeps inline, so that they are in a file
    ],
    "app_activity_logs": [
        _STORED
        | {"log_id": f"L{number}", "customer_id": "C1", "event_type": "ERROR", "event_timestamp": _AT}
        | {"error_code": "E500", "kafka_offset": 690 + number}
        for number in range(9)
    ],
    "support_cases": [
        _STORED
        | {"case_id": f"K{number}", "customer_id": "C1", "open_timestamp": _AT, "category": "FEES"}
        | {"sentiment_score": 0.1, "kafka_offset": 700 + number}
        for number in range(3)
    ],
    "kafka_offsets": [
        {"epoch": EPOCH, "topic": TOPIC, "kafka_partition": 0, "committed_offset": 703, "updated_at": _AT}
    ],
    "ingest_ranges": [
        {"epoch": EPOCH, "topic": TOPIC, "kafka_partition": 0, "start_offset": 0, "end_offset": 703}
        | {"outcome": "STORED", "stored_at": _AT}
    ],
    "event_rejects": [
        {"epoch": EPOCH, "kafka_topic": TOPIC, "kafka_partition": 0, "kafka_offset": 5, "reason": "no JSON"}
        | {"original": b"{", "rejected_at": _AT}
    ],
    "retention_queue": [
        {"customer_id": "C2", "churn_score": 0.8, "queued_at": _AT, "left_at": _AT, "left_reason": "intervention"}
        | {"source": "prediction"}
    ],
    "agent_intervention_log": [
        {"intervention_id": "I2", "customer_id": "C2", "churn_score": 0.8, "generated_email": "Dear Ann 2"}
        | {"created_at": _AT, "status": "READY", "source": "prediction", "writer": "template"}
        | {"partition_day": _AT.date()}
    ],
    "churn_models": [
        {"version": 1, "status": "archived", "artefact": "a.model", "trained_at": _AT, "card": "{}", "gate": "{}"}
        | {"passed_gate": True}
    ],
}


def old_lake(version: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Make the lake of a version in a folder; returns its rows by table."""
    lake = LakeWarehouse(folder, any_version=True)
    script = (VERSIONS / f"{version}.sql").read_text()
    lake.transact(lambda tx: [tx.execute(one.query) for one in duckdb.extract_statements(script)])
    kept: dict[str, list[dict[str, Any]]] = {}

    def fill(tx: Transaction) -> None:
        for table, rows in ROWS.items():
            has = {
                name for (name,) in tx.rows(f"SELECT column_name FROM duckdb_columns() WHERE table_name = '{table}'")
            }
            if not has:
                continue
            kept[table] = [{name: value for name, value in row.items() if name in has} for row in rows]
            names = ", ".join(kept[table][0])
            places = ", ".join(f"({', '.join('?' * len(row))})" for row in kept[table])
            values = [value for row in kept[table] for value in row.values()]
            tx.execute(f"INSERT INTO {table} ({names}) VALUES {places}", values)
        if version.isdigit() and version != "0":
            tx.execute("INSERT INTO schema_version (version, deployed_at) VALUES (?, ?)", [int(version), _AT])

    lake.transact(fill)
    # As if the dynamic tables had been refreshed at the last snapshot.
    lake.transact(lambda tx: tx.execute(f"UPDATE dynamic_tables SET {_UP_TO_DATE}", [_AT.date(), _AT]))
    return kept


def tables(lake: LakeWarehouse) -> str:
    """The statements that create the lake's tables, one a line."""
    rows = lake.query("SELECT sql FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY table_name")
    return "".join(f"{sql.replace(' DEFAULT(NULL)', '')}\n" for sql in rows["sql"].to_pylist())


def declared() -> str:
    """The same of the tables that the code declares now."""
    with tempfile.TemporaryDirectory() as folder:
        lake = LakeWarehouse(Path(folder, "lake"))
        lake.deploy()
        return tables(lake)


if __name__ == "__main__":
    (VERSIONS / f"{SCHEMA_VERSION}.sql").write_text(declared())
