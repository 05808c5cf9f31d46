"""The statements that create Snowflake's objects, without an account: would they do no harm, and in this order?

Verified by parsing in sqlfluff's dialect and by rules on the texts; what the tasks' procedures put into the queue and take
from it runs in DuckDB after translation by sqlglot. Nothing here has run on Snowflake.
"""

import random
import re
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest
import sqlglot
from sqlfluff.core import Linter

from churn_assets.deployment import DBT_PROJECT
from churn_assets.model.snowflake_functions import statements as model_statements
from churn_assets.retention import claims
from churn_assets.retention.control import control_group_in_sql, is_in_control_group
from churn_assets.settings import CONTROL_SHARE, PROJECT_ROOT
from churn_assets.snowflake_sql import Names, SnowflakeSqlError, Statement, render, split, statements
from churn_assets.warehouse.lake import LakeWarehouse

# Valid by Snowflake's documentation, but unknown to sqlfluff.
UNKNOWN_TO_SQLFLUFF = (
    "GRANT USE AI FUNCTIONS ON ACCOUNT",  # a privilege since February 2026
    "GRANT DATABASE ROLE SNOWFLAKE.SNOWPARK.",  # a database role of a schema
    "CREATE ROW ACCESS POLICY IF NOT EXISTS CHURN.SERVING.",  # it takes a name without schema
)
# What a statement may begin with, each of which can be repeated and keeps all data.
REPEATABLE = (
    r"USE (ROLE|WAREHOUSE|SCHEMA) ",
    r"ALTER SESSION SET ",
    r"GRANT .* TO ROLE ",
    r"CREATE (ROLE|WAREHOUSE|DATABASE|SCHEMA|TABLE|FILE FORMAT|STAGE|STREAM|TASK) IF NOT EXISTS ",
    r"CREATE (MASKING|ROW ACCESS) POLICY IF NOT EXISTS ",
    r"CREATE OR REPLACE (PROCEDURE|SECURE VIEW) ",  # these hold no data
    r"ALTER (MASKING|ROW ACCESS) POLICY \S+ SET BODY ->",
    r"INSERT INTO (retention_queue) .* AND NOT EXISTS \(SELECT 1 FROM \1\)$",  # only into an empty table
)
DYNAMIC_TABLES = {
    path.stem for folder in ("features", "predictions") for path in DBT_PROJECT.glob(f"models/{folder}/*.sql")
}
ALL = statements(Names())


def plain(statement: Statement) -> str:
    """A statement on one line, without its comments."""
    return " ".join(re.sub(r"--[^\n]*", "", statement.text).split())


def named(start: str) -> Statement:
    """The one statement that begins so."""
    (found,) = [one for one in ALL if plain(one).startswith(start)]
    return found


def body(statement: Statement) -> str:
    return statement.text.split("$$")[1].strip()


def grants() -> list[str]:
    return [plain(one) for one in ALL if plain(one).startswith("GRANT")]


@pytest.fixture(scope="module")
def linter() -> Linter:
    return Linter(dialect="snowflake")


def test_every_statement_parses_and_the_list_of_exceptions_is_no_longer_than_needed(linter: Linter):
    refused = [plain(one) for one in ALL if linter.parse_string(f"{one.text};\n").violations]

    assert [next((start for start in UNKNOWN_TO_SQLFLUFF if one.startswith(start)), one) for one in refused] == list(
        UNKNOWN_TO_SQLFLUFF
    )


def test_every_body_of_a_procedure_parses(linter: Linter):
    procedures = [one for one in ALL if "LANGUAGE SQL" in one.text]

    assert len(procedures) == 3
    assert {one.file: linter.parse_string(f"{body(one)}\n").violations for one in procedures} == {
        one.file: [] for one in procedures
    }


@pytest.mark.parametrize("statement", ALL, ids=lambda one: f"{one.file}: {plain(one)[:50]}")
def test_every_statement_can_be_repeated_and_drops_or_replaces_nothing_that_holds_data(statement: Statement):
    text = plain(statement)

    assert any(re.match(rule, text) for rule in REPEATABLE), text
    assert not re.search(r"\b(DROP|TRUNCATE|DELETE FROM|UNDROP|SWAP WITH)\b", text)


