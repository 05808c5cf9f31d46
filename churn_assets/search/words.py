"""From a text to the words that are compared: one way for questions, the catalogue and what events say.

Here belong splitting, stop words and stemming. What a word is worth is `relevance`'s affair.
"""

import re
from functools import cache

import tantivy

MAX_TEXT = 1000  # characters of a text that are read
MAX_WORDS = 32  # different words of a question that count
_LONGEST_WORD = 40  # characters
_APOSTROPHE = re.compile("['’]")
# What questions have in common and what says nothing about an error, beside tantivy's own list for English.
_STOP_WORDS = """
    a about after again all also always am an and any anyone anything are as at be because been before being but by
    can cannot cant client clients complain complained complaint complaints could couldnt customer customers did
    didnt do does doesnt doing dont during each error errors every find for from get gets getting give gives got had
    has have having he her hers him his how i if in into is isnt issue issues it its just kept list many me my no
    nobody not of off on or our out people person persons please problem problems report reported reports she show
    so some somebody someone than that the their them then there these they this those to too tried trouble troubles
    try trying until up us user users very was wasnt we were what when where which while who whom whose why will
    with wont would you your
""".split()


@cache
def _analyzer() -> tantivy.TextAnalyzer:
    filters = tantivy.Filter
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(filters.remove_long(_LONGEST_WORD))
        .filter(filters.lowercase())
        .filter(filters.ascii_fold())
        .filter(filters.custom_stopword(_STOP_WORDS))
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
