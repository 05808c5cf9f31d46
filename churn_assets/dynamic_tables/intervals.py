"""Days as few intervals: the lake prunes the files of a scan by one range, so days far apart need scans of their own."""

from collections.abc import Iterable
from datetime import date, timedelta

_MAX_SCANS = 16  # each scan has a fixed cost, whatever it reads


def day_intervals(days: Iterable[date]) -> list[tuple[date, date]]:
    """The days as intervals [first, day after the last], at most `_MAX_SCANS`; the ones closest to each other are joined."""
    intervals = [(day, day + timedelta(days=1)) for day in sorted(days)]
    gaps = sorted(range(1, len(intervals)), key=lambda i: intervals[i][0] - intervals[i - 1][1], reverse=True)
    splits = {i for i in gaps[: _MAX_SCANS - 1] if intervals[i][0] > intervals[i - 1][1]}
    joined: list[tuple[date, date]] = []
    for position, (first, end) in enumerate(intervals):
        if joined and position not in splits:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    return joined
