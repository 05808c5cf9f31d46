"""Jobs that are killed at random moments, two at a time: nothing lost, nothing doubled, nobody forgotten, nobody twice."""

import random
from pathlib import Path

import pytest

from churn_assets.ingestion.kafka import Cluster
from churn_assets.settings import Settings
from churn_assets.simulator.live import LiveBank
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.assets.conftest import live_bank, seeded_home
from churn_assets_tests.killing import JOBS, Rehearsal, Stream, all_is_as_if_nothing_had_died, box, luck
from churn_assets_tests.retention.post import Mailbox
from churn_assets_tests.rounds import rounds
from churn_assets_tests.warehouse.processes import preload

__all__ = ["box", "live_bank", "luck", "seeded_home"]

pytestmark = pytest.mark.slow

KILLS = rounds(300)


def test_after_any_kills_all_is_as_if_nothing_had_died(
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

    while rehearsal.killed.total() < KILLS:
        stream.send()
        rehearsal.start_and_kill(luck.sample(JOBS, 2))
    print(f"killed: {dict(rehearsal.killed)}")  # noqa: T201

    all_is_as_if_nothing_had_died(stream, lake, broker, box, settings, tmp_path)
