import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import pytest

from churn_assets.cli import bank as bank_commands
from churn_assets.cli import questions
from churn_assets.clock import utc_now
from churn_assets.ingestion import history, kafka
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.events import LEDGERS
from churn_assets.operations import account as deployment
from churn_assets.operations import dbt
from churn_assets.operations import lake as lake_deployment
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator import seeding
from churn_assets.simulator.bank import Bank
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.cli.conftest import Churn, fails_in_one_line
from churn_assets_tests.ingestion.conftest import DecoderHere
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.snowflake.scripted_account import ScriptedAccount, reported

CHURN = Path(sys.executable).with_name("churn")


CUSTOMERS = "SELECT customer_id, full_name, email FROM dim_customers ORDER BY customer_id"


@pytest.mark.usefixtures("bank_with_two_customers")
def test_query_prints_a_table_json_or_csv(churn: Churn):
    table = churn("query", CUSTOMERS)
    as_json = churn("query", "--json", CUSTOMERS)
    as_csv = churn("query", "--csv", CUSTOMERS)

    lines = [line.split() for line in table.out.splitlines()]
    assert lines == [["customer_id", "full_name", "email"], ["C1", "Ann,", "B", "NULL"], ["C2", "Zoë", "NULL"]]
    assert json.loads(as_json.out) == [
        {"customer_id": "C1", "full_name": "Ann, B", "email": None},
        {"customer_id": "C2", "full_name": "Zoë", "email": None},
    ]
    assert list(csv.reader(io.StringIO(as_csv.out))) == [
        ["customer_id", "full_name", "email"], ["C1", "Ann, B", ""], ["C2", "Zoë", ""],
    ]  # fmt: skip
    assert {table.code, as_json.code, as_csv.code} == {0}
    assert {table.err, as_json.err, as_csv.err} == {""}


@pytest.mark.usefixtures("bank_with_two_customers")
def test_query_says_that_a_long_table_is_cut(churn: Churn):
    outcome = churn("query", "SELECT * FROM range(1500)")

    assert len(outcome.out.splitlines()) == 1 + questions.QUERY_ROWS + 1
    assert "1,000 of 1,500 rows" in outcome.out
    assert len(churn("query", "--csv", "SELECT * FROM range(1500)").out.splitlines()) == 1501


@pytest.mark.usefixtures("bank_with_two_customers")
def test_query_prints_brackets_as_they_are(churn: Churn):
    assert "[bold]Ann[/x]" in churn("query", "SELECT '[bold]Ann[/x]' AS full_name").out


@pytest.mark.usefixtures("bank_with_two_customers")
def test_query_prints_every_column_even_if_two_have_the_same_name(churn: Churn):
    assert churn("query", "SELECT 1 AS a, 2 AS a").out.split() == ["a", "a", "1", "2"]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO support_cases (case_id) VALUES ('K1')",
        "DROP TABLE dim_customers",
        "SELECT 1; DROP TABLE dim_customers",
        "COPY (SELECT 1) TO 'stolen.csv'",
        "ATTACH 'other.db'",
        "SET threads = 1",
        "FROM ducklake_flush_inlined_data('lake')",
        "EXPLAIN ANALYZE DELETE FROM dim_customers",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'stolen.csv'",
        "FROM ducklake_flush_inlined_data/**/('lake')",
        "SELECT '--', * FROM ducklake_flush_inlined_data('lake')",
        "EXPLAIN /* /* */ -- */ ANALYZE COPY (SELECT 1) TO 'stolen.csv'",
    ],
)
def test_query_refuses_what_writes_in_one_line_and_writes_nothing(
    churn: Churn, bank_with_two_customers: Path, tmp_path: Path, sql: str
):
    before = files_of(bank_with_two_customers)

    assert fails_in_one_line(churn("query", sql))

    assert files_of(bank_with_two_customers) == before
    assert files_of(tmp_path) == {}


