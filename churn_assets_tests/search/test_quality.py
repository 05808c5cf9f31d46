"""That the shipped questions find what answers them. Who is quicker and by how much is `benchmarks/search.py`'s affair."""

from datetime import datetime

import pytest

from churn_assets.search import vectors
from churn_assets.search.embedded import EmbeddedSearch
from churn_assets.search.hits import Filters
from churn_assets.search.index import LogIndex
from churn_assets.search.relevance import Catalogue, load_catalogue
from churn_assets.settings import Settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.search.quality import TOP, Quality, code_of, load_questions, quality

NOW = datetime.fromisoformat("2026-03-01T12:00:00")
# By what is compared: recall and nDCG that each part of the questions must reach.
LEAST = {
    "words": {"tuned": Quality(0.97, 0.98), "held_out": Quality(0.88, 0.84)},
    "words and meanings": {"tuned": Quality(0.97, 0.98), "held_out": Quality(0.95, 0.89)},
}


@pytest.fixture
def seeded(lake: LakeWarehouse) -> LakeWarehouse:
    """A bank of 500 customers, with some hundred errors and cases of every kind."""
    seed(lake, new_bank(500, 60, 1, NOW), NOW, lambda ledger, rows: None)
    return lake


def test_there_are_at_least_forty_questions_and_no_one_twice():
    asked = [one.query for part in load_questions().values() for one in part]

    assert len(set(asked)) == len(asked) >= 40


@pytest.mark.parametrize("compared", LEAST)
def test_the_shipped_questions_find_what_answers_them(seeded: LakeWarehouse, settings: Settings, compared: str):
    if compared != "words" and not vectors.is_installed():
        pytest.skip("no language model is installed (the extra `embeddings`)")
    catalogue = load_catalogue(settings.search_path)
    index = LogIndex(settings.search_path, seeded)
    index.update()
    search = EmbeddedSearch(
        index, seeded, Catalogue(catalogue.entries) if compared == "words" else catalogue, "DATA_ENGINEER"
    )

    for part, asked in load_questions().items():
        reached = quality(asked, lambda query: [code_of(hit) for hit in search.search(query, Filters(), TOP)])
        least = LEAST[compared][part]
        assert reached.recall >= least.recall, (part, reached)
        assert reached.ndcg >= least.ndcg, (part, reached)
