"""How an email addresses a customer: by the full name, or as "customer" if that does not look like a name.

Anybody can put anything into a name. What does not look like a name is never shown to a language model, and never sent. A name
that is merely odd (digits, "Risk Churnman", "Gift") stays.
"""

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

_BESIDE_LETTERS = frozenset(" .,'’-‐–&()\"·")
# Words for talking to a language model, which are nobody's name. Promise, Grace and Will are names.
_ORDERS = frozenset({"ignore", "disregard", "instruction", "instructions", "prompt", "pretend", "assistant", "system"})


def addressee(full_name: str) -> str:
    """The name as it stands after "Dear": on one line, without invisible characters, or `UNNAMED`.

    A name is at most 60 characters and 8 words of letters, digits and a name's punctuation. An order to a language
    model, an address, a telephone number or a sum of money is not a name.
    """
    on_one_line = "".join(" " if unicodedata.category(char) == "Cc" else char for char in full_name)
    name = " ".join(visible(on_one_line).split())
    return name if _can_be_a_name(name) else UNNAMED


def _can_be_a_name(name: str) -> bool:
    words = name.split()
    return (
        0 < len(name) <= MAX_NAME_CHARACTERS
        and len(words) <= MAX_NAME_WORDS
        and name[0].isalpha()
        and all(char in _BESIDE_LETTERS or unicodedata.category(char)[0] in "LMN" for char in name)
        and not any(
            pattern.search(name) for pattern in (WEB_OR_EMAIL_ADDRESS, TELEPHONE_NUMBER, PERCENTAGE, INSTRUCTION)
        )
        # Ezra Pound is a name, "1000 pounds" is not.
        and not any(char.isdigit() for money in MONEY.finditer(name) for char in money[0])
        and not _ORDERS & {word.strip(".,'\"()").casefold() for word in words}
    )
