"""`churn gaps`: what is missing is listed, resolved and remembered."""

import json

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import gaps
from churn_assets.ingestion.commit import committed_offsets
from churn_assets.ingestion.gaps import Gap, Kind
from churn_assets.ingestion.kafka import Partition
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.cli.conftest import Churn

FIRST, SECOND = (Partition("cluster/topic", "bank", number) for number in (0, 1))


@pytest.fixture
def lake_with_two_gaps(lake: LakeWarehouse) -> LakeWarehouse:
    gaps.keep(lake, [Gap(FIRST, Kind.DELETED, 0, 60), Gap(SECOND, Kind.CREATED_AGAIN, 7, None)], utc_now())
    gaps.keep(lake, [Gap(FIRST, Kind.DELETED, 0, 80)], utc_now())  # one of a partition is enough
    return lake


def test_gaps_are_listed_resolved_one_by_one_and_remembered(lake_with_two_gaps: LakeWarehouse, churn: Churn):
    listed = json.loads(churn("gaps", "--json").out)
    assert [(each["partition"], each["kind"], each["start"], each["end"]) for each in listed] == [
        (0, "DELETED", 0, 60),
        (1, "CREATED_AGAIN", 7, None),
    ]

    assert churn("gaps", "resolve", "bank", "0", "--because", "an hour of retention").out == (
        "bank[0]: goes on at 60 without them\n"
    )
    assert committed_offsets(lake_with_two_gaps) == {FIRST: 60}
    assert [each["partition"] for each in json.loads(churn("gaps", "--json").out)] == [1]

    churn("gaps", "resolve", "--all")
    assert churn("gaps").out == "no open gaps\n"
    [first, second] = json.loads(churn("gaps", "--all", "--json").out)
    assert (first["reason"], second["reason"]) == ("an hour of retention", None)
    assert first["resolved_by"] == second["resolved_by"]


def test_resolving_what_is_not_open_or_not_named_is_an_error(lake_with_two_gaps: LakeWarehouse, churn: Churn):
    assert "no such gap is open" in churn("gaps", "resolve", "bank", "5").err
    wrong = churn("gaps", "resolve")
    assert wrong.code == 2
    assert "name a topic, or --all" in wrong.err
