"""A bank reduced to what retention sees of it: predictions, the queue and the intervention log."""

from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa

from churn_assets.retention.queue import fill_queue
from churn_assets.rules import Rules
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction

NOW = datetime.fromisoformat("2026-03-02T12:00:00")
TODAY = NOW.date()
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
HIGH, MEDIUM, LOW = 0.9, 0.5, 0.1


def predict(lake: LakeWarehouse, scores: dict[str, float]) -> None:
    """Leave the predictions as a refresh would: these customers are on the books, and nobody else."""
    rows = pa.table(
        {
            "customer_id": pa.array(scores, pa.string()),
            "churn_score": pa.array(scores.values(), pa.float64()),
            "risk_class": pa.array([risk_class(score) for score in scores.values()], pa.string()),
        }
    )

    def write(tx: Transaction) -> None:
        tx.execute(
            "DELETE FROM dyn_churn_predictions"
            " WHERE (customer_id, churn_score) NOT IN (SELECT (customer_id, churn_score) FROM next)"
        )
        tx.execute(
            "INSERT INTO dyn_churn_predictions (customer_id, churn_score, model_score, risk_score, risk_class, reason_codes,"
            " computed_at) SELECT customer_id, churn_score, churn_score, churn_score, risk_class,"
            " 'many app errors; rarely active', TIMESTAMP '2026-03-01' FROM next"
            " WHERE customer_id NOT IN (SELECT customer_id FROM dyn_churn_predictions)"
        )
        tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
            " SELECT customer_id, 'Name of ' || customer_id, 'MASS', DATE '2020-01-01', TIMESTAMP '2026-03-01',"
            " TIMESTAMP '2026-03-01' FROM next WHERE customer_id NOT IN (SELECT customer_id FROM dim_customers)"
        )

    lake.transact(write, {"next": rows})


def measure(lake: LakeWarehouse, averages: dict[str, float]) -> None:
    """Leave the live metrics as a refresh would."""
    rows = ", ".join(
        f"('{customer}', 3, {average}, {average}, 2, 40.0, TIMESTAMP '{NOW}',"
        f" '{'CRITICAL' if average >= Rules().live.critical_from else 'SAFE'}')"
        for customer, average in averages.items()
    )

    def write_all(tx: Transaction) -> None:
        tx.execute("DELETE FROM churn_metrics_live")
        if rows:
            tx.execute(f"INSERT INTO churn_metrics_live VALUES {rows}")

    lake.transact(write_all)


def risk_class(score: float) -> str:
    return "HIGH" if score >= Rules().risk.high_from else "MEDIUM" if score >= Rules().risk.medium_from else "LOW"


def fill(lake: LakeWarehouse, now: datetime = NOW) -> int:
    return lake.transact(lambda tx: fill_queue(tx, now))


def rescore(lake: LakeWarehouse, scores: dict[str, float], now: datetime = NOW) -> int:
    """What the refresh job does: new predictions, then the queue; how many joined it."""
    predict(lake, scores)
    return fill(lake, now)


def waiting(lake: LakeWarehouse) -> list[str]:
    """Who waits, once for each time."""
    rows = lake.query("SELECT customer_id FROM retention_queue WHERE left_at IS NULL ORDER BY customer_id")
    return rows["customer_id"].to_pylist()


def interventions(lake: LakeWarehouse) -> list[dict[str, Any]]:
    return lake.query("SELECT * FROM agent_intervention_log ORDER BY customer_id, created_at").to_pylist()


def written_to(lake: LakeWarehouse) -> list[str]:
    """Who has an email whose text is written, once for each email."""
    return [
        line["customer_id"] for line in interventions(lake) if line["status"] == "READY" and line["generated_email"]
    ]


_TABLES = (
    "dim_customers", "dim_accounts", "dyn_churn_predictions", "churn_metrics_live", "retention_queue",
    "agent_intervention_log", "intervention_moves", "suppressions", "suppressed_addresses", "addressed_emails",
    "high_risk_history",
)  # fmt: skip
_forgotten = WeakKeyDictionary[LakeWarehouse, int]()  # of a lake, the snapshot as of which it was last emptied


def forget_everybody(lake: LakeWarehouse) -> None:
    """Leave the lake as it was deployed."""

    def clear(tx: Transaction) -> None:
        # To delete from a table that is empty already takes as long as from another one.
        written = (
            tx.rows(
                "SELECT DISTINCT table_name FROM __ducklake_metadata_lake.ducklake_snapshot_changes"
                " JOIN __ducklake_metadata_lake.ducklake_table"
                " ON list_contains(regexp_extract_all(changes_made, '\\d+'), table_id::VARCHAR) WHERE snapshot_id > ?",
                [_forgotten[lake]],
            )
            if lake in _forgotten
            else [(table,) for table in (*_TABLES, "streams")]
        )
        for (table,) in written:
            if table in _TABLES:
                tx.execute(f"DELETE FROM {table}")
        if ("streams",) in written:
            tx.execute("UPDATE streams SET position = NULL")

    lake.transact(clear)
    [newest] = lake.query("SELECT max(snapshot_id) AS newest FROM ducklake_snapshots('lake')")["newest"].to_pylist()
    _forgotten[lake] = newest
