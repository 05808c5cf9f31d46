"""Files of history and mended rejects: the same validation as events, and idempotent."""

import os
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import decoding, history
from churn_assets.ingestion.commit import Stored
from churn_assets.ingestion.history import FileError, find_files, load, replay_rejects
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.messages import message

CASES = """case_id,CUSTOMER_ID,open_timestamp,category,sentiment_score,agent
K1,C1,2026-03-01 10:00:00,FEES,0.2,Bob
K2,C1,2026-03-01T12:00:00+02:00,FEES,,
K3,,2026-03-01 10:00:00,FEES,0.7,
K4,C1,someday,FEES,0.7,
"""


def loaded(lake: LakeWarehouse, ledger: str, *files: Path) -> Stored:
    return load(lake, ledger, files, utc_now, lambda file, so_far: None)


def rows(lake: LakeWarehouse, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in lake.query(sql).to_pylist()]


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    file = tmp_path / "cases.csv"
    file.write_text(CASES)
    return file


def test_rows_of_a_file_are_checked_like_events_and_what_cannot_be_a_row_is_rejected(lake: LakeWarehouse, cases: Path):
    result = loaded(lake, "support_cases", cases)

    assert (result.messages, result.rows.total(), result.rejected.total()) == (4, 2, 2)
    assert rows(
        lake, "SELECT case_id, open_timestamp, sentiment_score, extra_fields FROM support_cases ORDER BY 1"
    ) == [
        ("K1", datetime(2026, 3, 1, 10), 0.2, '{"agent":"Bob"}'),
        ("K2", datetime(2026, 3, 1, 10), None, '{"agent":null}'),
    ]
    assert rows(lake, "SELECT epoch, kafka_topic, kafka_offset, reason FROM event_rejects ORDER BY 3") == [
        ("file", str(cases), 3, "missing customer_id"),
        ("file", str(cases), 4, "open_timestamp is not a time"),
    ]


def test_loading_a_file_again_changes_nothing(lake: LakeWarehouse, cases: Path):
    loaded(lake, "support_cases", cases)
    before = (
        rows(lake, "SELECT * FROM support_cases ORDER BY 1"),
        rows(lake, "SELECT * FROM event_rejects ORDER BY ALL"),
    )

    again = loaded(lake, "support_cases", cases)

    assert again.duplicates.total() == 2
    assert again.rows.total() == 0
    assert before == (
        rows(lake, "SELECT * FROM support_cases ORDER BY 1"),
        rows(lake, "SELECT * FROM event_rejects ORDER BY ALL"),
    )


def test_a_parquet_file_is_loaded_in_chunks_with_its_types(lake: LakeWarehouse, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(history, "INGEST_CHUNK_MESSAGES", 2048)
    file = tmp_path / "ledger.parquet"
    duckdb.sql(
        "SELECT 'T' || i AS transaction_ref, i % 50 AS account_id, TIMESTAMP '2026-01-01' + to_minutes(i) AS posting_date,"
        " 'POS' AS transaction_code, (i / 4)::DECIMAL(10, 2) AS amount FROM range(5000) AS numbers (i) ORDER BY random()"
    ).write_parquet(str(file))
    chunks: list[int] = []

    result = load(lake, "fact_transaction_ledger", [file], utc_now, lambda _, so_far: chunks.append(so_far.messages))

    assert result.rows == {"fact_transaction_ledger": 5000}
    assert chunks[-1] == 5000
    assert len(chunks) > 1
    assert rows(
        lake,
        "SELECT account_id, posting_date, amount, kafka_offset FROM fact_transaction_ledger WHERE transaction_ref = 'T7'",
    ) == [("7", datetime(2026, 1, 1, 0, 7), 1.75, None)]


def test_a_state_without_a_time_is_as_old_as_its_file(lake: LakeWarehouse, tmp_path: Path):
    file = tmp_path / "customers.csv"
    file.write_text("customer_id,full_name,segment,join_date\nC1,Ada,MASS,2020-01-01\n")
    os.utime(file, (1_750_000_000, 1_750_000_000))

    loaded(lake, "dim_customers", file)

    assert rows(lake, "SELECT full_name, epoch(updated_at) FROM dim_customers") == [("Ada", 1_750_000_000.0)]


def test_an_event_that_was_loaded_already_is_a_duplicate_when_it_comes_from_kafka(stream: Stream, cases: Path):
    loaded(stream.lake, "support_cases", cases)
    stream.send([message("CASE", case_id="K1", agent="Bob"), message("CASE", case_id="K9")])

    result = stream.ingest()

    assert (result.rows["support_cases"], result.duplicates["support_cases"]) == (1, 1)


@pytest.mark.parametrize(
    ("ledger", "name", "content", "error"),
    [
        ("customers", "a.csv", "x\n1\n", "there is no ledger customers; the ledgers are fact_transaction_ledger"),
        ("support_cases", "a.txt", "x\n1\n", "neither Parquet nor CSV"),
        ("support_cases", "a.csv", "case_id,category\n1,2\n", "lacks the columns customer_id, open_timestamp"),
        ("support_cases", "a.parquet", "not parquet", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(lake: LakeWarehouse, tmp_path: Path, ledger, name, content, error):
    (tmp_path / name).write_text(content)

    with pytest.raises(FileError, match=error):
        loaded(lake, ledger, tmp_path / name)


def test_patterns_name_files_and_one_without_any_is_an_error(tmp_path: Path):
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).touch()

    assert find_files([f"{tmp_path}/*.csv", f"{tmp_path}/a.csv"]) == [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(FileError, match="there is no file"):
        find_files([f"{tmp_path}/*.parquet"])


def test_rejects_that_have_become_valid_are_stored_once_and_the_others_stay(stream: Stream, monkeypatch):
    soon = (utc_now() + timedelta(hours=30)).isoformat()
    stream.send([message("TXN", posting_date=soon), message("TXN", amount="much"), b"poison"])
    stream.ingest()
    assert replay_rejects(stream.lake, None, utc_now).rows.total() == 0

    def tomorrow() -> datetime:
        return utc_now() + timedelta(days=1)

    assert replay_rejects(stream.lake, "not JSON", tomorrow).rows.total() == 0
    result = replay_rejects(stream.lake, "posting_date is an impossible time", tomorrow)
    assert result.rows == {"fact_transaction_ledger": 1}
    assert replay_rejects(stream.lake, None, tomorrow).rows.total() == 0

    open_rejects = stream.rows("SELECT reason FROM event_rejects WHERE replayed_at IS NULL ORDER BY 1")
    assert open_rejects == [("amount is not a number",), ("not JSON",)]
    assert stream.rows("SELECT kafka_topic, kafka_offset FROM fact_transaction_ledger") == [(stream.topic, 0)]


def test_a_contract_that_was_widened_lets_its_rejects_in(stream: Stream, monkeypatch):
    stream.send([message("CASE", category="x" * 50)])
    stream.ingest()
    assert stream.rows("SELECT reason FROM event_rejects") == [("category is too long",)]

    from dataclasses import replace

    wider = tuple(
        replace(event_type, fields=tuple(replace(f, max_length=60) for f in event_type.fields))
        for event_type in decoding.EVENT_TYPES
    )
    monkeypatch.setattr(decoding, "EVENT_TYPES", wider)

    assert replay_rejects(stream.lake, "category is too long", utc_now).rows == {"support_cases": 1}
