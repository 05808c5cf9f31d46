"""Which part of a text answers a question best: a long text is scored by it, and every hit shows it.

Here belongs cutting a text into pieces and choosing among them. Callers give the words of the question with their weights, and
the function that splits a text into such words.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

MAX_PASSAGE = 300  # characters
_MAX_PIECE = 150  # a longer sentence is cut, so that a passage can begin close to what it shows
_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+|[\r\n]+")


@dataclass(frozen=True)
class Passage:
    """A part of a text, with … where the text goes on, and those words of the question that it has."""

    text: str
    words: frozenset[str]


def best_passage(text: str, shares: Mapping[str, float], words_of: Callable[[str], Iterable[str]]) -> Passage:
    """The part of a text that has most of a question's words by weight, the first one among equals; else its beginning."""
    pieces = _pieces(text)
    found = [shares.keys() & set(words_of(piece)) for piece in pieces]
    starts = [place for place, words in enumerate(found) if words] or [0]
    best, at, end = frozenset[str](), 0, 0
    for start in starts:
        words, stop = _window(pieces, found, start)
        if end == 0 or _weight(words, shares) > _weight(best, shares) + 1e-12:
            best, at, end = words, start, stop
    room = MAX_PASSAGE - sum(1 + len(piece) for piece in pieces[at:end])
    while at and (room := room - 1 - len(pieces[at - 1])) >= 0:
        at -= 1
    before, after = "… " if at else "", " …" if end < len(pieces) else ""
    return Passage(f"{before}{' '.join(pieces[at:end])}{after}", best)


def _pieces(text: str) -> list[str]:
    sentences = (sentence.strip() for sentence in _END_OF_SENTENCE.split(text))
    return [
        piece
        for sentence in sentences
        if sentence
        for piece in ([sentence] if len(sentence) <= _MAX_PIECE else textwrap.wrap(sentence, _MAX_PIECE))
    ]


def _window(pieces: list[str], found: list[set[str]], start: int) -> tuple[frozenset[str], int]:
    """The words of the pieces from `start` on that fit in a passage, and the place behind the last of them."""
    words, stop, length = set[str](), start, -1
    while stop < len(pieces) and length + 1 + len(pieces[stop]) <= MAX_PASSAGE:
        words |= found[stop]
        length += 1 + len(pieces[stop])
        stop += 1
    return frozenset(words), stop


def _weight(words: Iterable[str], shares: Mapping[str, float]) -> float:
    return sum(shares[word] for word in words)
