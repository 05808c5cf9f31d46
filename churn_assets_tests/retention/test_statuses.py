from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from churn_assets.retention.statuses import FIRST, MOVES, Status, StatusError, move
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.retention.bank import MINUTE, NOW
from churn_assets_tests.retention.post import empty, statuses, write_emails

STATUSES: tuple[Status, ...] = get_args(Status)
TERMINAL = {"CONTROL", "REJECTED", "EXPORTED", "SENT", "FAILED", "CANCELLED"}


@pytest.fixture(scope="session")
def bank(open_lake: LakeWarehouse) -> LakeWarehouse:
    return open_lake


def test_a_move_that_is_allowed_is_made_and_logged_and_any_other_changes_nothing(lake: LakeWarehouse):
    pairs = {f"{status} {to}": (status, to) for status in STATUSES for to in STATUSES}  # an email for each
    allowed = {name: (status, to) for name, (status, to) in pairs.items() if to in MOVES.get(status, ())}
    for status in STATUSES:
        write_emails(lake, [f"{status} {to}" for to in STATUSES], status)

    def try_the_others(tx: Transaction) -> None:
        for name, (status, to) in pairs.items():
            if name not in allowed:
                with pytest.raises(StatusError, match=f"is {status} and cannot become {to}"):
                    move(tx, [f"to-{name}"], to, NOW, "boss")

    lake.transact(try_the_others)
    assert statuses(lake) == {name: status for name, (status, _) in pairs.items()}

    lake.transact(lambda tx: [move(tx, [f"to-{name}"], to, NOW, "boss", "why") for name, (_, to) in allowed.items()])
    assert statuses(lake) == {name: to if name in allowed else status for name, (status, to) in pairs.items()}
    assert set(logged(lake)) == {(f"to-{name}", *allowed[name], NOW, "boss", "why") for name in allowed}


def test_every_status_is_reached_from_a_first_one_and_only_the_terminal_ones_have_no_way_out():
    reached = set(FIRST)
    while more := {to for status in reached for to in MOVES.get(status, ())} - reached:
        reached |= more

    assert reached == set(STATUSES)
    assert {status for status in STATUSES if not MOVES.get(status)} == TERMINAL


def test_one_wrong_or_unknown_intervention_keeps_the_others_from_moving_too(bank: LakeWarehouse):
    empty(bank)
    write_emails(bank, ["Ann"])
    write_emails(bank, ["Bob"], "SENT")

    for ids, words in ((["to-Ann", "to-Bob"], "to-Bob is SENT"), (["to-Ann", "to-Eve"], "no intervention to-Eve")):
        with pytest.raises(StatusError, match=words):
            bank.transact(lambda tx, ids=ids: move(tx, ids, "APPROVED", NOW, "boss"))

    assert (statuses(bank), logged(bank)) == ({"Ann": "READY", "Bob": "SENT"}, [])


@pytest.mark.slow
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(st.tuples(st.sampled_from(["Ann", "Bob"]), st.sampled_from(STATUSES)), max_size=8))
def test_whatever_is_asked_the_log_tells_how_each_intervention_came_into_its_status(
    bank: LakeWarehouse, wanted: Sequence[tuple[str, Status]]
):
    empty(bank)
    write_emails(bank, ["Ann", "Bob"], "CLAIMED")
    expected: dict[str, Status] = {"Ann": "CLAIMED", "Bob": "CLAIMED"}
    log: list[tuple[object, ...]] = []
    for minute, (name, to) in enumerate(wanted):
        now = NOW + minute * MINUTE
        if to in MOVES.get(expected[name], ()):
            bank.transact(lambda tx, name=name, to=to, now=now: move(tx, [f"to-{name}"], to, now, "boss"))
            log.append((f"to-{name}", expected[name], to, now, "boss", None))
            expected[name] = to
        else:
            with pytest.raises(StatusError):
                bank.transact(lambda tx, name=name, to=to, now=now: move(tx, [f"to-{name}"], to, now, "boss"))

    assert (statuses(bank), logged(bank)) == (expected, log)


def logged(bank: LakeWarehouse) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in bank.query("FROM intervention_moves ORDER BY moved_at").to_pylist()]