@pytest.mark.parametrize(
    "text", ["DROP TABLE a", "CREATE OR REPLACE TABLE a (b INT)", "CREATE OR REPLACE STREAM a ON TABLE b"]
)
def test_the_rule_of_repeatable_statements_refuses_what_loses_data(text: str):
    assert not any(re.match(rule, text) for rule in REPEATABLE)


def test_the_tables_of_the_lake_are_reused_all_of_them_and_nothing_else_of_their_files():
    declared = {
        name
        for file in (PROJECT_ROOT / "sql").glob("*.sql")
        for name in re.findall(r"CREATE TABLE .* (\w+) \(", file.read_text())
    }
    created = {re.findall(r"EXISTS (\w+)", one.text)[0] for one in ALL if re.fullmatch(r"\d+_\w+\.sql", one.file)}

    assert created == declared
    assert {"agent_intervention_log", "kafka_offsets", "fact_transaction_ledger"} <= created
    assert not any("INTO streams" in one.text for one in ALL)


def test_each_object_is_created_before_a_statement_names_it():
    created = re.compile(r"CREATE (?:[A-Z ]+ IF NOT EXISTS|OR REPLACE (?:PROCEDURE|SECURE VIEW)) ([\w.]+)")
    makes = [found[1].split(".")[-1] if (found := created.match(plain(one))) else None for one in ALL]
    every = {name for name in makes if name} | DYNAMIC_TABLES
    there: set[str] = set()
    too_early = []
    for statement, made in zip(ALL, makes, strict=True):
        if statement.phase == "after_dbt":
            there |= DYNAMIC_TABLES
        text = plain(statement)
        words = set(re.findall(r"\w+", re.sub(r"COMMENT = '[^']*'", "", text))) | {
            stream.lower() for stream in re.findall(r"HAS_DATA\('[\w.]+\.(\w+)'\)", text)
        }
        too_early += [(statement.file, name) for name in (words & every) - there - {made}]
        there |= {made} if made else set()

    assert too_early == []
    assert len(every) > 40


def test_what_needs_an_administrator_comes_first_and_every_other_phase_opens_its_own_session():
    assert [phase for phase in dict.fromkeys(one.phase for one in ALL)] == ["account", "schema", "after_dbt"]
    assert plain(ALL[0]) == "USE ROLE ACCOUNTADMIN"
    for phase in ("schema", "after_dbt"):
        session = [plain(one) for one in ALL if one.phase == phase][:5]
        assert session == [
            "USE ROLE DATA_ENGINEER",
            "USE WAREHOUSE CHURN",
            "USE SCHEMA CHURN.MAIN",
            "ALTER SESSION SET TIMEZONE = 'UTC'",
            "ALTER SESSION SET TIMESTAMP_TYPE_MAPPING = 'TIMESTAMP_NTZ'",
        ]


def test_the_warehouse_is_small_and_sleeps_after_a_minute():
    text = plain(named("CREATE WAREHOUSE"))

    assert "WAREHOUSE_SIZE = XSMALL" in text
    assert "AUTO_SUSPEND = 60 " in text
    assert "INITIALLY_SUSPENDED = TRUE" in text


def test_files_on_stages_are_encrypted_by_the_server():
    stages = [plain(one) for one in ALL if plain(one).startswith("CREATE STAGE")] + model_statements(
        "CHURN.MAIN", b"code"
    )[:1]

    assert len(stages) == 2
    assert all("ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')" in stage for stage in stages)


