"""From a text to the words that are compared: one way for questions, the catalogue and what events say.

Here belong splitting, stop words and stemming. What a word is worth is `relevance`'s affair.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tantivy

MAX_TEXT = 1000  # characters of a text that are read
MAX_WORDS = 32  # different words of a question that count
_LONGEST_WORD = 40  # characters
_APOSTROPHE = re.compile("['’]")
# What questions have in common and what says nothing about an error, beside tantivy's own list for English.
_STOP_WORDS = Path(__file__).with_name("stop_words.txt")


@cache
def _analyzer() -> "tantivy.TextAnalyzer":
    import tantivy  # noqa: PLC0415  # in Snowflake, where this module is imported too, there is none

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
    """The words of the first characters of a text, in order: without accents, capitals, endings and stop words."""
    return _analyzer().analyze(_APOSTROPHE.sub("", clean(text[:MAX_TEXT])))


def clean(text: str) -> str:
    """The text without what UTF-8 cannot write: halves of surrogate pairs, as arguments that are no UTF-8 have them."""
    return text.encode("utf-8", "replace").decode("utf-8")
