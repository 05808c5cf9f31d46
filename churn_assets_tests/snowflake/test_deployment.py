"""The deployment of an account: its order, its history, and what a failure leaves.

Over a scripted account, so it is our logic that is shown; whether Snowflake takes the statements is not.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from churn_assets.dashboard.files import app_files
from churn_assets.model import snowflake_functions
from churn_assets.operations import account as deployment
from churn_assets.operations import dbt, history, procedures
from churn_assets.operations.cost import estimate
from churn_assets.operations.dbt import DeploymentError, Model
from churn_assets.operations.statements import CREATES_STREAM, statements
from churn_assets.settings import Settings, SettingsError, load_settings
from churn_assets.warehouse.schema_version import SCHEMA_VERSION, SchemaVersionError
from churn_assets.warehouse.snowflake_connection import SnowflakeError
from churn_assets.warehouse.snowflake_names import Names, SnowflakeSqlError
from churn_assets_tests.snowflake.scripted_account import MODELS, KilledError, ScriptedAccount, reported

pytestmark = pytest.mark.heavy

TASKS = {"task_generate_emails", "process_alerts_task"}
POLICIES = "snowflake/after_dbt/060_policies.sql"
Deploy = Callable[..., list[str]]


def models(query: str = "SELECT 1") -> list[Model]:
    return [Model(name, f"dbt/models/{name}.sql", f"{query} AS a", "5 minutes", "INCREMENTAL") for name in MODELS]


functions, tasks, files = cache(snowflake_functions.package_zip), cache(procedures.code), cache(app_files)


@pytest.fixture(autouse=True)
def compiled_and_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that dbt takes, and with one search for the modules that the uploaded code imports."""
    monkeypatch.setattr(dbt, "compiled", lambda settings: models())
    monkeypatch.setattr(snowflake_functions, "package_zip", functions)
    monkeypatch.setattr(procedures, "code", tasks)
    monkeypatch.setattr(deployment, "app_files", files)


@pytest.fixture
def account() -> ScriptedAccount:
    """Of an administrator, before the first deployment."""
    return ScriptedAccount("ACCOUNTADMIN")


@pytest.fixture
def deploy(account: ScriptedAccount) -> Deploy:
    """Deploys to the account and gives what was reported; the account then remembers this deployment's statements only."""

    def run(*only: str, **settings: str) -> list[str]:
        account.ran = []
        said: list[str] = []
        deployment.deploy(of(**settings), only, said.append, account.connect, account.declare)
        return said

    return run


def of(**settings: str) -> Settings:
    return load_settings(CHURN_TARGET="snowflake", SNOWFLAKE_USER="ANN", **settings)


def refused(number: int = 3001, said: str = "Insufficient privileges") -> SnowflakeError:
    return SnowflakeError(f"Snowflake ({number}): {said}; do this", number)


def failing_at(start: str, error: BaseException) -> Callable[[str], BaseException | None]:
    return lambda sql: error if sql.startswith(start) else None


def show(account: ScriptedAccount, *only: str, **settings: str) -> str:
    return deployment.preview(of(**settings), only, account.connect)


def test_the_first_deployment_runs_everything_in_order_and_dbt_between(account: ScriptedAccount, deploy: Deploy):
    said = deploy()

    assert account.declared == [([], [])]
    places = [
        next(place for place, sql in enumerate(account.ran) if sql.startswith(start))
        for start in (
            "USE ROLE ACCOUNTADMIN",
            "CREATE DATABASE",
            "CREATE TABLE IF NOT EXISTS churn_deployments",
            "CREATE TABLE IF NOT EXISTS dim_customers",
            "CREATE STAGE IF NOT EXISTS CHURN.MAIN.churn_models",
            "PUT 'file://",
            "CREATE OR REPLACE PROCEDURE CHURN.MAIN.train",
            "CREATE STREAM",
            "INSERT INTO retention_queue",
            "CREATE TASK",
        )
    ]
    assert places == sorted(places)
    assert said[0] == reported("snowflake/account/010_roles.sql")
    assert "dbt: 4 statements, 4 new" in said
    assert len(account.history) == len({(row["file"], row["statement"]) for row in account.history}) > 60


def test_what_every_file_has_is_told_apart_by_the_history():
    of_files = [(one.file, one.about) for one in statements(Names()) if not one.is_of_the_session]

    assert len(of_files) == len(set(of_files))