@pytest.mark.parametrize(
    ("task", "stream", "call"),
    [
        ("task_generate_emails", "STREAM_HIGH_RISK_CUSTOMERS", "generate_retention_emails"),
        ("process_alerts_task", "CHURN_METRICS_STREAM", "process_alerts"),
    ],
)
def test_a_task_runs_when_its_stream_has_data_by_no_schedule_and_its_procedure_reads_that_stream(
    task: str, stream: str, call: str
):
    text = plain(named(f"CREATE TASK IF NOT EXISTS {task}"))

    assert f"WHEN SYSTEM$STREAM_HAS_DATA('CHURN.MAIN.{stream}') AS CALL {call}()" in text
    assert "WAREHOUSE = CHURN" in text
    assert "SUSPEND_TASK_AFTER_NUM_FAILURES = 3" in text
    assert "SCHEDULE" not in text
    # A procedure that does not read it within DML leaves it full, and the task fires for ever.
    assert re.search(
        rf"INSERT INTO [^;]*FROM {stream} ", body(named(f"CREATE OR REPLACE PROCEDURE {call}()")), re.IGNORECASE
    )


def test_tasks_are_created_suspended_and_nothing_resumes_them():
    assert not any("RESUME" in plain(one).replace("AUTO_RESUME", "") for one in ALL)


def test_streams_are_on_dynamic_tables_that_dbt_makes_without_what_such_streams_cannot_have():
    streams = [plain(one) for one in ALL if plain(one).startswith("CREATE STREAM")]

    assert {stream.rpartition(" ON DYNAMIC TABLE ")[2] for stream in streams} == {
        "dyn_churn_predictions",
        "churn_metrics_live",
    }
    assert {"dyn_churn_predictions", "churn_metrics_live"} <= DYNAMIC_TABLES


def test_cortex_is_asked_by_its_present_function_which_gives_errors_and_never_sees_who_the_customer_is():
    text = body(named("CREATE OR REPLACE PROCEDURE generate_retention_email("))

    assert "AI_COMPLETE(" in text
    assert "return_error_details => TRUE" in text
    assert "model => 'llama3.1-8b'" in text
    assert not re.search(r"customer_id|@|email\b(?! to)|score =|account_id", text.split("prompt =>")[0])
    assert "EXECUTE AS OWNER" in named("CREATE OR REPLACE PROCEDURE generate_retention_email(").text


def test_a_draft_that_no_check_has_seen_is_never_ready():
    text = body(named("CREATE OR REPLACE PROCEDURE generate_retention_emails("))

    assert "READY" not in text
    assert "APPROVED" not in text
    assert text.index("COMMIT;") < text.index("CALL generate_retention_email(")


def test_no_grant_is_for_public_and_none_is_of_everything():
    assert all(re.search(r" TO ROLE (DATA_ENGINEER|MARKETING_ANALYST|SYSADMIN)$", grant) for grant in grants())
    assert not any(re.search(r"\b(ALL|OWNERSHIP|MANAGE GRANTS)\b|GRANT OPTION", grant) for grant in grants())


def test_the_analyst_sees_the_serving_schemas_views_and_nothing_else():
    assert [grant for grant in grants() if grant.endswith(" TO ROLE MARKETING_ANALYST")] == [
        "GRANT USAGE ON WAREHOUSE CHURN TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON DATABASE CHURN TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT SELECT ON FUTURE VIEWS IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
    ]
    assert all("SECURE VIEW" in plain(one) for one in ALL if " VIEW CHURN.SERVING" in plain(one))
    assert not any(re.match(r"CREATE.* TABLE.* CHURN\.SERVING", plain(one)) for one in ALL)


def test_the_engineers_future_grants_name_tables_dynamic_tables_and_views():
    future = " ".join(grant for grant in grants() if "FUTURE" in grant and "DATA_ENGINEER" in grant)

    assert re.findall(r"FUTURE ([A-Z ]+) IN", future) == ["TABLES", "DYNAMIC TABLES", "VIEWS"]


def test_the_engineer_may_create_every_kind_of_object_that_is_created_in_its_session():
    kinds = {
        re.sub("OR REPLACE |SECURE ", "", kind)
        for one in ALL
        if one.phase != "account"
        and (found := re.match(r"CREATE ((?:OR REPLACE |SECURE )*[A-Z ]+?) (IF NOT|\w+[.(])", plain(one)))
        for kind in [found[1]]
    }
    allowed = {kind for grant in grants() for kind in re.findall(r"CREATE ([A-Z ]+?)(?:,| ON)", grant)}

    assert kinds | {"DYNAMIC TABLE", "FUNCTION", "STAGE"} == allowed


