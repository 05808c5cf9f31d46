# /// script
# requires-python = ">=3.11"
# dependencies = ["chdb>=4"]
# ///
"""The features of all customers in chDB (ClickHouse embedded), from tables in files: seconds of the best of three, and the spend.

    uv run --no-project --script chdb_features.py FOLDER STATEMENT

FOLDER has a Parquet file for each table. They are loaded first, each sorted by its time, as one would in ClickHouse.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

from chdb.session import Session

ORDER = {
    "dim_customers": "customer_id",
    "dim_accounts": "account_id",
    "fact_transaction_ledger": "posting_date",
    "app_activity_logs": "event_timestamp",
    "support_cases": "open_timestamp",
}


def main() -> None:
    """Load the tables, run the statement three times, print what was found as JSON."""
    folder, statement = Path(sys.argv[1]), sys.argv[2]
    session = Session()
    session.query("CREATE DATABASE bank")
    session.query("USE bank")
    for table, column in ORDER.items():
        session.query(
            f"CREATE TABLE {table} ENGINE = MergeTree ORDER BY {column} SETTINGS allow_nullable_key = 1"
            f" AS SELECT * FROM file('{folder / table}.parquet')"
        )
    seconds = list[float]()
    for _ in range(3):
        begin = perf_counter()
        session.query(f"CREATE OR REPLACE TABLE features ENGINE = MergeTree ORDER BY tuple() AS {statement}")
        seconds.append(perf_counter() - begin)
    found = session.query("SELECT sum(total_spend_30d) AS spend FROM features", "JSONEachRow")
    print(json.dumps({"seconds": min(seconds), **json.loads(str(found).strip())}))  # noqa: T201


if __name__ == "__main__":
    main()
