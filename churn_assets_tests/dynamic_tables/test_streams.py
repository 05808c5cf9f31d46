"""Streams of a shop's orders: what changed since they were last read."""

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from churn_assets.dynamic_tables.tables import DynamicTableError, Refresh
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.dynamic_tables.shop import NOON, change, declare, order, rows


@pytest.fixture
def shop_with_stream(shop: LakeWarehouse) -> LakeWarehouse:
    """A shop with two orders and a stream of them that was never read."""
    order(shop, (1, "ann", 10), (2, "bob", 20))
    change(shop, "INSERT INTO streams VALUES ('new_orders', 'orders', NULL)")
    return shop


def consume(tx: Transaction) -> list[tuple[Any, ...]]:
    changes = tx.consume_stream("new_orders")
    return sorted(tx.rows(f"SELECT change_action, order_id, amount FROM {changes}"))


def test_the_first_read_of_a_stream_gives_every_row(shop_with_stream: LakeWarehouse) -> None:
    assert shop_with_stream.stream_has_data("new_orders")
    assert shop_with_stream.transact(consume) == [("INSERT", 1, 10), ("INSERT", 2, 20)]


def test_a_stream_gives_the_net_change_once(shop_with_stream: LakeWarehouse) -> None:
    shop_with_stream.transact(consume)
    order(shop_with_stream, (3, "cid", 30), (4, "dee", 40))
    change(shop_with_stream, "UPDATE orders SET amount = 11 WHERE order_id = 1")
    change(shop_with_stream, "UPDATE orders SET amount = 12 WHERE order_id = 1")
    change(shop_with_stream, "DELETE FROM orders WHERE order_id IN (2, 4)")
    assert shop_with_stream.stream_has_data("new_orders")
    assert shop_with_stream.transact(consume) == [
        ("DELETE", 1, 10),
        ("DELETE", 2, 20),
        ("INSERT", 1, 12),
        ("INSERT", 3, 30),
    ]
    assert not shop_with_stream.stream_has_data("new_orders")
    assert shop_with_stream.transact(consume) == []


def test_equal_rows_of_a_stream_are_counted(shop_with_stream: LakeWarehouse) -> None:
    shop_with_stream.transact(consume)
    order(shop_with_stream, (1, "ann", 10), (1, "ann", 10))
    assert shop_with_stream.transact(consume) == [("INSERT", 1, 10), ("INSERT", 1, 10)]


def test_a_consumption_that_is_rolled_back_comes_again(shop_with_stream: LakeWarehouse) -> None:
    def consume_and_fail(tx: Transaction) -> None:
        assert consume(tx)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shop_with_stream.transact(consume_and_fail)
    assert shop_with_stream.transact(consume) == [("INSERT", 1, 10), ("INSERT", 2, 20)]


def test_a_consumption_that_changes_the_streams_own_table_sees_that_change_next_time(
    shop_with_stream: LakeWarehouse,
) -> None:
    def consume_and_order(tx: Transaction) -> None:
        consume(tx)
        tx.execute("INSERT INTO orders VALUES (3, 'cid', 30, '2100-01-01')")

    shop_with_stream.transact(consume_and_order)
    assert shop_with_stream.transact(consume) == [("INSERT", 3, 30)]


def test_a_stream_outlives_a_new_column_of_its_table(shop_with_stream: LakeWarehouse) -> None:
    shop_with_stream.transact(consume)
    change(shop_with_stream, "DROP TABLE orders")
    change(shop_with_stream, "CREATE TABLE orders AS SELECT 7 AS order_id, 70 AS amount")
    assert ("INSERT", 7, 70) in shop_with_stream.transact(consume)
    assert shop_with_stream.transact(consume) == []


def test_a_stream_that_does_not_exist_is_an_error_that_names_it(shop: LakeWarehouse) -> None:
    with pytest.raises(DynamicTableError, match="stream new_orders does not exist"):
        shop.transact(consume)


TOTALS = "SELECT customer, sum(amount)::INTEGER AS total FROM orders GROUP BY customer"


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_of_a_dynamic_table_gives_each_change_once_whoever_refreshes_and_in_which_transaction(
    shop: LakeWarehouse, seed: int
) -> None:
    declare(shop, "totals", TOTALS, "customer", row_timestamp="written_at")
    change(shop, "INSERT INTO streams VALUES ('new_totals', 'totals', NULL)")
    chance, replica, now = random.Random(seed), Counter[tuple[Any, ...]](), NOON

    def read(tx: Transaction, _: list[Refresh]) -> list[tuple[Any, ...]]:
        return tx.rows(f"SELECT change_action, customer, total FROM {tx.consume_stream('new_totals')}")

    def follow(changes: list[tuple[Any, ...]]) -> None:
        replica.update(tuple(row) for action, *row in changes if action == "INSERT")
        replica.subtract(tuple(row) for action, *row in changes if action == "DELETE")
        assert sorted(replica.elements()) == rows(shop, "SELECT customer, total FROM totals")
        assert not shop.stream_has_data("new_totals")

    for number in range(14):
        now += timedelta(minutes=1)
        order(shop, (number, chance.choice("abcd"), chance.randrange(-1, 3)))
        match chance.choice(["refresh", "refresh and read", "refresh and read", "read", "delete", "flush"]):
            case "refresh":
                shop.refresh(["totals"], now)
            case "refresh and read":
                follow(shop.refresh_and(["totals"], now, read))
            case "read":
                follow(shop.transact(lambda tx: read(tx, [])))
            case "delete":
                change(shop, f"DELETE FROM orders WHERE customer = '{chance.choice('abcd')}'")
            case _:
                change(shop, "CALL ducklake_flush_inlined_data('lake')")


def test_a_table_is_fresh_though_what_should_follow_from_it_fails(shop: LakeWarehouse) -> None:
    declare(shop, "totals", TOTALS, "customer")
    order(shop, (1, "ann", 10))

    with pytest.raises(DynamicTableError, match="stream new_totals does not exist"):
        shop.refresh_and(["totals"], NOON, lambda tx, _: tx.consume_stream("new_totals"))

    assert rows(shop, "FROM totals") == [("ann", 10)]
    assert len(shop.past_refreshes(NOON - timedelta(days=1))) == 1
