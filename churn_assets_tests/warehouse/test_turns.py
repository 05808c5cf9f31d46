"""The one lock of this machine's processes."""

import threading
from pathlib import Path

import pytest

from churn_assets.warehouse.turns import turn


def test_one_at_a_time_has_the_turn_and_the_others_wait(tmp_path: Path) -> None:
    lock, seen = tmp_path / "made" / "lock", list[str]()

    def follow() -> None:
        with turn(lock):
            seen.append("second")

    second = threading.Thread(target=follow)
    with turn(lock):
        second.start()
        second.join(0.1)
        seen.append("first")
    second.join()

    assert seen == ["first", "second"]


def test_who_does_not_wait_is_told_so_and_has_the_turn_when_it_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    with turn(lock), pytest.raises(LookupError, match="taken"), turn(lock, LookupError("taken")):
        pytest.fail("two had the turn")
    with turn(lock, LookupError("taken")):
        pass