@pytest.mark.usefixtures("bank_with_two_customers")
def test_ask_says_which_question_it_took_how_sure_it_is_and_the_sql(churn: Churn):
    outcome = churn("ask", "How many clients are in every risk category?")
    as_json = json.loads(churn("ask", "--json", "How many customers are in each class of risk?").out)

    assert outcome.code == 0
    assert outcome.out.splitlines()[:2] == [
        "figures: it is a verified question",
        "How many customers are in each class of risk?  (100% sure that this was asked)",
    ]
    assert "SELECT risk_class, COUNT(*) AS customer_count FROM customer_risk AS customers" in outcome.out
    assert outcome.out.split()[-2:] == ["risk_class", "customer_count"]
    assert (as_json["route"], as_json["by"], as_json["confidence"], as_json["rows"]) == ("figures", "verified", 1.0, [])
    assert (as_json["hits"], as_json["refused"], as_json["refusal"]) == (None, [], None)


@pytest.mark.usefixtures("bank_with_two_customers")
@pytest.mark.parametrize(
    "question", ["How many customers are in segment STUDENT?", "DELETE FROM customers", "[/x]", ""]
)
def test_ask_says_what_it_can_answer_where_it_cannot(churn: Churn, question: str):
    outcome = churn("ask", question)
    as_json = churn("ask", "--json", question)

    assert (outcome.code, outcome.err) == (1, "churn: I cannot answer that\n")
    assert outcome.out.startswith("none: it is not one of the verified questions\nI can answer these:\n")
    assert len(outcome.out.splitlines()) == 2 + 5
    assert as_json.code == 1
    assert len(json.loads(as_json.out)["nearest"]) == 5


