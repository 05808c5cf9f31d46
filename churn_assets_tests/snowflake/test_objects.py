"""The statements that create Snowflake's objects, without an account: would they do no harm, and in this order?

Verified by parsing in sqlfluff's dialect and by rules on the texts; who is queued where a stream begins and the serving views run
in DuckDB, translated by sqlglot where they have to be.
Nothing here has run on Snowflake.
"""

import re
import uuid
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
import yaml
from sqlfluff.core import Linter

from churn_assets.dashboard.files import APP_FILE, APP_FOLDER, APP_STAGE, app_files
from churn_assets.model.artefact import digest
from churn_assets.model.snowflake_functions import statements as model_statements
from churn_assets.operations import procedures
from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.operations.statements import QUEUE_AT_RISK, Statement, _literal, render, split, statements
from churn_assets.retention.writing.prompts import PROMPTS_FILE, load_prompts, prompts_of
from churn_assets.search.catalogue import load_case_categories, load_error_codes
from churn_assets.search.hits import Filters
from churn_assets.search.index import LogIndex
from churn_assets.settings import Settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.snowflake_names import Names, SnowflakeSqlError
from churn_assets.wiring import open_search
from churn_assets_tests.repository import REPOSITORY

# Valid by Snowflake's documentation, but unknown to sqlfluff.
UNKNOWN_TO_SQLFLUFF = (
    "GRANT CREATE CORTEX SEARCH SERVICE, CREATE SEMANTIC VIEW, CREATE AGENT ON SCHEMA",
    "GRANT USE AI FUNCTIONS ON ACCOUNT",  # a privilege since February 2026
    "GRANT USAGE ON FUTURE CORTEX SEARCH SERVICES",
    "GRANT USAGE ON FUTURE AGENTS",
    "GRANT READ SESSION ON ACCOUNT",
    "CREATE ROW ACCESS POLICY IF NOT EXISTS CHURN.SERVING.granted_segments",  # it takes a name without schema
    "CREATE CORTEX SEARCH SERVICE IF NOT EXISTS CHURN.SERVING.churn_logs_search",  # a test of its own parses its query
    "CREATE CORTEX SEARCH SERVICE IF NOT EXISTS CHURN.MAIN.case_texts_search",
    "CREATE OR REPLACE AGENT",  # its specification is read by a test of its own
    "CREATE OR REPLACE STREAMLIT",
    "ALTER STREAMLIT",
)
# What a statement may begin with, each of which can be repeated and keeps all data.
REPEATABLE = (
    r"USE (ROLE|WAREHOUSE|SCHEMA) ",
    r"ALTER SESSION SET ",
    r"GRANT .* TO ROLE ",
    r"CREATE (ROLE|WAREHOUSE|DATABASE|SCHEMA|TABLE|VIEW|FILE FORMAT|STAGE|STREAM|TASK) IF NOT EXISTS ",
    r"CREATE (MASKING|ROW ACCESS) POLICY IF NOT EXISTS ",
    r"CREATE CORTEX SEARCH SERVICE IF NOT EXISTS ",
    r"CREATE OR REPLACE (PROCEDURE|SECURE VIEW|AGENT|STREAMLIT) ",  # these hold no data
    r"ALTER STREAMLIT \S+ ADD LIVE VERSION FROM LAST$",  # of the one that has just been created
    r"CALL SYSTEM\$CREATE_SEMANTIC_VIEW_FROM_YAML\('",  # it replaces the view, and keeps its grants
    r"MERGE INTO error_codes ",  # to what the catalogue says
    r"MERGE INTO case_categories ",
    r"ALTER (MASKING|ROW ACCESS) POLICY \S+ SET BODY ->",
    # Only into an empty table.
    r"INSERT INTO (write_turn) .* (WHERE|AND) NOT EXISTS \(SELECT 1 FROM \1\)$",
    r"INSERT INTO (retention_queue|high_risk_history) .* NOT IN \( SELECT \w+\.customer_id FROM \1 ",  # nobody twice
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


def specification(statement: Statement) -> dict[str, Any]:
    """What stands between dollars as YAML."""
    return yaml.safe_load(body(statement))


def made_by(statement: Statement) -> str | None:
    """What a statement creates, without its schema."""
    text = plain(statement)
    if text.startswith("CALL SYSTEM$CREATE_SEMANTIC_VIEW_FROM_YAML"):
        return specification(statement)["name"]
    kinds = "PROCEDURE|SECURE VIEW|AGENT|STREAMLIT"
    found = re.match(rf"CREATE (?:[A-Z ]+ IF NOT EXISTS|OR REPLACE (?:{kinds})) ([\w.]+)", text)
    return found[1].split(".")[-1] if found else None


def named_by(statement: Statement) -> set[str]:
    """The words of a statement of which some may be objects, in small letters where it names them in capitals."""
    text = plain(statement)
    if text.startswith("CALL SYSTEM$CREATE_SEMANTIC_VIEW_FROM_YAML"):
        return {table["base_table"]["table"].lower() for table in specification(statement)["tables"]}
    if text.startswith("CREATE OR REPLACE AGENT"):
        return set(re.findall(r"\w+", str(specification(statement)["tool_resources"]).lower()))
    streams = re.findall(r"HAS_DATA\('[\w.]+\.(\w+)'\)", text)
    return set(re.findall(r"\w+", re.sub(r"COMMENT = '[^']*'", "", text))) | {stream.lower() for stream in streams}


def grants() -> list[str]:
    return [plain(one) for one in ALL if plain(one).startswith("GRANT")]


@pytest.fixture(scope="module")
def linter() -> Linter:
    return Linter(dialect="snowflake")


@pytest.mark.emulator
def test_every_statement_parses_and_the_list_of_exceptions_is_no_longer_than_needed(linter: Linter):
    refused = [plain(one) for one in ALL if linter.parse_string(f"{one.text};\n").violations]

    assert [next((start for start in UNKNOWN_TO_SQLFLUFF if one.startswith(start)), one) for one in refused] == list(
        UNKNOWN_TO_SQLFLUFF
    )


def test_the_body_of_the_one_procedure_in_sql_parses(linter: Linter):
    (decide,) = [one for one in ALL if "LANGUAGE SQL" in one.text]

    assert linter.parse_string(f"{body(decide)}\n").violations == []


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
        for file in (REPOSITORY / "sql").glob("*.sql")
        for name in re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", file.read_text())
    }
    created = {re.findall(r"EXISTS (\w+)", one.text)[0] for one in ALL if re.fullmatch(r"\d+_\w+\.sql", one.file)}

    assert created == declared
    assert {"agent_intervention_log", "kafka_offsets", "fact_transaction_ledger"} <= created
    assert not any("INTO streams" in one.text for one in ALL)


