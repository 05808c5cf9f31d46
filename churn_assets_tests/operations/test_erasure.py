"""An erased customer is in no file of the home, and everybody else is as before."""

import json
import os
import signal
import sqlite3
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion.history import load, open_tables
from churn_assets.operations import erasure
from churn_assets.operations.erasure import DELETED_FROM, KEPT_WITHOUT_THE_CUSTOMER, ErasureError, erase, unfinished
from churn_assets.operations.traces import pattern_of
from churn_assets.retention.emails import write_emails
from churn_assets.retention.suppressions import SUPPRESSED, suppress
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake, open_log_index
from churn_assets_tests.retention.email_runs import email_run_of
from churn_assets_tests.warehouse.processes import PATIENCE_SECONDS, heard_from, process

NOW = utc_now()
ANN, BOB = "CUST-00042", "CUST-00077"
NAME, ADDRESS, ACCOUNT = "Annabelle Quixote", "annabelle@quixote.example", "ACCT-00042-1"
TRACES = [text.encode() for text in ("CUST-00042", "Quixote", "annabelle", "ACCT-00042", "secret-words-of-ann")]
LEDGERS = (
    "dim_customers", "dim_accounts", "fact_transaction_ledger", "app_activity_logs", "support_cases", "churn_scores_raw",
)  # fmt: skip


def test_every_table_with_a_customer_is_erased_or_said_to_stay(lake: LakeWarehouse):
    rows = lake.query("SELECT DISTINCT table_name FROM information_schema.columns WHERE column_name = 'customer_id'")
    dynamic = {table.name for table in lake.dynamic_tables(NOW)}

    assert set(rows["table_name"].to_pylist()) - dynamic == {
        *(ledger for ledger in LEDGERS if ledger != "fact_transaction_ledger"), *DELETED_FROM, *KEPT_WITHOUT_THE_CUSTOMER
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("of CUST-00042.", True),
        ("of cust-00042 ", True),
        ("of CUST-000421", False),
        ("of XCUST-00042", False),
        ("of Jos\u00e9 Mart\u00edn", True),
        (json.dumps("José Martín"), True),
        ("José Martín".encode("utf-16-le").decode("latin-1"), False),
        ("id 42", False),
    ],
)
def test_a_trace_is_a_whole_word_in_any_case_or_escape(text: str, is_found: bool):
    pattern = pattern_of(["CUST-00042", "José Martín", "42"])
    assert pattern
    assert bool(pattern.search(text.encode())) == is_found
    assert pattern.search("José Martín".encode("utf-16-le"))


