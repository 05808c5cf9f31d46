"""How an email addresses a customer: by the full name, or as "customer" if that does not look like a name.

Anybody can put anything into a name. What does not look like a name is never shown to a language model, and never sent. A name
that is merely odd (digits, "Risk Churnman", "Gift") stays.
"""

import re
import unicodedata

from churn_assets.retention.writing.patterns import (
    INSTRUCTION,
    MONEY,
    PERCENTAGE,
    TELEPHONE_NUMBER,
    WEB_OR_EMAIL_ADDRESS,
    visible,
)

UNNAMED = "customer"
MAX_NAME_CHARACTERS = 60
MAX_NAME_WORDS = 8  # María del Carmen de la Cruz y Ortega has eight

# What keyboards, exports and other alphabets have in place of an apostrophe. In Unicode's form NFKC some of them would become
# a space with an accent above it.
_APOSTROPHES = str.maketrans(
    dict.fromkeys(
        "\u0060\u00b4\u02b9\u02bb\u02bc\u02bd\u02ca\u02cb\u0374\u0384\u055a\u05f3\u1fbd\u1fbf\u1fef\u1ffd\u1ffe\u2018\u201b\u2032\u2035\ua78c\uff07\uff40",
        "'",
    )
)
# Accents that stand by themselves behind the letter that they belong to, as in a text that was copied out of a PDF: "Mu¨ller".
_ACCENTS = str.maketrans(
    {"\u00a8": "\u0308", "\u00b8": "\u0327", "\u02c6": "\u0302", "\u02c7": "\u030c", "\u02d8": "\u0306", "\u02d9": "\u0307",
     "\u02da": "\u030a", "\u02db": "\u0328", "\u02dc": "\u0303", "\u02dd": "\u030b", "\u00af": "\u0304"}
)  # fmt: skip
# The same after a program has brought them into the form NFKC: a space with an accent, between two letters.
_SPACED_APOSTROPHE = re.compile(r"(?<=\w) [\u0300\u0301\u0313\u0314](?=\w)")
_SPACED_ACCENT = re.compile(r"(?<=\w) (?=[\u0302-\u036f]\w)")
_WITHOUT_A_LETTER = re.compile(r"(?<![\w\u0300-\u036f])[\u0300-\u036f]+")
_TITLE_IN_CAPITALS = re.compile(r"\b(?:DR|MR|MRS|MS|PROF|ST)\.(?=[A-Z])")  # DR.SMITH looks like a domain
_PILED_UP = re.compile(r"[\u0300-\u036f]{2}")  # on a letter that has its own accent already, as far as one exists
_BESIDE_LETTERS = frozenset(" .,'’-‐–&()\"·")
# Words for talking to a language model, which are nobody's name. Promise, Grace and Will are names.
_ORDERS = frozenset({"ignore", "disregard", "instruction", "instructions", "prompt", "pretend", "assistant", "system"})


def addressee(full_name: str) -> str:
    """The name as it stands after "Dear": on one line, without invisible characters, or `UNNAMED`.

    A name is at most 60 characters and 8 words of letters, digits and a name's punctuation. An order to a language
    model, an address, a telephone number or a sum of money is not a name. Signs in place of an apostrophe become one, accents
    join their letter, and pictures are left out. Upper and lower case stay: only the customer knows how MCDONALD is written.
    """
    without_pictures = "".join(" " if _is_picture(char) else char for char in full_name)
    with_accents = visible(without_pictures.translate(_APOSTROPHES).translate(_ACCENTS))
    joined = _SPACED_ACCENT.sub("", _SPACED_APOSTROPHE.sub("'", with_accents))
    spaced = _TITLE_IN_CAPITALS.sub(r"\g<0> ", _WITHOUT_A_LETTER.sub("", joined))
    name = " ".join(unicodedata.normalize("NFC", spaced).split())
    return name if _can_be_a_name(name) else UNNAMED


def _is_picture(char: str) -> bool:
    """Whether a character is an emoji or another symbol, what changes one (a skin tone, a variation), or not printable."""
    kind = unicodedata.category(char)
    return kind in {"Cc", "Co", "Cn", "So"} or "\ufe00" <= char <= "\ufe0f" or "\U0001f3fb" <= char <= "\U0001f3ff"


def _can_be_a_name(name: str) -> bool:
    words = name.split()
    return (
        0 < len(name) <= MAX_NAME_CHARACTERS
        and len(words) <= MAX_NAME_WORDS
        and name[0].isalpha()
        and not _PILED_UP.search(name)
        and all(char in _BESIDE_LETTERS or unicodedata.category(char)[0] in "LMN" for char in name)
        and not any(
            pattern.search(name) for pattern in (WEB_OR_EMAIL_ADDRESS, TELEPHONE_NUMBER, PERCENTAGE, INSTRUCTION)
        )
        # Ezra Pound is a name, "1000 pounds" is not.
        and not any(char.isdigit() for money in MONEY.finditer(name) for char in money[0])
        and not _ORDERS & {word.strip(".,'\"()").casefold() for word in words}
    )