def test_each_object_is_created_before_a_statement_names_it():
    every = {name for one in ALL if (name := made_by(one))} | DYNAMIC_TABLES
    there: set[str] = set()
    too_early = []
    for statement in ALL:
        made = made_by(statement)
        if statement.phase == "after_dbt":
            there |= DYNAMIC_TABLES
        too_early += [(statement.file, name) for name in (named_by(statement) & every) - there - {made}]
        there |= {made} if made else set()

    assert too_early == []
    assert len(every) > 50


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

    assert len(stages) == 3
    assert all("ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')" in stage for stage in stages)


@pytest.mark.parametrize(
    ("task", "stream", "call"),
    [
        ("task_generate_emails", "STREAM_HIGH_RISK_CUSTOMERS", "generate_retention_emails"),
        ("process_alerts_task", "CHURN_METRICS_STREAM", "process_alerts"),
    ],
)
def test_a_task_runs_when_its_stream_has_data_by_no_schedule(task: str, stream: str, call: str):
    text = plain(named(f"CREATE TASK IF NOT EXISTS {task}"))

    assert f"WHEN SYSTEM$STREAM_HAS_DATA('CHURN.MAIN.{stream}') AS CALL {call}()" in text
    assert "WAREHOUSE = CHURN" in text
    assert "SUSPEND_TASK_AFTER_NUM_FAILURES = 3" in text
    assert "SCHEDULE" not in text


