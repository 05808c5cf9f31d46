"""Whether a text may be sent as a retention email, whoever wrote it.

Here belong the checks of a text, and nothing that repairs it: a text with a complaint is written again or replaced. Marketing's
file says all that may be promised: a sum, a number, an address or a word such as "free" passes only if it is in an offer to this
customer, in the opening, the closing or the signature.
"""

import re
import unicodedata
from dataclasses import dataclass
from re import Pattern

from churn_assets.configuration import rules
from churn_assets.retention.writing import patterns
from churn_assets.retention.writing.addressee import addressee
from churn_assets.retention.writing.patterns import plain
from churn_assets.retention.writing.prompts import Prompts
from churn_assets.retention.writing.writer import EmailRequest

_READ_TIMES = 10  # a text of so many times the allowed length is refused unread
_FOUND_CHARACTERS = 40  # of a finding, in a complaint


@dataclass(frozen=True)
class _Rule:
    """Each match is a complaint, unless marketing approved these very words."""

    pattern: Pattern[str]
    complaint: str
    may_be_approved: bool = False


# In this order: a rule hides its findings from the next, so that "1000 EUR" is a sum and not a number as well.
_RULES = (
    _Rule(patterns.SUBJECT_LINE, "there is a subject line"),
    _Rule(patterns.HTML, "there is HTML"),
    _Rule(patterns.PLACEHOLDER, "there is a placeholder"),
    _Rule(patterns.MARKDOWN, "there is Markdown"),
    _Rule(patterns.INSTRUCTION, "it speaks about instructions or about its writer"),
    _Rule(patterns.WEB_OR_EMAIL_ADDRESS, "there is an address that no offer has", may_be_approved=True),
    _Rule(patterns.PERCENTAGE, "there is a percentage, score or probability that no offer has", may_be_approved=True),
    _Rule(patterns.MONEY, "there is a sum of money that no offer has", may_be_approved=True),
    _Rule(patterns.TELEPHONE_NUMBER, "there is a telephone number that no offer has", may_be_approved=True),
    _Rule(patterns.NUMBER, "there is a number that no offer has", may_be_approved=True),
    _Rule(patterns.PROMISE, "it promises what no offer has", may_be_approved=True),
)
# Searched for outside the customer's name, which may well be Risk.
_RULES_OUTSIDE_THE_NAME = (
    _Rule(patterns.GIVEAWAY, "there is a word that must not be used"),
    _Rule(patterns.OBSERVATION, "it says that the customer was observed"),
    _Rule(patterns.MIXED_ALPHABETS, "there is a word of two alphabets"),
)

_GREETING = r"(?:Dear|Hello|Hi)[ \t]+"
_BULLET = r"(?:[-•‣*][ \t]+|\d{1,2}[.)][ \t]+)"
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s)|(?<=[a-z]{2})[.!?](?=[A-Z])|[。؟।]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:dr|mr|mrs|ms|mx|prof|st|jr|sr|vs|etc|approx|incl|ltd|inc|(?:[a-z]\.)*[a-z])$",
    re.IGNORECASE,
)


def complaints_about(text: str, request: EmailRequest, prompts: Prompts) -> list[str]:
    """The reasons not to send the text to this customer, each in one plain sentence; empty if it may be sent.

    A complaint can be logged and shown to a language model: it quotes at most a few words of the text.
    """
    if len(text) > _READ_TIMES * rules().emails.max_characters:
        return [_too_long(text)]
    readable = _tidy(plain(text))
    if not readable:
        return ["the text is empty"]
    name = plain(addressee(request.full_name))
    approved = plain(prompts.approved_text(request))
    wrong_greeting, rest = _without_greeting(readable, name)
    wrong_sign_off, body = _without_signature(rest, prompts.wording.signature)
    # A wrong greeting or sign-off is a complaint already, and does not count as a sentence.
    prose = re.sub(rf"\A{_GREETING}[^\n]*\n", "", body) if wrong_greeting else body
    prose = re.sub(r"\n\n[^.!?]{1,80}\Z", "", prose) if wrong_sign_off else prose
    outside_the_name = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", body, flags=re.IGNORECASE)
    found = (
        _too_long(text) if len(text) > rules().emails.max_characters else None,
        _unprintable(text),
        wrong_greeting,
        wrong_sign_off,
        _wrong_count_of_sentences(prose),
        *_broken_rules(_RULES, body, approved),
        *_broken_rules(_RULES_OUTSIDE_THE_NAME, outside_the_name, approved),
    )
    return [complaint for complaint in found if complaint]