def test_a_second_deployment_needs_no_administrator_finds_nothing_new_and_queues_nobody(
    account: ScriptedAccount, deploy: Deploy
):
    deploy()
    recorded = list(account.history)
    account.roles.remove("ACCOUNTADMIN")

    said = deploy()

    assert said[0] == "account: unchanged"
    assert not any("new" in line and "nothing new" not in line for line in said)
    assert account.history == recorded
    assert account.count("INSERT INTO retention_queue") == 0
    assert account.declared[-1] == ([], [])


def test_what_somebody_dropped_is_there_after_the_next_deployment(account: ScriptedAccount, deploy: Deploy):
    deploy()
    del account.columns["SUPPRESSIONS"]

    deploy()

    assert "SUPPRESSIONS" in account.columns


def test_a_failure_names_the_statement_the_file_and_the_fix_and_the_next_deployment_goes_on(
    account: ScriptedAccount, deploy: Deploy
):
    account.fails = failing_at("CREATE TASK IF NOT EXISTS process_alerts_task", refused())
    with pytest.raises(DeploymentError) as failure:
        deploy()

    assert str(failure.value).startswith(
        "CREATE TASK process_alerts_task of sql/snowflake/after_dbt/050_tasks.sql failed: Snowflake (3001):"
        " Insufficient privileges; do this"
    )
    assert "\n" not in str(failure.value)
    before = {row["statement"] for row in account.history}
    assert "CREATE TASK task_generate_emails" in before
    assert "CREATE TASK process_alerts_task" not in before

    account.fails = lambda sql: None
    said = deploy()
    assert "after_dbt: sql/snowflake/after_dbt/050_tasks.sql, 2 statements, 1 new" in said
    assert account.count("INSERT INTO retention_queue") == 0


@pytest.mark.parametrize(
    "killed_at", ["INSERT INTO churn_deployments", "CREATE STAGE IF NOT EXISTS landing", "INSERT INTO high"]
)
def test_a_deployment_that_was_killed_before_it_could_record_is_simply_repeated(
    account: ScriptedAccount, deploy: Deploy, killed_at: str
):
    account.fails = failing_at(killed_at, KilledError())
    with pytest.raises(KilledError):
        deploy()
    account.fails = lambda sql: None

    deploy()

    assert len(account.history) == len({(row["file"], row["statement"]) for row in account.history}) > 60
    assert set(account.streams) == {"STREAM_HIGH_RISK_CUSTOMERS", "CHURN_METRICS_STREAM"}


def test_a_table_that_lacks_a_column_that_may_be_null_gets_it(account: ScriptedAccount, deploy: Deploy):
    deploy()
    del account.columns["DIM_CUSTOMERS"]["EMAIL_CONSENT"]

    assert "would add a column: ALTER TABLE dim_customers ADD COLUMN IF NOT EXISTS email_consent BOOLEAN" in show(
        account
    )
    said = deploy()

    assert "schema: ALTER TABLE dim_customers ADD COLUMN IF NOT EXISTS email_consent BOOLEAN" in said
    assert account.columns["DIM_CUSTOMERS"]["EMAIL_CONSENT"] == "BOOLEAN"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda columns: columns.pop("SEGMENT"),
            ("lacks the column segment", "ADD COLUMN IF NOT EXISTS segment VARCHAR; UPDATE", "SET NOT NULL"),
        ),
        (
            lambda columns: columns.update(JOIN_DATE="TEXT"),
            ("column join_date of table dim_customers is TEXT", "010_ledgers.sql says DATE", "RENAME COLUMN"),
        ),
    ],
    ids=["not null", "another type"],
)
def test_a_table_that_cannot_become_what_the_code_says_stops_the_deployment_before_anything_is_changed(
    account: ScriptedAccount, deploy: Deploy, change: Callable[[dict[str, str]], object], words: tuple[str, ...]
):
    deploy()
    change(account.columns["DIM_CUSTOMERS"])

    with pytest.raises(DeploymentError) as failure:
        deploy()

    assert all(word in str(failure.value) for word in words)
    assert not any(sql.startswith("ALTER TABLE") or "dim_accounts" in sql for sql in account.ran)
    assert f"would stop: {failure.value}" in show(account)


def test_a_column_with_a_default_is_added_with_it_so_that_the_rows_that_are_there_have_it(
    account: ScriptedAccount, deploy: Deploy
):
    deploy()
    del account.columns["RETENTION_QUEUE"]["SOURCE"]

    assert "schema: ALTER TABLE retention_queue ADD COLUMN source VARCHAR DEFAULT 'prediction'" in deploy()


