"""Find the verified query that answers a question, without a language model.

Here belongs the matching. It prefers no answer to the answer to a different question. Every word of the question must be
empty or occur in the verified question, so it never ignores a segment, a date, a number or a negation that the verified query
does not have. And the question must have every word that narrows the verified question. Only the phrasing may differ;
`phrasings.yaml` lists other phrasings.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from churn_assets.analyst.semantic_model import SemanticModel, VerifiedQuery

PHRASINGS_FILE = Path(__file__).with_name("phrasings.yaml")
THRESHOLD, MARGIN = 0.75, 0.1
NEAREST = 5
_MAX_CHARACTERS = 300
# Words for the form of the answer, or for its subject if that is always the same; a question may leave them out.
_LIGHT = frozenset(("customer", "how much", "hold", "got", "begun", "take", "written", "use"))
# Words that have a meaning only together with the next word: "no email", "each segment", "instead of the template".
_BINDING = frozenset(("no", "each", "which", "share", "how many", "instead", "than", "keep"))
_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "fourteen": "14", "fifteen": "15", "twenty": "20",
    "thirty": "30", "fifty": "50", "hundred": "100", "thousand": "1000", "million": "1000000",
}  # fmt: skip


class _Phrasings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    empty_words: str
    same_words: dict[str, str]
    phrasings: dict[str, list[str]]


@dataclass(frozen=True)
class Match:
    """A verified query and the confidence (0 to 1) that it answers the question."""

    query: VerifiedQuery
    confidence: float


@dataclass(frozen=True)
class Taken:
    """The query that answers a question, or None, and the nearest queries, best first."""

    answer: Match | None
    nearest: list[Match]


class Questions:
    """The verified queries of a model, matched by their words."""

    def __init__(self, model: SemanticModel, path: Path = PHRASINGS_FILE) -> None:
        self._model = model
        self._phrasings = _Phrasings.model_validate(yaml.safe_load(path.read_text()))
        if unknown := self._phrasings.phrasings.keys() - {query.name for query in model.verified_queries}:
            raise ValueError(f"{path.name}: there is no verified query {min(unknown)}")

    def take(self, question: str) -> Taken:
        """Find the verified query that answers a question, if there is one."""
        asked = self._words(question) if len(question) <= _MAX_CHARACTERS else frozenset[str]()
        matches = [Match(query, self._confidence(asked, query)) for query in self._model.verified_queries]
        matches.sort(key=lambda match: -match.confidence)  # stable: equal ones stay in the model's order
        best, second = matches[0], matches[1]
        is_sure = best.confidence >= THRESHOLD and best.confidence - second.confidence >= MARGIN
        return Taken(best if is_sure else None, matches[:NEAREST])

    def _confidence(self, asked: frozenset[str], query: VerifiedQuery) -> float:
        return max(_agreement(asked, words) for words in self._asked_by[query.name])

    @cached_property
    def _asked_by(self) -> dict[str, list[frozenset[str]]]:
        others = self._phrasings.phrasings
        return {
            query.name: [self._words(text) for text in (query.question, *others.get(query.name, []))]
            for query in self._model.verified_queries
        }

    @cached_property
    def _empty(self) -> frozenset[str]:
        return frozenset(_stems(self._phrasings.empty_words))

    @cached_property
    def _same(self) -> list[tuple[list[str], list[str]]]:
        """Runs of words with their replacements, long runs first."""
        read = [(_stems(words), _stems(meaning)) for words, meaning in self._phrasings.same_words.items()]
        for column in (column for table in self._model.tables for column in table.columns):
            meaning = _stems(re.sub("_count|_30d", "", column.name).replace("_", " "))
            # "spend" for total_spend adds nothing.
            read += [(words, meaning) for words in map(_stems, column.synonyms) if not set(words) < set(meaning)]
        return sorted(read, key=lambda pair: -len(pair[0]))

    def _words(self, text: str) -> frozenset[str]:
        words = _stems(text)
        for _ in range(2):  # a replacement may complete another run
            words = self._replaced(words)
        return frozenset(_bound(words, self._empty))

    def _replaced(self, words: list[str]) -> list[str]:
        replaced: list[str] = []
        at = 0
        while at < len(words):
            for run, as_ in self._same:
                if words[at : at + len(run)] == run:
                    replaced += as_
                    at += len(run)
                    break
            else:
                replaced.append(words[at])
                at += 1
        return replaced


def _agreement(asked: frozenset[str], verified: frozenset[str]) -> float:
    """The share of words that two sets have in common; at most half the threshold if they ask for different things."""
    if not asked:
        return 0.0
    share = _weight(asked & verified) / _weight(asked | verified)
    differs = asked - verified or any(word not in _LIGHT for word in verified - asked)
    return share * THRESHOLD / 2 if differs else share


def _weight(words: Iterable[str]) -> int:
    return sum(1 if word in _LIGHT else 3 for word in words)


def _stems(text: str) -> list[str]:
    """The words of a text in lower case and singular, with numbers as digits; every other sign is a word of its own."""
    plain = text.lower().replace("’", "'").replace("n't", " not").replace("'s", "")
    found: list[str] = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d]+|[^\w\s]", plain)
    return [_stem(_NUMBERS.get(word, word)) for word in found if word not in {"?", ".", ",", "!", "'", '"', "-", ":"}]


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _bound(words: list[str], empty: frozenset[str]) -> list[str]:
    """The words without empty ones; a binding word is joined with the next word."""
    kept: list[str] = []
    for place, word in enumerate(words):
        if word in {"many", "much"} and place and words[place - 1] == "how":
            kept[-1] = f"how {word}"
        elif word not in empty:
            is_bound = bool(kept) and kept[-1] in _BINDING and word not in _BINDING and word != "how"
            kept[-1:] = [f"{kept[-1]} {word}"] if is_bound else [*kept[-1:], word]
    return kept