def csv(folder: Path, name: str, *lines: str) -> Path:
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def bank_with_ann(settings: Settings, files: Path) -> LakeWarehouse:
    """Two customers at risk with all that can be stored about them; what stands beside the lake mentions Ann, too."""
    lake = open_lake(settings.lake_path)
    days = [f"{NOW - timedelta(days=day):%Y-%m-%dT%H:%M:%S}" for day in range(1, 9)]
    many = [
        f"CUST-{number:05},Somebody {number},s{number}@x.example,MASS,2020-01-01,{days[0]}"
        for number in range(100, 700)
    ]
    both = [(ANN, ACCOUNT), (BOB, "ACCT-00077-1")]
    tables = {
        "dim_customers": [
            "customer_id,full_name,email,segment,join_date,updated_at",
            f"{ANN},{NAME},{ADDRESS},MASS,2020-01-01,{days[0]}", f"{BOB},Bob Bee,bob@x.example,MASS,2020-01-01,{days[0]}", *many,
        ],
        "dim_accounts": [
            "account_id,customer_id,product_code,account_status,updated_at",
            *(f"{account},{customer},CHK,OPEN,{days[0]}" for customer, account in both),
        ],
        "fact_transaction_ledger": [
            "transaction_ref,account_id,posting_date,transaction_code,amount,purpose",
            *(f"T{n}-{account},{account},{days[n]},WIRE_OUT,9000,to {customer}" for customer, account in both for n in range(8)),
        ],
        "app_activity_logs": [
            "log_id,customer_id,event_type,event_timestamp,error_code",
            *(f"L{n}-{customer},{customer},LOGIN,{days[n]},E1" for customer, _ in both for n in range(8)),
        ],
        "support_cases": [
            "case_id,customer_id,open_timestamp,category,sentiment_score,said",
            *(
                f"K{n}-{customer},{customer},{days[n]},FEES,0.1,{'secret-words-of-ann' if customer == ANN else 'hello'}"
                for customer, _ in both for n in range(8)
            ),
        ],
        "churn_scores_raw": [
            "score_id,customer_id,scored_at,churn_score", *(f"S-{customer},{customer},{days[0]},0.9" for customer, _ in both),
        ],
    }  # fmt: skip
    for ledger, lines in tables.items():
        load(
            lake, ledger, open_tables(ledger, [csv(files, f"{ledger}.csv", *lines)]), utc_now, lambda file, so_far: None
        )
    wrong = csv(
        files, "wrong.csv", tables["support_cases"][0], f"K9,{ANN},someday,FEES,,x", f"K8,,{days[0]},FEES,,{NAME}",
        f"K7,{BOB},someday,FEES,,x",
    )  # fmt: skip
    load(lake, "support_cases", open_tables("support_cases", [wrong]), utc_now, lambda file, so_far: None)
    lake.refresh([table.name for table in lake.dynamic_tables(NOW)], utc_now())
    write_emails(lake, email_run_of(lake), utc_now().date(), utc_now())
    suppress(lake, ANN, None, utc_now(), f"{NAME} rang", "boss")
    index = open_log_index(settings, lake)
    assert index is not None
    index.update()
    # A later name, so that the first one is in old snapshots and files only.
    later = csv(
        files, "later.csv", tables["dim_customers"][0], f"{ANN},{NAME},{ADDRESS},SMB,2020-01-01,{NOW:%Y-%m-%dT%H:%M:%S}"
    )
    load(lake, "dim_customers", open_tables("dim_customers", [later]), utc_now, lambda file, so_far: None)
    settings.emails_path.mkdir(exist_ok=True)
    answer = {"intervention_id": "x", "text": f"Dear {NAME}", "model": "m", "prompt_tokens": 1, "completion_tokens": 1}
    (settings.emails_path / "answers.ndjson").write_text(json.dumps(answer) + "\n")
    (settings.home / "logs").mkdir()
    (settings.home / "logs" / "daemon.log").write_text(f"before {ANN} and {NAME} after\n{BOB}\n")
    settings.alerts_file.write_text(json.dumps({"message": f"failed for {ADDRESS}"}) + "\n")
    settings.dagster_home.mkdir()
    with sqlite3.connect(settings.dagster_home / "index.db") as events:
        events.execute("PRAGMA journal_mode = WAL")
        events.execute("CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT)")
        events.executemany(
            "INSERT INTO event_logs (event) VALUES (?)", [(json.dumps({"rows": [who]}),) for who in (ANN, BOB)]
        )
    return lake


def erased(settings: Settings, lake: LakeWarehouse, customer: str = ANN) -> erasure.Erasure:
    return erase(settings, lake, open_log_index(settings, lake), customer, "boss", utc_now)


def files_with_a_trace(home: Path) -> list[str]:
    """Written apart from the product's own search: raw bytes, and every value of every Parquet file."""
    found = list[str]()
    for file in home.rglob("*"):
        if not file.is_file() or file.is_symlink():
            continue
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += repr(pq.read_table(file).to_pylist()).encode() + repr(pq.read_metadata(file).to_dict()).encode()
        found += [f"{trace.decode()} in {file}" for trace in TRACES if trace.lower() in content.lower()]
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder outside of the home."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def suppressed_with_her_address(lake: LakeWarehouse) -> bool:
    """Whether a hash keeps emails from the next customer with Ann's address."""
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, email, segment, join_date, updated_at, ingested_at)"
            " VALUES ('CUST-00900', 'Cat', ?, 'MASS', ?, ?, ?)",
            [ADDRESS, NOW.date(), NOW, NOW],
        )
    )
    return set(lake.query(SUPPRESSED, [NOW])["customer_id"].to_pylist()) == {"CUST-00900"}


