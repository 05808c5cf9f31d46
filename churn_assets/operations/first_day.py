"""The first day whose emails the graph shows: where the partitions of `retention_emails` begin.

Dagster loads the graph several times, also before there is a lake, so the day is not asked of the warehouse then: each
deployment writes it down.
"""

from datetime import date

from churn_assets.settings import Settings

OLDEST_EMAIL = "SELECT min(partition_day) AS oldest_day FROM agent_intervention_log"
_BEFORE_IT_WAS_NOTED = date(2026, 1, 1)  # no bank has run this project for longer
_FILE = "first_day"


def note_first_day(settings: Settings, oldest_email: date | None, today: date) -> None:
    """Write down the first day: that of the first deployment of this home, or of the oldest email where that is earlier.

    It never moves later, so that no day that was worked on drops out of the partitions. Days are UTC.
    """
    path = settings.dbt_target_path / _FILE
    known = [date.fromisoformat(path.read_text())] if path.exists() else []
    if oldest_email:
        known.append(oldest_email)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(min([*known, today]).isoformat())
    partial.replace(path)


def first_day(settings: Settings) -> date:
    """The first day (UTC) that the last deployment wrote down, without a look at the warehouse."""
    path = settings.dbt_target_path / _FILE
    return date.fromisoformat(path.read_text()) if path.exists() else _BEFORE_IT_WAS_NOTED