def files_of(folder: Path) -> dict[Path, bytes]:
    """Every file that says something, with its content; SQLite leaves an empty log and an index of it after a reader."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: content for path, content in files.items() if content and path.suffix != ".sqlite-shm"}


@pytest.mark.usefixtures("bank_with_two_customers")
@pytest.mark.parametrize(
    ("sql", "word"), [("SELECT nope FROM dim_customers", "nope"), ("SELECT * FROM nope", "nope"), ("SELCT 1", "SELCT")]
)
def test_a_mistake_in_sql_is_one_line(churn: Churn, sql: str, word: str):
    assert fails_in_one_line(churn("query", sql), word)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["query"], "see `churn query --help`"),
        (["querry", "SELECT 1"], "Did you mean 'query'"),
        (["outbox", "aprove"], "Did you mean 'approve'"),
        (["seed", "--day", "3"], "--days"),
        (["seed", "--days", "0"], "--days"),
        (["produce", "--rate", "fast"], "--rate is a number"),
        (["produce", "--rate", "9" * 400], "--rate is a number"),
        (["produce", "--rate", "²"], "--rate is a number"),
        (["produce", "--events", "5"], "go together"),
    ],
)
def test_wrong_usage_exits_with_2_in_one_line_and_does_nothing(churn: Churn, arguments: list[str], said: str):
    assert fails_in_one_line(churn(*arguments), said, "--help`", code=2)
    assert not load_settings().home.exists()


@pytest.mark.parametrize("group", [[], ["outbox"], ["model"]])
def test_a_group_without_a_command_shows_its_help(churn: Churn, group: list[str]):
    outcome = churn(*group)

    assert (outcome.code, outcome.err) == (2, "")
    assert f"Usage: {' '.join(['churn', *group])}" in outcome.out


@pytest.mark.parametrize("command", [["status"], ["query", "SELECT 1"], ["produce"], ["broker"], ["seed"]])
def test_a_wrong_setting_is_one_line(churn: Churn, monkeypatch: pytest.MonkeyPatch, command: list[str]):
    monkeypatch.setenv("CHURN_TARGET", "oracle")

    assert fails_in_one_line(churn(*command), "CHURN_TARGET", "'local'", "'oracle'")


@pytest.mark.parametrize("command", [["demo"], ["check"]], ids=lambda words: words[0])
def test_what_runs_on_this_machine_only_says_so(churn: Churn, monkeypatch: pytest.MonkeyPatch, command: list[str]):
    monkeypatch.setenv("CHURN_TARGET", "snowflake")

    assert fails_in_one_line(churn(*command), f"`churn {command[0]}` runs on this machine only", "CHURN_TARGET=local")
    assert not load_settings().home.exists()


@pytest.mark.parametrize("command", [["query", "SELECT 1"], ["status"], ["status", "--json"], ["produce"]])
def test_before_the_deployment_a_command_says_how_to_deploy_and_makes_nothing(churn: Churn, command: list[str]):
    assert fails_in_one_line(churn(*command), "churn deploy")
    assert not load_settings().home.exists()


@pytest.mark.usefixtures("bank_with_two_customers")
def test_status_is_there_for_people_and_for_scripts(churn: Churn):
    table, as_json = churn("status"), churn("status", "--json")

    assert (table.code, as_json.code, table.err, as_json.err) == (0, 0, "", "")
    state = json.loads(as_json.out)
    shown = [line.split()[0] for line in table.out.splitlines() if line[1:2].isalpha()]
    assert set(state["ledgers"]) <= set(shown)
    assert {table["name"] for table in state["dynamic_tables"]} <= set(shown)
    assert {"event_rejects", "kafka", "risk", "queue", "emails"} <= set(shown)


@pytest.mark.usefixtures("settings")
def test_latency_is_there_for_people_and_for_scripts(churn: Churn):
    table, as_json = churn("latency"), churn("latency", "--hours", "1", "--json")

    assert (table.code, as_json.code, table.err, as_json.err) == (0, 0, "", "")
    hops = json.loads(as_json.out)
    assert [hop["hop"] in table.out for hop in hops] == [True] * 5
    assert {sum(bucket["events"] for bucket in hop["histogram"]) - hop["events"] for hop in hops} == {0}


@pytest.fixture
def seeded(churn: Churn) -> LakeWarehouse:
    """A home where `churn seed` has run, and nothing else."""
    assert churn("seed", "--customers", "300", "--days", "40").code == 0
    return open_lake(load_settings().lake_path)


def test_a_seeded_bank_is_not_seeded_again_and_not_mixed_with_another(churn: Churn, seeded: LakeWarehouse):
    rows = contents(seeded)
    assert {ledger for ledger, (count, _) in rows.items() if not count} == {
        "churn_scores_raw"
    }  # other systems' history

    again = churn("seed", "--customers", "300", "--days", "40")
    assert (again.code, again.out) == (0, "this bank is seeded already\n")
    for other in (["--customers", "301", "--days", "40"], ["--customers", "300", "--days", "40", "--seed", "2"]):
        assert fails_in_one_line(churn("seed", *other), "CHURN_HOME", "300 customers", "40 days")

    assert contents(seeded) == rows


def test_status_of_a_seeded_bank_that_is_not_deployed_says_how_to_deploy(churn: Churn):
    open_lake(load_settings().lake_path).deploy()

    assert fails_in_one_line(churn("status"), "churn deploy")


NOW = datetime.fromisoformat("2026-02-04T12:00:00")
BANK = Bank(300, 5, date.fromisoformat("2026-01-01"), 34, until=NOW)
SEED_AND_DIE = """
import os, sys
from pathlib import Path
from churn_assets.simulator import seeding
from churn_assets.wiring import open_lake
from churn_assets_tests.cli.test_app import BANK, NOW

chunks, place = int(sys.argv[2]), sys.argv[3]
store = seeding._store_chunk

def die():
    os.kill(os.getpid(), 9)

def store_and_die(*arguments):
    global chunks
    store(*arguments)
    chunks -= 1
    if not chunks and place == "before the commit":
        die()

