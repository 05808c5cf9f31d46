"""Mapped topics and files in the lake: exactly once, whatever is run again, and rejects that a corrected mapping repairs."""

import json
import random
from datetime import datetime
from pathlib import Path

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.history import load, open_tables, replay_rejects
from churn_assets.ingestion.kafka import OffsetRange
from churn_assets.ingestion.mapping.compiling import Mappings
from churn_assets.ingestion.publisher import Publisher
from churn_assets.table_files.source import FileError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.mapping.mapped import POSTING, mappings, postings

LEDGER = "fact_transaction_ledger"
CODES = {"kinds": {"values": {"LS": "BILL_PAY", "KA": "POS"}}}
EXPORT = """Konten der Bank, Stand 01.03.2026
Beleg;KONTO;Buchungstag;Art;Betrag (EUR);Text
T1;A1;01.03.2026 10:00;LS;1.234,50;Miete
T2;A1;02.03.2026;KA;5,00;
T3;A1;02.03.2026;GA;5,00;
T4;A1;02.03.2026;KA;5.0;
Summe;;;;1.249,50;
"""
FROM_FILE = postings(
    {
        "transaction_ref": "beleg",
        "account_id": "konto",
        "posting_date": "buchungstag",
        "transaction_code": {"sql": "art", "codes": "kinds"},
        "amount": {"field": "Betrag (EUR)"},
    },
    files="export*.csv",
    decimal=",",
    date_format=["%d.%m.%Y", "%d.%m.%Y %H:%M"],
    timezone="Europe/Berlin",
    skip="beleg = 'Summe'",
)


def of_stream(stream: Stream, **members: object) -> Mappings:
    return mappings(
        postings({"transaction_code": {"sql": "kind", "codes": "kinds"}}, topics=stream.topic, **members), codes=CODES
    )


@pytest.fixture
def messages() -> list[bytes]:
    """1,000 postings, 20 with a code that no table has, 10 to be skipped, 5 that are no JSON, and 30 sent twice."""
    rows = [POSTING | {"ref": f"T{number}", "kind": "LS"} for number in range(1_000)]
    for number, row in enumerate(rows):
        row.update({"kind": "??"} if number < 20 else {"state": "pending"} if number < 30 else {})
    sent = [json.dumps(row).encode() for row in rows]
    sent[30:35] = [b"{" for _ in range(5)]
    sent += sent[100:130]
    random.Random(1).shuffle(sent)
    return sent


def outcome(stream: Stream) -> tuple[object, ...]:
    assert not broken_ranges(stream.lake)
    assert stream.committed() == stream.high_watermarks()
    return (
        *stream.rows(f"SELECT count(*), count(DISTINCT transaction_ref) FROM {LEDGER}")[0],
        sorted(stream.rows("SELECT reason, count(*) FROM event_rejects WHERE replayed_at IS NULL GROUP BY reason")),
    )


UNKNOWN = ("transaction_code: the code ?? is not in the code table kinds", 20)
BROKEN = ("not JSON: it ends too early", 5)


