"""Report failed runs and asset checks to people. `automation.failure_reports` finds the failures.

An alert holds names and links only: no rows, no exception texts, no settings.
"""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from churn_assets.settings import Settings

FILE_BYTES = 5 * 1024 * 1024  # a larger file is rotated; one old file is kept
_logger = logging.getLogger("churn_assets.alerts")


@dataclass(frozen=True)
class Alert:
    """A failed run or asset check, as it is reported to a person."""

    when: str  # UTC, ISO 8601, without an offset
    kind: Literal["run", "check"]
    severity: Literal["error", "warning"]
    job: str | None  # None if a check was evaluated outside of a run
    asset: str | None  # of a check
    run_id: str | None
    message: str  # one line
    link: str  # path within Dagster's UI


def send(settings: Settings, alert: Alert) -> None:
    """Write an alert as one line to the log and one to CHURN_HOME/alerts.jsonl. Call further destinations from here.

    `OSError` if the file cannot be written; the log has the alert by then.
    """
    line = json.dumps(asdict(alert))
    _logger.log(logging.ERROR if alert.severity == "error" else logging.WARNING, line)
    file = settings.alerts_file
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.stat().st_size > FILE_BYTES:
        file.replace(_older(settings))
    with file.open("a", encoding="utf-8") as lines:
        lines.write(line + "\n")


def alerts_since(settings: Settings, since: datetime) -> list[Alert]:
    """The alerts after `since` (UTC), the newest first."""
    found: list[Alert] = []
    for file in (_older(settings), settings.alerts_file):
        if file.exists():
            found += [alert for line in file.read_text(encoding="utf-8").splitlines() if (alert := _read(line))]
    return sorted((alert for alert in found if alert.when > since.isoformat()), key=lambda a: a.when, reverse=True)


def _older(settings: Settings) -> Path:
    return settings.alerts_file.with_suffix(".jsonl.1")


def _read(line: str) -> Alert | None:
    try:
        return Alert(**json.loads(line))
    except (ValueError, TypeError):
        return None  # half a line, left by a killed process
