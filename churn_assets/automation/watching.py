"""Watching ticks: with CHURN_REFRESH=eager a sensor polls during its tick.

Dagster's daemon ticks only every five seconds, which would delay events. A watching tick requests its run within a fraction
of a second.
"""

from collections.abc import Callable

import dagster as dg

from churn_assets.clock import Clock

TICK_SECONDS = 5  # the interval of the daemon's own loop
WATCHING_TICK_SECONDS = 1  # below the daemon's 5 s, or a tick that fires slightly early is skipped
# A tick must end before the daemon's next loop, which skips a sensor whose tick still runs.
_WATCHED_SECONDS = 4.4
_LOOK_SECONDS = 0.2  # between two looks


def watched(
    look: Callable[[], dg.RunRequest | dg.SkipReason], has_news: Callable[[], bool], clock: Clock
) -> dg.RunRequest | dg.SkipReason:
    """The first request that `look` makes within the tick, or its last reason to skip.

    It looks once, and then again whenever `has_news` returns true. `has_news` is called several times a second, so it
    must be cheap.
    """
    started_at = clock.monotonic()
    found = look()
    while isinstance(found, dg.SkipReason) and clock.monotonic() < started_at + _WATCHED_SECONDS:
        clock.sleep(_LOOK_SECONDS)
        if has_news():
            found = look()
    return found
