"""The state of the whole system as plain data, for `churn status`, the demo and scripts."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from churn_assets.configuration import rules
from churn_assets.errors import ChurnError
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.events import LEDGERS
from churn_assets.operations.alerts import alerts_since
from churn_assets.operations.erasure import unfinished
from churn_assets.operations.unknown_codes import Unknown, unknown_codes
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

ALERTS_HOURS = 24  # how far back failures are counted
_ALERTS_SHOWN = 5


def status(settings: Settings, warehouse: Warehouse, now: datetime) -> dict[str, Any]:
    """Rows, unknown codes, offsets, dynamic tables, risk classes, queue, emails, model, erasures and failures; JSON-serializable.

    `now` is UTC. Failures are counted over the last 24 hours, and the newest are listed.
    If Kafka does not answer, `offsets` is empty and `kafka` gives the error.
    """
    tables = warehouse.dynamic_tables(now)
    if not tables:
        raise ChurnError("no dynamic table is declared yet; run `churn deploy`")
    counts = _one_row(
        warehouse,
        "SELECT "
        + ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in [*LEDGERS, "event_rejects"])
        + ", (SELECT count(*) FROM retention_queue WHERE left_at IS NULL) AS queue",
    )
    risk = warehouse.query("SELECT risk_class, count(*) AS customers FROM dyn_churn_predictions GROUP BY risk_class")
    emails = _one_row(
        warehouse,
        "SELECT count(*) AS total, count(CASE WHEN created_at > ? THEN 1 END) AS last_7_days FROM agent_intervention_log"
        " WHERE status NOT IN ('CONTROL', 'CLAIMED', 'CANCELLED')",
        now - timedelta(days=rules().emails.pause_days),
    )
    offsets, problem = _offsets(settings, warehouse)
    return {
        "ledgers": {ledger: counts[ledger] for ledger in LEDGERS},
        "rejects": counts["event_rejects"],
        "kafka": problem,
        "offsets": offsets,
        "dynamic_tables": [
            {
                "name": table.name,
                "target_lag_seconds": table.target_lag_seconds,
                "lag_seconds": round(table.lag_seconds, 3),
                "last_refresh": table.refreshed_at.isoformat() if table.refreshed_at else None,
                "refresh_action": table.refresh_action,
            }
            for table in tables
        ],
        "risk": {"HIGH": 0, "MEDIUM": 0, "LOW": 0} | {row["risk_class"]: row["customers"] for row in risk.to_pylist()},
        "queue": counts["queue"],
        "unknown_codes": {found.ledger: _unknown(found) for found in unknown_codes(warehouse)},
        "emails": emails,
        "model": _model(warehouse),
        "unfinished_erasures": unfinished(warehouse),
        "failures": _failures(settings, now),
    }


def _unknown(found: Unknown) -> dict[str, Any]:
    return {
        "since": found.since and found.since.isoformat(),
        "rows": found.all_rows,
        "unknown": found.rows,
        "codes": found.codes,
        "in_words": found.in_words,
    }


def _failures(settings: Settings, now: datetime) -> dict[str, Any]:
    """The number of failed runs and checks, and the newest failures."""
    alerts = alerts_since(settings, now - timedelta(hours=ALERTS_HOURS))
    return {
        "errors": sum(alert.severity == "error" for alert in alerts),
        "warnings": sum(alert.severity == "warning" for alert in alerts),
        "newest": [asdict(alert) for alert in alerts[:_ALERTS_SHOWN]],
    }


def _model(warehouse: Warehouse) -> dict[str, Any] | None:
    """The champion, or None if no model serves."""
    rows = warehouse.query("SELECT version, trained_at FROM churn_models WHERE status = 'champion'").to_pylist()
    return {"version": rows[0]["version"], "trained_at": str(rows[0]["trained_at"])} if rows else None


def _one_row(warehouse: Warehouse, sql: str, *parameters: Any) -> dict[str, Any]:
    return warehouse.query(sql, parameters).to_pylist()[0]


def _offsets(settings: Settings, warehouse: Warehouse) -> tuple[list[dict[str, Any]], str | None]:
    try:
        found = lags(warehouse, kafka.connect(settings), settings.topics)
    except kafka.KafkaUnavailableError as error:
        return [], str(error)
    return [
        {
            "topic": lag.partition.topic,
            "partition": lag.partition.number,
            "committed": lag.waiting.start,
            "high_watermark": lag.watermarks.high if lag.watermarks else None,
            "lag": len(lag.waiting),
            "problem": lag.problem,
        }
        for lag in found
    ], None
