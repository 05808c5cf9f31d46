"""The first day of emails in the graph, which is the first partition of `retention_emails`.

Dagster loads the graph several times, even before there is a lake, and must not query the warehouse for it. So each
deployment writes the day to a file.
"""

from datetime import date

from churn_assets.settings import Settings

OLDEST_EMAIL = "SELECT min(partition_day) AS oldest_day FROM agent_intervention_log"
_BEFORE_IT_WAS_NOTED = date(2026, 1, 1)  # no bank has run this project for longer
_FILE = "first_day"


def note_first_day(settings: Settings, oldest_email: date | None, today: date) -> None:
    """Store the first day: that of this home's first deployment, or of the oldest email if that is earlier.

    It never moves to a later day, so that no processed day drops out of the partitions. Days are UTC.
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
    """The first day (UTC) that the last deployment stored, without a query to the warehouse."""
    path = settings.dbt_target_path / _FILE
    return date.fromisoformat(path.read_text()) if path.exists() else _BEFORE_IT_WAS_NOTED
