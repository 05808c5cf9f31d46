"""What each role sees through the serving views, and that nothing else can be read through them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot

from churn_assets.operations.statements import statements
from churn_assets.rules import ANALYST_ROLE, ENGINEER_ROLE
from churn_assets.serving.grants import grant_segments
from churn_assets.serving.guard import RefusedSqlError
from churn_assets.serving.reading import LakeServing, Serving, UnknownRoleError
from churn_assets.serving.views import serving_views
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import QueryTimeoutError
from churn_assets.warehouse.snowflake_names import Names
from churn_assets.wiring import open_lake, open_serving
from churn_assets_tests.cli.conftest import Churn, churn
from churn_assets_tests.retention.bank import HIGH, LOW, MEDIUM, predict
from churn_assets_tests.serving.remembering import Remembering

__all__ = ["churn"]

SEGMENTS = {"Ann": "MASS", "Bob": "SMB", "Cat": "STUDENT"}


def add_three_customers(lake: LakeWarehouse) -> None:
    predict(lake, {"Ann": HIGH, "Bob": LOW, "Cat": LOW})
    for customer, segment in SEGMENTS.items():
        change(
            lake,
            "UPDATE dim_customers SET segment = ?, full_name = ?, email = ? WHERE customer_id = ?",
            [segment, f"{customer} van Dyke", f"{customer.lower()}@bank.example", customer],
        )


@pytest.fixture
def three_customers(lake: LakeWarehouse) -> LakeWarehouse:
    """Three customers of three segments, with names and addresses, one of them at high risk."""
    add_three_customers(lake)
    return lake


@pytest.fixture(scope="module")
def only_read(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LakeServing]:
    """The same three customers as each role sees them, for tests that write nothing."""
    home = tmp_path_factory.mktemp("three_customers") / "home"
    shutil.copytree(deployed_home, home)
    lake = open_lake(load_settings(CHURN_HOME=home).lake_path)
    add_three_customers(lake)
    return {role: Remembering(lake, role) for role in (ENGINEER_ROLE, ANALYST_ROLE)}


def change(lake: LakeWarehouse, sql: str, parameters: list[Any] | None = None) -> None:
    lake.transact(lambda tx: tx.execute(sql, parameters or []))


def grant(lake: LakeWarehouse, *granted: tuple[str, str]) -> None:
    for role in {ANALYST_ROLE, *(role for role, _ in granted)}:
        grant_segments(lake, role, [segment for to, segment in granted if to == role])


def seen(lake: LakeWarehouse, role: str) -> list[dict[str, Any]]:
    sql = "SELECT customer_id, full_name, email FROM customer_risk ORDER BY customer_id"
    return LakeServing(lake, role).query(sql).to_pylist()


def test_an_engineer_sees_everybody_with_name_and_address(three_customers: LakeWarehouse):
    assert seen(three_customers, ENGINEER_ROLE)[0] == {
        "customer_id": "Ann",
        "full_name": "Ann van Dyke",
        "email": "ann@bank.example",
    }
    grant(three_customers)
    assert [row["customer_id"] for row in seen(three_customers, ENGINEER_ROLE)] == ["Ann", "Bob", "Cat"]


def test_an_analyst_sees_initials_of_the_segments_that_are_granted(three_customers: LakeWarehouse):
    masked = {customer: (f"{customer[0]}. v. D.", "***@bank.example") for customer in SEGMENTS}
    for granted, customers in (
        ([(ANALYST_ROLE, "*")], ["Ann", "Bob", "Cat"]),
        ([(ANALYST_ROLE, "SMB")], ["Bob"]),
        ([(ANALYST_ROLE, "SMB"), (ANALYST_ROLE, "MASS")], ["Ann", "Bob"]),
        ([("BRANCH", "*")], []),
        ([], []),
    ):
        grant(three_customers, *granted)

        found = {row["customer_id"]: (row["full_name"], row["email"]) for row in seen(three_customers, ANALYST_ROLE)}

        assert found == {customer: masked[customer] for customer in customers}, granted


def test_no_view_shows_a_role_without_grants_a_single_row(bank: LakeWarehouse):
    unmasked, nothing = LakeServing(bank, ENGINEER_ROLE), LakeServing(bank, ANALYST_ROLE)
    nothing.role = "NOBODY"  # whom nothing is granted
    for view in serving_views():
        assert nothing.query(f"SELECT * FROM {view}").num_rows == 0
        assert (
            nothing.query(f"SELECT * FROM {view}").column_names == unmasked.query(f"SELECT * FROM {view}").column_names
        )


def test_no_view_shows_an_analyst_a_name_or_an_address(bank: LakeWarehouse):
    serving = LakeServing(bank, ANALYST_ROLE)
    known = bank.query("SELECT full_name, email FROM dim_customers").to_pylist()
    secrets = {value for row in known for value in row.values()}
    for view in serving_views():
        shown = json.dumps(serving.query(f"SELECT * FROM {view}").to_pylist(), default=str)
        assert not [secret for secret in secrets if secret in shown]


def test_a_role_of_its_own_is_made_by_a_grant_and_a_misspelt_one_is_named(three_customers: LakeWarehouse):
    grant(three_customers, ("BRANCH_NORTH", "MASS"))

    assert [row["full_name"] for row in seen(three_customers, "BRANCH_NORTH")] == ["A. v. D."]
    assert LakeServing(three_customers, ENGINEER_ROLE).roles() == [ENGINEER_ROLE, ANALYST_ROLE, "BRANCH_NORTH"]
    with pytest.raises(UnknownRoleError, match="'MARKETING'; the roles are DATA_ENGINEER"):
        LakeServing(three_customers, "MARKETING")


def test_a_role_that_is_no_name_is_only_a_text(three_customers: LakeWarehouse):
    with pytest.raises(UnknownRoleError, match="is no name of a role"):
        grant(three_customers, ("' OR '1'='1", "SMB"))
    three_customers.transact(lambda tx: tx.execute("INSERT INTO segment_grants VALUES (?, 'SMB')", ["' OR '1'='1"]))

    assert [row["customer_id"] for row in seen(three_customers, "' OR '1'='1")] == ["Bob"]


@pytest.mark.parametrize("role", [ENGINEER_ROLE, ANALYST_ROLE])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM dim_customers",
        "SELECT * FROM lake.main.dim_customers",
        "SELECT * FROM customer_risk, lake.main.dim_customers",
        "SELECT customer_id FROM customer_risk UNION SELECT full_name FROM lake.main.dim_customers",
        "WITH customer_risk AS (SELECT * FROM lake.main.dim_customers) SELECT * FROM customer_risk",
        "SELECT (SELECT max(email) FROM dim_customers) FROM customer_risk",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT getenv('HOME') FROM customer_risk",
        "SELECT * FROM duckdb_settings()",
        "UPDATE segment_grants SET segment = '*'",
        "SELECT * FROM customer_risk; DELETE FROM segment_grants",
        "SELECT * FROM segment_grants",
        "SELECT * FROM customer_risk AT (VERSION => 1)",
        "SELECT query('SELECT 1') FROM customer_risk",
        "PRAGMA database_list",
    ],
)
def test_sql_from_outside_reads_the_views_and_nothing_else(only_read: dict[str, LakeServing], sql: str, role: str):
    with pytest.raises(RefusedSqlError):
        only_read[role].query_from_outside(sql)


def test_sql_from_outside_gives_every_row_that_the_role_sees(three_customers: LakeWarehouse):
    serving = LakeServing(three_customers, ANALYST_ROLE)
    predict(three_customers, {f"C{number}": LOW for number in range(2000)})

    rows = serving.query_from_outside("SELECT full_name, COUNT(*) AS n FROM customer_risk GROUP BY 1 ORDER BY 2 DESC")
    assert rows.to_pylist() == [{"full_name": "N. o. C.", "n": 2000}]
    assert serving.query_from_outside("SELECT * FROM customer_risk").num_rows == 2000


def test_a_query_that_takes_too_long_is_stopped(settings: Settings, three_customers: LakeWarehouse):
    predict(three_customers, {f"C{number}": LOW for number in range(3000)})
    serving = open_serving(settings, ANALYST_ROLE, timeout_seconds=0.05)

    with pytest.raises(QueryTimeoutError):
        serving.query(
            "SELECT count(*) FROM customer_risk AS a, customer_risk AS b, customer_risk AS c, customer_risk AS d"
        )


def test_the_history_of_a_score_is_what_the_refreshes_wrote(three_customers: LakeWarehouse):
    for score in (MEDIUM, LOW):
        predict(three_customers, {"Ann": score, "Bob": LOW, "Cat": LOW})

    history = LakeServing(three_customers, ANALYST_ROLE).score_history("Ann").to_pylist()

    assert [row["risk_score"] for row in sorted(history, key=lambda row: -row["risk_score"])] == [HIGH, MEDIUM, LOW]
    grant(three_customers, (ANALYST_ROLE, "SMB"))
    assert LakeServing(three_customers, ANALYST_ROLE).score_history("Ann").num_rows == 0


def test_the_lakes_masks_give_what_snowflakes_policies_say():
    bodies = {
        found[1]: found[2]
        for one in statements(Names())
        if (found := re.match(r"ALTER MASKING POLICY \S+\.(\w+) SET BODY -> (.*)", one.plain))
    }
    names = ["Ann van Dyke", "Åsa", "", "  two  spaces", "Jean-Luc O'Neill 3rd", None]
    addresses = ["ann@bank.example", "a@b@c", "nobody", "", None]
    with duckdb.connect() as connection:
        connection.execute("CREATE MACRO is_role_in_session(name) AS FALSE")
        for mask, column, values in (("mask_name", "full_name", names), ("mask_email", "email", addresses)):
            policy = sqlglot.transpile(bodies[mask], read="snowflake", write="duckdb")[0]
            (found,) = re.findall(
                rf"(regexp_replace\({column}.*?\)) AS {column}\b", serving_views(ANALYST_ROLE)["customer_risk"]
            )
            for value in values:
                row = connection.execute(f"SELECT {policy}, {found} FROM (SELECT ? AS {column})", [value]).fetchone()
                assert row
                assert row[0] == row[1]


@pytest.mark.usefixtures("three_customers")
def test_churn_query_reads_as_a_role(churn: Churn):
    sql = "SELECT full_name FROM customer_risk ORDER BY 1"
    shown = churn("query", "--role", "marketing_analyst", "--json", sql)
    assert json.loads(shown.out)[0] == {"full_name": "A. v. D."}
    refused = churn("query", "--role", "MARKETING_ANALYST", "SELECT * FROM dim_customers")
    assert (refused.code, refused.out) == (1, "")
    assert "there is no table “dim_customers”; the tables are customer_activity," in refused.err


def is_serving(serving: LakeServing) -> Serving:
    """The type checker holds the lake's way to the protocol."""
    return serving
