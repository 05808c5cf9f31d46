"""Watching ticks: with CHURN_REFRESH=eager a sensor polls during its tick.

Dagster's daemon ticks only every five seconds, which would delay events. A watching tick requests its run within a fraction
of a second.
"""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from churn_assets.clock import Clock

TICK_SECONDS = 5  # the interval of the daemon's own loop
WATCHING_TICK_SECONDS = 1  # below the daemon's 5 s, or a tick that fires slightly early is skipped
_LOOK_SECONDS = 0.2  # between two looks


@dataclass(frozen=True)
class Watch:
    """When a tick watches, in seconds after its start.

    The watch must end before the daemon's next loop, which skips a sensor whose tick still runs.
    """

    begins: float
    ends: float


# Two sensors watch Kafka in turn: a sensor that has requested a run does not tick again until the daemon's next loop.
FIRST_HALF, SECOND_HALF, WHOLE = Watch(0.0, 2.2), Watch(2.2, 4.4), Watch(0.0, 4.4)


def watched(
    look: Callable[[], dg.RunRequest | dg.SkipReason], has_news: Callable[[], bool], watch: Watch, clock: Clock
) -> dg.RunRequest | dg.SkipReason:
    """The first request that `look` makes within the watch, or its last reason to skip.

    It looks once, and then again whenever `has_news` returns true. `has_news` is called several times a second, so it
    must be cheap.
    """
    started_at = clock.monotonic()
    if watch.begins:
        clock.sleep(watch.begins)
    found = look()
    while isinstance(found, dg.SkipReason) and clock.monotonic() < started_at + watch.ends:
        clock.sleep(_LOOK_SECONDS)
        if has_news():
            found = look()
    return found
