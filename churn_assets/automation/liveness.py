"""Whether Dagster lives, by what its storage knows: for `churn doctor`. The other checks are in `operations.doctor`.

The daemon notes each half minute that it lives. The code server is asked for each tick of a sensor, so a tick that ended well
shows that it lives, too.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import dagster as dg

from churn_assets.errors import ChurnError
from churn_assets.operations.doctor import Check
from churn_assets.settings import Settings

_BEAT_SECONDS = 120  # four times as long as between two signs of life
_TICK_SECONDS = 180  # by then, several sensors have ticked
_WHAT_NEXT = "start it again (`churn demo`, or what runs it here)"


def checks(settings: Settings, now: datetime) -> list[Check]:
    """The doctor's checks of Dagster's daemon and of its code server. `now` is UTC."""
    return [("daemon", lambda: _daemon(settings, now)), ("code server", lambda: _code_server(settings, now))]


@contextmanager
def _instance(settings: Settings) -> Generator[dg.DagsterInstance | None]:
    """Dagster's storage: that of DAGSTER_HOME, or of CHURN_HOME; None if there is none yet."""
    if "DAGSTER_HOME" not in os.environ:
        if not (settings.dagster_home / "dagster.yaml").exists():
            yield None
            return
        os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    with dg.DagsterInstance.get() as instance:
        yield instance


def _daemon(settings: Settings, now: datetime) -> str:
    with _instance(settings) as instance:
        if instance is None:
            return "Dagster has not run here"
        statuses = [one for one in instance.get_daemon_statuses().values() if one.required]
        beats = [one.last_heartbeat.timestamp for one in statuses if one.last_heartbeat]
        if not beats:
            return "Dagster's daemon has not run here"
        newest = _time(max(beats))
        if newest < now - timedelta(seconds=_BEAT_SECONDS):
            raise ChurnError(
                f"Dagster's daemon gave its last sign of life at {newest:%Y-%m-%d %H:%M:%S} UTC: it is stopped or dead, and"
                f" nothing is requested; {_WHAT_NEXT}"
            )
        if ill := sorted(one.daemon_type for one in statuses if not one.healthy):
            raise ChurnError(f"Dagster's daemon reports errors or hangs: {', '.join(ill)}; see its log")
        return f"it gave its last sign of life at {newest:%Y-%m-%d %H:%M:%S} UTC"


def _code_server(settings: Settings, now: datetime) -> str:
    with _instance(settings) as instance:
        if instance is None:
            return "Dagster has not run here"
        ticks = [
            (tick.timestamp, tick.status.value)
            for state in instance.all_instigator_state()
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        ]
        if not ticks:
            return "no sensor has ticked yet"
        newest = max((at for at, status in ticks if status != "FAILURE"), default=None)
        if newest is None or _time(newest) < now - timedelta(seconds=_TICK_SECONDS):
            since = f"since {_time(newest):%Y-%m-%d %H:%M:%S} UTC" if newest else "at all"
            raise ChurnError(
                f"no sensor has ticked well {since}: Dagster's code server does not answer, or the daemon is dead; {_WHAT_NEXT}"
            )
        return f"its newest tick is of {_time(newest):%Y-%m-%d %H:%M:%S} UTC"


def _time(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None)
