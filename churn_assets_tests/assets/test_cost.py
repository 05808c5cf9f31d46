"""What the days cost: the count of tokens on the lake, credits where a warehouse tells of them, and when it is counted."""

import base64
import re
from datetime import date, timedelta
from io import BytesIO
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from churn_assets.assets.cost import daily_cost
from churn_assets.clock import utc_now
from churn_assets.retention.tokens import Tokens, tokens_by_day
from churn_assets.rules import COST_DAYS
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Credits
from churn_assets_tests.assets.conftest import Graph

TODAY = utc_now().date()
YESTERDAY = TODAY - timedelta(days=1)


@pytest.fixture
def lake_with_emails(lake: LakeWarehouse) -> LakeWarehouse:
    """Three emails by two models on two days, one of the template, and one of long ago."""
    lines = [
        (TODAY, "llama3", 100, 20), (TODAY, "llama3", 50, 10), (YESTERDAY, "gpt", 7, 1), (TODAY, "template", 0, 0),
        (TODAY, None, None, None), (TODAY - timedelta(days=COST_DAYS), "llama3", 1000, 1),
    ]  # fmt: skip

    def fill(tx) -> None:
        for number, (day, model, prompt, completion) in enumerate(lines):
            tx.execute(
                "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
                " model, prompt_tokens, completion_tokens, partition_day) VALUES (?, ?, 1, ?, 'READY', 'prediction', ?, ?, ?, ?)",
                [f"I{number}", f"C{number}", utc_now(), model, prompt, completion, day],
            )

    lake.transact(fill)
    return lake


def cost(warehouse: Any) -> dict[str, Any]:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [daily_cost, dg.AssetSpec("retention_emails")],
            instance=instance,
            resources={"warehouse": warehouse},
            selection=[daily_cost],
        )
        return dict(result.asset_materializations_for_node("daily_cost")[0].metadata)


def picture(metadata: dict[str, Any]) -> Image.Image:
    found = re.search(r"base64,([^)]*)", metadata["plot"].value)
    assert found
    return Image.open(BytesIO(base64.b64decode(found[1])))


def test_tokens_are_counted_by_day_and_model(lake_with_emails: LakeWarehouse):
    assert tokens_by_day(lake_with_emails, TODAY - timedelta(days=COST_DAYS - 1)) == [
        Tokens(YESTERDAY, "gpt", 1, 8),
        Tokens(TODAY, "llama3", 2, 180),
    ]


def test_the_lake_bills_no_credits(lake: LakeWarehouse):
    assert lake.credits(date(2026, 1, 1)) == []


def test_the_asset_shows_the_days_the_sum_and_a_picture_that_stays_small(lake_with_emails: LakeWarehouse):
    metadata = cost(lake_with_emails)

    assert (metadata["tokens"].value, metadata["tokens_today"].value, metadata["credits"].value) == (188, 180, 0.0)
    assert [(line.data["day"], line.data["what"], line.data["tokens"]) for line in metadata["days"].records] == [
        (TODAY.isoformat(), "llama3", 180),
        (YESTERDAY.isoformat(), "gpt", 8),
    ]
    assert metadata["plot"].value.endswith("188 tokens in 30 days.")
    assert picture(metadata).height < 300
    assert len(metadata["plot"].value) < 60_000


def test_credits_stand_below_tokens_where_the_warehouse_bills_them(
    lake_with_emails: LakeWarehouse, monkeypatch: pytest.MonkeyPatch
):
    billed = [
        Credits(YESTERDAY, "warehouse", 1.5),
        Credits(TODAY, "AI functions", 0.25),
        Credits(TODAY, "warehouse", 1),
    ]
    monkeypatch.setattr(LakeWarehouse, "credits", lambda self, since: billed)

    metadata = cost(lake_with_emails)

    assert metadata["credits"].value == 2.75
    assert [line.data["credits"] for line in metadata["days"].records] == [1, None, 0.25, 1.5, None]
    assert metadata["plot"].value.endswith("188 tokens and 2.75 credits in 30 days.")
    assert picture(metadata).height > 400


def test_without_any_cost_the_asset_says_so(lake: LakeWarehouse):
    assert cost(lake)["plot"].value == "0 tokens in 30 days."


def test_it_is_counted_once_a_day_while_something_is_written(graph: Graph, live_bank):
    graph.lake.refresh(["customer_day"], utc_now())

    assert graph.tick("cost_sensor").run_requests
    assert graph.run("count_cost").success
    assert "a short while ago" in (graph.tick("cost_sensor").skip_message or "")
