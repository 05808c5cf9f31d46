"""A machine whose clock is wrong for a while, by libfaketime, which cheats every library of a process: Python, DuckDB, SQLite.

It makes librdkafka hang, so rows come from files. What messages and their time stamps do is tested in `ingestion`.
"""

import csv
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

from churn_assets.cli.app import run_command
from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.settings import Settings, load_settings
from churn_assets.wiring import open_lake
from churn_assets_tests.assets.conftest import Graph
from churn_assets_tests.dynamic_tables.anew import dynamic_rows, recomputed

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HOURS, DAYS = 3600, 86400
# By default each run leaves programs behind that copy its output, and they keep this one's open.
WITHOUT_LOGS = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed; `.ci/install clock` does it"),
]


def work(settings: Settings, ahead: float, number: int) -> None:
    """Load a customer's new state and payments and refresh what is due, while the clock is `ahead` seconds of the true one."""
    true = utc_now()
    folder = settings.home / f"batch-{number}"
    folder.mkdir()
    with (folder / "dim_customers.csv").open("w") as file:
        row = {
            "customer_id": "C1", "full_name": f"Name {number}", "email": "c1@bank.example", "segment": "MASS",
            "join_date": "2020-01-01", "email_consent": number % 2 == 0, "updated_at": f"{true.isoformat()}Z",
        }  # fmt: skip
        csv.DictWriter(file, row).writeheader()
        csv.DictWriter(file, row).writerow(row)
    with (folder / "dim_accounts.csv").open("w") as file:
        file.write("account_id,customer_id,product_code,account_status\nA1,C1,CHECKING,OPEN\n")
    with (folder / "fact_transaction_ledger.csv").open("w") as file:
        file.write("transaction_ref,account_id,posting_date,transaction_code,amount\n")
        file.writelines(f"T{number}-{n},A1,{true.isoformat()}Z,POS,{number + n}.0\n" for n in range(3))
    if not ahead:
        act(str(settings.home), str(folder))
        return
    code = f"from {__name__} import act; act({str(settings.home)!r}, {str(folder)!r})"
    cheated = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{ahead:+.0f}s", "DONT_FAKE_MONOTONIC": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | cheated, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    clock = datetime.fromisoformat(done.stdout.splitlines()[-1])
    assert abs((clock - true).total_seconds() - ahead) < 0.5 * HOURS, "the clock was not cheated"


def act(home: str, folder: str) -> None:
    """What the process does: load the files, then what the daemon does until nothing is due. Prints its time."""
    for ledger in ("dim_customers", "dim_accounts", "fact_transaction_ledger"):
        assert run_command(["load", ledger, f"{folder}/{ledger}.csv"]) == 0
    settings = load_settings(CHURN_HOME=home, CHURN_REFRESH="eager")
    (settings.home / "runs").mkdir(exist_ok=True)
    with dg.DagsterInstance.local_temp(str(settings.home / "runs"), overrides=WITHOUT_LOGS) as instance:
        graph = Graph(build_defs(settings), instance, open_lake(settings.lake_path), settings)
        while requests := graph.tick("refresh_sensor").run_requests:
            assert graph.run("refresh_dynamic_tables", requests[0]).success
    print(utc_now().isoformat())  # noqa: T201


def test_after_a_clock_that_was_wrong_for_a_batch_all_is_right_again(settings: Settings, tmp_path: Path):
    work(settings, 0, 1)
    for turn, wrong in enumerate([2 * DAYS, -20 * HOURS, 400 * DAYS], 1):
        number = 2 * turn + 1
        work(settings, wrong, number - 1)
        work(settings, 0, number)

        now, lake = utc_now(), open_lake(settings.lake_path)
        (customer,) = lake.query("SELECT full_name, email_consent FROM dim_customers").to_pylist()
        assert customer == {"full_name": f"Name {number}", "email_consent": False}
        (features,) = lake.query("SELECT total_spend_30d FROM dyn_customer_features").to_pylist()
        assert features["total_spend_30d"] == sum(each + n for each in range(1, number + 1) for n in range(3))
        assert {table.name: table.lag_seconds for table in lake.dynamic_tables(now) if table.lag_seconds} == {}
        anew = recomputed(lake, tmp_path / f"anew-{turn}", now)
        assert dynamic_rows(lake, now) == dynamic_rows(anew, now)