def test_tasks_are_created_suspended_and_nothing_resumes_them():
    assert not any("RESUME" in plain(one).replace("AUTO_RESUME", "") for one in ALL)


def test_streams_are_on_dynamic_tables_that_dbt_makes_without_what_such_streams_cannot_have():
    streams = [plain(one) for one in ALL if plain(one).startswith("CREATE STREAM")]

    assert {stream.rpartition(" ON DYNAMIC TABLE ")[2] for stream in streams} == {
        "dyn_churn_predictions",
        "churn_metrics_live",
    }
    assert {"dyn_churn_predictions", "churn_metrics_live"} <= DYNAMIC_TABLES


def test_every_transaction_takes_its_turn_to_write_before_anything_else():
    bodies = [body(one) for one in ALL if "BEGIN TRANSACTION" in one.text]

    assert len(bodies) == 1
    turn = r"BEGIN TRANSACTION;\s+UPDATE (CHURN\.MAIN\.)?write_turn SET taken_at = SYSDATE\(\);"
    assert all(re.findall(turn, text) for text in bodies)
    assert sum(text.count("BEGIN TRANSACTION") for text in bodies) == 1


def test_a_stream_is_moved_into_a_table_with_the_columns_of_its_dynamic_table_and_what_happened_to_the_row(
    lake: LakeWarehouse,
):
    streams = [plain(one).split() for one in ALL if plain(one).startswith("CREATE STREAM IF NOT EXISTS")]
    for stream, table in ((words[5], words[-1]) for words in streams):
        text = named(f"CREATE TABLE IF NOT EXISTS changes_of_{stream} ").text
        columns = lake.query(text[text.index("SELECT") :]).column_names
        assert columns == [*(column.name for column in lake.columns(table)), "change_action"]


def test_no_grant_is_for_public_and_none_is_of_everything():
    assert all(re.search(r" TO ROLE (DATA_ENGINEER|MARKETING_ANALYST|SYSADMIN)$", grant) for grant in grants())
    assert not any(re.search(r"\b(ALL|OWNERSHIP|MANAGE GRANTS)\b|GRANT OPTION", grant) for grant in grants())


def test_the_analyst_reads_and_asks_what_is_in_the_serving_schema_and_nothing_else():
    assert [grant for grant in grants() if grant.endswith(" TO ROLE MARKETING_ANALYST")] == [
        "GRANT USAGE ON WAREHOUSE CHURN TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON DATABASE CHURN TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT SELECT ON FUTURE VIEWS IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON FUTURE PROCEDURES IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT SELECT ON FUTURE SEMANTIC VIEWS IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON FUTURE CORTEX SEARCH SERVICES IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT USAGE ON FUTURE AGENTS IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_AGENT_USER TO ROLE MARKETING_ANALYST",
        "GRANT CREATE STREAMLIT ON SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT READ ON FUTURE STAGES IN SCHEMA CHURN.SERVING TO ROLE MARKETING_ANALYST",
        "GRANT READ SESSION ON ACCOUNT TO ROLE MARKETING_ANALYST",
    ]
    assert all(
        "SECURE VIEW" in plain(one) for one in ALL if re.search(r"(?<!SEMANTIC) VIEW CHURN\.SERVING", plain(one))
    )
    assert not any(re.match(r"CREATE.* TABLE.* CHURN\.SERVING", plain(one)) for one in ALL)
    assert "GRANT ROLE DATA_ENGINEER TO ROLE MARKETING_ANALYST" not in grants()


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

    assert kinds | {"DYNAMIC TABLE", "FUNCTION", "STAGE", "SEMANTIC VIEW"} == allowed


