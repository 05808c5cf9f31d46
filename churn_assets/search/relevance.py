"""How well the catalogue's entries and an event's own words answer a question.

The score is the share of the question's words that a text contains, each word weighted by its rarity among the entries (the
inverse document frequency of BM25 with k1 = 0, as repetitions and the length of a text say nothing here). So it lies between
0 and 1, and scores of an event's own words are comparable with those of the catalogue.

If an embedding model is installed, the score is 0.7 times that plus 0.3 times the cosine of question and entry. A convex
combination keeps the quality of a match, which the fusion of ranks loses (Bruch, Gai, Ingber: An Analysis of Fusion Functions
for Hybrid Retrieval, ACM TOIS 42, 2023).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from churn_assets.search import vectors
from churn_assets.search.catalogue import case_title, load_case_categories, load_error_codes
from churn_assets.search.passages import Passage, best_passage
from churn_assets.search.vectors import Vectors
from churn_assets.search.words import MAX_TEXT, MAX_WORDS, clean, words

MEANING = 0.3  # weight of the cosine, if a model is installed
# The weight of a word by its place.
TITLE, DESCRIPTION, CIRCUMSTANCE = 1.0, 0.6, 0.5
# Words of an event's own that stand together, in one passage, say more than those that are spread over a long text.
SAID, SAID_ELSEWHERE = 0.9, 0.5


@dataclass(frozen=True)
class Entry:
    """The catalogue's entry for one error code or one category of cases."""

    title: str
    description: str
    words: str

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weight of each of its words."""
        weak = dict.fromkeys(words(self.description), DESCRIPTION)
        return {**weak, **dict.fromkeys([*words(self.title), *words(self.words)], TITLE)}


class Catalogue:
    """The entries by kind ('error', 'case') and code. With `kept`, the file of their vectors, meanings are compared too."""

    def __init__(self, entries: Mapping[tuple[str, str], Entry], kept: Path | None = None) -> None:
        self.entries = dict(entries)
        self._kept = kept
        self._vectors: Vectors | None = None
        self._having: dict[str, int] = {}
        for entry in self.entries.values():
            for word in entry.weights:
                self._having[word] = self._having.get(word, 0) + 1

    def entry(self, kind: str, code: str) -> Entry:
        """The entry for a code or category; an unknown one gets an entry with its own name."""
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
        """The similarity (0 to 1) of a text's meaning to each entry; None if only words are compared."""
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
    """A question: weighted words and, with a model, a meaning."""

    def __init__(
        self, text: str, catalogue: Catalogue, rarity_in_texts: Callable[[str], float] = lambda _: 1.0
    ) -> None:
        """`rarity_in_texts` of a word is 1 if no event says it, and less the more do. The catalogue alone would take every
        word that it lacks for a rare one."""
        text = text[:MAX_TEXT]
        asked = list(dict.fromkeys(words(text)))[:MAX_WORDS]
        rarity = {word: min(catalogue.rarity(word), catalogue.rarity("") * rarity_in_texts(word)) for word in asked}
        total = sum(rarity.values())
        self.shares = {word: one / total for word, one in rarity.items()}
        self._closeness = catalogue.closeness(clean(text)) if rarity else None

    def answered_by(self, kind: str, code: str, *weights: Mapping[str, float]) -> float:
        """The score (0 to 1) of an event with this code or category, whose texts have these weights by word."""
        by_words = sum(share * max(text.get(word, 0.0) for text in weights) for word, share in self.shares.items())
        if self._closeness is None:
            return by_words
        return (1 - MEANING) * by_words + MEANING * self._closeness.get((kind, code), 0.0)

    def passage_of(self, text: str) -> Passage:
        """The passage of a text that answers the question best."""
        return best_passage(text, self.shares, words)

    def said_in(self, said: str) -> dict[str, float]:
        """The weights of the question's words in an event's own text."""
        if not said:
            return {}
        elsewhere = dict.fromkeys(self.shares.keys() & set(words(said)), SAID_ELSEWHERE)
        return {**elsewhere, **dict.fromkeys(self.passage_of(said).words, SAID)} if elsewhere else {}


def weighted(text: str, weight: float) -> dict[str, float]:
    """The words of a text, all with the same weight."""
    return dict.fromkeys(words(text), weight)


def load_catalogue(folder: Path) -> Catalogue:
    """The project's catalogue; if an embedding model is installed, its vectors are cached in `folder`."""
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
