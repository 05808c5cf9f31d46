"""How the index follows the ledgers, and that neither a crash nor damage loses, doubles or invents an event."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets.rules import SEARCH_POSITION_SECONDS
from churn_assets.search import index as index_module
from churn_assets.search.hits import Filters, Search
from churn_assets.search.index import IndexNotFoundError, LogIndex
from churn_assets.settings import Settings
from churn_assets.wiring import open_lake, open_search
from churn_assets_tests.rounds import rounds
from churn_assets_tests.search.conftest import Ledgers, ids

# By name: what happens, one after the other, and which events are in the index then.
CHANGES: dict[str, tuple[Callable[[Ledgers], object], set[str]]] = {
    "a new error": (lambda ledgers: ledgers.error("L5", "ERR_NETWORK"), {"L1", "L2", "L4", "L5", "S1", "S2"}),
    "a new case": (lambda ledgers: ledgers.case("S3", "CARD"), {"L1", "L2", "L4", "L5", "S1", "S2", "S3"}),
    "an action without an error": (
        lambda ledgers: ledgers.error("L6", None),
        {"L1", "L2", "L4", "L5", "S1", "S2", "S3"},
    ),
    "an error that was none": (
        lambda ledgers: ledgers.run("UPDATE app_activity_logs SET error_code = NULL WHERE log_id = 'L1'"),
        {"L2", "L4", "L5", "S1", "S2", "S3"},
    ),
    "an error after all": (
        lambda ledgers: ledgers.run("UPDATE app_activity_logs SET error_code = 'ERR_NETWORK' WHERE log_id = 'L3'"),
        {"L2", "L3", "L4", "L5", "S1", "S2", "S3"},
    ),
    "a row that came twice, mended": (
        lambda ledgers: [
            ledgers.error("L5", "ERR_NETWORK"),
            ledgers.run(
                "DELETE FROM app_activity_logs WHERE log_id = 'L5'"
                " AND event_timestamp > (SELECT min(event_timestamp) FROM app_activity_logs WHERE log_id = 'L5')"
            ),
        ],
        {"L2", "L3", "L4", "L5", "S1", "S2", "S3"},
    ),
    "came and went": (
        lambda ledgers: [
            ledgers.error("L7", "ERR_NETWORK"),
            ledgers.run("DELETE FROM app_activity_logs WHERE log_id = 'L7'"),
        ],
        {"L2", "L3", "L4", "L5", "S1", "S2", "S3"},
    ),
    "deleted rows": (
        lambda ledgers: ledgers.run("DELETE FROM app_activity_logs WHERE customer_id = 'C2'"),
        {"L3", "L5", "S1", "S2", "S3"},
    ),
}


def test_the_index_follows_every_change_and_is_then_as_if_built_from_nothing(
    two_customers: Ledgers, index: LogIndex, engineer: Search, tmp_path: Path
):
    for what, (change, left) in CHANGES.items():
        change(two_customers)
        update = index.update()

        assert Counter(ids(engineer.search("", Filters()))) == Counter(left), what
        assert update.action in ("INCREMENTAL", "NO_DATA"), what
        assert update.documents == len(left), what
        assert not index.is_behind(), what
        fresh = LogIndex(tmp_path / what, two_customers.lake)
        fresh.update()
        assert index.read().newest(Filters(), None, 100) == fresh.read().newest(Filters(), None, 100), what


def test_a_correction_is_found_by_what_the_event_says_now(two_customers: Ledgers, index: LogIndex, engineer: Search):
    two_customers.run("UPDATE app_activity_logs SET error_code = 'ERR_NETWORK', device = 'WEB' WHERE log_id = 'L1'")
    index.update()

    assert ids(engineer.search("connection lost", Filters(device="WEB", kind="error"))) == ["L2", "L1"]
    assert engineer.search("", Filters(error_code="ERR_AUTH_OTP")) == []


def test_customers_who_come_later_or_change_their_segment_are_followed(
    two_customers: Ledgers, index: LogIndex, engineer: Search
):
    two_customers.error("L5", "ERR_NETWORK", "C3")
    index.update()
    assert engineer.search("", Filters(customer_id="C3"))[0].segment is None
    two_customers.customer("C3", "STUDENT")
    two_customers.run("UPDATE dim_customers SET segment = 'STUDENT' WHERE customer_id = 'C2'")
    index.update()

    assert {event.event_id for event in index.read().newest(Filters(), ["STUDENT"], 100)} == {"L2", "L4", "S2", "L5"}


def test_what_has_not_changed_costs_no_commit_and_no_snapshot(two_customers: Ledgers, index: LogIndex):
    before = index.read().position
    assert not index.is_behind()

    assert index.update().action == "NO_DATA"

    assert index.read().position == before
    snapshots = two_customers.lake.query("SELECT max(snapshot_id) AS newest FROM ducklake_snapshots('lake')")
    assert snapshots["newest"][0].as_py() == before.snapshot + 1  # that of the streams' positions


def test_the_index_holds_the_snapshots_that_it_has_to_read_and_no_older_ones(two_customers: Ledgers, index: LogIndex):
    two_customers.error("L5", "ERR_NETWORK")
    two_customers.lake.maintain({}, utc_now() + timedelta(days=30))

    update = index.update()

    assert (update.action, update.documents_added) == ("INCREMENTAL", 1)


def test_an_index_with_nothing_to_add_moves_on_after_a_while(
    two_customers: Ledgers, index: LogIndex, monkeypatch: pytest.MonkeyPatch
):
    before = index.read().position
    two_customers.run("DELETE FROM suppressions")
    two_customers.run(
        "INSERT INTO suppressions (customer_id, suppressed_at) VALUES ('C1', TIMESTAMP '2026-03-01 12:00')"
    )
    monkeypatch.setattr(index_module, "_POSITION_AGE", timedelta(seconds=-SEARCH_POSITION_SECONDS))

    update = index.update()

    assert (update.action, update.documents) == ("NO_DATA", 5)
    assert index.read().position.snapshot > before.snapshot


def other_content(file: Path, content: bytes) -> None:
    """Put another file in the place of one that this process may have mapped into its memory."""
    written = file.with_suffix(".damaged")
    written.write_bytes(content)
    written.replace(file)


def half_zeros(file: Path) -> None:
    content = file.read_bytes()
    other_content(file, content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def give_another_format(folder: Path) -> None:
    folder.rename(folder.with_name("format-0-x"))
    (folder.parent / "current").unlink()
    (folder.parent / "current").symlink_to("format-0-x")


# By what happened to the index's folder: how, and what the update then says.
DAMAGED = "the index is damaged"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, DAMAGED),
    "no list of segments": (lambda folder: (folder / "meta.json").unlink(), DAMAGED),
    "half a list of segments": (lambda folder: other_content(folder / "meta.json", b'{"segments": ['), DAMAGED),
    "an empty file": (lambda folder: other_content(next(folder.glob("*.store")), b""), DAMAGED),
    "a missing file": (lambda folder: next(folder.glob("*.term")).unlink(), DAMAGED),
    "zeros in the dictionary": (lambda folder: half_zeros(next(folder.glob("*.term"))), DAMAGED),
    "zeros in the documents": (lambda folder: half_zeros(next(folder.glob("*.store"))), DAMAGED),
    "another format": (give_another_format, "the index has another format"),
    "no link": (lambda folder: (folder.parent / "current").unlink(), "there was no index"),
}


def test_a_missing_damaged_or_foreign_index_is_built_again_and_says_so(two_customers: Ledgers, settings: Settings):
    for what, (damage, reason) in DAMAGE.items():
        damage((settings.search_path / "current").resolve())
        index = LogIndex(settings.search_path, two_customers.lake)

        assert index.is_behind(), what
        update = index.update()

        assert (update.action, update.reason, update.documents) == ("FULL", reason, 5), what
        assert len(open_search(settings, "DATA_ENGINEER").search("", Filters())) == 5, what
        folders = [path.name for path in settings.search_path.iterdir() if path.is_dir() and not path.is_symlink()]
        assert folders == [(settings.search_path / "current").readlink().name], what


def test_the_index_of_another_lake_is_built_again(two_customers: Ledgers, index: LogIndex, tmp_path: Path):
    other = open_lake(tmp_path / "other")
    other.deploy()
    for _ in range(40):
        other.transact(
            lambda tx: tx.execute("INSERT INTO suppressions (customer_id, suppressed_at) VALUES ('C', now())")
        )

    update = LogIndex(index._folder, other).update()

    assert update.reason.startswith("the lake no longer has, or never had,")
    assert update.documents == 0


WRITER = """
import sys
from pathlib import Path
from churn_assets.search.index import LogIndex
from churn_assets.wiring import open_lake, open_search
index = LogIndex(Path(sys.argv[1]), open_lake(Path(sys.argv[2])))
print("ready", flush=True)
while True:
    sys.stdin.readline()
    index.update()
    print("done", flush=True)
