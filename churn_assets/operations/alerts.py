"""Alerts: what a person is told. The sensors of `automation` find what there is to tell.

Here belong the alert itself and CHURN_HOME/alerts.jsonl, the record that `alert_delivery` reads to tell people. An alert
holds names and links only: no rows, no exception texts, no settings.
"""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from churn_assets.settings import Settings

State: TypeAlias = Literal["begins", "goes on", "is over"]

FILE_BYTES = 5 * 1024 * 1024  # a larger file is rotated; one old file is kept
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}
_logger = logging.getLogger("churn_assets.alerts")


@dataclass(frozen=True)
class Alert:
    """A failed run or asset check, or a condition that a person should know of, and its end."""

    when: str  # UTC, ISO 8601, without an offset
    kind: Literal["run", "check", "condition"]
    severity: Literal["error", "warning", "info"]  # info: it is over
    job: str | None  # None if a check was evaluated outside of a run, and of a condition
    asset: str | None  # of a check
    run_id: str | None
    message: str  # one line
    link: str  # path within Dagster's UI
    # A job that fails each minute is a line for each run, and told once: when it begins to fail, and when it works again.
    state: State = "begins"


def send(settings: Settings, alert: Alert) -> None:
    """Write an alert as one line to the log and one to CHURN_HOME/alerts.jsonl, from where `alert_delivery` sends it on.

    `OSError` if the file cannot be written; the log has the alert by then.
    """
    line = json.dumps(asdict(alert))
    _logger.log(_LEVELS[alert.severity], line)
    file = settings.alerts_file
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.stat().st_size > FILE_BYTES:
        file.replace(older(settings))
    with file.open("ab+") as lines:
        if lines.tell():
            lines.seek(-1, 2)
            if lines.read(1) != b"\n":  # half a line of a process that was killed must not spoil this one
                line = f"\n{line}"
        lines.write(f"{line}\n".encode())


def alerts_since(settings: Settings, since: datetime) -> list[Alert]:
    """The alerts after `since` (UTC), the newest first."""
    found: list[Alert] = []
    for file in (older(settings), settings.alerts_file):
        if file.exists():
            found += [alert for line in file.read_text(encoding="utf-8").splitlines() if (alert := read(line))]
    return sorted((alert for alert in found if alert.when > since.isoformat()), key=lambda a: a.when, reverse=True)


def older(settings: Settings) -> Path:
    """The file that the last rotation put aside."""
    return settings.alerts_file.with_suffix(".jsonl.1")


def read(line: str | bytes) -> Alert | None:
    """The alert of a line, or None for half a line that a killed process left."""
    try:
        return Alert(**json.loads(line))
    except (ValueError, TypeError):
        return None
