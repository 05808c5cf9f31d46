"""The native tasks over the emulated account and Dagster's way over a lake: the same history leaves the same tables.

The tasks' procedures run as they are deployed: from their zip, with their packages alone, in a process of their own. Days pass by
moving what was written into the past, because a procedure asks the real clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.model import snowflake_functions
from churn_assets.operations import procedures
from churn_assets.operations.statements import statements
from churn_assets.retention.control import is_in_control_group
from churn_assets.retention.emails import EmailRun, Limits, next_day, write_emails
from churn_assets.retention.queue import ALERT_STREAM, STREAM, fill_queue, raise_alerts
from churn_assets.retention.suppressions import suppress
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.retention.writing.template import TemplateWriter
from churn_assets.retention.writing.text_checks import complaints_about
from churn_assets.retention.writing.writer import Answer, EmailRequest
from churn_assets.rules import Rules
from churn_assets.settings import Settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.shelf import Shelf
from churn_assets.warehouse.snowflake import SnowflakeWarehouse
from churn_assets.warehouse.snowflake_names import Names
from churn_assets_tests.retention.bank import DAY, HIGH, LOW, risk_class
from churn_assets_tests.snowflake.emulator.process import RunningEmulator

pytestmark = pytest.mark.emulator

LIMIT = 6  # emails a day
NAMES = replace(Names(), emails_per_day=LIMIT)
CROWD = [f"C{number}" for number in range(20)]  # of whom some are in the control group
TIMES = {
    "retention_queue": ("queued_at", "left_at"),
    "agent_intervention_log": ("created_at", "partition_day", "retry_after"),
    "intervention_moves": ("moved_at",),
    "high_risk_history": ("alerted_at",),
    "suppressions": ("suppressed_at", "suppressed_until"),
}
# What differs by when it was written, and by how long it took.
OF_THE_MOMENT = {*(name for names in TIMES.values() for name in names), "alert_id", "latency_seconds"} - {
    "partition_day"
}
REASONS = "many app errors; rarely active"


@dataclass(frozen=True)
class Cortex:
    """What the emulator's AI_COMPLETE answers, for the lake."""

    text: str
    name: str = "cortex"
    prompt_version: str = load_prompts().prompt_version

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        return Answer(self.text, NAMES.writer_model, 120, 40)


@pytest.fixture
def account_with_tasks(tables: Settings, emulator: RunningEmulator, lake: LakeWarehouse) -> SnowflakeWarehouse:
    """An account with the tasks and what they read; tables stand in for the dynamic tables, so that tests can write them."""
    code = procedures.code()
    schema = f"{NAMES.database}.{NAMES.schema}"
    (folder := tables.home).mkdir(parents=True, exist_ok=True)
    upload = snowflake_functions.upload(schema, code, f"{folder}/")
    folder.joinpath(upload.partition(f"{folder}/")[2].partition("'")[0]).write_bytes(code)
    after = [
        one.text for one in statements(NAMES) if one.file.endswith(("015_changes_of_streams.sql", "050_tasks.sql"))
    ]
    with emulator.connect(database=NAMES.database, schema=NAMES.schema, warehouse=NAMES.warehouse) as connection:
        run = connection.cursor().execute
        for stream, table in ((STREAM, "dyn_churn_predictions"), (ALERT_STREAM, "churn_metrics_live")):
            columns = ", ".join(f"{column.name} {column.type}" for column in lake.columns(table))
            run(f"CREATE TABLE {table} ({columns})")
            run(f"CREATE STREAM {stream} ON TABLE {table}")
        for text in [upload, *procedures.statements(NAMES, code), *after]:
            run(text)
    return SnowflakeWarehouse(tables)


def know(warehouse: Warehouse, customers: Sequence[str], refuse: Sequence[str]) -> None:
    rows = ", ".join(
        f"('{customer}', 'Ann Example', 'MASS', {'FALSE' if customer in refuse else 'NULL'}, CAST('2020-01-01' AS DATE),"
        " CAST('2026-01-01' AS TIMESTAMP), CAST('2026-01-01' AS TIMESTAMP))"
        for customer in customers
    )
    columns = "customer_id, full_name, segment, email_consent, join_date, updated_at, ingested_at"
    warehouse.transact(lambda tx: tx.execute(f"INSERT INTO dim_customers ({columns}) VALUES {rows}"))


def refresh(warehouse: Warehouse, scores: Mapping[str, float], critical: Sequence[str]) -> None:
    """Leave predictions and live metrics as their refresh would; every prediction is computed anew."""
    now = f"CAST('{utc_now()}' AS TIMESTAMP)"
    predictions = ", ".join(
        f"('{customer}', {score}, {score}, {score}, '{risk_class(score)}', '{REASONS}', {now})"
        for customer, score in scores.items()
    )
    metrics = ", ".join(f"('{customer}', 3, 0.9, 0.9, 2, 40.0, {now}, 'CRITICAL')" for customer in critical)

    def write(tx: Transaction) -> None:
        tx.execute("DELETE FROM dyn_churn_predictions")
        tx.execute(
            "INSERT INTO dyn_churn_predictions (customer_id, churn_score, model_score, risk_score, risk_class, reason_codes,"
            f" computed_at) VALUES {predictions}"
        )
        tx.execute("DELETE FROM churn_metrics_live")
        if metrics:
            tx.execute(f"INSERT INTO churn_metrics_live VALUES {metrics}")

    warehouse.transact(write)


