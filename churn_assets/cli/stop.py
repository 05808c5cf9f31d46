"""Stopping a command that runs until Ctrl-C."""

import signal
import time


class StopSignal:
    """Ctrl-C, SIGTERM or a closed terminal, waited for in the main thread."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.count += 1

    def is_set(self) -> bool:
        """Whether a signal has arrived."""
        return self.count > 0

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for a signal; return whether one has arrived."""
        end = time.monotonic() + seconds
        while not self.count and time.monotonic() < end:
            time.sleep(0.1)
        return self.is_set()