VIEWS = [one for one in ALL if plain(one).startswith("CREATE OR REPLACE SECURE VIEW")]


@pytest.mark.parametrize("view", VIEWS, ids=made_by)
def test_a_view_has_its_policies_from_the_start_and_its_columns_in_order(view: Statement):
    header, _, query = view.text.partition("\nAS\n")

    assert "WITH ROW ACCESS POLICY CHURN.SERVING.granted_segments ON (segment)" in header
    assert "COPY GRANTS" in header
    declared = re.findall(r"^    (\w+)", header, re.MULTILINE)
    assert sqlglot.parse_one(query, dialect="snowflake").named_selects == declared
    for column, mask in (
        ("full_name", "mask_name"),
        ("email", "mask_email"),
        ("email_text", "mask_text"),
        ("case_text", "mask_case_text"),
    ):
        assert (column in declared) == (f"{column} WITH MASKING POLICY CHURN.SERVING.{mask}" in header)
    assert ("generated_email" in query) == ("email_text" in declared)


def test_policies_ask_for_the_roles_of_the_session_and_rows_for_the_segments_granted_to_them():
    rules = [plain(one) for one in ALL if "SET BODY" in one.text]
    rows = [rule for rule in rules if "ROW ACCESS POLICY" in rule]

    assert len(rules) == 5
    assert all("IS_ROLE_IN_SESSION('DATA_ENGINEER')" in rule for rule in rules)
    assert not any("CURRENT_ROLE" in rule for rule in rules)
    assert len(rows) == 1
    assert all("WHERE IS_ROLE_IN_SESSION(granted.role_name)" in rule for rule in rows)


@pytest.mark.parametrize(
    ("grant", "seen"),
    [
        ([("MARKETING_ANALYST", "*")], {"MASS", "SMB"}),
        ([("MARKETING_ANALYST", "SMB")], {"SMB"}),
        ([("OTHERS", "*")], set()),
        ([], set()),
    ],
    ids=["all segments", "one segment", "of another role", "nothing"],
)
def test_a_role_sees_the_rows_of_the_segments_that_it_is_granted(grant: list[tuple[str, str]], seen: set[str]):
    rule = next(plain(one) for one in ALL if "SET BODY" in one.text and "granted_segments" in one.text)
    condition = rule.partition(" -> ")[2].replace("CHURN.MAIN.", "")
    with duckdb.connect() as connection:
        connection.execute("CREATE MACRO is_role_in_session(name) AS name = 'MARKETING_ANALYST'")
        connection.execute("CREATE TABLE segment_grants (role_name VARCHAR, segment VARCHAR)")
        for row in grant:
            connection.execute("INSERT INTO segment_grants VALUES (?, ?)", row)
        rows = connection.execute(
            f"SELECT customer_segment FROM (VALUES ('MASS'), ('SMB')) AS customers (customer_segment) WHERE {condition}"
        ).fetchall()

    assert {segment for (segment,) in rows} == seen


def test_the_grants_of_segments_begin_with_all_and_what_was_taken_back_stays_so():
    text = plain(named("CREATE TABLE IF NOT EXISTS segment_grants"))

    assert "AS SELECT cast('MARKETING_ANALYST' AS VARCHAR) AS role_name, cast('*' AS VARCHAR) AS segment" in text
    assert not any("INTO segment_grants" in plain(one) for one in ALL)


def test_a_policy_hides_everything_until_its_rule_is_set():
    policies = [plain(one) for one in ALL if re.match(r"CREATE (MASKING|ROW ACCESS) POLICY", plain(one))]

    assert sorted(policy.rpartition("-> ")[2] for policy in policies) == [*["'masked'"] * 4, "FALSE"]


