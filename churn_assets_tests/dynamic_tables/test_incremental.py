"""Incremental refreshes of many shapes of query, on a shop's tables: they equal the query run from scratch."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.dynamic_tables.incremental import Reads, reads_of
from churn_assets.dynamic_tables.tables import DynamicTableError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.dynamic_tables.shop import NOON, change, rows
from churn_assets_tests.warehouse.processes import heard_from, process

TABLES = (
    "CREATE TABLE orders (order_id INTEGER, account VARCHAR, amount INTEGER, ordered_at TIMESTAMP)",
    "CREATE TABLE accounts (account VARCHAR, customer VARCHAR, status VARCHAR, balance INTEGER)",
    "CREATE TABLE visits (customer VARCHAR, seen_at TIMESTAMP)",
)
OWNED = "SELECT o.order_id, o.amount, a.customer, CAST(o.ordered_at AS DATE) AS day FROM orders o JOIN accounts a USING (account)"
# The name, the query and the key of each table; a table may read those before it.
SHAPES: dict[str, tuple[str, Sequence[str]]] = {
    "sums and counts by customer and day, joined after they were made": (
        f"WITH owned AS ({OWNED}), bought AS (SELECT customer, day, sum(amount) AS spend FROM owned GROUP BY customer, day),"
        " seen AS (SELECT customer, CAST(seen_at AS DATE) AS day, count(*) AS visits FROM visits GROUP BY ALL_),"
        " days AS (SELECT customer, day FROM bought UNION SELECT customer, day FROM seen)"
        " SELECT days.customer, days.day, bought.spend, coalesce(seen.visits, 0) AS visits FROM days"
        " LEFT JOIN bought ON days.customer = bought.customer AND days.day = bought.day"
        " LEFT JOIN seen ON seen.customer = days.customer AND seen.day = days.day",
        ["customer", "day"],
    ),
    "a window of days over another dynamic table": (
        "SELECT known.customer, coalesce(sum(recent.spend), 0) AS spend FROM"
        " (SELECT DISTINCT customer FROM accounts WHERE status = 'OPEN') AS known"
        " LEFT JOIN (SELECT customer, spend FROM shape_0 WHERE day > CAST(getvariable('as_of_day') AS DATE) - 2"
        " AND day <= CAST(getvariable('as_of_day') AS DATE)) AS recent ON known.customer = recent.customer"
        " GROUP BY known.customer",
        ["customer"],
    ),
    "a join whose key comes from both sides": (OWNED, ["customer", "order_id"]),
    "only groups that are large": (
        "SELECT account, count(*) AS orders FROM orders GROUP BY account HAVING sum(amount) > 20",
        ["account"],
    ),
    "the largest order of each account": (
        "SELECT account, amount FROM (SELECT account, amount FROM orders GROUP BY account, amount)"
        " QUALIFY row_number() OVER (PARTITION BY account ORDER BY amount DESC) = 1",
        ["account"],
    ),
    "pairs of one table's rows": (
        "SELECT DISTINCT one.order_id AS first_id, other.order_id AS second_id FROM orders AS one"
        " JOIN orders AS other ON one.account = other.account AND one.order_id < other.order_id",
        ["first_id", "second_id"],
    ),
    "one row over everything": ("SELECT 1 AS one, count(*) AS orders, sum(amount) AS amount FROM orders", ["one"]),
    "two tables one after the other": (
        "SELECT origin, count(*) AS rows_ FROM (SELECT 'order ' || account AS origin FROM orders"
        " UNION ALL SELECT 'visit ' || customer FROM visits) AS both_ GROUP BY origin",
        ["origin"],
    ),
}
SHAPES = {name: (query.replace("GROUP BY ALL_", "GROUP BY 1, 2"), key) for name, (query, key) in SHAPES.items()}
NAMES = {name: f"shape_{number}" for number, name in enumerate(SHAPES)}

ACCOUNTS, CUSTOMERS = ("a", "b", "c"), ("ann", "bob")
_id, _amount = st.integers(0, 5), st.integers(-30, 60)
_account, _customer = st.sampled_from(ACCOUNTS), st.sampled_from(CUSTOMERS)
_time = st.integers(0, 96).map(lambda hours: NOON + timedelta(hours=hours - 24))
CHANGES = st.lists(
    st.one_of(
        st.builds("INSERT INTO orders VALUES ({}, '{}', {}, '{}')".format, _id, _account, _amount, _time),
        st.builds("UPDATE orders SET amount = {} WHERE order_id = {}".format, _amount, _id),
        st.builds("UPDATE orders SET ordered_at = '{}' WHERE order_id = {}".format, _time, _id),
        st.builds("DELETE FROM orders WHERE order_id = {}".format, _id),
        st.builds("INSERT INTO visits VALUES ('{}', '{}')".format, _customer, _time),
        st.builds("DELETE FROM visits WHERE customer = '{}'".format, _customer),
        st.builds("INSERT INTO accounts VALUES ('{}', '{}', 'OPEN', 0)".format, _account, _customer),
        st.builds("UPDATE accounts SET customer = '{}' WHERE account = '{}'".format, _customer, _account),
        st.builds("UPDATE accounts SET status = 'CLOSED' WHERE account = '{}'".format, _account),
        st.builds("UPDATE accounts SET balance = balance + 1 WHERE account = '{}'".format, _account),
        st.builds("DELETE FROM accounts WHERE account = '{}'".format, _account),
        st.just("upkeep"),
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> LakeWarehouse:
    """A lake with one dynamic table of each shape, which must be refreshed incrementally."""
    lake = LakeWarehouse(tmp_path_factory.mktemp("bazaar") / "lake")
    change(lake, *(statement.query for statement in duckdb.extract_statements(schema_script())), *TABLES)
    for shape, (query, key) in SHAPES.items():
        declare(lake, NAMES[shape], query, key, mode="INCREMENTAL")
    return lake


def declare(
    lake: LakeWarehouse,
    name: str,
    query: str,
    key: Sequence[str],
    mode: str = "AUTO",
    changed_keys: dict[str, str] | None = None,
    clock_window: str | None = None,
) -> None:
    def work(tx: Transaction) -> None:
        tx.execute(f"CREATE TABLE {name} AS SELECT * FROM ({query}) WHERE false")
        tx.execute(
            "INSERT INTO dynamic_tables"
            " (name, query, refresh_key, refresh_mode, changed_keys, clock_window, target_lag, declared_at)"
            " VALUES (?, ?, ?, ?, ?, ?, '5 minutes', ?)",
            [name, query, list(key), mode, changed_keys, clock_window, NOON],
        )

    lake.transact(work)


def scratch(shape: str, now: datetime) -> str:
    query = SHAPES[shape][0].replace("getvariable('as_of_day')", f"'{now.date()}'")
    return query.replace("FROM shape_0", f"FROM ({SHAPES[next(iter(SHAPES))][0]})")


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.tuples(CHANGES, st.sampled_from([0, 0, 1])), min_size=2, max_size=4))
def test_after_any_history_an_incremental_refresh_equals_the_query_run_from_scratch(
    bazaar: LakeWarehouse, history: list[tuple[list[str], int]]
) -> None:
    now = NOON
    change(
        bazaar,
        *(f"DELETE FROM {table}" for table in ("orders", "accounts", "visits", *NAMES.values())),
        "UPDATE dynamic_tables SET position = NULL, base_position = NULL, as_of_day = NULL",
    )
    for changes, days in history:
        now += timedelta(days=days, minutes=1)
        for statement in changes:
            if statement == "upkeep":
                bazaar.maintain({"orders": "ordered_at"}, utc_now())
            else:
                change(bazaar, statement)
        for shape, name in NAMES.items():
            result = bazaar.refresh([name], now)[0]
            assert rows(bazaar, f"FROM {name}") == rows(bazaar, scratch(shape, now)), (shape, result)
            assert result.action != "FULL" or result.reason == "the day changed", (shape, result)


@pytest.fixture
def stall(tmp_path: Path) -> LakeWarehouse:
    """A lake with two orders and their account, and no dynamic table."""
    lake = LakeWarehouse(tmp_path / "lake")
    change(lake, *(statement.query for statement in duckdb.extract_statements(schema_script())), *TABLES)
    change(
        lake,
        f"INSERT INTO orders VALUES (1, 'a', 10, '{NOON}'), (2, 'b', 20, '{NOON}')",
        "INSERT INTO accounts VALUES ('a', 'ann', 'OPEN', 0), ('b', 'bob', 'OPEN', 0)",
    )
    return lake


# Queries that cannot be traced: the key of each, and a word of the reason.
UNTRACEABLE = [
    ("SELECT account, max(amount) AS m FROM orders GROUP BY account LIMIT 5", "account", "LIMIT"),
    ("SELECT account FROM accounts EXCEPT SELECT account FROM orders", "account", "EXCEPT"),
    ("SELECT account FROM accounts WHERE account IN (SELECT account FROM orders)", "account", "subquery"),
    ("SELECT a.account FROM orders o FULL JOIN accounts a ON o.account = a.account GROUP BY 1", "account", "FULL"),
    ("SELECT account, current_date AS d FROM accounts", "account", "not the same at each refresh"),
    (
        "SELECT o.order_id, a.status FROM orders o LEFT JOIN accounts a ON o.account = a.account",
        "order_id",
        "a change in accounts",
    ),
    (
        "SELECT order_id, row_number() OVER (PARTITION BY account ORDER BY amount) AS place FROM orders",
        "order_id",
        "a change in orders",
    ),
]


def test_a_query_that_cannot_be_traced_is_refreshed_in_full_and_says_why(stall: LakeWarehouse) -> None:
    made = {f"made_{number}": one for number, one in enumerate(UNTRACEABLE)}
    for name, (query, key, _) in made.items():
        declare(stall, name, query, [key])
    stall.refresh(made, NOON)
    change(stall, f"INSERT INTO orders VALUES (3, 'b', 30, '{NOON}')", "UPDATE accounts SET status = 'CLOSED'")
    results = {result.name: result for result in stall.refresh(made, NOON)}
    for name, (query, _, reason) in made.items():
        assert results[name].action == "FULL", query
        assert reason in results[name].reason, query
        assert rows(stall, f"FROM {name}") == rows(stall, query), query


def test_with_refresh_mode_incremental_such_a_query_is_an_error_that_names_the_table(stall: LakeWarehouse) -> None:
    declare(stall, "made", "SELECT account FROM accounts LIMIT 5", ["account"], mode="INCREMENTAL")
    stall.refresh(["made"], NOON)
    change(stall, "DELETE FROM accounts")
    with pytest.raises(DynamicTableError, match="made has refresh_mode INCREMENTAL, but it has LIMIT"):
        stall.refresh(["made"], NOON)
    assert len(rows(stall, "FROM made")) == 2


def test_keys_that_cannot_be_traced_can_be_declared(stall: LakeWarehouse) -> None:
    query = "SELECT o.order_id, a.status FROM orders o LEFT JOIN accounts a ON o.account = a.account"
    touched = 'SELECT order_id FROM orders JOIN "refresh_changes_of_accounts" USING (account)'
    declare(stall, "made", query, ["order_id"], "INCREMENTAL", {"accounts": touched})
    stall.refresh(["made"], NOON)
    change(stall, "UPDATE accounts SET status = 'CLOSED' WHERE account = 'b'")
    result = stall.refresh(["made"], NOON)[0]
    assert (result.action, result.rows_updated) == ("INCREMENTAL", 1)
    assert rows(stall, "FROM made") == [(1, "OPEN"), (2, "CLOSED")]


def test_a_change_in_columns_that_the_query_does_not_read_touches_nothing(stall: LakeWarehouse) -> None:
    declare(stall, "made", OWNED, ["order_id"], "INCREMENTAL")
    stall.refresh(["made"], NOON)
    change(stall, "UPDATE accounts SET balance = 5")
    result = stall.refresh(["made"], NOON)[0]
    assert (result.action, result.rows_inserted, result.rows_updated, result.rows_deleted) == ("INCREMENTAL", 0, 0, 0)


def test_a_lake_that_no_longer_holds_the_position_is_refreshed_in_full_and_says_so(stall: LakeWarehouse) -> None:
    declare(stall, "made", OWNED, ["order_id"], "INCREMENTAL")
    position = stall.refresh(["made"], NOON)[0].position
    change(stall, "DELETE FROM orders WHERE order_id = 1")
    stall.query(f"CALL ducklake_expire_snapshots('lake', versions => [{position}])")
    result = stall.refresh(["made"], NOON)[0]
    assert (result.action, result.rows_deleted) == ("FULL", 1)
    assert f"no longer holds snapshot {position}" in result.reason


def test_a_source_that_was_created_anew_is_read_in_full(stall: LakeWarehouse) -> None:
    declare(stall, "made", OWNED, ["order_id"], "INCREMENTAL")
    stall.refresh(["made"], NOON)
    change(stall, "DROP TABLE orders", TABLES[0])
    result = stall.refresh(["made"], NOON)[0]
    assert (result.action, result.reason, result.rows_deleted) == ("FULL", "orders was created anew", 2)


LATELY = (
    "SELECT customer, count(*) AS visits FROM visits"
    " WHERE seen_at > CAST(getvariable('as_of_time') AS TIMESTAMP) - INTERVAL 10 MINUTE GROUP BY customer"
)


def test_a_result_that_moves_with_the_clock_is_refreshed_until_the_last_row_has_left_its_window(
    stall: LakeWarehouse,
) -> None:
    begin, minute = utc_now(), timedelta(minutes=1)
    declare(stall, "made", LATELY, ["customer"], clock_window="10 minutes")
    stall.refresh(["made"], begin - 20 * minute)

    def lag(now: datetime) -> float:
        (table,) = stall.dynamic_tables(now)
        return table.lag_seconds

    def refreshed(now: datetime) -> tuple[str, list[tuple[object, ...]]]:
        (result,) = stall.refresh(["made"], now)
        return result.action, rows(stall, "FROM made")

    change(stall, f"INSERT INTO visits VALUES ('ann', '{begin}')")
    assert refreshed(begin + minute) == ("FULL", [("ann", 1)])
    assert lag(begin + 2 * minute) == 0
    assert lag(begin + 4 * minute) == 3 * 60
    assert refreshed(begin + 9 * minute) == ("FULL", [("ann", 1)])
    assert refreshed(begin + 11 * minute) == ("FULL", [])
    assert lag(begin + 60 * minute) == 0
    assert refreshed(begin + 60 * minute) == ("NO_DATA", [])


def test_what_a_query_reads_is_its_tables_and_variables_and_not_what_it_only_mentions() -> None:
    query = (
        "WITH seen AS (SELECT * FROM visits WHERE day <= GETVARIABLE('As_Of_Day')) -- as_of_time\n"
        "SELECT 'as_of_time' AS as_of_time, seen.* FROM seen JOIN lake.main.orders USING (customer)"
    )
    assert reads_of(query) == Reads(frozenset({"visits", "orders"}), frozenset({"as_of_day"}))


def test_a_result_that_only_mentions_the_clock_stays_incremental(stall: LakeWarehouse) -> None:
    declare(stall, "made", "SELECT customer, max(seen_at) AS as_of_time FROM visits GROUP BY customer", ["customer"])
    stall.refresh(["made"], NOON)
    change(stall, f"INSERT INTO visits VALUES ('ann', '{NOON}')")
    (result,) = stall.refresh(["made"], NOON)
    assert (result.action, rows(stall, "FROM made")) == ("INCREMENTAL", [("ann", NOON)])


def test_a_result_that_moves_with_the_clock_needs_a_window(stall: LakeWarehouse) -> None:
    declare(stall, "made", LATELY, ["customer"])
    with pytest.raises(DynamicTableError, match="made reads as_of_time; declare its clock_window"):
        stall.refresh(["made"], NOON)


def _sell(connection: Connection, path: Path) -> None:
    """Take orders until told to stop, one of them corrected and one taken back now and then."""
    lake = LakeWarehouse(path)
    sold = 0
    while not connection.poll():
        change(
            lake,
            f"INSERT INTO orders SELECT {sold} + n, chr(97 + (n % 3)::INTEGER), n, '{NOON}' FROM range(20) AS wanted (n)",
            f"UPDATE orders SET amount = amount + 1 WHERE order_id = {sold - 7}",
            f"DELETE FROM orders WHERE order_id = {sold - 11}",
        )
        sold += 20
    connection.send(sold)


def _look(connection: Connection, path: Path) -> None:
    """Read until told to stop; the numbers of looks, and of those where the two tables told of different states."""
    lake = LakeWarehouse(path, read_only=True)
    looks = torn = 0
    while not connection.poll():
        (told,) = lake.query(
            "SELECT (SELECT coalesce(sum(orders), 0) FROM per_account) AS one, (SELECT coalesce(sum(n), 0) FROM in_all) AS other"
        ).to_pylist()
        looks, torn = looks + 1, torn + (told["one"] != told["other"])
    connection.send((looks, torn))


@pytest.mark.slow
def test_refreshes_beside_a_writer_and_a_reader_lose_no_row_and_show_whole_states(
    stall: LakeWarehouse, tmp_path: Path
) -> None:
    per_account = "SELECT account, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY account"
    in_all = "SELECT 1 AS one, sum(orders) AS n FROM per_account"
    declare(stall, "per_account", per_account, ["account"], "INCREMENTAL")
    declare(stall, "in_all", in_all, ["one"], "INCREMENTAL")
    stall.refresh(["per_account", "in_all"], NOON)
    with process(_sell, tmp_path / "lake") as (_, seller), process(_look, tmp_path / "lake") as (_, reader):
        end = time.monotonic() + 15
        actions = [stall.refresh(["per_account", "in_all"], NOON) for _ in iter(lambda: time.monotonic() < end, False)]
        seller.send("stop")
        sold = heard_from(seller)
        reader.send("stop")
        looks, torn = heard_from(reader)
    stall.refresh(["per_account", "in_all"], NOON)
    assert rows(stall, "FROM per_account") == rows(stall, per_account)
    assert rows(stall, "FROM in_all") == rows(stall, in_all)
    assert {result.action for results in actions for result in results} <= {"INCREMENTAL", "NO_DATA"}
    assert sold > 40
    assert len(actions) > 5
    assert looks > 5
    assert torn == 0