def pass_days(warehouse: Warehouse, days: int) -> None:
    """Move all that was written into the past, with ids that today's interventions do not have."""

    def work(tx: Transaction) -> None:
        for table, columns in TIMES.items():
            moved = [f"{column} = {column} - INTERVAL '{days} days'" for column in columns]
            if table in {"agent_intervention_log", "intervention_moves", "high_risk_history"}:
                moved.append("intervention_id = 'earlier ' || intervention_id")
            tx.execute(f"UPDATE {table} SET {', '.join(moved)}")

    warehouse.transact(work)


def drive_by_dagster(lake: LakeWarehouse, email_run: EmailRun) -> None:
    lake.transact(lambda tx: raise_alerts(tx, utc_now()))
    lake.transact(lambda tx: fill_queue(tx, utc_now()))
    while day := next_day(lake, email_run.limits, utc_now()):
        write_emails(lake, email_run, day, utc_now())


def drive_by_tasks(emulator: RunningEmulator, account: SnowflakeWarehouse) -> None:
    """What Snowflake does: a task runs where its stream has data."""
    with emulator.connect(database=NAMES.database, schema=NAMES.schema, warehouse=NAMES.warehouse) as connection:
        for stream, task in ((ALERT_STREAM, "process_alerts_task"), (STREAM, "task_generate_emails")):
            if account.stream_has_data(stream):
                connection.cursor().execute(f"EXECUTE TASK {task}")


def left_by(warehouse: Warehouse) -> dict[str, list[str]]:
    """All rows of the tables that a driver writes, without the moment, and whether each waits still."""
    found: dict[str, list[str]] = {}
    for table in ("retention_queue", "agent_intervention_log", "intervention_moves", "high_risk_history"):
        rows: list[dict[str, Any]] = warehouse.query(f"SELECT * FROM {table}").to_pylist()
        found[table] = sorted(
            repr(
                {name: value for name, value in sorted(row.items()) if name not in OF_THE_MOMENT}
                | {"waits": row.get("left_at") is None}
            )
            for row in rows
        )
    return found


def test_the_native_tasks_and_dagster_leave_the_same_queue_log_and_alerts_over_the_same_history(
    account_with_tasks: SnowflakeWarehouse, emulator: RunningEmulator, lake: LakeWarehouse, tmp_path: Any
):
    prompts = load_prompts()
    text = TemplateWriter(prompts).write(EmailRequest("Ann Example", "MASS", REASONS)).text
    emulator.complete(text=text)
    email_run = EmailRun(
        Cortex(text),
        TemplateWriter(prompts),
        partial(complaints_about, prompts=prompts),
        Shelf.here(tmp_path / "emails"),
        Limits(LIMIT, NAMES.tokens_per_day),
    )
    both: tuple[Warehouse, ...] = (lake, account_with_tasks)
    others = ["alerted", "suppressed", "refuses", "calm", "leaves"]
    calm = dict.fromkeys([*CROWD, *others], LOW)
    crowd = {customer: 0.7 + number / 100 for number, customer in enumerate(CROWD)}
    # Each step: who has which score, who is CRITICAL, and how many days pass before it.
    history: list[tuple[int, dict[str, float], list[str]]] = [
        (0, calm, []),
        (0, calm | crowd | {"suppressed": HIGH, "leaves": LOW}, ["alerted", "refuses", "suppressed", "leaves"]),
        # Alerts have grown old; who is HIGH waits on, who is not is dropped.
        (2, {name: score for name, score in (calm | crowd | {"suppressed": HIGH}).items() if name != "leaves"}, []),
        (2, calm | crowd | {"suppressed": HIGH, "C0": LOW, "calm": HIGH}, ["C1"]),
        (Rules().emails.pause_days, calm | crowd | {"suppressed": HIGH + 0.05, "C0": HIGH}, []),
    ]
    for warehouse in both:
        know(warehouse, list(calm), refuse=["refuses"])
        for customer in ("suppressed", "leaves"):
            suppress(warehouse, customer, utc_now().date() + 3 * DAY, utc_now(), None, "test")
    for days, scores, critical in history:
        for warehouse in both:
            pass_days(warehouse, days)
            refresh(warehouse, scores, critical)
        drive_by_dagster(lake, email_run)
        drive_by_tasks(emulator, account_with_tasks)
        assert left_by(account_with_tasks) == left_by(lake)
        assert not any(account_with_tasks.stream_has_data(stream) for stream in (STREAM, ALERT_STREAM)), (
            "it calls for ever"
        )

    queue = account_with_tasks.query("SELECT customer_id, left_reason FROM retention_queue").to_pylist()
    assert {row["left_reason"] for row in queue} >= {
        "intervention",
        "the alert is too old",
        "no longer HIGH",
        "left the bank",
    }
    log = account_with_tasks.query("SELECT customer_id, status, writer FROM agent_intervention_log").to_pylist()
    assert {(row["status"], row["writer"]) for row in log} == {("CONTROL", None), ("READY", "cortex")}
    assert {row["customer_id"] for row in log if row["status"] == "CONTROL"} == {
        row["customer_id"] for row in log if is_in_control_group(row["customer_id"], Rules().emails.control_share)
    }
    assert "suppressed" in {row["customer_id"] for row in log}, "an alert that grew old took its customer with it"
