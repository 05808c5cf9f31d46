"""The random streams of the bank: one independent stream per seed, purpose and key.

A stream is keyed by its use (a day, a block of customers, a window of live time), never by earlier draws. So any part of
the bank can be generated on its own and is always the same.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of every bank's identity: add, never renumber."""

    PEOPLE = 1
    COURSES = 2
    HISTORY_DAY = 3
    LIVE_WINDOW = 4
    DEPARTURES = 5
    DEPARTURE_SIGNALS = 6
    EMAILS = 7


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Return the stream of `purpose` and `key`, always from its beginning. All arguments must be non-negative."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, *key])))
