"""How well the catalogue's entries, and what an event says itself, answer a question.

The score is the share of the question's words that a text has, each word weighted by how rare it is among the entries
(the inverse document frequency of BM25, with k1 = 0: how often a text repeats a word, and how long it is, says nothing
here). So it lies within 0 and 1, and an event's own words can be compared with the catalogue's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from churn_assets.search.catalogue import case_title, load_case_categories, load_error_codes
from churn_assets.search.words import MAX_WORDS, words

# What a word is worth by where it stands.
TITLE, DESCRIPTION, CIRCUMSTANCE, SAID = 1.0, 0.6, 0.5, 0.9


@dataclass(frozen=True)
class Entry:
    """What the catalogue says of one error code or of one category of cases."""

    title: str
    description: str
    words: str

    @cached_property
    def weights(self) -> dict[str, float]:
        """What each of its words is worth."""
        weak = dict.fromkeys(words(self.description), DESCRIPTION)
        return {**weak, **dict.fromkeys([*words(self.title), *words(self.words)], TITLE)}


class Catalogue:
    """The entries by kind ('error', 'case') and code."""

    def __init__(self, entries: Mapping[tuple[str, str], Entry]) -> None:
        self.entries = dict(entries)
        self._having: dict[str, int] = {}
        for entry in self.entries.values():
            for word in entry.weights:
                self._having[word] = self._having.get(word, 0) + 1

    def entry(self, kind: str, code: str) -> Entry:
        """What is known of a code or category; of one that is not in the catalogue, its own name."""
        if found := self.entries.get((kind, code)):
            return found
        if kind == "case":
            return Entry(case_title(code), "", "")
        return Entry(code, "An error that the catalogue does not know.", "")

    def rarity(self, word: str) -> float:
        """The inverse document frequency of a word among the entries."""
        having = self._having.get(word, 0)
        return math.log(1 + (len(self.entries) - having + 0.5) / (having + 0.5))


class Question:
    """What is asked, as weighted words."""

    def __init__(self, text: str, catalogue: Catalogue) -> None:
        rarity = {word: catalogue.rarity(word) for word in list(dict.fromkeys(words(text)))[:MAX_WORDS]}
        total = sum(rarity.values())
        self.shares = {word: one / total for word, one in rarity.items()}

    def answered_by(self, *weights: Mapping[str, float]) -> float:
        """The share of the question that texts with these weights of words answer, within 0 and 1."""
        return sum(share * max(text.get(word, 0.0) for text in weights) for word, share in self.shares.items())


def weighted(text: str, weight: float) -> dict[str, float]:
    """The words of a text, all worth the same."""
    return dict.fromkeys(words(text), weight)


def load_catalogue() -> Catalogue:
    """The catalogue of the project."""
    return Catalogue(
        {
            **{
                ("error", code.error_code): Entry(code.title, code.description, code.words)
                for code in load_error_codes()
            },
            **{("case", case.category): Entry(case.title, "", case.words) for case in load_case_categories()},
        }
    )
