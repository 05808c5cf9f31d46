"""Patterns for what must not be in an email or a name, and the form of a text that they search.

Here belong the patterns only. `addressee` decides whether a name can be greeted, `text_checks` whether a text may be sent. A
repetition is bounded if something has to follow it, so that no text takes long to search.
"""

import re
import unicodedata

# Typographic quotes, apostrophes and dashes as on a keyboard: models and customers mix both.
_KEYBOARD = str.maketrans("‘’ʼ“”„‐‑‒–—", "'''\"\"\"-----")

WEB_OR_EMAIL_ADDRESS = re.compile(
    r"\bhttps?:\S+|\bwww\.\S+|\S{1,64}@\S+"
    # A bare domain. `Dr.Smith` is not one: the ending of a domain is in one case.
    r"|\b[\w-]{2,63}\.(?:[a-z]{2,24}|[A-Z]{2,24})\b(?:/\S*)?|\b\w\.[a-z]{2,24}/\S*"
)
TELEPHONE_NUMBER = re.compile(r"(?<!\w)\+?\(?\d[\d ().\-/]{5,20}\d")

PERCENTAGE = re.compile(
    r"(?:\d[\d.,]{0,20}\s?)?(?:[%‰]|\bper ?cent\w*|(?<=\d)percent)|(?<![\d.,])[01][.,]\d{1,20}\b", re.IGNORECASE
)
_CURRENCY = r"(?:[$€£¥₹]|(?<![a-z])(?:eur|usd|gbp|chf|euros?|dollars?|pounds?|francs?|cents?)\b)"
_AMOUNT = r"(?:\d[\d.,']{0,20}(?: \d{3}){0,5}|(?:\w{1,20}[ -])?(?:hundred|thousand|million)s?)"
MONEY = re.compile(rf"{_AMOUNT}\s?{_CURRENCY}|{_CURRENCY}(?:\s?{_AMOUNT})?", re.IGNORECASE)
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")

PROMISE = re.compile(
    # "Feel free" and "when you are free" promise nothing; "you are free of charges" does.
    r"(?<!feel )(?<!you are )(?<!you're )\bfree\b|\bfree (?:of|from)\b|\b(?:at no|without|no) (?:cost|charge|fee)s?\b"
    r"|\bcomplimentary\b|\bwaive\w*|\brefund\w*|\breimburse\w*|\bcompensat\w*|\bbonus\w*|\bcash ?-?backs?\b|\bguarante\w*"
    r"|\bdiscount\w*|\bgifts?\b|\bvouchers?\b|\brewards?\b|\bcredit of\b|\bexclusive\b|\bspecial (?:offer|deal|rate)s?\b"
    # "How would you rate us" promises nothing.
    r"|\b(?:(?:better|higher|lower|reduced|improved|preferential|top|best) )?(?:(?:interest|savings|fixed) )?rates\b"
    r"|\b(?:better|higher|lower|reduced|improved|preferential|top|best|interest|savings|fixed) rate\b",
    re.IGNORECASE,
)
GIVEAWAY = re.compile(
    r"(?i:\bchurn\w*|\b(?:high-?)?risk\w*|\battrition\b|\blikely to leave\b"
    r"|\b(?:leave|leaving) (?:us(?! an?\b| your\b)|bankco\b|the bank\b)"
    r"|\balgorithm\w*|\bmodels?\b|\bartificial intelligence\b|\bmachine learning\b|\bllms?\b|\bchat-?(?:bot|gpt)s?\b"
    r"|\bscor(?:es?|ed|ing)\b|\bprobabilit\w+|\blikelihood\b|\bpredict\w*)"
    r"|\bAI\b|\bA\.I\."  # Ai is a name
)
OBSERVATION = re.compile(
    r"\b(?:we|i|our \w+)(?: have|'ve|'s| has)?(?: recently| also)? (?:noticed?|observed?|detected?|monitor(?:ed)?|track(?:ed)?)\b"
    r"|\byour (?:recent |account |app )?(?:activity|behaviou?r|usage)\b",
    re.IGNORECASE,
)

PLACEHOLDER = re.compile(
    r"\[[^\[\]\n]{0,60}\]|\{[^{}\n]{0,60}\}|<[^<>\n]{1,60}>|\bx{3,}\b|_{3,}|\b(?:your|customer|client|first|last|full) name\b"
    r"|\binsert \w+|\$\{?[a-z_]+",
    re.IGNORECASE,
)
HTML = re.compile(
    r"</?(?:a|b|i|u|p|br|hr|em|div|img|span|html|body|head|font|strong|ul|ol|li|table|h\d|script)\b[^<>]{0,200}>"
    r"|&(?:[a-z]{2,8}|#\d{1,6});",
    re.IGNORECASE,
)
MARKDOWN = re.compile(r"\*+|`+|~~|(?<!_)__(?!_)|^\s{0,3}(?:#{1,6}|>)\s", re.MULTILINE)
SUBJECT_LINE = re.compile(r"^[^\w\n]{0,20}subject[^\w\n]{0,5}:", re.IGNORECASE | re.MULTILINE)

INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instructions?|rules?|prompts?)\b"
    r"|\b(?:previous|prior|above) instructions?\b|\b(?:system|developer) (?:prompt|message|mode)\b|\bjailbreak\w*"
    r"|\bas an? (?:large )?(?:ai|artificial intelligence|language model|chat-?bot)\b|\byou are (?:now )?(?:an? ai|chat-?gpt)\b"
    r"|\bI(?: am|'m)? (?:cannot|can't|unable to|not able to) (?:help|assist|comply|fulfill?|write|create|provide)\b",
    re.IGNORECASE,
)
MIXED_ALPHABETS = re.compile(r"\b\w*(?:[A-Za-z][\u0370-\u052f]|[\u0370-\u052f][A-Za-z])\w*")


def visible(text: str) -> str:
    """The text without invisible characters (zero-width, soft hyphen, direction), in Unicode's form NFKC."""
    return unicodedata.normalize("NFKC", "".join(char for char in text if unicodedata.category(char) != "Cf"))


def plain(text: str) -> str:
    """The text as the patterns search it: visible, with a keyboard's quotes, dashes and line ends, without accents."""
    lines = visible(text).replace("\r\n", "\n").translate(_KEYBOARD)
    decomposed = unicodedata.normalize("NFD", lines)
    # Without accents on letters of the Latin alphabet, so that "chúrn" is found; other scripts need their marks.
    return unicodedata.normalize("NFC", re.sub(r"(?<=[A-Za-z])[\u0300-\u036f]+", "", decomposed))
