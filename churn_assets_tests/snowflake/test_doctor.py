"""What the doctor says of an account: for each thing that is wrong one line, with what to do.

Over a scripted account; that Snowflake's answers have this form is by its documentation.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
import snowflake.connector
from snowflake.connector.errors import DatabaseError, Error, ProgrammingError  # type: ignore[import]

from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.operations.doctor import Finding, examine, examine_account
from churn_assets.operations.statements import statements
from churn_assets.settings import Settings, SettingsError, load_settings
from churn_assets.warehouse import snowflake_connection
from churn_assets.warehouse.snowflake_connection import SnowflakeError, signed_in, what_to_do
from churn_assets.warehouse.snowflake_names import Names
from churn_assets_tests.snowflake.scripted_account import MODELS, START, ScriptedAccount


def of(**settings: str) -> Settings:
    return load_settings(
        CHURN_TARGET="snowflake", SNOWFLAKE_ACCOUNT="ORG-BANK", SNOWFLAKE_USER="ANN", SNOWFLAKE_TOKEN="t", **settings
    )


@pytest.fixture
def account() -> ScriptedAccount:
    """A deployed account in which everything is well, with Dagster as driver."""
    account = ScriptedAccount().made_by_an_administrator()
    account.declare(of(), [], [])
    for stream, table in (
        ("stream_high_risk_customers", "dyn_churn_predictions"),
        ("churn_metrics_stream", "churn_metrics_live"),
    ):
        account.rows(f"CREATE STREAM IF NOT EXISTS {stream} ON DYNAMIC TABLE {table}")
    for task in ("task_generate_emails", "process_alerts_task"):
        account.rows(f"CREATE TASK IF NOT EXISTS {task}")
    return account


def findings(account: ScriptedAccount, **settings: str) -> dict[str, Finding]:
    """The findings by what they are of; of several of one kind the last."""
    return {one.what: one for one in examine_account(of(**settings), lambda: START, account.connect)}


def problems(account: ScriptedAccount, **settings: str) -> dict[str, str]:
    found = {what: one.problem for what, one in findings(account, **settings).items() if one.problem}
    assert not any("\n" in problem for problem in found.values())
    return found


def test_of_an_account_that_is_well_everything_is_said_and_nothing_is_wrong(account: ScriptedAccount):
    found = findings(account)

    assert {what: one.problem for what, one in found.items() if one.problem} == {}
    assert found["connection"].state == "ANN in account AB123, AWS_EU_CENTRAL_1, signed in with a token"
    assert found["warehouse"].state == "CHURN, X-Small, suspended, suspends after 60 s"
    assert found["versions"].state.startswith("Snowflake 10.41.0, snowflake-connector-python ")
    assert found["streams"].state == "churn_metrics_stream, stream_high_risk_customers"
    assert found["tasks"].state == "CHURN_DRIVER=dagster; process_alerts_task suspended, task_generate_emails suspended"
    assert {what for what in found if what.startswith("dynamic")} == {f"dynamic table {name}" for name in MODELS}


def test_the_doctor_changes_nothing(account: ScriptedAccount):
    account.answers["SELECT AI_COMPLETE("] = [{"answer": '{"value": "Yes"}'}]
    account.ran = []

    findings(account, CHURN_DRIVER="native")

    assert {sql.split()[0] for sql in account.ran} == {"USE", "SHOW", "SELECT", "ALTER"}
    assert all(sql.startswith("ALTER SESSION ") for sql in account.ran if sql.startswith("ALTER"))


def test_of_an_account_that_does_not_answer_only_that_is_said():
    found = examine_account(load_settings(CHURN_TARGET="snowflake"), lambda: START)

    assert [one.what for one in found] == ["connection"]
    assert "SNOWFLAKE_ACCOUNT" in (found[0].problem or "")


def test_with_no_connection_the_rest_of_the_doctor_still_looks(monkeypatch: pytest.MonkeyPatch):
    found = {one.what: one for one in examine(load_settings(CHURN_TARGET="snowflake"))}

    assert set(found) == {*("settings", "processes", "rules", "disk", "connection", "deployment", "emails", "alerts")}


@pytest.mark.parametrize("seconds", [61, -61])
def test_a_clock_that_is_off_is_said(account: ScriptedAccount, seconds: int):
    found = examine_account(of(), lambda: START + timedelta(seconds=seconds), account.connect)

    assert [one.problem for one in found if one.problem] == [
        f"the clock of this machine is 61 s {'ahead of' if seconds > 0 else 'behind'} Snowflake's; let it follow a time"
        " server, or sign-ins with a key will be refused"
    ]


def test_a_time_with_its_zone_is_the_same_time(account: ScriptedAccount):
    account.answers["SELECT SYSDATE()"] = [{"there": datetime.fromisoformat("2026-11-23T10:00:00+02:00")}]

    assert problems(account) == {}


def test_a_role_that_the_user_does_not_have_is_said(account: ScriptedAccount):
    account.roles.remove("DATA_ENGINEER")

    assert "DATA_ENGINEER" in problems(account)["role"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"state": "SUSPENDED", "auto_resume": "false"}, "CHURN SET AUTO_RESUME = TRUE"),
        (
            {"state": "STARTED", "auto_suspend": 0},
            "which costs 24 credits a day; ALTER WAREHOUSE CHURN SET AUTO_SUSPEND = 60",
        ),
        ({"name": "CHURNX"}, "GRANT USAGE, OPERATE ON WAREHOUSE CHURN TO ROLE DATA_ENGINEER"),
    ],
    ids=["suspended", "never suspends", "not there"],
)
def test_a_warehouse_that_does_not_work_or_never_sleeps_is_said(
    account: ScriptedAccount, row: dict[str, object], words: str
):
    usual = {"name": "CHURN", "size": "X-Small", "state": "STARTED", "auto_suspend": 60, "auto_resume": "true"}
    account.answers["SHOW WAREHOUSES"] = [{**usual, **row}]

    assert words in problems(account)["warehouse"]


@pytest.mark.parametrize(
    ("privilege", "name", "grant"),
    [
        ("EXECUTE TASK", None, "GRANT EXECUTE TASK ON ACCOUNT TO ROLE DATA_ENGINEER"),
        ("USE AI FUNCTIONS", None, "GRANT USE AI FUNCTIONS ON ACCOUNT TO ROLE DATA_ENGINEER"),
        (
            "USAGE",
            "SNOWFLAKE.CORTEX_USER",
            "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE DATA_ENGINEER",
        ),
        ("USAGE", "MARKETING_ANALYST", "GRANT ROLE MARKETING_ANALYST TO ROLE DATA_ENGINEER"),
        (
            "CREATE DYNAMIC TABLE",
            None,
            "GRANT CREATE DYNAMIC TABLE ON SCHEMA CHURN.MAIN TO ROLE DATA_ENGINEER",
        ),
        ("OPERATE", None, "GRANT OPERATE ON WAREHOUSE CHURN TO ROLE DATA_ENGINEER"),
    ],
)
def test_a_privilege_that_is_missing_is_said_with_the_grant_that_gives_it(
    account: ScriptedAccount, privilege: str, name: str | None, grant: str
):
    account.grants = [
        one for one in account.grants if one["privilege"] != privilege or (name is not None and one["name"] != name)
    ]

    assert problems(account) == {"privileges": f"role DATA_ENGINEER lacks a privilege; as an administrator: {grant}"}


def test_each_privilege_that_is_missing_is_a_line(account: ScriptedAccount):
    account.grants = []

    found = [one.problem for one in examine_account(of(), lambda: START, account.connect) if one.what == "privileges"]

    granted = [one.plain for one in statements(Names()) if re.match(r"GRANT .* TO ROLE DATA_ENGINEER$", one.plain)]
    assert [str(problem).partition("as an administrator: ")[2] for problem in found] == [
        grant for grant in granted if " ON FUTURE " not in grant
    ]
    assert len(found) > 8


def test_who_owns_an_object_or_has_a_database_role_like_everybody_lacks_nothing(account: ScriptedAccount):
    of_schema = [one for one in account.grants if one["name"] != "CHURN.MAIN" and "CORTEX" not in one["name"]]
    account.grants = [*of_schema, {"privilege": "OWNERSHIP", "granted_on": "SCHEMA", "name": "CHURN.MAIN"}]
    account.answers["SHOW GRANTS TO ROLE PUBLIC"] = [
        {"privilege": "USAGE", "granted_on": "DATABASE_ROLE", "name": "SNOWFLAKE.CORTEX_USER"}
    ]

    assert problems(account) == {}


@pytest.mark.parametrize("settings", [{"CHURN_WRITER": "cortex"}, {"CHURN_DRIVER": "native"}], ids=str)
def test_where_cortex_writes_the_model_is_asked_for_a_token(account: ScriptedAccount, settings: dict[str, str]):
    account.answers["SELECT AI_COMPLETE("] = [{"answer": '{"value": "Yes", "error": null}'}]
    for task in account.tasks:
        account.tasks[task] = "started" if "CHURN_DRIVER" in settings else "suspended"

    assert findings(account, **settings)["Cortex"].state == "llama3.1-8b answers; this question cost about ten tokens"
    assert "Cortex" not in findings(account)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([{"answer": '{"value": null, "error": "unknown model \\"x\\""}'}], "set CHURN_WRITER_MODEL to a model of"),
        ([{"answer": {"value": None, "error": "The model is\nbusy"}}], "The model is busy; set CHURN_WRITER_MODEL"),
        (SnowflakeError("Snowflake (3001): Insufficient privileges; `churn doctor` lists what to grant", 3001), "3001"),
    ],
    ids=["unknown", "other error", "no privilege"],
)
def test_a_model_that_does_not_answer_is_said(account: ScriptedAccount, answer: list[dict[str, object]], words: str):
    account.answers["SELECT AI_COMPLETE("] = answer

    assert words in problems(account, CHURN_WRITER="cortex", CHURN_WRITER_MODEL="x")["Cortex"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scheduling_state": "SUSPENDED"}, "ALTER DYNAMIC TABLE customer_day RESUME"),
        (
            {"refresh_mode": "FULL", "refresh_mode_reason": "Change tracking is not supported"},
            "it refreshes FULL (Change tracking is not supported), so no stream can be on it",
        ),
        ({"name": "OTHER"}, "it is not there; run `churn deploy --target snowflake`"),
    ],
    ids=["suspended", "in full", "not there"],
)
def test_a_dynamic_table_that_is_not_as_wanted_is_said(account: ScriptedAccount, change: dict[str, str], words: str):
    account.tables["CUSTOMER_DAY"].update(change)

    found = problems(account)
    assert set(found) == {"dynamic table customer_day"}
    assert words in found["dynamic table customer_day"]


def test_a_failed_refresh_is_said_with_its_reason(account: ScriptedAccount):
    account.answers["SELECT name, state, state_message"] = [
        {"name": "CUSTOMER_DAY", "state": "FAILED", "state_message": "Numeric value 'x'\nis not recognized"},
        {"name": "DYN_CUSTOMER_FEATURES", "state": "SUCCEEDED", "state_message": None},
    ]

    found = problems(account)

    assert found == {
        "dynamic table customer_day": "its last refresh failed: Numeric value 'x' is not recognized; fix that, then"
        " ALTER DYNAMIC TABLE customer_day REFRESH"
    }


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda account: account.streams["CHURN_METRICS_STREAM"].update(stale="true"), "churn_metrics_stream is stale"),
        (
            lambda account: account.tables["DYN_CHURN_PREDICTIONS"].update(created_on=account.now()),
            "stream_high_risk_customers is stale, or its table was recreated; run `churn deploy",
        ),
        (lambda account: account.streams.pop("CHURN_METRICS_STREAM"), "churn_metrics_stream is not there"),
    ],
    ids=["stale", "table recreated", "not there"],
)
def test_a_stream_that_cannot_be_read_is_said(
    account: ScriptedAccount, break_it: Callable[[ScriptedAccount], object], words: str
):
    break_it(account)

    assert words in problems(account)["streams"]


def test_tasks_that_do_not_fit_the_driver_are_said(account: ScriptedAccount):
    account.answers["SELECT AI_COMPLETE("] = [{"answer": '{"value": "Yes"}'}]
    account.tasks["process_alerts_task"] = "started"

    assert problems(account)["tasks"].startswith(
        "CHURN_DRIVER=dagster, but process_alerts_task runs too, and both write emails; run `churn deploy"
    )
    assert problems(account, CHURN_DRIVER="native")["tasks"].startswith(
        "CHURN_DRIVER=native, but task_generate_emails does not run; run `churn deploy"
    )


def test_the_dynamic_tables_that_are_looked_at_are_those_of_the_dbt_project():
    assert set(MODELS) == {
        path.stem for folder in ("features", "predictions") for path in DBT_PROJECT.glob(f"models/{folder}/*.sql")
    }


KNOWN = (
    (250001, "could not connect", "check SNOWFLAKE_ACCOUNT"),
    (250001, "JWT token is invalid. [6f]", "ALTER USER ANN SET RSA_PUBLIC_KEY"),
    (390144, "JWT token is invalid.", "ALTER USER ANN SET RSA_PUBLIC_KEY"),
    (394304, "token is issued in the future", "the clock of this machine"),
    (394300, "x", "the clock of this machine"),
    (390318, "OAuth access token expired", "get a new SNOWFLAKE_TOKEN"),
    (390114, "Authentication token has expired", "get a new SNOWFLAKE_TOKEN"),
    (390189, "Role 'X' specified in the connect string does not exist", "GRANT ROLE DATA_ENGINEER TO USER ANN"),
    (3013, "Requested role 'X' is not assigned", "GRANT ROLE DATA_ENGINEER TO USER ANN"),
    (390100, "Incorrect username or password was specified.", "SNOWFLAKE_PRIVATE_KEY_PATH"),
    (606, "No active warehouse selected", "GRANT USAGE, OPERATE ON WAREHOUSE CHURN"),
    (90073, "Warehouse 'CHURN' has exceeded its quota", "resource monitor of warehouse CHURN"),
    (90073, "Warehouse 'W' cannot be resumed because resource monitor 'R' has exceeded its quota", "raise its quota"),
    (90201, "Warehouse 'CHURN' is suspended", "CHURN SET AUTO_RESUME = TRUE"),
    (90063, "Invalid state. Warehouse 'CHURN'", "ALTER WAREHOUSE CHURN RESUME"),
    (90105, "This session does not have a current database", "database CHURN or its schema MAIN is not there"),
    (90106, "This session does not have a current schema", "`churn deploy --target snowflake`"),
    (2003, "Object 'X' does not exist or not authorized", "role DATA_ENGINEER may not see it"),
    (2043, "Object does not exist, or operation cannot be performed", "role DATA_ENGINEER may not see it"),
    (3001, "Insufficient privileges", "`churn doctor` lists what to grant"),
    (100351, 'unknown model "x"', "set CHURN_WRITER_MODEL"),
    (91901, "Base table 'T' dropped, cannot read from stream 'S'", "recreates the stream and loses no customer"),
)


@pytest.mark.parametrize(("number", "said", "fix"), KNOWN, ids=[f"{number} {said[:20]}" for number, said, _ in KNOWN])
def test_an_error_that_is_known_is_one_line_with_what_to_do(number: int, said: str, fix: str):
    line = what_to_do(ProgrammingError(msg=f"{said}\nsecond line", errno=number), of())

    assert f"({number}): {said}" in line
    assert fix in line
    assert "\n" not in line


def test_every_number_that_something_is_known_of_has_a_case():
    numbers = {numbers[0] for numbers, _ in snowflake_connection._WHAT_TO_DO}

    assert numbers <= {number for number, *_ in KNOWN}


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DatabaseError(msg="JWT token is invalid.", errno=390144), SnowflakeError, "ANN SET RSA_PUBLIC_KEY"),
        (DatabaseError(msg="The token has expired", errno=390318), SnowflakeError, "get a new SNOWFLAKE_TOKEN"),
        (ValueError("Incorrect password,\ncould not decrypt key"), SettingsError, "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE"),
        (TypeError("Password was not given but private key is encrypted"), SettingsError, "PEM file"),
    ],
    ids=["key", "token", "passphrase", "no passphrase"],
)
def test_a_sign_in_that_is_refused_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], words: str
):
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(snowflake.connector, "connect", refuse)

    with pytest.raises(kind, match=words) as failure, signed_in(of()):
        pass
    assert "\n" not in str(failure.value)


def test_what_a_statement_is_refused_for_comes_with_its_number(monkeypatch: pytest.MonkeyPatch):
    class Cursor:
        def __enter__(self):
            return self

        def __exit__(self, *_: object):
            return None

        def execute(self, sql: str, parameters: object) -> None:
            raise Error(msg="Insufficient privileges", errno=3001)

    class Connection(Cursor):
        def cursor(self) -> Cursor:
            return Cursor()

    monkeypatch.setattr(snowflake.connector, "connect", lambda **_: Connection())

    with signed_in(of()) as rows, pytest.raises(SnowflakeError, match="doctor") as failure:
        rows("SELECT 1")
    assert failure.value.number == 3001