def test_the_version_is_noted_once_all_has_run_and_a_newer_one_is_refused(account: ScriptedAccount, deploy: Deploy):
    deploy("account", "schema")
    assert account.version is None
    assert deploy()[-1] == f"version {SCHEMA_VERSION}"
    assert account.version == SCHEMA_VERSION
    assert not any(line.startswith("version") for line in deploy())

    account.version = SCHEMA_VERSION + 1

    with pytest.raises(SchemaVersionError, match=r"a newer version of churn has deployed CHURN\.MAIN"):
        deploy()
    assert account.count("CREATE") == account.count("ALTER TABLE") == account.count("INSERT") == 0
    assert "would stop: a newer version of churn" in show(account)


def test_columns_of_ones_own_are_left_alone(account: ScriptedAccount, deploy: Deploy):
    deploy()
    account.columns["DIM_CUSTOMERS"]["MINE"] = "VARIANT"

    deploy()

    assert "MINE" in account.columns["DIM_CUSTOMERS"]
    assert account.count("ALTER TABLE") == 0


def test_a_changed_policy_is_said_and_set(account: ScriptedAccount, deploy: Deploy):
    deploy()
    last = next(row for row in reversed(account.history) if row["statement"].endswith("mask_email SET"))
    last["checksum"] = "another"

    assert "-- changed\nALTER MASKING POLICY CHURN.SERVING.mask_email SET BODY" in show(account)
    said = deploy()

    assert reported(POLICIES, "1 changed") in said
    assert reported(POLICIES, "nothing new or changed") in deploy()


def test_what_exists_and_is_not_altered_by_its_changed_statement_is_told(account: ScriptedAccount, deploy: Deploy):
    deploy()
    next(row for row in account.history if row["statement"] == "CREATE TASK process_alerts_task")["checksum"] = (
        "another"
    )

    assert "  TASK process_alerts_task has changed in the code; the one that exists was left as it is" in deploy()


def test_a_stream_whose_table_was_created_anew_is_created_again_and_those_at_risk_are_queued_once(
    account: ScriptedAccount, deploy: Deploy
):
    deploy()
    account.tables["DYN_CHURN_PREDICTIONS"]["created_on"] = account.now()  # dbt run --full-refresh, by hand

    said = deploy()

    assert account.count("CREATE OR REPLACE STREAM stream_high_risk_customers") == 1
    assert account.count("CREATE OR REPLACE STREAM") == 1
    assert "  stream_high_risk_customers could not be read any more and was recreated" in said
    queued = [sql for sql in account.ran if sql.startswith("INSERT INTO retention_queue")]
    assert len(queued) == 1
    assert "FROM dyn_churn_predictions" in queued[0]

    deploy()
    assert account.count("CREATE OR REPLACE STREAM") == account.count("INSERT INTO retention_queue") == 0


def test_only_what_queues_those_at_risk_makes_up_for_a_stream():
    making_up = [one for one in statements(Names()) if history.makes_up(one)]

    on = {found[2] for one in statements(Names()) if (found := CREATES_STREAM.match(one.plain))}
    assert {one.plain.split()[2] for one in making_up} == {"retention_queue", "high_risk_history"}
    assert {one.about.split()[-1] for one in making_up} == on


def test_a_stale_stream_is_created_again(account: ScriptedAccount, deploy: Deploy):
    deploy()
    account.streams["CHURN_METRICS_STREAM"]["stale"] = "true"

    deploy()

    assert account.count("CREATE OR REPLACE STREAM churn_metrics_stream") == 1
    assert account.count("INSERT INTO high_risk_history") == account.count("INSERT INTO retention_queue") == 1


def test_nobody_is_lost_when_a_deployment_dies_after_a_stream_was_created_again(
    account: ScriptedAccount, deploy: Deploy
):
    deploy()
    account.streams["STREAM_HIGH_RISK_CUSTOMERS"]["stale"] = "true"
    account.fails = failing_at("INSERT INTO retention_queue", KilledError())
    with pytest.raises(KilledError):
        deploy()
    account.fails = lambda sql: None

    deploy()

    assert account.count("CREATE OR REPLACE STREAM") == 0
    assert account.count("INSERT INTO retention_queue") == 1


