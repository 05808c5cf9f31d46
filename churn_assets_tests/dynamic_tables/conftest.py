"""A shop's lake, empty."""

import shutil
from pathlib import Path

import duckdb
import pytest

from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.dynamic_tables.shop import change


@pytest.fixture(scope="module")
def empty_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the engine's tables and an empty table of orders. Copy it, do not use it."""
    path = tmp_path_factory.mktemp("template") / "lake"
    tables = (statement.query for statement in duckdb.extract_statements(schema_script()))
    orders = "CREATE TABLE orders (order_id INTEGER, customer VARCHAR, amount INTEGER, ordered_on DATE)"
    change(LakeWarehouse(path), *tables, orders)
    return path


@pytest.fixture
def shop_path(tmp_path: Path, empty_shop: Path) -> Path:
    shutil.copytree(empty_shop, tmp_path / "lake")
    return tmp_path / "lake"


@pytest.fixture
def shop(shop_path: Path) -> LakeWarehouse:
    """A shop without orders and without dynamic tables."""
    return LakeWarehouse(shop_path)
