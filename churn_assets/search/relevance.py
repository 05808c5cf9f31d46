"""How well the catalogue's entries, and what an event says itself, answer a question.

The score is the share of the question's words that a text has, each word weighted by how rare it is among the entries
(the inverse document frequency of BM25, with k1 = 0: how often a text repeats a word, and how long it is, says nothing
here). So it lies within 0 and 1, and an event's own words can be compared with the catalogue's.

Where a language model is installed, the score is seven parts of that and three of the cosine of question and entry: a convex
combination, which keeps how good a match is, where fusing ranks forgets it (Bruch, Gai, Ingber: An Analysis of Fusion
Functions for Hybrid Retrieval, ACM TOIS 42, 2023).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from churn_assets.search import vectors
from churn_assets.search.catalogue import case_title, load_case_categories, load_error_codes
from churn_assets.search.vectors import Vectors
from churn_assets.search.words import MAX_TEXT, MAX_WORDS, clean, words

MEANING = 0.3  # what the cosine counts for, where there is a model
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
    """The entries by kind ('error', 'case') and code; with `kept`, the file of their vectors, meanings are compared too."""

    def __init__(self, entries: Mapping[tuple[str, str], Entry], kept: Path | None = None) -> None:
        self.entries = dict(entries)
        self._kept = kept
        self._vectors: Vectors | None = None
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

    def closeness(self, text: str) -> dict[tuple[str, str], float] | None:
        """How close the meaning of a text is to each entry's, within 0 and 1; None where only words are compared."""
        if self._kept is None:
            return None
        cosines = self._meanings(self._kept) @ vectors.vectors([text])[0]
        return {key: max(0.0, float(cosine)) for key, cosine in zip(self.entries, cosines, strict=True)}

    def _meanings(self, kept: Path) -> Vectors:
        if self._vectors is None:
            texts = [f"{entry.title}. {entry.description} {entry.words}" for entry in self.entries.values()]
            self._vectors = vectors.kept_vectors(texts, kept)
        return self._vectors


class Question:
    """What is asked: weighted words and, with a model, a meaning."""

    def __init__(self, text: str, catalogue: Catalogue) -> None:
        rarity = {word: catalogue.rarity(word) for word in list(dict.fromkeys(words(text)))[:MAX_WORDS]}
        total = sum(rarity.values())
        self.shares = {word: one / total for word, one in rarity.items()}
        self._closeness = catalogue.closeness(clean(text[:MAX_TEXT])) if rarity else None

    def answered_by(self, kind: str, code: str, *weights: Mapping[str, float]) -> float:
        """How well an event of this code or category, whose texts have these weights of words, answers: within 0 and 1."""
        by_words = sum(share * max(text.get(word, 0.0) for text in weights) for word, share in self.shares.items())
        if self._closeness is None:
            return by_words
        return (1 - MEANING) * by_words + MEANING * self._closeness.get((kind, code), 0.0)


def weighted(text: str, weight: float) -> dict[str, float]:
    """The words of a text, all worth the same."""
    return dict.fromkeys(words(text), weight)


def load_catalogue(folder: Path) -> Catalogue:
    """The catalogue of the project; where a language model is installed, its vectors are kept in `folder`."""
    return Catalogue(
        {
            **{
                ("error", code.error_code): Entry(code.title, code.description, code.words)
                for code in load_error_codes()
            },
            **{("case", case.category): Entry(case.title, "", case.words) for case in load_case_categories()},
        },
        folder / "vectors.npz" if vectors.is_installed() else None,
    )