@pytest.mark.parametrize(
    ("service", "view", "key"),
    [
        ("CHURN.SERVING.churn_logs_search", "searchable_events", "event_id"),
        ("CHURN.MAIN.case_texts_search", "searchable_case_texts", "passage_id"),
    ],
)
def test_a_search_service_has_what_it_needs_and_no_name_or_address_in_it(
    linter: Linter, service: str, view: str, key: str
):
    text = plain(named(f"CREATE CORTEX SEARCH SERVICE IF NOT EXISTS {service} "))
    properties, _, query = text.partition(" AS SELECT ")
    of_the_view = plain(named(f"CREATE VIEW IF NOT EXISTS CHURN.MAIN.{view} ")).partition(" AS SELECT ")[2]
    columns, columns_of_the_view = (
        sqlglot.parse_one(f"SELECT {selected}", dialect="snowflake").named_selects for selected in (query, of_the_view)
    )
    attributes = re.findall(r"\w+", properties.partition("ATTRIBUTES ")[2].partition(" WAREHOUSE")[0])

    assert linter.parse_string(f"SELECT {query};\n").violations == []
    assert f"ON document PRIMARY KEY ({key})" in properties
    assert {"document", key, *attributes} <= set(columns)
    assert columns == columns_of_the_view
    for needed in ("WAREHOUSE = CHURN", "TARGET_LAG = '1 hour'", "EMBEDDING_MODEL = 'snowflake-arctic-embed-l-v2.0'"):
        assert needed in properties
    assert not re.search(r"full_name|email|amount|CURRENT_", of_the_view)


def test_what_customers_wrote_is_searched_where_only_the_engineers_role_has_rights():
    of_analysts = [plain(one) for one in ALL if "TO ROLE MARKETING_ANALYST" in one.text]

    assert not any("case_text" in grant or "SCHEMA CHURN.MAIN" in grant for grant in of_analysts)
    assert not any("case_text" in plain(one) for one in ALL if "searchable_events" in one.text)


@pytest.mark.parametrize("length", [1, 1800, 1801, 3300, 20_000])
def test_the_passages_of_a_text_overlap_and_leave_out_nothing(lake: LakeWarehouse, length: int):
    create = named("CREATE VIEW IF NOT EXISTS CHURN.MAIN.searchable_case_texts").text
    query = create[create.index("\nAS\n") + 4 :].replace("CHURN.MAIN.", "")
    text = "".join(chr(ord("a") + number % 26) if number % 7 else " " for number in range(length))
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
            " VALUES ('C1', 'Ann', 'SMB', DATE '2020-01-01', now(), now())"
        )
    )
    for case, words in (("S1", text), ("S2", None), ("S3", "")):
        lake.transact(
            lambda tx, case=case, words=words: tx.execute(
                "INSERT INTO support_cases (case_id, customer_id, open_timestamp, category, case_text, ingested_at)"
                " VALUES (?, 'C1', now(), 'CARD', ?, now())",
                [case, words],
            )
        )

    rows = lake.query(f"{query} ORDER BY length(passage_id), passage_id").to_pylist()

    assert {row["event_id"] for row in rows} == {"S1"}
    assert len({row["passage_id"] for row in rows}) == len(rows)
    assert rows[0]["document"] + "".join(row["document"][300:] for row in rows[1:]) == text


