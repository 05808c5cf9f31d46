"""The engine on tables of its own, a shop's, as it knows nothing of banks."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables import engine
from churn_assets.dynamic_tables.catalog import Lake, LakeTransaction
from churn_assets.dynamic_tables.tables import DynamicTableError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.dynamic_tables.shop import NOON, change, declare, order, rows
from churn_assets_tests.warehouse.processes import heard_from, killed, process

DAY = timedelta(days=1)

TOTALS = "SELECT customer, CAST(sum(amount) AS BIGINT) AS total FROM orders GROUP BY customer"
REGULARS = "SELECT customer FROM totals WHERE total >= 100"
TODAY = "SELECT order_id, customer FROM orders WHERE ordered_on = CAST(getvariable('as_of_day') AS DATE)"
TODAY_COUNT = "SELECT 1 AS one, count(*) AS orders FROM today"


@pytest.fixture
def shop_with_totals(shop: LakeWarehouse) -> LakeWarehouse:
    """A shop with the orders of Ann (10 and 20) and Bob (5), and their totals, fresh at noon."""
    order(shop, (1, "ann", 10), (2, "ann", 20), (3, "bob", 5))
    declare(shop, "totals", TOTALS, "customer", "written_at")
    shop.refresh(["totals"], NOON)
    return shop


def lags(lake: LakeWarehouse, now: datetime = NOON) -> dict[str, float]:
    return {table.name: table.lag_seconds for table in lake.dynamic_tables(now)}


def seconds_since_the_newest_change(lake: LakeWarehouse) -> float:
    newest = lake.query(
        "SELECT make_timestamp(epoch_us(CAST(max(snapshot_time) AS TIMESTAMPTZ))) AS newest FROM lake.snapshots()"
    )
    return (NOON - newest["newest"][0].as_py()).total_seconds()


def position(lake: LakeWarehouse, name: str) -> dict[str, Any]:
    return lake.query(
        "SELECT position, base_position, as_of_day, refreshed_at, refresh_action FROM dynamic_tables WHERE name = ?",
        [name],
    ).to_pylist()[0]


# Refreshing


def test_the_first_refresh_is_initial_and_inserts_every_row(shop: LakeWarehouse) -> None:
    order(shop, (1, "ann", 10), (2, "ann", 20), (3, "bob", 5))
    declare(shop, "totals", TOTALS, "customer")
    result = shop.refresh(["totals"], NOON)[0]
    assert (result.action, result.rows_inserted, result.rows_updated, result.rows_deleted) == ("INITIAL", 2, 0, 0)
    assert rows(shop, "FROM totals") == [("ann", 30), ("bob", 5)]


def test_a_refresh_without_a_change_writes_no_row_and_moves_the_position(shop_with_totals: LakeWarehouse) -> None:
    before = position(shop_with_totals, "totals")
    result = shop_with_totals.refresh(["totals"], NOON + timedelta(minutes=1))[0]
    assert (result.action, result.rows_inserted, result.rows_updated, result.rows_deleted) == ("NO_DATA", 0, 0, 0)
    assert position(shop_with_totals, "totals")["position"] > before["position"]
    assert rows(shop_with_totals, "FROM totals") == [("ann", 30, NOON), ("bob", 5, NOON)]


def test_a_refresh_writes_only_the_rows_that_differ(shop_with_totals: LakeWarehouse) -> None:
    order(shop_with_totals, (4, "ann", 3), (5, "ann", -3), (6, "cid", 1), (7, "dee", 1))
    shop_with_totals.refresh(["totals"], NOON)
    later = NOON + timedelta(minutes=1)
    change(
        shop_with_totals, "DELETE FROM orders WHERE customer = 'bob'", "UPDATE orders SET amount = 2 WHERE order_id = 6"
    )
    order(shop_with_totals, (8, "eve", 7))
    result = shop_with_totals.refresh(["totals"], later)[0]
    assert (result.action, result.rows_inserted, result.rows_updated, result.rows_deleted) == ("INCREMENTAL", 1, 1, 1)
    assert rows(shop_with_totals, "FROM totals") == [
        ("ann", 30, NOON),
        ("cid", 2, later),
        ("dee", 1, NOON),
        ("eve", 7, later),
    ]


def test_where_many_keys_change_the_whole_query_takes_less_time(shop_with_totals: LakeWarehouse, monkeypatch) -> None:
    monkeypatch.setattr("churn_assets.dynamic_tables.difference.FEW_ROWS", 1)
    order(shop_with_totals, (4, "ann", 3))
    assert shop_with_totals.refresh(["totals"], NOON)[0].action == "INCREMENTAL"

    order(shop_with_totals, (5, "ann", 3), (6, "cid", 1))
    result = shop_with_totals.refresh(["totals"], NOON)[0]

    assert (result.action, result.reason) == ("FULL", "2 keys changed, of 2 that are there")
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (1, 1, 0)
    assert rows(shop_with_totals, "SELECT customer, total FROM totals") == [("ann", 36), ("bob", 5), ("cid", 1)]


def test_a_change_that_cancels_out_is_written_nowhere(shop_with_totals: LakeWarehouse) -> None:
    order(shop_with_totals, (4, "ann", 3), (5, "ann", -3))
    result = shop_with_totals.refresh(["totals"], NOON + timedelta(minutes=1))[0]
    assert (result.action, result.rows_inserted, result.rows_updated, result.rows_deleted) == ("INCREMENTAL", 0, 0, 0)
    assert rows(shop_with_totals, "SELECT DISTINCT written_at FROM totals") == [(NOON,)]


def test_a_value_that_becomes_null_is_a_difference(shop: LakeWarehouse) -> None:
    order(shop, (1, "ann", 10))
    declare(shop, "copies", "SELECT order_id, customer, amount FROM orders", ["order_id", "customer"])
    shop.refresh(["copies"], NOON)
    change(shop, "UPDATE orders SET amount = NULL")
    assert shop.refresh(["copies"], NOON)[0].rows_updated == 1
    assert rows(shop, "FROM copies") == [(1, "ann", None)]
    order(shop, (2, "bob", 1))
    assert (shop.refresh(["copies"], NOON)[0].rows_updated, rows(shop, "FROM copies WHERE order_id = 1")) == (
        0,
        [(1, "ann", None)],
    )


def test_a_refresh_leaves_one_line_of_history(shop_with_totals: LakeWarehouse) -> None:
    order(shop_with_totals, (4, "ann", 1), (5, "cid", 2))
    newest = rows(shop_with_totals, "SELECT max(snapshot_id) FROM lake.snapshots()")[0][0]
    waited = seconds_since_the_newest_change(shop_with_totals)
    change(shop_with_totals, "DELETE FROM dynamic_table_refresh_history")
    result = shop_with_totals.refresh(["totals"], NOON)[0]
    (line,) = shop_with_totals.query("FROM dynamic_table_refresh_history").to_pylist()
    assert line.pop("duration_seconds") == result.duration_seconds > 0
    assert line == {
        "name": "totals",
        "refresh_action": "INCREMENTAL",
        "reason": "changes in orders",
        "started_at": NOON,
        "rows_inserted": 1,
        "rows_updated": 1,
        "rows_deleted": 0,
        "lag_seconds_before": pytest.approx(waited),
        "position": newest + 2,
        "base_position": newest + 2,
        "as_of_day": NOON.date(),
    }


def test_midnight_makes_a_window_due_and_the_refresh_moves_it(shop: LakeWarehouse) -> None:
    order(shop, (1, "ann", 10))
    order(shop, (2, "bob", 10), on=NOON + DAY)
    declare(shop, "today", TODAY, "order_id")
    declare(shop, "totals", TOTALS, "customer")
    shop.refresh(["today"], NOON)
    shop.refresh(["totals"], NOON)
    assert lags(shop) == {"today": 0, "totals": 0}
    assert lags(shop, NOON + DAY) == {"today": 12 * 3600, "totals": 0}
    result = shop.refresh(["today"], NOON + DAY)[0]
    assert (result.action, result.reason) == ("FULL", "the day changed")
    assert rows(shop, "FROM today") == [(2, "bob")]
    assert lags(shop, NOON + DAY) == {"today": 0, "totals": 0}


def test_a_source_that_was_created_anew_and_is_empty_is_a_change(shop_with_totals: LakeWarehouse) -> None:
    change(shop_with_totals, "DROP TABLE orders")
    change(shop_with_totals, "CREATE TABLE orders (customer VARCHAR, amount INTEGER)")
    assert lags(shop_with_totals)["totals"] > 0
    shop_with_totals.refresh(["totals"], NOON)
    assert rows(shop_with_totals, "FROM totals") == []


def test_columns_may_be_named_with_reserved_words(shop: LakeWarehouse) -> None:
    order(shop, (1, "ann", 10))
    declare(shop, "copies", 'SELECT order_id AS "order", customer AS "group" FROM orders', "order")
    shop.refresh(["copies"], NOON)
    assert rows(shop, "FROM copies") == [(1, "ann")]


CUSTOMERS = ("ann", "bob", "cid")
CHANGES = st.lists(
    st.one_of(
        st.builds(
            "INSERT INTO orders VALUES ({}, '{}', {}, DATE '2100-01-01' + {})".format,
            st.integers(0, 5),
            st.sampled_from(CUSTOMERS),
            st.integers(-30, 90),
            st.integers(0, 3),
        ),
        st.builds("UPDATE orders SET amount = {} WHERE order_id = {}".format, st.integers(-30, 90), st.integers(0, 5)),
        st.builds("DELETE FROM orders WHERE order_id = {}".format, st.integers(0, 5)),
        st.builds("DELETE FROM orders WHERE customer = '{}'".format, st.sampled_from(CUSTOMERS)),
    ),
    max_size=4,
)
RECENT = (
    "SELECT customer, CAST(sum(amount) AS BIGINT) AS total FROM orders"
    " WHERE ordered_on <= CAST(getvariable('as_of_day') AS DATE)"
    " AND ordered_on > CAST(getvariable('as_of_day') AS DATE) - 2 GROUP BY customer"
)
GOOD = "SELECT customer, total * 2 AS double_total FROM recent WHERE total > 0"


@pytest.fixture
def shop_with_a_chain(shop: LakeWarehouse) -> LakeWarehouse:
    declare(shop, "recent", RECENT, "customer", "written_at")
    declare(shop, "good", GOOD, "customer", "written_at")
    return shop


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.tuples(CHANGES, st.integers(0, 2)), min_size=2, max_size=3))
def test_after_any_history_the_tables_equal_their_queries_run_from_scratch(
    shop_with_a_chain: LakeWarehouse, history: list[tuple[list[str], int]]
) -> None:
    lake, now = shop_with_a_chain, NOON
    change(
        lake,
        "DELETE FROM orders",
        "DELETE FROM recent",
        "DELETE FROM good",
        "UPDATE dynamic_tables SET position = NULL, base_position = NULL, as_of_day = NULL, refreshed_at = NULL",
    )
    shown: dict[str, dict[Any, tuple[Any, ...]]] = {"recent": {}, "good": {}}
    for changes, days in history:
        now += days * DAY + timedelta(minutes=1)
        if changes:
            change(lake, *changes)
        for name, query in (("recent", RECENT), ("good", GOOD.replace("recent", f"({RECENT})"))):
            result = lake.refresh([name], now)[0]
            scratch = rows(lake, query.replace("getvariable('as_of_day')", f"'{now.date()}'"))
            before, after = shown[name], {row[0]: row for row in scratch}
            kept = {key: row for key, row in before.items() if row[:-1] == after.get(key)}
            shown[name] = {key: kept.get(key, (*row, now)) for key, row in after.items()}
            assert rows(lake, f"FROM {name}") == sorted(shown[name].values())
            assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (
                len(after.keys() - before.keys()),
                len((after.keys() & before.keys()) - kept.keys()),
                len(before.keys() - after.keys()),
            )
    assert lags(lake, now) == {"recent": 0, "good": 0}


# Lag


def test_the_lag_of_a_table_that_was_never_refreshed_is_the_age_of_its_declaration(shop: LakeWarehouse) -> None:
    declare(shop, "totals", TOTALS, "customer")
    assert lags(shop) == {"totals": 90}


def test_the_lag_is_the_age_of_the_oldest_change_that_waits(shop_with_totals: LakeWarehouse) -> None:
    assert lags(shop_with_totals) == {"totals": 0}
    order(shop_with_totals, (4, "ann", 1))
    oldest = seconds_since_the_newest_change(shop_with_totals)
    order(shop_with_totals, (5, "ann", 1))
    assert lags(shop_with_totals) == {"totals": pytest.approx(oldest, abs=1e-4)}
    assert lags(shop_with_totals, NOON + timedelta(seconds=7)) == {"totals": pytest.approx(oldest + 7, abs=1e-4)}
    shop_with_totals.refresh(["totals"], NOON)
    assert lags(shop_with_totals) == {"totals": 0}


def test_after_a_clock_that_was_days_ahead_all_is_late_and_right_after_one_refresh(shop: LakeWarehouse) -> None:
    ahead, target = NOON + timedelta(days=2), 300
    declare(shop, "today", TODAY, "order_id")
    shop.refresh(["today"], ahead)
    assert lags(shop, ahead) == {"today": 0}
    assert lags(shop, NOON) == {"today": target}  # its window is that of another day
    shop.refresh(["today"], NOON)
    assert lags(shop, NOON) == {"today": 0}
    assert position(shop, "today")["as_of_day"] == NOON.date()


def test_a_change_that_a_clock_stored_that_was_days_ahead_is_late_at_once(shop_with_totals: LakeWarehouse) -> None:
    days_ago = utc_now() - timedelta(days=2)  # as if the lake's clock were two days ahead of this one
    shop_with_totals.refresh(["totals"], days_ago)
    order(shop_with_totals, (4, "ann", 1))
    assert lags(shop_with_totals, days_ago) == {"totals": 300}
    shop_with_totals.refresh(["totals"], days_ago)
    assert lags(shop_with_totals, days_ago) == {"totals": 0}


@pytest.mark.parametrize("statement", ["UPDATE orders SET amount = 6 WHERE order_id = 3", "DELETE FROM orders"])
@pytest.mark.parametrize("stored", ["in the catalog", "in Parquet"])
def test_an_update_and_a_delete_wait_as_an_insert_does(shop: LakeWarehouse, statement: str, stored: str) -> None:
    order(shop, *((number, "ann", 1) for number in range(3, 4 if stored == "in the catalog" else 1_000)))
    declare(shop, "totals", TOTALS, "customer")
    shop.refresh(["totals"], NOON)
    change(shop, statement)
    assert lags(shop) == {"totals": pytest.approx(seconds_since_the_newest_change(shop), abs=1e-4)}


def test_a_change_is_seen_through_a_chain_until_its_end_shows_it(shop_with_totals: LakeWarehouse) -> None:
    declare(shop_with_totals, "regulars", REGULARS, "customer")
    shop_with_totals.refresh(["regulars"], NOON)
    order(shop_with_totals, (4, "ann", 70))
    waiting = pytest.approx(seconds_since_the_newest_change(shop_with_totals), abs=1e-4)
    assert lags(shop_with_totals) == {"totals": waiting, "regulars": waiting}
    shop_with_totals.refresh(["regulars"], NOON)[0]  # too early: it reads totals as they were
    assert lags(shop_with_totals) == {"totals": waiting, "regulars": waiting}
    shop_with_totals.refresh(["totals"], NOON)
    assert lags(shop_with_totals) == {"totals": 0, "regulars": waiting}
    shop_with_totals.refresh(["regulars"], NOON)
    assert lags(shop_with_totals) == {"totals": 0, "regulars": 0}
    assert rows(shop_with_totals, "FROM regulars") == [("ann",)]


def test_midnight_is_seen_through_a_chain_until_its_end_shows_it(shop: LakeWarehouse) -> None:
    order(shop, (1, "ann", 10))
    declare(shop, "today", TODAY, "order_id")
    declare(shop, "today_count", TODAY_COUNT, "one")
    shop.refresh(["today"], NOON)
    shop.refresh(["today_count"], NOON)
    shop.refresh(["today"], NOON + DAY)
    assert rows(shop, "FROM today_count") == [(1, 1)]  # of yesterday
    assert lags(shop, NOON + DAY) == {"today": 0, "today_count": 12 * 3600}


def test_tables_come_before_their_readers(shop: LakeWarehouse) -> None:
    change(shop, "CREATE TABLE totals (customer VARCHAR, total BIGINT)")
    declare(shop, "regulars", REGULARS, "customer")
    declare(shop, "totals", TOTALS, "customer")
    tables = shop.dynamic_tables(NOON)
    assert [(table.name, table.sources) for table in tables] == [("totals", {"orders"}), ("regulars", {"totals"})]


@pytest.mark.parametrize(
    ("deleted", "upkeep"),
    [
        ("false", "CALL ducklake_flush_inlined_data('lake')"),
        ("false", "CALL lake.merge_adjacent_files()"),
        ("order_id > 1", "CALL ducklake_rewrite_data_files('lake', 'orders')"),
    ],
)
def test_upkeep_of_files_is_no_change(shop: LakeWarehouse, deleted: str, upkeep: str) -> None:
    for first in (0, 1_000):
        order(shop, *((number, "ann", 1) for number in range(first, first + 1_000)))
    change(shop, f"DELETE FROM orders WHERE {deleted}")
    order(shop, (9_000, "bob", 1))
    declare(shop, "totals", TOTALS, "customer")
    shop.refresh(["totals"], NOON)
    before = rows(shop, "SELECT max(snapshot_id) FROM lake.snapshots()")
    shop.query(upkeep)
    assert rows(shop, "SELECT max(snapshot_id) FROM lake.snapshots()") > before  # it did something
    assert lags(shop) == {"totals": 0}
    assert shop.refresh(["totals"], NOON)[0].action == "NO_DATA"


def test_a_table_that_sleeps_moves_on_with_the_others_and_misses_nothing(shop_with_totals: LakeWarehouse) -> None:
    lake = shop_with_totals
    change(lake, "CREATE TABLE returns (customer VARCHAR)")
    declare(lake, "returned", "SELECT customer, count(*) AS returns FROM returns GROUP BY customer", "customer")
    lake.refresh(["returned"], NOON)
    asleep = position(lake, "returned")
    order(lake, (4, "cid", 1))
    lake.refresh(["totals"], NOON)
    newest = rows(lake, "SELECT max(snapshot_id) FROM lake.snapshots()")[0][0]
    assert position(lake, "returned") == asleep | {"position": newest, "base_position": newest}
    change(lake, "INSERT INTO returns VALUES ('cid')")
    lake.refresh(["totals"], NOON)
    assert position(lake, "returned")["position"] == newest
    assert lake.refresh(["returned"], NOON)[0].action == "INCREMENTAL"
    assert rows(lake, "SELECT customer, returns FROM returned") == [("cid", 1)]


def test_writes_to_other_tables_are_no_change(shop_with_totals: LakeWarehouse) -> None:
    others = [f"other{number}" for number in range(40)]  # whose ids begin or end like that of orders, among others
    change(shop_with_totals, *(f"CREATE TABLE {other} (n INTEGER)" for other in others))
    change(shop_with_totals, *(f"INSERT INTO {other} VALUES (1)" for other in others))
    change(shop_with_totals, "INSERT INTO other0 FROM range(1000)", "DELETE FROM other0 WHERE n = 1")
    assert lags(shop_with_totals) == {"totals": 0}
    assert shop_with_totals.refresh(["totals"], NOON)[0].action == "NO_DATA"


# Errors


@pytest.mark.parametrize("customer", ["'bob'", "NULL"])
def test_a_refresh_key_that_repeats_or_is_null_is_an_error_that_changes_nothing(
    shop: LakeWarehouse, customer: str
) -> None:
    order(shop, (1, "ann", 10), (2, "bob", 20))
    declare(shop, "copies", "SELECT customer, amount FROM orders", "customer")
    shop.refresh(["copies"], NOON)
    shown = [rows(shop, "FROM copies"), position(shop, "copies"), rows(shop, "FROM dynamic_table_refresh_history")]
    change(
        shop,
        "UPDATE orders SET amount = 11 WHERE customer = 'ann'",
        f"INSERT INTO orders VALUES (9, {customer}, 5, '2100-01-01')",
    )
    with pytest.raises(DynamicTableError, match=r"copies: its refresh key \(customer\)"):
        shop.refresh(["copies"], NOON + timedelta(minutes=1))
    assert shown == [
        rows(shop, "FROM copies"),
        position(shop, "copies"),
        rows(shop, "FROM dynamic_table_refresh_history"),
    ]
    change(shop, "DELETE FROM orders WHERE order_id = 9")
    shop.refresh(["copies"], NOON)
    assert rows(shop, "FROM copies") == [("ann", 11), ("bob", 20)]


def test_a_refresh_of_a_reader_of_a_table_never_refreshed_is_an_error_that_names_it(shop: LakeWarehouse) -> None:
    declare(shop, "totals", TOTALS, "customer")
    declare(shop, "regulars", REGULARS, "customer")
    with pytest.raises(DynamicTableError, match="regulars reads a dynamic table that was never refreshed"):
        shop.refresh(["regulars"], NOON)
    assert position(shop, "regulars")["position"] is None


def test_a_refresh_of_an_undeclared_table_is_an_error_that_names_it(shop: LakeWarehouse) -> None:
    with pytest.raises(DynamicTableError, match="orders is not declared"):
        shop.refresh(["orders"], NOON)


# Interruptions and rivals


class _HeldTransaction:
    """A transaction that stops for good after so many writes, with its process."""

    def __init__(self, tx: LakeTransaction, connection: Connection, writes: int) -> None:
        self._tx, self._connection, self._left = tx, connection, writes
        self.lake: Lake | None = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        result = self._tx.execute(sql, parameters)
        self._left -= sql.startswith(("DELETE", "INSERT", "UPDATE"))
        if self._left == 0:
            self._connection.send("held")
            self._connection.recv()
        return result

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._tx.rows(sql, parameters)


def _refresh_and_be_killed(connection: Connection, path: Path, writes: int, now: datetime) -> None:
    def work(tx: Any) -> None:
        engine.refresh(_HeldTransaction(tx, connection, writes), ["totals"], now)
        connection.send("committing")

    LakeWarehouse(path).transact(work)
    connection.recv()


@pytest.mark.slow
def test_a_killed_refresh_leaves_old_rows_and_position_or_new_ones_and_the_next_is_right(
    shop_path: Path, shop_with_totals: LakeWarehouse
) -> None:
    lake, now, never = shop_with_totals, NOON, 99
    # After each of the four writes (delete, insert, position, history), then around the commit.
    for writes, milliseconds in ((1, 0), (2, 0), (3, 0), (4, 0), (never, 0), (never, 15)):
        now += timedelta(minutes=1)
        change(lake, "UPDATE orders SET amount = amount + 1", "DELETE FROM dynamic_table_refresh_history")
        old = (rows(lake, "SELECT customer, total FROM totals"), position(lake, "totals"))
        with process(_refresh_and_be_killed, shop_path, writes, now) as (child, connection):
            assert heard_from(connection) == ("committing" if writes == never else "held")
            time.sleep(milliseconds / 1000)
            killed(child)
        left = (rows(lake, "SELECT customer, total FROM totals"), position(lake, "totals"))
        if left[1]["refreshed_at"] == now:
            assert writes == never
            assert left[0] == rows(lake, TOTALS)
            assert rows(lake, "SELECT started_at FROM dynamic_table_refresh_history") == [(now,)]
        else:
            assert left == old
            assert rows(lake, "SELECT started_at FROM dynamic_table_refresh_history") == []
        lake.refresh(["totals"], now)
        assert rows(lake, "SELECT customer, total FROM totals") == rows(lake, TOTALS)
        assert lags(lake) == {"totals": 0}


def _refresh_together(connection: Connection, path: Path) -> None:
    lake = LakeWarehouse(path)
    lake.query("SELECT 1")
    connection.send("ready")
    connection.recv()
    connection.send(lake.refresh(["totals"], NOON)[0].action)


@pytest.mark.slow
def test_two_refreshes_of_one_table_at_once_end_with_right_rows_and_a_line_each(
    shop_path: Path, shop_with_totals: LakeWarehouse
) -> None:
    order(shop_with_totals, (4, "ann", 1), (5, "cid", 1))
    change(shop_with_totals, "DELETE FROM dynamic_table_refresh_history")
    with process(_refresh_together, shop_path) as (_, one), process(_refresh_together, shop_path) as (_, two):
        assert [heard_from(one), heard_from(two)] == ["ready", "ready"]
        one.send("go")
        two.send("go")
        assert sorted([heard_from(one), heard_from(two)]) == ["INCREMENTAL", "NO_DATA"]
    assert rows(shop_with_totals, "SELECT customer, total FROM totals") == [("ann", 31), ("bob", 5), ("cid", 1)]
    assert rows(shop_with_totals, "SELECT name, rows_inserted FROM dynamic_table_refresh_history") == [
        ("totals", 0),
        ("totals", 1),
    ]


def test_a_change_from_elsewhere_during_a_refresh_is_not_lost(shop_path: Path, shop_with_totals: LakeWarehouse) -> None:
    elsewhere = LakeWarehouse(shop_path)
    order(shop_with_totals, (4, "ann", 1))
    runs: list[int] = []

    def overtaken_once(tx: Any) -> None:
        runs.append(1)
        if len(runs) == 1:
            tx.rows("SELECT count(*) FROM orders")  # its snapshot is taken before the change, its position after
            elsewhere.query("INSERT INTO orders VALUES (5, 'cid', 1, '2100-01-01')")
        engine.refresh(tx, ["totals"], NOON)

    shop_with_totals.transact(overtaken_once)
    assert len(runs) == 2
    shop_with_totals.refresh(["totals"], NOON)
    assert rows(shop_with_totals, "SELECT customer, total FROM totals") == [("ann", 31), ("bob", 5), ("cid", 1)]
