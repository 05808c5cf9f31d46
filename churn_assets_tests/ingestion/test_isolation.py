"""A decoder that dies: the message is found and rejected, its neighbours are stored, and whatever is killed changes nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from churn_assets.cli.demo import _drain
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.ingestion import history, isolation
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded, decode
from churn_assets.ingestion.isolation import DIED, FAILED, TOO_SLOW, DecoderError, IsolatedDecoder
from churn_assets.operations import doctor
from churn_assets.settings import Settings
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.deadly_decoder import deadly, deadly_decoder
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.rounds import rounds

__all__ = ["deadly_decoder"]

pytestmark = pytest.mark.usefixtures("deadly_decoder")

NOW = datetime(2026, 4, 1)
LEDGER = "fact_transaction_ledger"
INGEST = """
import sys
from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import lake_place

settings, isolated = load_settings(), sys.argv[1] == "isolated"
kafka.INGEST_CHUNK_MESSAGES = int(sys.argv[2])
lake, cluster = LakeWarehouse(lake_place(settings)), kafka.connect(settings)
ranges = [lag.waiting for lag in lags(lake, cluster, settings.topics)]
ingest(lake, cluster, ranges, on_gap="fail", group="g", clock=utc_now, report=lambda _: None, isolated=isolated)
"""


@pytest.fixture(autouse=True)
def _files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "IsolatedDecoder", isolation.IsolatedDecoder)


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    with closing(IsolatedDecoder()) as opened:
        yield opened


def transactions(first: int, count: int) -> list[bytes]:
    return [message("TXN", transaction_ref=f"T{number}") for number in range(first, first + count)]


def table(values: list[bytes]) -> pa.Table:
    count = len(values)
    return pa.table([[0] * count, [*range(count)], [NOW] * count, values], schema=MESSAGE_SCHEMA)


def reasons(decoded: Decoded) -> dict[int, str]:
    return {row["kafka_offset"]: row["reason"] for row in decoded.rejects.to_pylist()}


def offsets(decoded: Decoded) -> list[int]:
    return sorted(offset for rows in decoded.rows.values() for offset in rows["kafka_offset"].to_pylist())


def test_each_message_on_which_the_decoder_ends_is_a_reject_and_all_others_become_what_they_are(
    decoder: IsolatedDecoder, tmp_path: Path
):
    ends = ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "raise", f"once {tmp_path / 'died'}"]
    values = [
        *transactions(0, 3),
        b"poison",
        *map(deadly, ends),
        message("LOG"),
        *transactions(3, 2),
        deadly("SIGSEGV"),
    ]

    decoded = decoder.decode(table(values), NOW)

    assert reasons(decoded) == {
        3: "not JSON",
        **dict.fromkeys(range(4, 9), DIED),
        9: FAILED,
        10: "unknown event_type",
        14: DIED,
    }
    assert offsets(decoded) == [0, 1, 2, 11, 12, 13]
    assert {row["kafka_offset"]: row["original"] for row in decoded.rejects.to_pylist()}[14] == values[14]
    assert decoded.rejects.schema == decode(table([b"poison"]), NOW).rejects.schema


def test_what_needs_no_search_is_decoded_as_in_this_process(decoder: IsolatedDecoder):
    messages = table([*transactions(0, 3), b"poison", message("USER"), message("TXN", amount="much")])

    isolated, here = decoder.decode(messages, NOW), decode(messages, NOW)

    assert isolated.rejects.sort_by("kafka_offset") == here.rejects.sort_by("kafka_offset")
    assert {ledger: rows.sort_by("kafka_offset") for ledger, rows in isolated.rows.items()} == {
        ledger: rows.sort_by("kafka_offset") for ledger, rows in here.rows.items()
    }
    assert decoder.decode(MESSAGE_SCHEMA.empty_table(), NOW).rows == {}


def test_a_decoder_that_is_killed_from_outside_rejects_nothing(decoder: IsolatedDecoder):
    for kill in ("SIGKILL", "SIGTERM"):
        with pytest.raises(DecoderError, match=f"{kill}; nothing is lost"):
            decoder.decode(table([*transactions(0, 2), deadly(kill)]), NOW)


@pytest.mark.slow
def test_a_decoder_that_is_killed_while_it_waits_mixes_up_no_answers(decoder: IsolatedDecoder):
    decoder.decode(table(transactions(0, 1)), NOW)
    server = decoder._child[0].pid
    (worker,) = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.2)  # so that the death is said before the next question

    for number in range(3):
        decoded = decoder.decode(table([message("TXN", transaction_ref=f"{number}-{half}") for half in "ab"]), NOW)
        assert sorted(decoded.rows[LEDGER]["transaction_ref"].to_pylist()) == [f"{number}-a", f"{number}-b"]


def test_a_decoder_that_dies_on_every_message_rejects_none(
    decoder: IsolatedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "deadly" / "sitecustomize.py"
    broken.write_text(broken.read_text() + "\ndecoding.decode = lambda *_: os.kill(os.getpid(), signal.SIGILL)\n")

    with pytest.raises(DecoderError, match="by SIGILL, even on a harmless message"):
        decoder.decode(table(transactions(0, 1)), NOW)


@pytest.mark.slow
def test_closing_ends_what_is_being_decoded(decoder: IsolatedDecoder):
    ended: list[BaseException] = []

    def decode_for_ever() -> None:
        try:
            decoder.decode(table([deadly("hang")]), NOW)
        except DecoderError as error:
            ended.append(error)

    decoder.decode(table(transactions(0, 1)), NOW)
    hanging = threading.Thread(target=decode_for_ever)
    hanging.start()
    decoder.close()
    hanging.join()
    assert "process is gone" in str(ended[0])


@pytest.mark.slow
def test_a_message_that_takes_too_long_alone_is_a_reject(decoder: IsolatedDecoder):
    decoded = decoder.decode(table([*transactions(0, 2), deadly("hang"), *transactions(2, 1)]), NOW)

    assert reasons(decoded) == {2: TOO_SLOW}
    assert offsets(decoded) == [0, 1, 3]


def ingesting(stream: Stream, how: str, chunk: int = 100_000) -> "subprocess.Popen[bytes]":
    """A process that ingests all that waits, with a deadly decoder."""
    command = [sys.executable, "-c", INGEST, how, str(chunk)]
    return subprocess.Popen(command, env=stream.environment, stderr=subprocess.DEVNULL)


def assert_stored(stream: Stream, transactions: int, rejects: int) -> None:
    stored = stream.rows(f"SELECT count(*), count(DISTINCT transaction_ref) FROM {LEDGER}")
    assert stored == [(transactions, transactions)]
    assert stream.rows("SELECT reason, count(*) FROM event_rejects GROUP BY reason") == [(DIED, rejects)]
    assert stream.committed() == stream.high_watermarks()
    assert not broken_ranges(stream.lake)


@pytest.mark.slow
def test_a_run_that_died_stored_nothing_and_an_isolated_one_stores_the_neighbours_wherever_the_message_goes_next(
    stream: Stream, settings: Settings, tmp_path: Path
):
    stream.send([*transactions(0, 30), deadly("SIGSEGV"), *transactions(30, 30)])

    assert ingesting(stream, "here").wait() == -signal.SIGSEGV
    assert not stream.rows(f"SELECT 1 FROM {LEDGER}")
    result = stream.ingest(isolated=True)

    assert (result.rows[LEDGER], result.rejected) == (60, {DIED: 1})
    assert_stored(stream, 60, 1)

    # Nobody has corrected the decoder yet.
    assert history.replay_rejects(stream.lake, None, utc_now).rejected == {DIED: 1}
    with pytest.raises(ChurnError, match=rf"{stream.topic}\[\d\] at \d+: the decoder died on it"):
        doctor._decoder(stream.lake, utc_now())
    assert doctor._decoder(stream.lake, utc_now() + timedelta(days=doctor.TOLD_DAYS + 1))
    assert_stored(stream, 60, 1)

    file = tmp_path / "cases.csv"
    file.write_text(
        "case_id,customer_id,open_timestamp,category\n"
        + "".join(f"K{number},C1,2026-03-01,{'deadly:SIGSEGV' if number == 3 else 'FEES'}\n" for number in range(9))
    )
    loaded = history.load(
        stream.lake, "support_cases", history.open_tables("support_cases", [file]), utc_now, lambda *_: None
    )
    assert (loaded.rows["support_cases"], loaded.rejected) == (8, {DIED: 1})

    # From here on, now that the decoder is corrected.
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH")
        history.replay_rejects(stream.lake, None, utc_now)
        assert stream.rows("SELECT count(*) FROM support_cases") == [(9,)]


def test_a_demo_that_stops_drains_what_waits_around_a_deadly_message(stream: Stream, settings: Settings):
    if not stream.cluster.is_embedded:
        pytest.skip("a demo leaves to a real broker what waits")
    said: list[str] = []
    stream.send([*transactions(0, 5), deadly("SIGSEGV"), *transactions(5, 5)])

    _drain(settings, stream.lake, said.append)

    assert said == ["  11 waiting messages stored"]
    assert_stored(stream, 10, 1)


@pytest.mark.slow
def test_kills_during_the_search_lose_and_double_nothing(stream: Stream):
    count = 0
    for number in range(rounds(8)):
        stream.send([*transactions(count, 200), deadly("SIGSEGV"), *transactions(count + 200, 200), deadly("SIGABRT")])
        count += 400
        for kill in range(3):
            with ingesting(stream, "isolated", chunk=50) as process:
                time.sleep(0.5 + 0.37 * ((7 * number + 3 * kill) % 10))
                process.kill()
            assert not broken_ranges(stream.lake)

    assert ingesting(stream, "isolated").wait() == 0
    assert_stored(stream, count, 2 * rounds(8))