seeding._store_chunk = store_and_die
seeding.seed(open_lake(Path(sys.argv[1])), BANK, NOW, lambda *_: None if chunks else die())
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """What the ledgers hold when nothing interrupts the seeding of BANK."""
    lake = open_lake(tmp_path_factory.mktemp("undisturbed") / "lake")
    lake.deploy()
    chunks: list[str] = []
    seeding.seed(lake, BANK, NOW, lambda ledger, _: chunks.append(ledger))
    assert len(chunks) == 2 + 2 * 3, "BANK is too small to be killed between two chunks of a ledger"
    return contents(lake)


@pytest.mark.slow
@pytest.mark.parametrize(("chunks", "place"), [(4, "before the commit"), (6, "after the commit")])
def test_a_seeding_that_is_killed_and_run_again_ends_with_the_rows_of_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, tuple[int, int]], chunks: int, place: str
):
    lake = open_lake(tmp_path / "lake")
    lake.deploy()
    killed = subprocess.run([sys.executable, "-c", SEED_AND_DIE, tmp_path / "lake", str(chunks), place], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert seeding.seeded_bank(lake) == BANK
    assert contents(lake) != undisturbed

    seeding.seed(lake, BANK, NOW, lambda *_: None)

    assert contents(lake) == undisturbed


def contents(lake: LakeWarehouse) -> dict[str, tuple[int, int]]:
    """Of each ledger the number of rows and a sum over the hashes of what they say."""
    return {
        ledger: (row["rows"], row["hash"])
        for ledger, event_type in LEDGERS.items()
        for row in lake.query(
            f"SELECT count(*) AS rows, sum(hash(row({', '.join(field.name for field in event_type.fields)}))) AS hash"
            f" FROM {ledger}"
        ).to_pylist()
    }


@pytest.fixture
def bank_without_history(settings: Settings, lake: LakeWarehouse) -> Settings:
    """A home whose seeding was interrupted before the first posting."""
    bank = json.dumps(BANK.parameters())
    lake.transact(lambda tx: tx.execute("INSERT INTO simulated_bank VALUES (?, 0, false)", [bank]))
    return settings


@pytest.fixture
def bank_to_continue(settings: Settings, lake: LakeWarehouse) -> Settings:
    """A home that knows its bank; the rows of its history are not needed."""
    bank = json.dumps(seeding.new_bank(300, 3, 1, utc_now()).parameters())
    lake.transact(lambda tx: tx.execute("INSERT INTO simulated_bank VALUES (?, 99, true)", [bank]))
    return settings


@pytest.mark.usefixtures("bank_with_two_customers")
def test_produce_without_a_bank_says_how_to_seed_one(churn: Churn):
    assert fails_in_one_line(churn("produce"), "churn seed")


@pytest.mark.usefixtures("bank_to_continue")
def test_produce_without_a_broker_says_how_to_start_one(churn: Churn):
    assert fails_in_one_line(churn("produce"), "churn broker", "KAFKA_BOOTSTRAP_SERVERS")


def test_produce_after_an_interrupted_seeding_says_to_seed_to_the_end(
    churn: Churn, bank_without_history: Settings, monkeypatch: pytest.MonkeyPatch
):
    class Stopped:
        def is_set(self) -> bool:
            return True

    monkeypatch.setattr(bank_commands, "StopSignal", Stopped)
    with embedded_broker(bank_without_history.broker_file):
        assert fails_in_one_line(churn("produce"), "churn seed")


@pytest.fixture
def broker_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`churn broker` in a process of its own."""
    with subprocess.Popen([CHURN, "broker"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_produce_sends_exactly_as_many_events_as_asked_and_ctrl_c_ends_the_broker(
    churn: Churn, bank_to_continue: Settings, broker_process: subprocess.Popen[str]
):
    assert broker_process.stdout
    assert broker_process.stdout.readline().startswith("broker on ")

    assert churn("produce", "--rate", "max", "--events", "2000") == (0, "2,000 events sent\n", "")
    marks = kafka.connect(bank_to_continue).partitions(EVENTS_TOPIC)
    assert sum(mark.high - mark.low for mark in marks.values()) == 2000

    os.kill(broker_process.pid, signal.SIGINT)
    assert broker_process.wait(timeout=30) == 0
    assert not bank_to_continue.broker_file.exists()


def test_load_takes_files_by_pattern_and_says_what_became_of_their_rows(churn: Churn, tmp_path: Path):
    for name, case in (("a", "K1"), ("b", "K2")):
        (tmp_path / f"{name}.csv").write_text(
            f"case_id,customer_id,open_timestamp,category\n{case},C1,2026-03-01,FEES\n{case},,2026-03-01,FEES\n"
        )

    first, again = churn("load", "SUPPORT_CASES", "*.csv"), churn("load", "support_cases", "a.csv", "b.csv")

    assert (first.code, first.err) == (3, "")
    assert first.out.splitlines() == [
        "a.csv: text, UTF-8, commas between fields, header in line 1",
        "b.csv: text, UTF-8, commas between fields, header in line 1",
        "4 rows: 2 stored, 0 known already, 2 rejected",
        "  2 missing customer_id (first: a.csv, line 3)",
    ]
    assert again.out.splitlines()[2] == "4 rows: 0 stored, 2 known already, 2 rejected"


@pytest.mark.usefixtures("settings")
def test_the_exit_code_of_load_says_whether_rows_were_rejected_also_when_it_is_repeated(
    churn: Churn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history, "IsolatedDecoder", DecoderHere)
    monkeypatch.setattr(LakeWarehouse, "deploy", lambda lake: None)  # it is deployed
    for case, rows, code in (
        ("all stored", "K1,C1,2026-03-01,FEES,x\n", 0),
        ("some rejected", "K2,C1,2026-03-01,FEES,x\nTotal: 1\n", 3),
        ("all rejected", "Total: 1\n", 1),
        ("no row", "", 1),
    ):
        file = f"{case}.csv"
        (tmp_path / file).write_text(f"case_id;customer_id;open_timestamp;category;agent\n{rows}".replace(",", ";"))

        first, again = churn("load", "support_cases", file), churn("load", "support_cases", file)

        assert (first.code, again.code) == (code, code), case
        assert "semicolons between fields, header in line 1; kept in extra_fields: agent" in first.out, case


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("load", "support_cases", "none.csv"), ("no file none.csv",)),
        (("load", "nothing", "a.csv"), ("no ledger nothing", "support_cases")),
        (("load", "support_cases", "a.csv"), ("a.csv", "lacks the columns", "case_id")),
    ],
)
def test_what_cannot_be_loaded_fails_in_one_line(churn: Churn, tmp_path: Path, arguments, words):
    (tmp_path / "a.csv").write_text("x\n1\n")

    assert fails_in_one_line(churn(*arguments), *words)


def test_replayed_events_reach_the_topic_and_replayed_rejects_the_ledger(
    churn: Churn, settings: Settings, tmp_path: Path
):
    (tmp_path / "events.ndjson").write_bytes(message("CASE", category="x" * 300) + b"\n" + message("CASE") + b"\n")
    with embedded_broker(settings.broker_file) as cluster:
        replayed = churn("replay", "events.ndjson")
        lake = open_lake(settings.lake_path)
        waiting = [lag.waiting for lag in lags(lake, cluster, settings.topics)]
        ingest(lake, cluster, waiting, on_gap="fail", group="g", clock=utc_now, report=lambda _: None)

    assert replayed == (0, "2 events sent to bank_transactions\n", "")
    assert churn("replay-rejects", "--reason", "category is too long (limit 255)").out.splitlines() == [
        "1 rows: 0 stored, 0 known already, 1 rejected",
        "  1 category is too long (limit 255)",
    ]


def test_doctor_names_each_problem_with_its_next_step_and_shows_no_secret(
    churn: Churn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "ann")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "s3cret")
    monkeypatch.setenv("CHURN_SMTP_URL", "smtp://ann:s3cret@mail.bank.example")

    outcome = churn("doctor")

    assert outcome.code == 1
    assert "security.protocol=SASL_PLAINTEXT" in outcome.out
    assert "sasl.password=set" in outcome.out
    assert "warehouse: there is no lake" in outcome.out
    assert "127.0.0.1:9 does not answer" in outcome.out
    assert "s3cret" not in outcome.out + outcome.err
    assert "CHURN_EMAIL_FROM" in outcome.out
    assert "16 of 22 checks failed" in outcome.err
    as_json = churn("doctor", "--json")
    assert as_json.code == 1
    assert sum(finding["problem"] is not None for finding in json.loads(as_json.out)) == 16


def test_doctor_finds_nothing_wrong_with_a_deployed_home_and_a_broker(churn: Churn, settings: Settings):
    with embedded_broker(settings.broker_file):
        outcome = churn("doctor")

    assert (outcome.code, outcome.err) == (0, "")
    assert "partitions, 0 messages wait" in outcome.out
    assert "none serves yet; the risk class comes from the heuristic" in outcome.out
    assert "written by template" in outcome.out
    assert "not sent (CHURN_SMTP_URL is not set)" in outcome.out


@pytest.mark.slow
def test_doctor_notices_that_the_deployed_class_is_made_by_another_score(
    churn: Churn, settings: Settings, home_by_model: Path, monkeypatch: pytest.MonkeyPatch
):
    def declare(settings: Settings) -> None:
        """What dbt declared once for all tests by the same settings; it takes seconds."""
        assert settings.score_source == "model"
        declared = load_settings(CHURN_HOME=home_by_model).dbt_target_path
        shutil.copytree(declared, settings.dbt_target_path, dirs_exist_ok=True)

    monkeypatch.setattr(lake_deployment, "declare", declare)
    monkeypatch.setenv("CHURN_SCORE_SOURCE", "model")
    before = churn("doctor").out
    assert churn("deploy").code == 0

    assert "take the risk class from the heuristic; run `churn deploy`" in " ".join(before.split())
    assert "the risk class comes from the model" in churn("doctor").out


def test_a_dry_run_without_an_account_shows_snowflakes_statements_in_order_under_ones_own_names_and_makes_nothing(
    churn: Churn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SNOWFLAKE_DATABASE", "retail")
    outcome = churn("deploy", "--target", "snowflake", "--dry-run")

    assert (outcome.code, outcome.err) == (0, "")
    wanted = (
        "==== account", "CREATE DATABASE IF NOT EXISTS RETAIL", "==== schema", "dim_accounts", "==== functions", "PUT 'file",
        "==== dbt", "CREATE DYNAMIC TABLE customer_day", "==== after_dbt", "RETAIL.MAIN.STREAM_HIGH_RISK_CUSTOMERS",
        "statements", "history unknown, so all statements are shown: CHURN_TARGET=snowflake needs SNOWFLAKE_ACCOUNT",
        "cost a day, estimated",
    )  # fmt: skip
    place = 0
    for text in wanted:
        place = outcome.out.index(text, place)
    assert not load_settings().home.exists()


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ({"SNOWFLAKE_DATABASE": "retail bank"}, ["--dry-run"], ("SNOWFLAKE_DATABASE cannot be 'retail bank'",)),
        ({"SNOWFLAKE_ROLE": '"me"'}, [], ("SNOWFLAKE_ROLE cannot be '\"me\"'",)),
        ({}, [], ("needs SNOWFLAKE_ACCOUNT and SNOWFLAKE_USER",)),
        (
            {"SNOWFLAKE_ACCOUNT": "a", "SNOWFLAKE_USER": "b", "SNOWFLAKE_PRIVATE_KEY_PATH": "nowhere.pem"},
            [],
            ("there is no file nowhere.pem",),
        ),
        ({"CHURN_DRIVER": "both"}, [], ("CHURN_DRIVER", "'native'")),
    ],
    ids=["a name with a blank", "a name with quotes", "no account", "no key", "a driver that is none"],
)
def test_what_keeps_a_deployment_on_snowflake_from_beginning_is_one_line(
    churn: Churn,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    arguments: list[str],
    words: tuple[str, ...],
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert fails_in_one_line(churn("deploy", "--target", "snowflake", *arguments), *words)
    assert not load_settings(CHURN_DRIVER="dagster").home.exists()


def test_a_deployment_goes_where_the_settings_say_and_reports_each_file(churn: Churn, monkeypatch: pytest.MonkeyPatch):
    account = ScriptedAccount("ACCOUNTADMIN")
    monkeypatch.setattr(dbt, "compiled", lambda settings: [])
    monkeypatch.setattr(dbt, "declare", account.declare)
    deploy = deployment.deploy
    monkeypatch.setattr(
        deployment,
        "deploy",
        lambda settings, only, report: deploy(settings, only, report, account.connect, account.declare),
    )
    monkeypatch.setenv("CHURN_TARGET", "snowflake")
    monkeypatch.setenv("SNOWFLAKE_ACCOUNT", "ORG-BANK")

    outcome = churn("deploy", "--only", "account", "--only", "010_ledgers.sql")

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        reported("snowflake/account/010_roles.sql"),
        reported("snowflake/account/020_warehouse.sql"),
        reported("snowflake/account/030_database.sql"),
        reported("snowflake/account/040_grants.sql"),
        reported("010_ledgers.sql"),
        "deployed to CHURN.MAIN of ORG-BANK",
    ]


@pytest.mark.parametrize("option", [["--dry-run"], ["--only", "schema"]])
def test_the_lake_has_nothing_to_preview(churn: Churn, option: list[str]):
    outcome = churn("deploy", *option)

    assert fails_in_one_line(outcome, "--target snowflake", code=2)
    assert not load_settings().home.exists()


def test_doctor_says_of_snowflake_what_is_missing_and_shows_no_secret(churn: Churn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHURN_TARGET", "snowflake")
    monkeypatch.setenv("SNOWFLAKE_PRIVATE_KEY_PASSPHRASE", "s3cret")

    outcome = churn("doctor")

    assert outcome.code == 1
    assert "FAIL  connection: CHURN_TARGET=snowflake needs SNOWFLAKE_ACCOUNT and SNOWFLAKE_USER" in outcome.out
    assert "s3cret" not in outcome.out + outcome.err


def test_search_builds_the_index_and_finds_what_is_meant(churn: Churn, lake: LakeWarehouse):
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO app_activity_logs (log_id, customer_id, event_type, event_timestamp, error_code, ingested_at)"
            " VALUES ('L1', 'C1', 'LOGIN', TIMESTAMP '2026-03-01 12:00', 'ERR_AUTH_OTP', TIMESTAMP '2026-03-01 12:00')"
        )
    )

    found = churn("search", "people who could not log in", "--filter", "customer_id=C1").out
    as_json = json.loads(churn("search", "people who could not log in", "--since", "2026-03-01", "--json").out)

    assert "One-time code refused" in found
    assert "1 found, in an index of 1 errors and cases, up to date (just built in " in found
    assert [(hit["event_id"], hit["happened_at"]) for hit in as_json] == [("L1", "2026-03-01 12:00:00")]
    assert "0 found" in churn("search", "log in", "--until", "2026-03-01").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--filter", "segment=MASS"],
            "there is no filter 'segment'; filters are kind, customer_id, error_code, device",
        ),
        (["--role", "GUEST"], "there is no role 'GUEST'"),
    ],
)
def test_search_refuses_what_it_does_not_know_in_one_line(churn: Churn, lake: LakeWarehouse, arguments, said):
    assert fails_in_one_line(churn("search", "log in", *arguments), said)


def test_search_makes_no_lake_where_there_is_none(churn: Churn, tmp_path: Path):
    assert fails_in_one_line(churn("search", "log in"), "there is no lake", "churn deploy")
    assert not (tmp_path / "home").exists()