def test_the_view_is_secure_and_has_its_policies_from_the_start_which_ask_for_the_roles_of_the_session():
    view = plain(named("CREATE OR REPLACE SECURE VIEW"))
    rules = [plain(one) for one in ALL if "SET BODY" in one.text]

    assert "full_name WITH MASKING POLICY CHURN.SERVING.mask_name" in view
    assert "email WITH MASKING POLICY CHURN.SERVING.mask_email" in view
    assert "WITH ROW ACCESS POLICY CHURN.SERVING.customers_at_risk ON (risk_class)" in view
    assert len(rules) == 3
    assert all("IS_ROLE_IN_SESSION('DATA_ENGINEER')" in rule for rule in rules)
    assert not any("CURRENT_ROLE" in rule for rule in rules)


def test_a_policy_hides_everything_until_its_rule_is_set():
    policies = [plain(one) for one in ALL if re.match(r"CREATE (MASKING|ROW ACCESS) POLICY", plain(one))]

    assert sorted(policy.rpartition("-> ")[2] for policy in policies) == ["'masked'", "'masked'", "FALSE"]


@pytest.mark.parametrize("name", ["churn", 'CHU"RN', "A'B", "A;B", "A B", "1A", "", "Ä", "A\n", "A" * 256])
@pytest.mark.parametrize("key", list(Names().identifiers()))
def test_a_name_that_would_need_quotes_is_refused(key: str, name: str):
    with pytest.raises(SnowflakeSqlError, match=f"{key} cannot be"):
        Names(**{key: name})


@pytest.mark.parametrize(
    "names",
    [{"analyst_role": "PUBLIC"}, {"analyst_role": "DATA_ENGINEER"}, {"serving_schema": "MAIN"}],
    ids=str,
)
def test_names_that_would_give_the_ledgers_away_are_refused(names: dict[str, str]):
    with pytest.raises(SnowflakeSqlError):
        Names(**names)


def test_other_names_stand_wherever_the_usual_ones_did():
    names = Names("LAKE", "CORE", "SHOP", "SMALL", "BOSS", "BUILDER", "READER", writer_model="it's")
    found = [plain(one) for one in statements(names)]

    usual = "|".join(set(Names().identifiers().values()))
    assert [one for one in found if re.search(rf"\b({usual})\b", one)] == []
    assert any("model => 'it''s'" in one for one in found)


def test_a_semicolon_ends_a_statement_only_outside_of_comments_texts_names_and_bodies():
    script = "-- a;\nA ';' || 'it''s;' || '\\';' /* ; */;\n\nB \";\" $$ c; $$ // d;\n;\n-- only; this\n;E"

    assert split(script) == ["-- a;\nA ';' || 'it''s;' || '\\';' /* ; */", 'B ";" $$ c; $$ // d;', "E"]


def test_a_placeholder_without_a_value_is_an_error_that_names_it():
    with pytest.raises(SnowflakeSqlError, match="nobody"):
        render("USE ROLE {{ nobody }}", {"somebody": "A"}, "a.sql")


def test_no_placeholder_is_left_and_every_file_is_used():
    assert not any("{{" in one.text for one in ALL)
    files = {path.relative_to(PROJECT_ROOT / "sql").as_posix() for path in (PROJECT_ROOT / "sql").rglob("*.sql")}
    assert {one.file for one in ALL} == files


def test_snowflake_puts_the_same_customers_into_the_control_group():
    customers = [f"CUST-{number}" for number in range(3000)]
    condition = control_group_in_sql("id").replace("SHA2(", "sha256(").replace(", 256)", ")")
    rows = duckdb.execute(f"SELECT id, {condition} FROM (SELECT unnest(?) AS id)", [customers]).fetchall()

    assert dict(rows) == {customer: is_in_control_group(customer) for customer in customers}


