"""The only place that reads the clock. Other functions take the time as an argument."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time now in UTC, without an offset, like every timestamp of the warehouse."""
    return datetime.now(UTC).replace(tzinfo=None)


class Clock:
    """The machine's clock, for code that also waits. Tests pass a clock that they control."""

    def now(self) -> datetime:
        """The time now in UTC, without an offset."""
        return utc_now()

    def monotonic(self) -> float:
        """Seconds since some moment in the past; unlike `now`, they never jump."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        time.sleep(seconds)
