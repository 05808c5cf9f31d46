"""A bank reduced to what retention sees of it: predictions, the queue and the intervention log."""

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from churn_assets.retention.queue import fill_queue
from churn_assets.rules import CRITICAL_FROM, HIGH_FROM, MEDIUM_FROM
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
        f" '{'CRITICAL' if average >= CRITICAL_FROM else 'SAFE'}')"
        for customer, average in averages.items()
    )

    def write_all(tx: Transaction) -> None:
        tx.execute("DELETE FROM churn_metrics_live")
        if rows:
            tx.execute(f"INSERT INTO churn_metrics_live VALUES {rows}")

    lake.transact(write_all)


def risk_class(score: float) -> str:
    return "HIGH" if score >= HIGH_FROM else "MEDIUM" if score >= MEDIUM_FROM else "LOW"


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


def forget_everybody(lake: LakeWarehouse) -> None:
    """Leave the lake as it was deployed."""

    def clear(tx: Transaction) -> None:
        for table in (
            "dim_customers", "dim_accounts", "dyn_churn_predictions", "churn_metrics_live", "retention_queue",
            "agent_intervention_log", "intervention_moves", "suppressions", "high_risk_history",
        ):  # fmt: skip
            tx.execute(f"DELETE FROM {table}")
        tx.execute("UPDATE streams SET position = NULL")

    lake.transact(clear)
