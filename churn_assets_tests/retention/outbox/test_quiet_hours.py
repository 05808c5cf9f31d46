from datetime import datetime

import pytest

from churn_assets.retention.outbox.quiet_hours import quiet_hours
from churn_assets.settings import SettingsError, load_settings


def until(now: str, hours: str, zone: str = "UTC") -> str | None:
    """When the quiet hours end that a time lies in, both as UTC to the minute."""
    quiet = quiet_hours(load_settings(CHURN_QUIET_HOURS=hours, CHURN_TIME_ZONE=zone))
    assert quiet
    end = quiet.until(datetime.fromisoformat(now))
    return None if end is None else f"{end:%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-03-02T20:59:59", None),
        ("2026-03-02T21:00:00", "03-03 08:00"),
        ("2026-03-02T23:59:59", "03-03 08:00"),
        ("2026-03-03T00:00:00", "03-03 08:00"),
        ("2026-03-03T07:59:59", "03-03 08:00"),
        ("2026-03-03T08:00:00", None),
    ],
)
def test_quiet_hours_reach_over_midnight(now: str, end: str | None):
    assert until(now, "21:00-08:00") == end


@pytest.mark.parametrize(
    ("now", "end"), [("2026-03-02T11:59", None), ("2026-03-02T12:00", "03-02 14:00"), ("2026-03-02T14:00", None)]
)
def test_quiet_hours_may_lie_within_a_day(now: str, end: str | None):
    assert until(now, "12:00-14:00") == end


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-03-28T06:59", "03-28 07:00"),  # 08:00 in winter
        ("2026-03-28T20:00", "03-29 06:00"),  # 21:00 in winter, until 08:00 in summer
        ("2026-03-29T06:00", None),
        ("2026-10-24T18:59", None),
        ("2026-10-24T19:00", "10-25 07:00"),  # 21:00 in summer, until 08:00 in winter
        ("2026-10-25T06:30", "10-25 07:00"),
    ],
)
def test_quiet_hours_are_those_of_the_customers_clocks_when_these_change(now: str, end: str | None):
    assert until(now, "21:00-08:00", "Europe/Paris") == end


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-10-25T00:45", "10-25 01:30"),  # 02:45 in summer, before 02:30 comes again
        ("2026-10-25T01:15", "10-25 01:30"),
        ("2026-10-25T01:30", None),
        ("2026-03-29T00:59", "03-29 01:30"),  # 02:30 never comes on this day
        ("2026-03-29T01:30", None),
    ],
)
def test_a_time_that_comes_twice_or_never_is_quiet_for_longer(now: str, end: str | None):
    assert until(now, "21:00-02:30", "Europe/Paris") == end


def test_there_may_be_no_quiet_hours_but_not_none_of_no_length():
    assert quiet_hours(load_settings(CHURN_QUIET_HOURS="none")) is None
    with pytest.raises(SettingsError, match="CHURN_QUIET_HOURS"):
        until("2026-03-02T12:00", "09:00-09:00")