def test_what_is_searched_says_in_words_what_happened_and_is_the_same_on_the_lake(
    settings: Settings, lake: LakeWarehouse
):
    create = named("CREATE VIEW IF NOT EXISTS CHURN.MAIN.searchable_events").text
    query = create[create.index("\nAS\n") + 4 :].replace("CHURN.MAIN.", "")
    moment = datetime.fromisoformat("2026-03-01T12:00:00")

    def fill(tx) -> None:
        tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
            " VALUES ('C1', 'Ann', 'SMB', DATE '2020-01-01', ?, ?)",
            [moment, moment],
        )
        for log, code in (("L1", "ERR_AUTH_OTP"), ("L2", None), ("L3", "ERR_NEW")):
            tx.execute(
                "INSERT INTO app_activity_logs (log_id, customer_id, event_type, event_timestamp, error_code, device,"
                " ingested_at) VALUES (?, 'C1', 'LOGIN', ?, ?, 'IOS', ?)",
                [log, moment, code, moment],
            )
        tx.execute(
            "INSERT INTO support_cases (case_id, customer_id, open_timestamp, category, sentiment_score, ingested_at)"
            " VALUES ('S1', 'C1', ?, 'APP_ISSUE', 0.1, ?)",
            [moment, moment],
        )

    lake.transact(fill)
    catalogues = ", ".join(
        f"{name} AS (SELECT * FROM (VALUES {', '.join('(' + ', '.join(map(_literal, row)) + ')' for row in rows)})"
        f" AS known ({', '.join(rows[0]._fields)}))"
        for name, rows in (("error_codes", load_error_codes()), ("case_categories", load_case_categories()))
    )
    rows = lake.query(f"WITH {catalogues} {query}").to_pylist()

    LogIndex(settings.search_path, lake).update()
    same = open_search(settings, "DATA_ENGINEER").search("", Filters())
    assert {row["event_id"]: row["document"] for row in rows} == {hit.event_id: hit.document for hit in same}
    found = {row["event_id"]: row for row in rows}
    assert set(found) == {"L1", "L3", "S1"}
    assert found["L1"]["document"].startswith("One-time code refused. ")
    assert found["L1"]["document"].endswith(" ERR_AUTH_OTP at LOGIN on IOS")
    assert found["L3"]["document"] == "An error that the catalogue does not know. ERR_NEW at LOGIN on IOS"
    assert found["S1"]["document"].startswith(
        "Support case about app issue. The customer was unhappy. In other words: "
    )
    assert {row["segment"] for row in rows} == {"SMB"}


@pytest.mark.parametrize(
    ("table", "catalogue"), [("error_codes", load_error_codes()), ("case_categories", load_case_categories())]
)
def test_a_catalogue_is_written_where_it_differs_and_nowhere_else(table: str, catalogue: list[Any]):
    merge = named(f"MERGE INTO {table}").text
    key, *others = catalogue[0]._fields
    with duckdb.connect() as connection:
        connection.execute(named(f"CREATE TABLE IF NOT EXISTS {table}").text)
        for code in (catalogue[0][0], "MINE"):
            connection.execute(f"INSERT INTO {table} VALUES (?{', ?' * len(others)})", [code, *["old"] * len(others)])
        changed = [connection.execute(merge).fetchone() for _ in range(2)]
        rows = connection.execute(f"FROM {table} WHERE {key} <> 'MINE' ORDER BY ALL").fetchall()

    assert rows == sorted(tuple(code) for code in catalogue)
    assert changed == [(len(rows),), (0,)]


def test_the_agent_asks_the_semantic_view_and_the_search_service():
    found = specification(named("CREATE OR REPLACE AGENT"))

    assert {tool["tool_spec"]["name"]: tool["tool_spec"]["type"] for tool in found["tools"]} == {
        "figures": "cortex_analyst_text_to_sql",
        "logs": "cortex_search",
    }
    assert set(found["tool_resources"]) == {"figures", "logs"}
    assert found["tool_resources"]["figures"] == {
        "semantic_view": "CHURN.SERVING.CHURN_FIGURES",
        "execution_environment": {"type": "warehouse", "warehouse": "CHURN"},
    }
    assert found["tool_resources"]["logs"]["name"] == "CHURN.SERVING.CHURN_LOGS_SEARCH"
    assert all(tool["tool_spec"]["description"] for tool in found["tools"])


