"""Split texts into the words that a search compares: the same for questions, the catalogue and the texts of events.

Here belong splitting, stop words and stemming. `relevance` weights the words.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tantivy

MAX_TEXT = 1000  # characters of a question; the rest is ignored
MAX_WORDS = 32  # distinct words of a question; the rest are ignored
_LONGEST_WORD = 40  # characters
_APOSTROPHE = re.compile("['’]")
# Words that are common in questions and say nothing about an error, in addition to tantivy's English list.
_STOP_WORDS = Path(__file__).with_name("stop_words.txt")


@cache
def _analyzer() -> "tantivy.TextAnalyzer":
    import tantivy  # noqa: PLC0415  # this module is also imported in Snowflake, which has no tantivy

    filters = tantivy.Filter
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(filters.remove_long(_LONGEST_WORD))
        .filter(filters.lowercase())
        .filter(filters.ascii_fold())
        .filter(filters.custom_stopword(_STOP_WORDS.read_text().split()))
        .filter(filters.stopword("english"))
        .filter(filters.stemmer("english"))
        .build()
    )


def words(text: str) -> list[str]:
    """The words of a text, in order: lower case, stemmed, without accents and stop words."""
    return _analyzer().analyze(_APOSTROPHE.sub("", clean(text)))


def plain_words(text: str) -> list[str]:
    """The words of a text as they are, in lower case: for places that have no tantivy, and only to show what matched."""
    return re.findall(r"\w+", text.lower())


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode. They come from arguments that are not valid UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