def queued(stream: str, procedure: str, changes: str) -> list[tuple[str, str]]:
    """Who waits after the queue was filled from a stream with these changes; C9 waited before."""
    text = body(named(f"CREATE OR REPLACE PROCEDURE {procedure}("))
    (insert,) = [one for one in split(text) if "INSERT INTO retention_queue" in one]
    insert = (
        insert[insert.index("INSERT") :].replace("METADATA$ACTION", "change_action").replace(":started", "SYSDATE()")
    )
    with duckdb.connect() as connection:
        connection.execute(named("CREATE TABLE IF NOT EXISTS retention_queue").text)
        connection.execute("INSERT INTO retention_queue VALUES ('C9', 'prediction', 1, NULL, now(), NULL, NULL)")
        connection.execute(
            "CREATE TABLE dyn_churn_predictions AS SELECT unnest(['C1', 'C2', 'C9']) AS customer_id, 'x' AS reason_codes"
        )
        connection.execute(f"CREATE TABLE {stream} AS {changes}")
        connection.execute(sqlglot.transpile(insert, read="snowflake", write="duckdb")[0].replace("SYSDATE()", "now()"))
        return connection.execute(
            "SELECT customer_id, source FROM retention_queue WHERE customer_id <> 'C9' ORDER BY 1"
        ).fetchall()


def test_only_who_came_into_high_joins_the_queue_and_nobody_twice():
    changes = """SELECT * FROM (VALUES
        ('C1', 'DELETE', 'LOW', 0.1), ('C1', 'INSERT', 'HIGH', 0.9),   -- came into HIGH
        ('C2', 'DELETE', 'HIGH', 0.8), ('C2', 'INSERT', 'HIGH', 0.9),  -- was there before
        ('C3', 'INSERT', 'LOW', 0.1), ('C4', 'DELETE', 'HIGH', 0.9),
        ('C5', 'INSERT', 'HIGH', 0.7),                                 -- a new customer
        ('C9', 'INSERT', 'HIGH', 0.9)                                  -- waits already
    ) AS change (customer_id, change_action, risk_class, risk_score), (SELECT 'large wires out' AS reason_codes)"""

    found = queued("stream_high_risk_customers", "generate_retention_emails", changes)

    assert found == [("C1", "prediction"), ("C5", "prediction")]


def test_only_a_customer_on_the_books_whose_metrics_came_to_critical_joins_the_queue():
    changes = """SELECT * FROM (VALUES
        ('C1', 'DELETE', 'SAFE', 0.1), ('C1', 'INSERT', 'CRITICAL', 0.9),
        ('C2', 'DELETE', 'CRITICAL', 0.8), ('C2', 'INSERT', 'CRITICAL', 0.9),
        ('C7', 'INSERT', 'CRITICAL', 0.9), ('C9', 'INSERT', 'CRITICAL', 0.9)
    ) AS change (customer_id, change_action, risk_status, avg_churn_score)"""

    assert queued("churn_metrics_stream", "process_alerts", changes) == [("C1", "alert")]


NOW = datetime.fromisoformat("2026-03-02T12:00:00")
RETENTION = ("dim_customers", "dyn_churn_predictions", "retention_queue", "agent_intervention_log", "intervention_moves",
             "suppressions", "high_risk_history")  # fmt: skip