def _tidy(text: str) -> str:
    """The text without spaces around its lines and without more than one empty line between two others."""
    lines = "\n".join(line.strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _too_long(text: str) -> str:
    return f"it has {len(text)} characters, at most {rules().emails.max_characters} are allowed"


def _unprintable(text: str) -> str | None:
    lines = text.replace("\r\n", "\n").replace("\n", " ")
    # Control, format, private, unassigned or lone surrogate characters; line and paragraph separators.
    if any(unicodedata.category(char) in {"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"} for char in lines):
        return "there are control characters or invisible ones"
    return None


def _without_greeting(text: str, name: str) -> tuple[str | None, str]:
    """What is wrong with the greeting, and the text after the right one."""
    right = re.match(rf"{_GREETING}{re.escape(name)} ?(?:[,!:]|(?=\n)|$)", text, re.IGNORECASE)
    if not right:
        return "it does not begin with 'Dear', the customer's full name and a comma", text
    rest = text[right.end() :]
    if re.search(rf"(?:^|[.!?,:;\n])\s*{_GREETING}(?!{re.escape(name)}|again\b|from\b)", rest):
        return "it greets somebody else as well", rest
    return None, rest


def _without_signature(text: str, signature: str) -> tuple[str | None, str]:
    """What is wrong with the sign-off, and the text before the right one; a comma after its lines is right."""
    lines = r",?\n+".join(re.escape(line.strip()) for line in plain(signature).splitlines())
    right = re.search(rf"(?:^|\s){lines}\Z", text)
    if not right:
        return f"it does not end with the sign-off '{' / '.join(signature.splitlines())}'", text
    return None, text[: right.start()]


def _wrong_count_of_sentences(prose: str) -> str | None:
    count = _sentences(prose)
    if not count:
        return "it says nothing between greeting and sign-off"
    if count > rules().emails.max_sentences:
        return f"it has {count} sentences between greeting and sign-off, at most {rules().emails.max_sentences} are allowed"
    return None


def _sentences(prose: str) -> int:
    """The number of sentences. Each item of a list and each paragraph counts as at least one."""
    blocks = re.split(rf"\n\n|^{_BULLET}", prose, flags=re.MULTILINE)
    return sum(_sentences_of_paragraph(block) for block in blocks if re.search(r"\w", block))


def _sentences_of_paragraph(paragraph: str) -> int:
    text = paragraph.rstrip(" \t\n.!?。؟।\"')]")  # the last sentence counts with or without its end
    ends = (end for end in _SENTENCE_END.finditer(text) if not _ABBREVIATION.search(text[: end.start()][-20:]))
    return 1 + sum(1 for _ in ends)


def _broken_rules(rules: tuple[_Rule, ...], text: str, approved: str) -> list[str]:
    complaints: list[str] = []
    for rule in rules:
        for match in rule.pattern.finditer(text):
            found = match[0].strip().rstrip(".,;:!?)")
            if not (rule.may_be_approved and _stands_in(found, approved)):
                complaints.append(f"{rule.complaint} ({found[:_FOUND_CHARACTERS]!r})")
                break
        text = rule.pattern.sub(" ", text)
    return complaints


def _stands_in(words: str, approved: str) -> bool:
    """Whether the approved text has these very words, not as a part of other words or of a longer number."""
    return bool(re.search(rf"(?<![\w.,]){re.escape(words)}(?!\w|[.,]\d)", approved, re.IGNORECASE))