def test_a_dynamic_table_whose_query_has_changed_is_created_anew_and_its_stream_after_it(
    account: ScriptedAccount, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
):
    deploy()
    changed = [*models()[:2], models("SELECT 2")[2], models()[3]]
    monkeypatch.setattr(dbt, "compiled", lambda settings: changed)

    said = deploy()

    assert account.declared[-1] == ([], ["dyn_churn_predictions"])
    assert any("recreated because the query has changed: dyn_churn_predictions" in line for line in said)
    assert account.count("CREATE OR REPLACE STREAM stream_high_risk_customers") == 1
    deploy()
    assert account.declared[-1] == ([], [])


def test_dbts_failure_is_one_line_with_what_to_do_and_nothing_of_it_is_recorded(
    account: ScriptedAccount, deploy: Deploy
):
    account.broken = "dbt run failed: customer_day: Database Error 003001 (42501): SQL access control error"

    with pytest.raises(DeploymentError, match=r"customer_day.*`churn doctor` lists what to grant"):
        deploy()

    assert not any(row["file"].startswith("dbt/") for row in account.history)
    assert account.count("CREATE STREAM") == 0


def test_with_dagster_as_driver_the_tasks_are_suspended_before_anything_else(account: ScriptedAccount, deploy: Deploy):
    deploy(CHURN_DRIVER="native")
    assert set(account.tasks.values()) == {"started"}
    assert [sql for sql in account.ran if not sql.startswith(("SELECT", "INSERT"))][-1].endswith("RESUME")

    deploy(CHURN_DRIVER="dagster")

    assert set(account.tasks.values()) == {"suspended"}
    changes = [
        sql for sql in account.ran if sql.startswith(("ALTER TASK", "CREATE")) and "churn_deployments" not in sql
    ]
    assert all(sql.startswith("ALTER TASK IF EXISTS") and sql.endswith("SUSPEND") for sql in changes[: len(TASKS)])
    assert set(account.tasks) == TASKS


def test_who_is_no_administrator_is_told_whom_to_ask_for_what():
    account = ScriptedAccount()

    with pytest.raises(DeploymentError) as failure:
        deployment.deploy(of(), [], print, account.connect, account.declare)

    said = str(failure.value)
    assert "\n" not in said
    assert "`churn deploy --target snowflake --only account --dry-run`" in said
    assert "GRANT ROLE DATA_ENGINEER TO USER ANN" in said
    assert account.history == []


def test_an_administrator_whose_user_may_not_use_the_new_role_gives_it_to_that_user(
    account: ScriptedAccount, deploy: Deploy
):
    account.has_what_it_makes = False

    said = deploy()

    assert "account: role DATA_ENGINEER granted to user ANN" in said
    assert account.tasks
    assert "GRANT ROLE DATA_ENGINEER TO USER ANN;" in show(account, "account")


def test_after_an_administrator_ran_the_phase_by_hand_the_deployment_goes_on():
    account = ScriptedAccount().made_by_an_administrator()
    said: list[str] = []

    deployment.deploy(of(), [], said.append, account.connect, account.declare)

    assert said[0] == "account: ANN is no administrator, but all that it grants is there"
    assert account.tasks


def test_a_grant_that_is_missing_is_named_when_nobody_here_can_give_it():
    account = ScriptedAccount().made_by_an_administrator()
    account.grants = [one for one in account.grants if one["privilege"] not in {"CREATE STREAM", "EXECUTE TASK"}]

    with pytest.raises(DeploymentError) as failure:
        deployment.deploy(of(), [], print, account.connect, account.declare)

    assert (
        "missing: GRANT CREATE STREAM ON SCHEMA CHURN.MAIN TO ROLE DATA_ENGINEER; GRANT EXECUTE TASK ON ACCOUNT"
        in str(failure.value)
    )


def test_a_warehouse_that_cannot_run_stops_the_deployment_and_creates_no_table_anew(
    account: ScriptedAccount, deploy: Deploy
):
    deploy()
    declared = len(account.declared)
    account.answers["SELECT file"] = refused(
        90073, "cannot be resumed because resource monitor 'R' has exceeded its quota"
    )

    with pytest.raises(SnowflakeError, match="90073"):
        deploy()

    assert len(account.declared) == declared


def test_only_a_phase_or_the_files_of_a_pattern_are_run(account: ScriptedAccount, deploy: Deploy):
    deploy()

    assert deploy("sql/snowflake/after_dbt/06*") == [reported(POLICIES, "nothing new or changed")]
    assert deploy("dbt") == ["dbt: 4 statements, nothing new or changed"]
    deploy("dyn_churn_predictions.sql")
    assert account.declared[-1] == (["dyn_churn_predictions"], [])
    assert all("administrator" not in line for line in deploy("account"))
    with pytest.raises(DeploymentError, match=r"--only nowhere matches nothing; give account, schema"):
        deploy("nowhere")