def bank_at_random(lake: LakeWarehouse, dice: random.Random) -> None:
    """Customers who wait for one reason or another, of whom many may not be written to."""

    def ago(hours: float) -> datetime:
        return NOW - timedelta(hours=dice.uniform(0, hours))

    def fill(tx) -> None:
        tx.execute(
            "CREATE TABLE dyn_churn_predictions"
            " (customer_id VARCHAR, risk_score DOUBLE, risk_class VARCHAR, reason_codes VARCHAR)"
        )
        for number in range(250):
            customer, score = f"C{number}", dice.choice([0.1, 0.5, 0.8, dice.uniform(0.7, 1)])
            source = dice.choice(["prediction", "prediction", "alert"])
            tx.execute(
                "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, email_consent, updated_at, ingested_at)"
                " VALUES (?, 'N', 'MASS', DATE '2020-01-01', ?, ?, ?)",
                [customer, dice.choice([True, None, False]), NOW, NOW],
            )
            if dice.random() < 0.9:
                class_ = "HIGH" if score >= 0.7 else "LOW"
                tx.execute(
                    "INSERT INTO dyn_churn_predictions VALUES (?, ?, ?, ?)", [customer, score, class_, f"r{number}"]
                )
            if dice.random() < 0.9:
                left = dice.choice([None, None, None, NOW])
                tx.execute(
                    "INSERT INTO retention_queue VALUES (?, ?, ?, NULL, ?, ?, NULL)",
                    [customer, source, dice.random(), ago(40), left],
                )
            if dice.random() < 0.2:
                until = dice.choice([None, NOW.date(), NOW.date() + timedelta(days=1)])
                lifted = dice.choice([None, NOW])
                tx.execute("INSERT INTO suppressions VALUES (?, ?, ?, ?, NULL)", [customer, NOW, until, lifted])
            if dice.random() < 0.3:
                at, status = ago(24 * 14), dice.choice(["READY", "CANCELLED", "CONTROL", "CLAIMED"])
                tx.execute(
                    "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
                    " partition_day) VALUES (?, ?, 1, ?, ?, 'prediction', ?)",
                    [f"old {number}", customer, at, status, at.date()],
                )
                tx.execute(
                    "INSERT INTO intervention_moves VALUES (?, NULL, ?, ?, 'run', NULL)", [f"old {number}", status, at]
                )
            if dice.random() < 0.2:
                tx.execute(
                    "INSERT INTO high_risk_history (alert_id, customer_id, alerted_at, avg_churn_score, max_churn_score,"
                    " declines, spend) VALUES (?, ?, ?, 1, 1, 1, 1)",
                    [f"alert {number}", customer, ago(40)],
                )

    lake.transact(fill)


def claimed_by_snowflake(connection: duckdb.DuckDBPyConnection) -> None:
    """Run what the procedure does between reading the stream and COMMIT, at NOW."""
    today = f"CAST('{NOW.date()}' AS DATE)"

    def run(sql: str) -> duckdb.DuckDBPyConnection:
        sql = sql.replace(":today", today).replace(":started", f"CAST('{NOW}' AS TIMESTAMP)")
        return connection.execute(sqlglot.transpile(sql, read="snowflake", write="duckdb")[0])

    text = body(named("CREATE OR REPLACE PROCEDURE generate_retention_emails("))
    _from_stream, room, *others = split(text.partition("BEGIN TRANSACTION;")[2].partition("COMMIT;")[0])
    (places,) = run(room[room.index("(") + 1 : room.rindex(")")]).fetchone() or (0,)
    for statement in others:
        run(statement.replace(":room", str(places)))


@pytest.mark.parametrize("seed", range(3))
def test_the_native_task_claims_whom_dagster_would(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "fill_queue", lambda tx, now: 0)
    lake = LakeWarehouse(tmp_path)
    lake.deploy()
    bank_at_random(lake, random.Random(seed))
    with duckdb.connect() as connection:
        connection.create_function(
            "uuid_string",
            lambda space, name: str(uuid.uuid5(uuid.UUID(space), name)),
            ["VARCHAR", "VARCHAR"],
            "VARCHAR",
        )
        for table in RETENTION:
            rows = lake.query(f"FROM {table}")
            connection.register("rows", rows)
            connection.execute(f"CREATE TABLE {table} AS FROM rows")
        claimed_by_snowflake(connection)

        lake.transact(lambda tx: claims.claim(tx, NOW.date(), NOW, Names().emails_per_day, CONTROL_SHARE))

        questions = (
            "SELECT * FROM agent_intervention_log ORDER BY intervention_id",
            "SELECT intervention_id, status_from, status_to, moved_at, moved_by FROM intervention_moves ORDER BY ALL",
            "SELECT customer_id FROM retention_queue WHERE left_reason = 'intervention' ORDER BY ALL",
            "SELECT alert_id, intervention_id FROM high_risk_history ORDER BY ALL",
        )
        for question in questions:
            assert connection.execute(question).to_arrow_table().to_pylist() == lake.query(question).to_pylist()
        new = [row for row in lake.query(questions[0]).to_pylist() if row["created_at"] == NOW]
        assert {"CONTROL", "CLAIMED"} == {row["status"] for row in new}
        assert len(new) > 20
