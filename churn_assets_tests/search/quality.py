"""How good a ranking is: what is counted for the shipped questions, by the test and by the benchmark."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from churn_assets.search.hits import Hit

TOP = 10


@dataclass(frozen=True)
class Asked:
    """A question, and the error codes and categories that answer it."""

    query: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class Quality:
    """Means over questions. `recall` is the share of the relevant codes among the first ten hits, `ndcg` the normalised
    discounted cumulative gain of these hits, of which each counts whose code is relevant."""

    recall: float
    ndcg: float


def load_questions() -> dict[str, list[Asked]]:
    """The shipped questions, by whether the catalogue was tuned on them."""
    found = yaml.safe_load(Path(__file__).with_name("queries.yaml").read_text())
    return {
        part: [Asked(one["query"], frozenset(one["relevant"])) for one in questions]
        for part, questions in found.items()
    }


def quality(questions: Iterable[Asked], codes_of: Callable[[str], list[str]]) -> Quality:
    """How well `codes_of` a question, those of its hits in order, are the relevant ones."""
    ideal = sum(_gain(rank) for rank in range(TOP))
    recalls, gains = list[float](), list[float]()
    for asked in questions:
        codes = codes_of(asked.query)[:TOP]
        recalls.append(len(asked.relevant & set(codes)) / len(asked.relevant))
        gains.append(sum(_gain(rank) for rank, code in enumerate(codes) if code in asked.relevant) / ideal)
    return Quality(sum(recalls) / len(recalls), sum(gains) / len(gains))


def code_of(hit: Hit) -> str:
    """The error code or the category of a hit."""
    return hit.error_code or hit.title.removeprefix("Support case about ").replace(" ", "_").upper()


def _gain(rank: int) -> float:
    return 1 / math.log2(rank + 2)
