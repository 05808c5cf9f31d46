"""A run that lives on is killed at random moments: nothing lost, nothing doubled, nobody forgotten, nobody twice."""

import random
import time
from pathlib import Path

import pytest

from churn_assets.ingestion.kafka import Cluster
from churn_assets.settings import Settings
from churn_assets.simulator.live import LiveBank
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.assets.conftest import live_bank, seeded_home
from churn_assets_tests.killing import Rehearsal, Stream, all_is_as_if_nothing_had_died, box, luck
from churn_assets_tests.retention.post import Mailbox
from churn_assets_tests.rounds import rounds
from churn_assets_tests.warehouse.processes import preload

__all__ = ["box", "live_bank", "luck", "seeded_home"]

pytestmark = pytest.mark.slow


def test_a_run_that_lives_on_may_be_killed_at_any_moment(
    live_bank: LiveBank,
    lake: LakeWarehouse,
    broker: Cluster,
    box: Mailbox,
    settings: Settings,
    luck: random.Random,
    tmp_path: Path,
):
    preload("churn_assets_tests.killing")
    stream, rehearsal = Stream(lake, broker, luck), Rehearsal(luck)

    for _ in range(rounds(200)):
        process = rehearsal.start("stream_events", 60.0)
        end = time.monotonic() + luck.uniform(0, 4)
        while time.monotonic() < end:
            stream.send()
            time.sleep(luck.uniform(0, 0.5))
        assert process.exitcode is None
        process.kill()
        process.join()

    all_is_as_if_nothing_had_died(stream, lake, broker, box, settings, tmp_path)
