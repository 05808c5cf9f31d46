"""The hours in which no email is sent. They are in the customers' time zone; all times that come in or go out are UTC."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from churn_assets.settings import Settings, SettingsError


@dataclass(frozen=True)
class QuietHours:
    """From `begin` (inclusive) to `end` (exclusive) on the clocks of `zone`; over midnight if `end` is earlier."""

    begin: time
    end: time
    zone: ZoneInfo

    def until(self, now: datetime) -> datetime | None:
        """The end of the quiet hours that `now` is in, both UTC; None outside of them."""
        today = now.replace(tzinfo=UTC).astimezone(self.zone).date()
        for day in (today - timedelta(days=1), today):
            end_day = day if self.begin < self.end else day + timedelta(days=1)
            # When the clocks change, a time exists twice or never. Of its two readings, take the one with longer quiet hours.
            begin, end = min(self._readings(day, self.begin)), max(self._readings(end_day, self.end))
            if begin <= now < end:
                return end
        return None

    def _readings(self, day: date, at: time) -> list[datetime]:
        local = datetime.combine(day, at, self.zone)
        return [local.replace(fold=fold).astimezone(UTC).replace(tzinfo=None) for fold in (0, 1)]


def quiet_hours(settings: Settings) -> QuietHours | None:
    """The quiet hours of the settings, None if there are none; `SettingsError` if they begin and end at the same time."""
    if settings.quiet_hours == "none":
        return None
    begin, end = (time.fromisoformat(part) for part in settings.quiet_hours.split("-"))
    if begin == end:
        raise SettingsError(
            "wrong setting: CHURN_QUIET_HOURS begins and ends at the same time; set it to 'none' for no quiet hours"
        )
    return QuietHours(begin, end, ZoneInfo(settings.time_zone))