def test_an_administrator_who_runs_the_account_phase_leaves_it_in_the_history(account: ScriptedAccount, deploy: Deploy):
    deploy("account")

    assert {row["file"].split("/")[1] for row in account.history} == {"account"}
    account.roles.remove("ACCOUNTADMIN")
    assert deploy()[0] == "account: unchanged"


@pytest.mark.parametrize(
    ("variable", "name"),
    [("SNOWFLAKE_ROLE", 'data "engineer"'), ("SNOWFLAKE_SCHEMA", "a;b"), ("SNOWFLAKE_DATABASE", "groß")],
)
def test_a_name_that_would_need_quotes_is_refused_before_anything_is_asked(
    account: ScriptedAccount, deploy: Deploy, variable: str, name: str
):
    with pytest.raises(SnowflakeSqlError, match=f"{variable} cannot be") as failure:
        deploy(**{variable: name})

    assert "\n" not in str(failure.value)
    assert account.ran == []


def test_a_name_in_lower_case_is_the_one_that_snowflake_makes_of_it(account: ScriptedAccount):
    assert "CREATE DATABASE IF NOT EXISTS RETAIL;" in show(account, SNOWFLAKE_DATABASE="retail")


def test_a_preview_marks_what_is_new_or_changed_and_changes_nothing(account: ScriptedAccount, deploy: Deploy):
    fresh = show(account)
    assert "-- new\nCREATE SCHEMA IF NOT EXISTS CHURN.MAIN WITH MANAGED ACCESS;" in fresh
    assert account.history == []
    assert not any(sql.startswith(("CREATE", "INSERT", "GRANT", "ALTER TASK", "PUT")) for sql in account.ran)

    deploy()
    account.history[0]["checksum"] = "another"
    again = show(account)

    assert "statements, 1 changed" in again
    assert "-- each time\nUSE SCHEMA CHURN.MAIN;" in again
    assert "-- new\n" not in again
    assert "-- cost a day" in again


def test_a_preview_without_credentials_shows_everything_and_says_why(monkeypatch: pytest.MonkeyPatch):
    shown = deployment.preview(load_settings(CHURN_TARGET="snowflake"), [])

    assert "-- history unknown\nCREATE SCHEMA IF NOT EXISTS CHURN.MAIN" in shown
    assert "history unknown, so all statements are shown: CHURN_TARGET=snowflake needs SNOWFLAKE_ACCOUNT" in shown
    assert shown.index("==== functions") < shown.index("==== dbt") < shown.index("==== after_dbt")


def test_the_preview_of_the_account_phase_is_a_script_for_an_administrator(account: ScriptedAccount):
    shown = show(account, "account")

    kinds = {line.split()[0] for line in shown.splitlines() if line[:1].isalpha()}
    assert kinds <= {"USE", "CREATE", "GRANT"} | {"CREATE,", "ON", "IN"}
    assert "==== schema" not in shown


def test_the_estimate_says_what_keeps_the_warehouse_awake_and_what_it_assumes():
    tables = [
        Model("live", "f", "q", "1 minute", "INCREMENTAL"),
        Model("slow", "f", "q", "5 minutes", "INCREMENTAL"),
        Model("between", "f", "q", "DOWNSTREAM", "INCREMENTAL"),
    ]

    lines = estimate(of(CHURN_DRIVER="native"), tables, "Small", 60)

    assert "2 credits an hour while awake" in lines[0]
    assert "a refresh is assumed to take 10 s" in lines[0]
    assert "live, each 60 s: 48.0 credits if rows change all day, so it never sleeps" in lines[1]
    assert "slow, each 300 s: 11.2 credits if rows change all day, 288 times 70 s" in lines[2]
    assert not any("between" in line for line in lines)
    assert any("sensors" in line and "12.0 credits if the daemon runs all day" in line for line in lines)
    assert "tasks" in lines[-2]
    assert "500 x about" in lines[-1]
    assert "llama3.1-8b" in lines[-1]


def test_the_settings_of_a_connection_that_is_missing_stop_a_deployment_in_one_line(tmp_path: Path):
    with pytest.raises(SettingsError, match="SNOWFLAKE_ACCOUNT"):
        deployment.deploy(load_settings(CHURN_TARGET="snowflake"), [], print)
