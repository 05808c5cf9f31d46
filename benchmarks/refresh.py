"""How long the dynamic tables take to show a change, and what computing them anew takes.

    make benchmark-refresh                            # 0.5, 5, 20 and 50 million transactions, about twelve minutes
    make benchmark-refresh ARGS="500000 5000000"

A bank of 100,000 customers with half a year of transactions, app actions (a fifth as many) and support cases (a hundredth).
Then, again and again, 5,000 new transactions of 1,000 customers, and the whole chain is refreshed: change feed, customer_day,
features, predictions, history lines and commits, by the engine as the assets call it. The full recompute is the same engine with
refresh_mode FULL: the whole query, the difference to what is there, the same writes. Beside them stands what somebody would
write instead: one correct statement that computes the features of all customers from the ledgers, on the same lake, in a file of
DuckDB and in chDB (ClickHouse embedded, installed by uv). It keeps no days, so it cannot give the features of a past day. The
seeds' SQL joins transactions, app actions and cases first and sums then; beside its time stands by how much its total_spend_30d
is too large.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import duckdb

from churn_assets.clock import utc_now
from churn_assets.operations.lake import deploy
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets.wiring import open_lake

SIZES = [500_000, 5_000_000, 20_000_000, 50_000_000]
CUSTOMERS, CHANGED_CUSTOMERS, NEW_ROWS = 100_000, 1_000, 5_000
# What the statement reads of each table.
READ = {
    "dim_customers": "customer_id",
    "dim_accounts": "account_id, customer_id, account_status",
    "fact_transaction_ledger": "account_id, posting_date, transaction_code, amount",
    "app_activity_logs": "customer_id, event_timestamp, error_code",
    "support_cases": "customer_id, open_timestamp, sentiment_score",
}
CHAIN = ("customer_day", "dyn_customer_features", "dyn_churn_predictions")
SORTED = {
    "fact_transaction_ledger": "posting_date",
    "app_activity_logs": "event_timestamp",
    "support_cases": "open_timestamp",
}
SEEDS_LARGEST = 5_000_000  # beyond, what it joins does not fit
NO_ORIGIN = "NULL, now()::TIMESTAMP, NULL, NULL, NULL"


def main() -> None:
    """Measure each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="numbers of transactions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="keep the banks here, for another run")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size:
        print(json.dumps(_measure(options.home, options.size, options.rounds)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as folder:
        home = options.home or Path(folder)
        _say(
            "transactions   incremental   full recompute   statement: on the lake   in DuckDB    in chDB"
            "   the seeds' SQL, its sums too large"
        )
        for size in options.sizes:
            command = [
                sys.executable,
                __file__,
                "--size",
                f"{size}",
                "--rounds",
                f"{options.rounds}",
                "--home",
                str(home),
            ]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            seeds = f"{result['seeds']:,.1f} s, {result['too_large']:,.1f} times" if result["seeds"] else "-"
            _say(
                f"{size:>12,} {result['incremental'] * 1000:>10,.0f} ms {result['full'] * 1000:>13,.0f} ms"
                f" {result['lake'] * 1000:>21,.0f} ms {result['duckdb'] * 1000:>8,.0f} ms {result['chdb'] * 1000:>7,.0f} ms"
                f"   {seeds}"
            )


def _measure(home: Path, size: int, rounds: int) -> dict[str, float | None]:
    settings = load_settings(CHURN_HOME=home / f"{size}")
    lake = open_lake(settings.lake_path)
    if not (home / f"{size}" / "is_made").exists():
        lake.deploy()
        _fill(lake, size)
        deploy(settings, lake, lambda _: None)
        lake.maintain(SORTED, utc_now())
        (home / f"{size}" / "is_made").touch()
    _chain(lake, "AUTO", "INCREMENTAL")  # the first one pays for opening files and for what Python loads
    incremental = [_chain(lake, "AUTO", "INCREMENTAL") for _ in range(rounds)]
    full = [_chain(lake, "FULL", "FULL") for _ in range(max(2, rounds // 2))]
    seeds, too_large = _seeds(lake) if size <= SEEDS_LARGEST else (None, None)
    return {
        "incremental": _median(incremental),
        "full": _median(full),
        "seeds": seeds,
        "too_large": too_large,
        **_statement(lake, home / f"{size}"),
    }


def _statement(lake: LakeWarehouse, folder: Path) -> dict[str, float]:
    """Seconds of one correct statement that computes the features of all customers from the ledgers.

    On the lake, in a file of DuckDB, and in chDB. Each writes its result to a table, so that it can be read; the best of three.
    """
    (right,) = lake.query("SELECT sum(total_spend_30d) AS spend FROM dyn_customer_features")["spend"].to_pylist()
    lake.transact(lambda tx: tx.execute("CREATE TABLE IF NOT EXISTS plain_features AS " + _plain("LIMIT 0")))
    seconds = {"lake": min(_timed(lambda: lake.transact(_replace_plain)) for _ in range(3))}
    files = folder / "tables"
    files.mkdir(exist_ok=True)
    for table, columns in READ.items():
        lake.query(f"COPY (SELECT {columns} FROM {table}) TO '{files / table}.parquet' (FORMAT PARQUET)")
    with duckdb.connect(files / "plain.duckdb") as bank:
        for table in READ:
            order = f" ORDER BY {SORTED[table]}" if table in SORTED else ""
            bank.execute(f"CREATE OR REPLACE TABLE {table} AS FROM '{files / table}.parquet'{order}")
        anew = "CREATE OR REPLACE TABLE features AS " + _plain()
        seconds["duckdb"] = min(_timed(lambda: bank.execute(anew)) for _ in range(3))
        [(spend,)] = bank.execute("SELECT sum(total_spend_30d) FROM features").fetchall()
        assert round(spend / right, 6) == 1, (spend, right)
    script = Path(__file__).parent / "peers/chdb_features.py"
    command = ["uv", "run", "--quiet", "--no-project", "--script", str(script), str(files), _plain()]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert round(found["spend"] / right, 6) == 1, (found, right)
    return seconds | {"chdb": found["seconds"]}


def _replace_plain(tx: Transaction) -> None:
    tx.execute("DELETE FROM plain_features")
    tx.execute("INSERT INTO plain_features " + _plain())


def _plain(limit: str = "") -> str:
    """What somebody would write who knows that a join of facts multiplies rows, in SQL that DuckDB and ClickHouse take."""
    since = utc_now().date() - timedelta(days=29)
    month = f"{{time}} >= CAST('{since}' AS DATE)"
    return f"""
        WITH spent AS (
            SELECT a.customer_id,
                sum(CASE WHEN t.transaction_code IN ('POS', 'ATM', 'BILL_PAY', 'FEE', 'WIRE_OUT') THEN t.amount
                    WHEN t.transaction_code = 'REVERSAL' THEN -t.amount ELSE 0 END) AS spend,
                sum(CASE WHEN t.transaction_code = 'WIRE_OUT' THEN t.amount ELSE 0 END) AS wire_out, count(*) AS transactions
            FROM fact_transaction_ledger AS t INNER JOIN dim_accounts AS a ON t.account_id = a.account_id
            WHERE {month.format(time="t.posting_date")} GROUP BY a.customer_id
        ), used AS (
            SELECT customer_id, sum(CASE WHEN error_code IS NULL THEN 0 ELSE 1 END) AS errors FROM app_activity_logs
            WHERE {month.format(time="event_timestamp")} GROUP BY customer_id
        ), asked AS (
            SELECT customer_id, count(*) AS cases, avg(sentiment_score) AS sentiment FROM support_cases
            WHERE {month.format(time="open_timestamp")} GROUP BY customer_id
        ), active AS (
            SELECT customer_id, count(*) AS days FROM (
                SELECT DISTINCT a.customer_id AS customer_id, CAST(t.posting_date AS DATE) AS day
                FROM fact_transaction_ledger AS t INNER JOIN dim_accounts AS a ON t.account_id = a.account_id
                WHERE {month.format(time="t.posting_date")}
                UNION DISTINCT
                SELECT DISTINCT customer_id, CAST(event_timestamp AS DATE) AS day FROM app_activity_logs
                WHERE {month.format(time="event_timestamp")}
            ) AS of_day GROUP BY customer_id
        ), open AS (
            SELECT DISTINCT customer_id FROM dim_accounts WHERE account_status <> 'CLOSED'
        )
        SELECT c.customer_id AS customer_id, coalesce(spent.spend, 0) AS total_spend_30d,
            coalesce(spent.wire_out, 0) AS wire_out_30d, coalesce(spent.transactions, 0) AS txn_count_30d,
            coalesce(used.errors, 0) AS error_count_30d, coalesce(asked.cases, 0) AS support_cases_30d,
            coalesce(asked.sentiment, 0.5) AS avg_sentiment, coalesce(active.days, 0) AS active_days_30d
        FROM dim_customers AS c INNER JOIN open ON c.customer_id = open.customer_id
        LEFT JOIN spent ON c.customer_id = spent.customer_id LEFT JOIN used ON c.customer_id = used.customer_id
        LEFT JOIN asked ON c.customer_id = asked.customer_id LEFT JOIN active ON c.customer_id = active.customer_id {limit}"""


def _timed(act: Callable[[], object]) -> float:
    begin = perf_counter()
    act()
    return perf_counter() - begin


def _fill(lake: LakeWarehouse, size: int) -> None:
    customers = f"(SELECT unnest(range({CUSTOMERS})) AS n)"
    _insert(
        lake,
        f"dim_customers SELECT 'C' || n, 'Name ' || n, NULL, 'MASS', DATE '2020-01-01', 0.5, true, now()::TIMESTAMP, {NO_ORIGIN}"
        f" FROM {customers}",
        f"dim_accounts SELECT 'A' || n, 'C' || n, 'CHECKING', 10, 'OPEN', NULL, NULL, now()::TIMESTAMP, {NO_ORIGIN}"
        f" FROM {customers}",
    )
    step = 1_000_000
    for start in range(0, size, step):
        _insert(
            lake,
            _transactions(start, min(start + step, size), _time(size), f"hash(n) % {CUSTOMERS}"),
            "app_activity_logs SELECT 'L' || n, 'C' || (hash(n + 1) % 100000), 'LOGIN', "
            f"{_time(size)}, CASE WHEN n % 9 = 0 THEN 'E1' END, 'IOS', {NO_ORIGIN}"
            f" FROM (SELECT unnest(range({start}, {min(start + step, size)}, 5)) AS n)",
            f"support_cases SELECT 'K' || n, 'C' || (hash(n + 2) % {CUSTOMERS}), {_time(size)}, 'FEES', 0.4, NULL, {NO_ORIGIN}"
            f" FROM (SELECT unnest(range({start}, {min(start + step, size)}, 100)) AS n)",
        )


def _time(size: int) -> str:
    return f"now()::TIMESTAMP - to_seconds((180 * 86400 * (1 - (n / {size})))::BIGINT)"


def _transactions(start: int, end: int, time: str, customer: str) -> str:
    return (
        f"fact_transaction_ledger SELECT 'T' || n, 'A' || ({customer}), {time},"
        f" CASE WHEN n % 50 = 0 THEN 'WIRE_OUT' ELSE 'POS' END, 12.5, 'CARD', 'Grocer', {NO_ORIGIN}"
        f" FROM (SELECT unnest(range({start}, {end})) AS n)"
    )


def _insert(lake: LakeWarehouse, *inserts: str) -> None:
    def work(tx: Transaction) -> None:
        for insert in inserts:
            tx.execute(f"INSERT INTO {insert}")

    lake.transact(work)


def _chain(lake: LakeWarehouse, mode: str, expected: str) -> float:
    """Seconds to show 5,000 new transactions of 1,000 customers in the predictions."""
    lake.transact(lambda tx: tx.execute("UPDATE dynamic_tables SET refresh_mode = ?", [mode]))
    (number,) = lake.query("SELECT count(*) AS n FROM fact_transaction_ledger")["n"].to_pylist()
    start = 10**12 + number
    customer = f"hash((n % {CHANGED_CUSTOMERS}) + {number}) % {CUSTOMERS}"
    _insert(lake, _transactions(start, start + NEW_ROWS, "now()::TIMESTAMP - to_seconds(n % 600)", customer))
    begin = perf_counter()
    results = lake.refresh(CHAIN, utc_now())
    seconds = perf_counter() - begin
    assert [result.action for result in results] == [expected] * len(CHAIN), results
    assert results[1].rows_updated > CHANGED_CUSTOMERS * 0.9, results
    return seconds


def _seeds(lake: LakeWarehouse) -> tuple[float, float]:
    """Seconds of the seeds' way to the features, and how many times too large its total_spend_30d is."""
    month = "now()::TIMESTAMP - INTERVAL 30 DAY"
    begin = perf_counter()
    (spend,) = lake.query(
        "SELECT sum(total_spend_30d) AS spend FROM (SELECT c.customer_id, coalesce(sum(t.amount), 0) AS total_spend_30d,"
        " count(DISTINCT t.transaction_ref) AS txn_count_30d, count(DISTINCT l.log_id) AS log_count,"
        " avg(s.sentiment_score) AS avg_sentiment FROM dim_customers c JOIN dim_accounts a USING (customer_id)"
        f" LEFT JOIN fact_transaction_ledger t ON t.account_id = a.account_id AND t.posting_date > {month}"
        f" LEFT JOIN app_activity_logs l ON l.customer_id = c.customer_id AND l.event_timestamp > {month}"
        f" LEFT JOIN support_cases s ON s.customer_id = c.customer_id AND s.open_timestamp > {month}"
        " GROUP BY c.customer_id)"
    )["spend"].to_pylist()
    seconds = perf_counter() - begin
    (right,) = lake.query("SELECT sum(total_spend_30d) AS spend FROM dyn_customer_features")["spend"].to_pylist()
    return seconds, spend / right


def _median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
