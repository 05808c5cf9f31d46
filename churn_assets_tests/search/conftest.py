"""A small ledger of errors and cases, and the index over it."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from churn_assets.search.hits import Hit, Search
from churn_assets.search.index import LogIndex
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake, open_search

NOON = datetime.fromisoformat("2026-03-01T12:00:00")


class Ledgers:
    """Writes single rows, minute by minute."""

    def __init__(self, lake: LakeWarehouse, minutes: int = 0) -> None:
        self.lake = lake
        self._minutes = minutes

    def insert(self, table: str, **row: Any) -> None:
        self._minutes += 1
        at = NOON + timedelta(minutes=self._minutes)
        times = {"app_activity_logs": "event_timestamp", "support_cases": "open_timestamp"}
        row = {times.get(table, "updated_at"): at, "ingested_at": at, **row}
        sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        self.lake.transact(lambda tx: tx.execute(sql, list(row.values())))

    def customer(self, customer_id: str, segment: str) -> None:
        self.insert("dim_customers", customer_id=customer_id, full_name="Ann", segment=segment, join_date=NOON.date())

    def error(self, log_id: str, code: str | None, customer_id: str = "C1", device: str = "IOS", **row: Any) -> None:
        row = {"event_type": "LOGIN", "device": device, **row}
        self.insert("app_activity_logs", log_id=log_id, customer_id=customer_id, error_code=code, **row)

    def case(self, case_id: str, category: str, customer_id: str = "C1", **row: Any) -> None:
        self.insert("support_cases", case_id=case_id, customer_id=customer_id, category=category, **row)

    def run(self, sql: str) -> None:
        self.lake.transact(lambda tx: tx.execute(sql))


@pytest.fixture
def ledgers(lake: LakeWarehouse) -> Ledgers:
    return Ledgers(lake)


@pytest.fixture
def index(settings: Settings, lake: LakeWarehouse) -> LogIndex:
    return LogIndex(settings.search_path, lake)


@pytest.fixture
def engineer(settings: Settings) -> Search:
    return open_search(settings, "DATA_ENGINEER")


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory: pytest.TempPathFactory, deployed_home: Path) -> Path:
    """Ann in MASS and Bob in SMB, three errors, one action without an error and two cases, all in the index.

    Made once: copy it, or only read it.
    """
    home = tmp_path_factory.mktemp("filled") / "home"
    shutil.copytree(deployed_home, home)
    settings = load_settings(CHURN_HOME=home)
    ledgers = Ledgers(open_lake(settings.lake_path))
    ledgers.customer("C1", "MASS")
    ledgers.customer("C2", "SMB")
    ledgers.error("L1", "ERR_AUTH_OTP")
    ledgers.error("L2", "ERR_NETWORK", "C2", "WEB")
    ledgers.error("L3", None)
    ledgers.error("L4", "ERR_AUTH_TIMEOUT", "C2", "ANDROID")
    ledgers.case("S1", "FEES", sentiment_score=0.1)
    ledgers.case("S2", "FRAUD", "C2", sentiment_score=0.9)
    LogIndex(settings.search_path, ledgers.lake).update()
    return home


@pytest.fixture
def two_customers(settings: Settings, filled_home: Path) -> Ledgers:
    """What is in `filled_home`, to be changed."""
    shutil.rmtree(settings.home)
    shutil.copytree(filled_home, settings.home, symlinks=True)
    return Ledgers(open_lake(settings.lake_path), minutes=60)


@pytest.fixture(scope="session")
def reading(filled_home: Path) -> Search:
    """The engineer's search over `filled_home`."""
    return open_search(load_settings(CHURN_HOME=filled_home), "DATA_ENGINEER")


def ids(hits: list[Hit]) -> list[str]:
    return [hit.event_id for hit in hits]
