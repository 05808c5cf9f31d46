"""How often the slow tests repeat what chance decides."""

import os


def rounds(all_of_them: int) -> int:
    """All, or the share that TEST_ROUNDS names: CI kills less often than `make test-slow`, to be done within its time."""
    return max(1, round(all_of_them * float(os.environ.get("TEST_ROUNDS", "1"))))
