"""Files of history and mended rejects: the same validation as events, and idempotent."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import decoding, history
from churn_assets.ingestion.history import Loaded, load, open_tables, replay_rejects
from churn_assets.table_files.source import FileError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.messages import message

CASES = """case_id,CUSTOMER_ID,open_timestamp,category,sentiment_score,agent
K1,C1,2026-03-01 10:00:00,FEES,0.2,Bob
K2,C1,2026-03-01T12:00:00+02:00,FEES,,
K3,,2026-03-01 10:00:00,FEES,0.7,
K4,C1,someday,FEES,0.7,
"""


def loaded(lake: LakeWarehouse, ledger: str, *files: Path) -> Loaded:
    return load(lake, ledger, open_tables(ledger, files), utc_now, lambda file, so_far: None)


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
        ("file", str(cases), 4, "missing customer_id"),
        ("file", str(cases), 5, "open_timestamp is not a time (ISO 8601)"),
    ]
    assert {reason: place for reason, (_, place) in result.examples.items()} == {
        "missing customer_id": 4,
        "open_timestamp is not a time (ISO 8601)": 5,
    }


def test_what_is_no_row_is_rejected_with_its_line_and_its_text_and_stays_when_rejects_are_checked_again(
    lake: LakeWarehouse, cases: Path
):
    cases.write_text(CASES.replace("K2,", '"K2,') + "Total: 4\n")

    result = loaded(lake, "support_cases", cases)

    assert (result.messages, result.rows.total(), result.rejected.total()) == (5, 1, 4)
    assert replay_rejects(lake, None, utc_now).rows.total() == 0
    assert rows(
        lake,
        "SELECT kafka_offset, reason, decode(original) FROM event_rejects WHERE decode(original) NOT LIKE '{%' ORDER BY 1",
    ) == [
        (3, "a quote is not closed, or text follows it", '"K2,C1,2026-03-01T12:00:00+02:00,FEES,,\n'),
        (6, "fewer fields than the header", "Total: 4\n"),
    ]


def test_rows_of_several_lines_are_told_as_a_forgotten_quote_may_have_made_one_row_of_many(
    lake: LakeWarehouse, tmp_path: Path
):
    file = tmp_path / "cases.csv"
    file.write_text(
        "case_id,customer_id,open_timestamp,category,note\n"
        'K1,C1,2026-03-01,FEES,"no end\nK2,C1,2026-03-01,FEES,a\nK3,C1,2026-03-01,FEES,12"\nK4,C1,2026-03-01,FEES,"a\nb"\n'
    )

    result = loaded(lake, "support_cases", file)

    assert (result.messages, result.over_lines) == (2, 2)
    assert result.tallest is not None
    assert result.tallest[1:] == (2, 3)


def test_a_column_may_have_any_name(lake: LakeWarehouse, tmp_path: Path):
    names = ("place", "fault", "c0", "select", 'it\'s "it"', "a;b")
    file = tmp_path / "cases.csv"
    header = ";".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
    file.write_text(f"case_id;customer_id;open_timestamp;category;{header}\nK1;C1;2026-03-01;FEES;1;2;3;4;5;6\n")

    loaded(lake, "support_cases", file)

    ((extra,),) = rows(lake, "SELECT extra_fields FROM support_cases")
    assert json.loads(str(extra)) == dict(zip(names, "123456", strict=True))


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

    tables = open_tables("fact_transaction_ledger", [file])
    result = load(lake, "fact_transaction_ledger", tables, utc_now, lambda _, so_far: chunks.append(so_far.messages))

    assert result.rows == {"fact_transaction_ledger": 5000}
    assert chunks[-1] == 5000
    assert len(chunks) > 1
    assert rows(
        lake,
        "SELECT account_id, posting_date, amount, kafka_offset FROM fact_transaction_ledger WHERE transaction_ref = 'T7'",
    ) == [("7", datetime(2026, 1, 1, 0, 7), 1.75, None)]


def test_times_of_pandas_are_read_as_they_are_meant(lake: LakeWarehouse, tmp_path: Path):
    file = tmp_path / "customers.parquet"
    pd.DataFrame(
        {
            "customer_id": ["C1", "C2"],
            "full_name": ["Ada", "Bo"],
            "segment": pd.Categorical(["MASS", "MASS"]),
            "join_date": pd.to_datetime(["2020-01-01", "2020-02-29"]),
            "risk_profile_score": [0.5, np.inf],
            "updated_at": pd.to_datetime(["2026-01-01 12:00:00.123456", "2026-01-01 00:00:00.0"]).tz_localize(
                "America/New_York"
            ),
        }
    ).to_parquet(file)

    result = loaded(lake, "dim_customers", file)

    assert rows(lake, "SELECT customer_id, segment, join_date, updated_at FROM dim_customers") == [
        ("C1", "MASS", date(2020, 1, 1), datetime(2026, 1, 1, 17, 0, 0, 123456))
    ]
    assert [*result.rejected.values()] == [1]


def test_of_states_without_a_time_the_one_that_is_loaded_last_counts_and_loading_it_again_changes_nothing(
    lake: LakeWarehouse, tmp_path: Path
):
    file, corrected = tmp_path / "customers.csv", tmp_path / "corrected.csv"
    file.write_text("customer_id,full_name,segment,join_date\nC1,Ada,MASS,2020-01-01\nC2,Bo,MASS,2020-01-01\n")
    corrected.write_text(file.read_text().replace("Ada", "Ada Berg"))
    loaded(lake, "dim_customers", file)

    first, again = loaded(lake, "dim_customers", corrected), loaded(lake, "dim_customers", corrected)

    assert (first.rows.total(), first.duplicates.total()) == (1, 1)
    assert (again.rows.total(), again.duplicates.total()) == (0, 2)
    assert rows(lake, "SELECT full_name FROM dim_customers ORDER BY 1") == [("Ada Berg",), ("Bo",)]


def test_an_event_that_was_loaded_already_is_a_duplicate_when_it_comes_from_kafka(stream: Stream, cases: Path):
    loaded(stream.lake, "support_cases", cases)
    stream.send([message("CASE", case_id="K1", agent="Bob"), message("CASE", case_id="K9")])

    result = stream.ingest()

    assert (result.rows["support_cases"], result.duplicates["support_cases"]) == (1, 1)


@pytest.mark.parametrize(
    ("ledger", "name", "content", "error"),
    [
        ("customers", "a.csv", "x\n1\n", "there is no ledger customers; the ledgers are fact_transaction_ledger"),
        ("support_cases", "a.csv", "case_id,category\n1,2\n", "lacks the columns customer_id, open_timestamp, which"),
        ("support_cases", "a.csv", "K1,C1,2026-03-01,FEES\n", "it has K1, C1, 2026-03-01, FEES .*header in line 1"),
        ("support_cases", "a.parquet", "PAR1 no more", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(lake: LakeWarehouse, tmp_path: Path, ledger, name, content, error):
    (tmp_path / name).write_text(content)

    with pytest.raises(FileError, match=error):
        loaded(lake, ledger, tmp_path / name)


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
    stream.send([message("CASE", category="x" * 300)])
    stream.ingest()
    assert stream.rows("SELECT reason FROM event_rejects") == [("category is too long (limit 255)",)]

    from dataclasses import replace

    wider = tuple(
        replace(event_type, fields=tuple(replace(f, max_length=400) for f in event_type.fields))
        for event_type in decoding.EVENT_TYPES
    )
    monkeypatch.setattr(decoding, "EVENT_TYPES", wider)

    assert replay_rejects(stream.lake, "category is too long (limit 255)", utc_now).rows == {"support_cases": 1}