"""


@pytest.mark.slow
def test_a_killed_update_loses_and_doubles_nothing_and_readers_see_whole_states(
    ledgers: Ledgers, index: LogIndex, settings: Settings
):
    chance = random.Random(1)
    kept: set[str] = set()
    states = [frozenset[str]()]  # what the index may show: the last state that was seen, and those after it
    killed = 0
    for round_ in range(max(12, rounds(25))):  # one of them builds the index in full
        number = chance.randrange(5, 60)
        new = [f"L{round_}-{one}" for one in range(number)]
        rows = ", ".join(f"('{one}', 'C1', 'LOGIN', now()::TIMESTAMP, 'ERR_NETWORK', now()::TIMESTAMP)" for one in new)
        ledgers.run(
            "INSERT INTO app_activity_logs (log_id, customer_id, event_type, event_timestamp, error_code, ingested_at)"
            f" VALUES {rows}"
        )
        gone = set(chance.sample(sorted(kept), len(kept) // 10))
        if gone:
            ledgers.run(f"DELETE FROM app_activity_logs WHERE log_id IN ({', '.join(map(repr, sorted(gone)))})")
        kept = (kept | set(new)) - gone
        states.append(frozenset(kept))
        if round_ % 8 == 7:
            (settings.search_path / "current").unlink(missing_ok=True)  # the next one builds in full
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, settings.search_path, settings.lake_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdin
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write("go\n")
        writer.stdin.flush()
        deadline = time.monotonic() + chance.uniform(0.0, 1.0)
        while time.monotonic() < deadline:
            if index._current.exists():
                seen = frozenset(event.event_id for event in index.read().newest(Filters(), None, 10_000))
                assert seen in states
                states = states[states.index(seen) :]
        os.kill(writer.pid, signal.SIGKILL)
        killed += writer.communicate()[0] == ""
    index.update()

    assert Counter(event.event_id for event in index.read().newest(Filters(), None, 10_000)) == Counter(kept)
    assert killed
    assert not index.is_behind()


def test_an_index_that_is_gone_is_not_read_as_empty(two_customers: Ledgers, index: LogIndex, settings: Settings):
    (settings.search_path / "current").unlink()

    with pytest.raises(IndexNotFoundError):
        index.read()