def test_the_app_is_created_by_the_analysts_role_with_whose_rights_it_runs_from_the_files_that_are_put_there():
    here = [plain(one) for one in ALL if one.file.endswith("140_churn_dashboard.sql")]

    assert here[0] == "USE ROLE MARKETING_ANALYST"
    assert here[1].startswith("CREATE OR REPLACE STREAMLIT CHURN.SERVING.churn_dashboard ")
    assert f"FROM '@CHURN.SERVING.{APP_STAGE}/{APP_FOLDER}' MAIN_FILE = '{APP_FILE}' QUERY_WAREHOUSE = CHURN" in here[1]
    assert here[2:] == [
        "ALTER STREAMLIT CHURN.SERVING.churn_dashboard ADD LIVE VERSION FROM LAST",
        "USE ROLE DATA_ENGINEER",
    ]
    assert APP_FILE in app_files()
    assert named(f"CREATE STAGE IF NOT EXISTS CHURN.SERVING.{APP_STAGE}").phase == "schema"


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
    names = Names("LAKE", "CORE", "SHOP", "SMALL", "BOSS", "BUILDER", "READER")
    found = [*map(plain, statements(names)), *procedures.statements(names, b"code")]

    usual = "|".join(set(Names().identifiers().values()))
    assert [one for one in found if re.search(rf"\b({usual})\b", one)] == []


def test_a_semicolon_ends_a_statement_only_outside_of_comments_texts_names_and_bodies():
    script = "-- a;\nA ';' || 'it''s;' || '\\';' /* ; */;\n\nB \";\" $$ c; $$ // d;\n;\n-- only; this\n;E"

    assert split(script) == ["-- a;\nA ';' || 'it''s;' || '\\';' /* ; */", 'B ";" $$ c; $$ // d;', "E"]


def test_a_placeholder_without_a_value_is_an_error_that_names_it():
    with pytest.raises(SnowflakeSqlError, match="nobody"):
        render("USE ROLE {{ nobody }}", {"somebody": "A"}, "a.sql")


def test_no_placeholder_is_left_and_every_file_is_used():
    assert not any("{{" in one.text for one in ALL)
    files = {path.relative_to(REPOSITORY / "sql").as_posix() for path in (REPOSITORY / "sql").rglob("*.sql")}
    assert {one.file for one in ALL} == files - {"080_search.sql"}  # it has only streams of the lake's own engine


