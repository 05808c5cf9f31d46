"""The ingest process killed with SIGKILL at every boundary of its transactions in Snowflake, again and again, over one stream.

The account is the emulator, in a process that outlives the killed ones: it rolls back what they had begun, as Snowflake does.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse import snowflake as on_snowflake
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.snowflake import SnowflakeWarehouse
from churn_assets_tests.ingestion.conftest import Stream
from churn_assets_tests.ingestion.test_any_order import outcome
from churn_assets_tests.ingestion.test_crashes import random_events
from churn_assets_tests.rounds import rounds
from churn_assets_tests.snowflake.emulator.process import RunningEmulator, running
from churn_assets_tests.warehouse.processes import FORKS, preload

pytestmark = [pytest.mark.emulator, pytest.mark.slow]

KILLS, CHUNK_MESSAGES = rounds(40), 40
BOUNDARIES = (
    "before the file is put",
    "after the file is put",
    "after BEGIN",
    "with the turn taken",
    "between data and offsets",
    "mid-write",
    "before COMMIT",
    "after COMMIT",
)


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    """An emulator that soon gives up the transaction of a client that is gone."""
    with running("--idle", "0.3") as emulator:
        yield emulator


def ingest_and_die(environment: dict[str, str], home: Path, boundary: str, number: int) -> None:
    """Ingest all that waits, in small chunks, and die at the boundary in one of the first of them."""
    luck = random.Random(number)
    kafka.INGEST_CHUNK_MESSAGES = CHUNK_MESSAGES  # type: ignore[misc]
    transactions_left, statements_left = luck.randrange(1, 3), luck.randrange(1, 8)
    execute = on_snowflake._Session.execute

    def die_if(reached: str) -> None:
        if not transactions_left and boundary == reached:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute_or_die(self: Any, sql: str, *arguments: Any, **options: Any) -> int:
        nonlocal transactions_left, statements_left
        if sql.startswith("CREATE OR REPLACE TEMPORARY TABLE staged_rejects"):
            transactions_left -= 1  # the last table that is made before a transaction
        if sql.startswith("PUT"):
            die_if("before the file is put")
        if sql == "COMMIT":
            die_if("before COMMIT")
        changed = execute(self, sql, *arguments, **options)
        if sql.startswith("PUT"):
            die_if("after the file is put")
        elif sql == "BEGIN":
            die_if("after BEGIN")
        elif sql.startswith("UPDATE write_turn"):
            die_if("with the turn taken")
        elif sql.startswith("INSERT INTO ingest_ranges"):
            die_if("between data and offsets")
        elif sql == "COMMIT":
            die_if("after COMMIT")
        elif sql.startswith(("COPY", "INSERT", "MERGE", "UPDATE")):
            statements_left -= not transactions_left
            if not statements_left:
                die_if("mid-write")
        return changed

    on_snowflake._Session.execute = execute_or_die  # type: ignore[method-assign]
    settings = load_settings(CHURN_HOME=home, CHURN_TOPICS=EVENTS_TOPIC, **environment)
    warehouse, cluster = SnowflakeWarehouse(settings), kafka.connect(settings)
    ranges = [lag.waiting for lag in lags(warehouse, cluster, settings.topics)]
    ingest(warehouse, cluster, ranges, on_gap="fail", group="g", clock=utc_now, report=lambda _: None)


def test_many_kills_change_nothing_that_is_stored(
    emulator: RunningEmulator, tables: Settings, settings: Settings, lake: LakeWarehouse
):
    preload("churn_assets_tests.snowflake.test_kills", "dagster_snowflake")
    luck, died, number = random.Random(3), Counter[str](), 0
    warehouse = SnowflakeWarehouse(tables)
    with embedded_broker(tables.broker_file) as cluster:
        stream = Stream(cluster, EVENTS_TOPIC, warehouse, {})
        while died.total() < KILLS:
            assert number < 2 * KILLS, died
            boundary = BOUNDARIES[number % len(BOUNDARIES)]
            number += 1
            if sum(map(len, stream.waiting())) < 3 * CHUNK_MESSAGES:
                stream.send(random_events(luck, 4 * CHUNK_MESSAGES))
            child = FORKS.Process(target=ingest_and_die, args=(emulator.environment(), tables.home, boundary, number))
            child.start()
            child.join(60)
            died[boundary] += child.exitcode == -signal.SIGKILL
            assert child.exitcode in (0, -signal.SIGKILL), boundary
            assert not broken_ranges(warehouse), boundary
        stream.ingest()
        undisturbed = Stream(cluster, EVENTS_TOPIC, lake, {})
        undisturbed.ingest()

        assert min(died[boundary] for boundary in BOUNDARIES) >= KILLS // (2 * len(BOUNDARIES)), died
        assert outcome(warehouse) == outcome(lake)
        assert stream.committed() == stream.high_watermarks()