def test_a_mapped_topic_is_stored_exactly_once_and_a_corrected_mapping_repairs_its_rejects(
    stream: Stream, messages: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kafka, "INGEST_CHUNK_MESSAGES", 300)
    stream.send(messages)
    stream.mappings = of_stream(stream, skip="state = 'pending'")
    whole = stream.waiting()
    halves = [OffsetRange(r.partition, r.start, r.end // 2) for r in whole]

    results = [stream.ingest(ranges) for ranges in (halves, whole, halves, whole)]

    assert outcome(stream) == (965, 965, [BROKEN, UNKNOWN])
    assert sum(result.left_out for result in results) == 10
    assert all(result.accounted == result.messages for result in results)

    today = {"kinds": {"values": {**CODES["kinds"]["values"], "??": "FEE"}}}
    mended = mappings(
        postings({"transaction_code": {"sql": "kind", "codes": "kinds"}}, topics=stream.topic), codes=today
    )
    for _ in range(2):
        replay_rejects(stream.lake, None, utc_now, mended)

    assert outcome(stream) == (985, 985, [BROKEN])


def change(op: str, ref: str, amount: float | None = None, day: int = 1) -> bytes:
    row = POSTING | {"ref": ref, "amount": amount, "kind": "KA", "booked": f"2026-03-{day:02}T10:00:00Z"}
    return json.dumps(
        {"op": op, "before": {"ref": ref} if op == "d" else None, "after": None if op == "d" else row}
    ).encode()


@pytest.mark.parametrize("chunk", [3, 100])
def test_updates_and_deletes_of_debezium_leave_what_the_table_holds(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr(kafka, "INGEST_CHUNK_MESSAGES", chunk)
    monkeypatch.setattr(kafka, "_BATCH_MESSAGES", 1)
    stream.mappings = of_stream(stream, format="debezium")
    history = [
        change("r", "kept", 1), change("c", "updated", 1), change("c", "gone", 1), change("u", "updated", 2),
        change("u", "updated", 3, day=20), change("d", "gone"), change("c", "back", 1), change("d", "back"),
        change("c", "back", 9), change("d", "never there"), change("u", "unseen", 4), change("c", "last", 1),
        change("u", "last", 2), change("d", "last"),
    ]  # fmt: skip
    publisher = Publisher(stream.cluster, stream.topic)
    for message in history:
        publisher.send(b"one key", message)
    publisher.flush()
    whole = stream.waiting()

    results = [stream.ingest(), stream.ingest(whole)]

    assert stream.rows(f"SELECT transaction_ref, amount, posting_date FROM {LEDGER} ORDER BY 1") == [
        ("back", 9, datetime(2026, 3, 1, 10)),
        ("kept", 1, datetime(2026, 3, 1, 10)),
        ("unseen", 4, datetime(2026, 3, 1, 10)),
        ("updated", 3, datetime(2026, 3, 20, 10)),
    ]
    assert results[0].accounted == results[0].messages == len(history)
    assert results[0].deletes == {LEDGER: 4}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    file = tmp_path / "export_2026.csv"
    file.write_text(EXPORT, encoding="latin-1")
    return file


def test_a_raw_export_is_loaded_by_its_mapping_and_its_rejects_are_repaired_by_a_better_one(
    lake: LakeWarehouse, export: Path
):
    def loaded(found: Mappings):
        return load(lake, LEDGER, open_tables(LEDGER, [export], found), utc_now, lambda file, so_far: None)

    found = mappings(FROM_FILE, codes=CODES)
    first, again = loaded(found), loaded(found)

    query = f"SELECT transaction_ref, account_id, posting_date, transaction_code, amount, extra_fields FROM {LEDGER} ORDER BY 1"
    assert [tuple(row.values()) for row in lake.query(query).to_pylist()] == [
        ("T1", "A1", datetime(2026, 3, 1, 9), "BILL_PAY", 1234.5, '{"Text":"Miete"}'),
        ("T2", "A1", datetime(2026, 3, 2), "POS", 5.0, '{"Text":null}'),
    ]
    assert (first.messages, first.left_out, first.rejected) == (
        5,
        1,
        {
            "transaction_code: the code GA is not in the code table kinds": 1,
            "amount is not a number with a decimal comma": 1,
        },
    )
    assert (again.rows.total(), again.duplicates.total(), again.rejected) == (0, 2, first.rejected)

    better = {"kinds": {"values": {**CODES["kinds"]["values"], "GA": "ATM"}}}
    assert replay_rejects(lake, None, utc_now, mappings(FROM_FILE, codes=better)).rows == {LEDGER: 1}
    assert replay_rejects(lake, None, utc_now, mappings(FROM_FILE, codes=better)).rows.total() == 0


def test_a_field_that_a_file_does_not_have_is_one_line_before_anything_is_stored(export: Path):
    with pytest.raises(FileError) as error:
        open_tables(LEDGER, [export], mappings(FROM_FILE | {"where": "waehrung = 'EUR'"}, codes=CODES))

    assert "lacks the columns waehrung, which the mapping postings needs; it has Beleg, KONTO" in str(error.value)