def rows_of(lake: LakeWarehouse, customer: str) -> dict[str, int]:
    tables = [ledger for ledger in LEDGERS if ledger != "fact_transaction_ledger"]
    tables += ["customer_day", "dyn_customer_features", "dyn_churn_predictions", "agent_intervention_log"]
    return {
        table: lake.query(f"SELECT count(*) AS n FROM {table} WHERE customer_id = ?", [customer])["n"][0].as_py()
        for table in tables
    }


@pytest.mark.slow  # an erasure rewrites every table
def test_no_file_holds_a_byte_of_an_erased_customer_and_nobody_else_changes(settings: Settings, files: Path):
    lake = bank_with_ann(settings, files)
    before = rows_of(lake, BOB)
    features = lake.query("SELECT * FROM dyn_customer_features WHERE customer_id <> ? ORDER BY customer_id", [ANN])
    assert all(rows_of(lake, ANN).values())
    assert files_with_a_trace(settings.home)

    done = erased(settings, lake)

    assert files_with_a_trace(settings.home) == []
    assert done.left == []
    assert done.rejects_blanked == 2
    assert not any(rows_of(lake, ANN).values())
    assert rows_of(lake, BOB) == before
    kept = lake.query("SELECT * FROM dyn_customer_features ORDER BY customer_id")
    assert kept.equals(features)
    assert lake.query("SELECT count(*) AS n FROM dim_customers WHERE customer_id < 'CUST-00200'")["n"].to_pylist() == [
        101
    ]
    assert unfinished(lake) == 0
    lines = lake.query("SELECT erased_by, rows_deleted, finished_at FROM erasures").to_pylist()
    assert [(line["erased_by"], line["rows_deleted"] > 20, line["finished_at"] is not None) for line in lines] == [
        ("boss", True, True)
    ]
    log = lake.query("SELECT customer_id, status, generated_email FROM agent_intervention_log ORDER BY 1").to_pylist()
    assert [line["customer_id"][:7] for line in log] == ["CUST-00", "erased-"]
    assert (log[1]["status"], log[1]["generated_email"]) == ("CANCELLED", None)
    assert lake.query("SELECT count(*) AS n FROM event_rejects WHERE original IS NULL")["n"].to_pylist() == [2]
    assert suppressed_with_her_address(lake)
    assert BOB in (settings.home / "logs" / "daemon.log").read_text()
    with pytest.raises(ErasureError, match=f"nothing is stored about a customer {ANN}"):
        erased(settings, lake)


def _die_at(connection: Connection, home: Path, step: str) -> None:
    settings = load_settings(CHURN_HOME=home)
    lake = open_lake(settings.lake_path)

    def report(doing: str) -> None:
        if doing == step:
            connection.send(step)
            os.kill(os.getpid(), signal.SIGKILL)

    erase(settings, lake, open_log_index(settings, lake), ANN, "boss", utc_now, report)


@pytest.mark.slow
def test_an_erasure_that_is_killed_at_one_step_after_another_is_finished_in_the_end(settings: Settings, files: Path):
    lake = bank_with_ann(settings, files)
    for step, begun in {
        "rows": 0,
        "answers of language models": 1,
        "features and scores": 1,
        "search index": 1,
        "old snapshots and files": 1,
        "looking at every file": 0,  # all is done
    }.items():
        with process(_die_at, settings.home, step) as (child, connection):
            assert heard_from(connection) == step
            child.join(PATIENCE_SECONDS)
        assert unfinished(lake) == begun

    assert files_with_a_trace(settings.home) == []
    assert unfinished(lake) == 0
