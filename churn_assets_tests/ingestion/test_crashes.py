"""The ingest process killed with SIGKILL at every boundary it has, two hundred times, over one stream."""

import os
import random
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.kafka import Cluster
from churn_assets.settings import load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import lake_place
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.ingestion.test_any_order import outcome
from churn_assets_tests.rounds import rounds
from churn_assets_tests.warehouse.processes import process

KILLS = rounds(200)
CHUNK_MESSAGES = 40
BOUNDARIES = (
    "while reading",
    "before the write",
    "mid-write",
    "between data and offsets",
    "before commit",
    "during commit",
    "after commit",
    "before the Kafka commit",
    "during the Kafka commit",
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_soon(luck: random.Random, most_seconds: float) -> None:
    """Die a moment from now, wherever the process is then."""
    seconds = luck.uniform(0, most_seconds)
    threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()


class FatalCursor:
    """A cursor that kills its process at a boundary of the transaction."""

    def __init__(self, cursor: Any, boundary: str, luck: random.Random) -> None:
        self._cursor, self._boundary, self._luck = cursor, boundary, luck
        self._statements_left = luck.randrange(1, 8)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def begin(self) -> None:
        self._cursor.begin()
        if self._boundary == "before the write":
            die()

    def execute(self, sql: str, *parameters: Any) -> Any:
        result = self._cursor.execute(sql, *parameters)
        self._statements_left -= 1
        # The offsets move first, so this is after the offsets and before the first row.
        if self._boundary == "between data and offsets" and sql.startswith("INSERT INTO ingest_ranges"):
            die()
        if self._boundary == "mid-write" and not self._statements_left:
            die()
        return result

    def commit(self) -> None:
        if self._boundary == "before commit":
            die()
        if self._boundary == "during commit":
            die_soon(self._luck, 0.03)
        self._cursor.commit()
        if self._boundary == "after commit":
            die()


def ingest_and_die(connection: Connection, home: Path, boundary: str, number: int) -> None:
    """Ingest all that waits, in small chunks, and die at the boundary in one of the first of them."""
    luck = random.Random(number)
    kafka.INGEST_CHUNK_MESSAGES = CHUNK_MESSAGES
    settings = load_settings(CHURN_HOME=home)
    lake, cluster = LakeWarehouse(lake_place(settings)), kafka.connect(settings)
    ranges = [lag.waiting for lag in lags(lake, cluster, settings.topics)]
    transactions_left = luck.randrange(1, 3)
    whole_cursor, tell = LakeWarehouse._turn_to_write, Cluster.commit_group

    @contextmanager
    def turn(self: LakeWarehouse):
        nonlocal transactions_left
        transactions_left -= 1
        with whole_cursor(self):
            yield

    original_cursor = LakeWarehouse._cursor

    @contextmanager
    def cursor(self: LakeWarehouse, staged: Any = None):
        with original_cursor(self, staged) as opened:
            yield FatalCursor(opened, boundary, luck) if transactions_left == 0 else opened

    def commit_group(self: Cluster, group: str, offsets: Any, warehouse_id: str) -> None:
        if boundary == "before the Kafka commit":
            die()
        if boundary == "during the Kafka commit":
            die_soon(luck, 0.01)
        tell(self, group, offsets, warehouse_id)
        time.sleep(0.02)

    LakeWarehouse._turn_to_write, LakeWarehouse._cursor = turn, cursor  # type: ignore[method-assign]
    Cluster.commit_group = commit_group  # type: ignore[method-assign]
    if boundary == "while reading":
        die_soon(luck, 0.2)
    ingest(lake, cluster, ranges, on_gap="fail", group="g", clock=utc_now, report=lambda _: None)
    connection.send("survived")


def random_events(luck: random.Random, count: int) -> list[bytes]:
    """Events with retries, contradictions, late states and poison among them."""
    events: list[bytes] = []
    for _ in range(count):
        kind = luck.random()
        if kind < 0.7:
            amount = luck.choice([5.0, 5.0, 5.0, 6.0])
            events.append(message("TXN", transaction_ref=f"T{luck.randrange(40_000)}", amount=amount))
        elif kind < 0.8:
            events.append(message("LOG", log_id=f"L{luck.randrange(3_000)}"))
        elif kind < 0.9:
            day = luck.randrange(1, 28)
            events.append(message("USER", customer_id=f"C{luck.randrange(50)}", updated_at=f"2026-03-{day:02d}"))
        else:
            events.append(luck.choice([b"poison %d" % luck.randrange(9), message("TXN", amount="much"), b"{}"]))
    return events


@pytest.mark.slow
@pytest.mark.in_home
def test_many_kills_change_nothing_that_is_stored(stream: Stream, settings, tmp_path: Path):
    shutil.copytree(settings.home, tmp_path / "undisturbed")
    luck = random.Random(3)
    died: dict[str, int] = dict.fromkeys(BOUNDARIES, 0)
    number = 0
    while sum(died.values()) < KILLS:
        number += 1
        assert number < 2 * KILLS, died
        boundary = BOUNDARIES[number % len(BOUNDARIES)]
        # The boundaries around the Kafka commit come after the last chunk.
        few = "Kafka" in boundary
        if sum(map(len, stream.waiting())) < 3 * CHUNK_MESSAGES:
            stream.send(random_events(luck, CHUNK_MESSAGES if few else 4 * CHUNK_MESSAGES))
        with process(ingest_and_die, settings.home, boundary, number) as (child, _):
            child.join(60)
            died[boundary] += child.exitcode == -signal.SIGKILL
        assert not broken_ranges(stream.lake), boundary

    stream.ingest()
    undisturbed = Stream(stream.cluster, stream.topic, LakeWarehouse(tmp_path / "undisturbed" / "lake"), {})
    undisturbed.ingest()

    assert min(died.values()) >= KILLS // (2 * len(BOUNDARIES)), died
    assert outcome(stream.lake) == outcome(undisturbed.lake)
    assert stream.committed() == stream.high_watermarks()