def test_whoever_is_at_risk_when_a_stream_begins_is_queued_once_unless_written_to_within_the_pause():
    at_risk = [one.text for one in ALL if one.file == QUEUE_AT_RISK]
    with duckdb.connect() as connection:

        def run(sql: str) -> None:
            connection.execute(
                sqlglot.transpile(sql, read="snowflake", write="duckdb")[0].replace("SYSDATE()", "now()")
            )

        def rows(sql: str) -> list[tuple]:
            return connection.execute(f"{sql} ORDER BY ALL").fetchall()

        connection.create_function("uuid_string", lambda: str(uuid.uuid4()), [], "VARCHAR", side_effects=True)
        connection.execute("SET TimeZone = 'UTC'")
        for table in ("retention_queue", "agent_intervention_log", "high_risk_history"):
            connection.execute(named(f"CREATE TABLE IF NOT EXISTS {table}").text)
        connection.execute("""
            CREATE TABLE dyn_churn_predictions AS
            SELECT customer_id, risk_score, risk_class, 'x' AS reason_codes, 0.4 AS model_score
            FROM (VALUES ('new', 0.9, 'HIGH'), ('low', 0.1, 'LOW'), ('waits', 0.9, 'HIGH'), ('written to', 0.9, 'HIGH'),
                ('written to long ago', 0.9, 'HIGH'), ('cancelled', 0.9, 'HIGH'), ('critical', 0.1, 'LOW'),
                ('critical and high', 0.9, 'HIGH'), ('alerted', 0.1, 'LOW')) AS p (customer_id, risk_score, risk_class);
            CREATE TABLE churn_metrics_live AS SELECT customer_id, risk_status, 0.9 AS avg_churn_score, 1 AS max_churn_score,
                0 AS declines, 0 AS spend
            FROM (VALUES ('critical', 'CRITICAL'), ('critical and high', 'CRITICAL'), ('alerted', 'CRITICAL'), ('low', 'SAFE'),
                ('nobody of ours', 'CRITICAL')) AS m (customer_id, risk_status);
            INSERT INTO retention_queue VALUES ('waits', 'prediction', 1, NULL, now(), NULL, NULL),
                ('new', 'prediction', 1, NULL, now(), now(), 'no longer HIGH'), ('alerted', 'alert', 1, NULL, now(), NULL, NULL);
            INSERT INTO high_risk_history (alert_id, customer_id, alerted_at, avg_churn_score, max_churn_score, declines, spend)
            VALUES ('a', 'alerted', now() - INTERVAL 1 HOUR, 1, 1, 0, 0);
            INSERT INTO agent_intervention_log
                (intervention_id, customer_id, churn_score, created_at, status, source, partition_day)
            SELECT customer_id, customer_id, 1, now() - days * INTERVAL 1 DAY, status, 'prediction', now()
            FROM (VALUES ('written to', 6, 'CONTROL'), ('written to long ago', 8, 'READY'), ('cancelled', 1, 'CANCELLED'))
                AS log (customer_id, days, status);
        """)
        for _ in range(2):
            for statement in at_risk:
                run(statement)

        assert rows("SELECT customer_id, source FROM retention_queue WHERE left_at IS NULL") == [
            ("alerted", "alert"),
            ("cancelled", "prediction"),
            ("critical", "alert"),
            ("critical and high", "prediction"),
            ("new", "prediction"),
            ("waits", "prediction"),
            ("written to long ago", "prediction"),
        ]
        assert rows("SELECT customer_id, model_score FROM high_risk_history WHERE alert_id <> 'a'") == [
            ("critical", 0.4),
            ("critical and high", 0.4),
            ("nobody of ours", None),
        ]


def test_the_tasks_procedures_parse_and_run_what_python_runs_with_the_settings_limits_and_marketings_words():
    names = replace(Names(), emails_per_day=7, tokens_per_day=900, writer_model="a model")
    code = procedures.code()
    emails, email, alerts = procedures.statements(names, code)

    for statement in (emails, email, alerts):
        assert not Linter(dialect="snowflake").parse_string(statement).violations
        assert "EXECUTE AS OWNER" in statement
        assert f"churn_assets-{digest(code)[:12]}.zip" in statement
    assert "HANDLER = 'churn_assets.retention.snowflake_procedures.process_alerts'" in alerts
    given: dict[str, Any] = {}
    defined: dict[str, Any] = {}
    exec(emails.split("$$")[1], defined)
    defined["generate_retention_emails"] = lambda session, **arguments: given.update(arguments)
    defined["handler"](None)
    assert given == {
        "model": "a model",
        "emails_per_day": 7,
        "tokens_per_day": 900,
        "marketing": PROMPTS_FILE.read_text(encoding="utf-8"),
    }
    assert prompts_of(given["marketing"].encode()) == load_prompts()
    assert "generate_retention_email(full_name VARCHAR, segment VARCHAR, reason_codes VARCHAR)" in email
    exec(email.split("$$")[1], defined)
    defined["generate_retention_email"] = lambda *arguments, **more: (*arguments, *more)
    assert defined["handler"](None, "Ann", "MASS", "") == (None, "Ann", "MASS", "", "model", "marketing")


def test_marketings_words_cannot_end_the_procedures_body(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    words = tmp_path / "words.yaml"
    words.write_text("$$")
    monkeypatch.setattr(procedures, "PROMPTS_FILE", words)

    with pytest.raises(SnowflakeSqlError, match=r"cannot have \$\$"):
        procedures.statements(Names(), b"code")
