"""The one place that reads the clock. Functions beneath take the time as an argument."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time now in UTC, without an offset, like every timestamp of the warehouse."""
    return datetime.now(UTC).replace(tzinfo=None)
