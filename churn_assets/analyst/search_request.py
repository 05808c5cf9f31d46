"""Decide without a language model whether a question asks for errors and cases rather than figures, and for which ones.

Here belong the rules and the filters that they read from a question. If in doubt, they say so: questions that count or compare
ask for figures, and a time, a segment or a negation that no filter can express is never ignored. The rest of the question are
the words to search for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from churn_assets.search.hits import Filters


def _any(phrases: str) -> str:
    """A pattern for any of the comma-separated phrases, which may be patterns themselves."""
    return f"(?:{'|'.join(phrase.strip() for phrase in phrases.split(','))})"


def _words(phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b{_any(phrases)}\b", re.IGNORECASE)


_PEOPLE = _any("customers?, clients?, users?, people")
_WHO = rf"(?:who|everybody who|which {_PEOPLE}|{_PEOPLE} (?:who|that)|people)(?: have| has)?"
_EVENT = _any(
    "error logs?, app logs?, logs, log entries, (?:app )?errors?, (?:support )?(?:cases?|tickets?), complaints?"
)
_VERB = _any("find, search(?: for)?, look (?:up|for), show(?: me)?, list, get(?: me)?, give me")
_LOOK = rf"(?:(?:please )?{_VERB}(?: |$))?(?:(?:all|any|the) )*"
_COULD_NOT = _any(
    "could not, couldn'?t, cannot, can'?t, can not, (?:was|were|is|are) (?:unable|not able) to, failed to"
)
# The whole text of a question that is a search, after the filters have been taken out.
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_LOOK}(?:{_EVENT}(?: {_any('about, because of, concerning, of, for')} (?P<topic>.+))?)?",
        rf"{_LOOK}{_WHO} (?P<topic>{_COULD_NOT} .+)",
        rf"{_LOOK}{_WHO} {_any('complained, had (?:problems?|trouble|issues?)')}(?: {_any('about, with')} (?P<topic>.+))?",
        rf"{_LOOK}{_WHO} {_any('met, got, had, saw')}(?: an?| the)?",
    )
)
_SIGNS = re.compile(rf"\b(?:ERR_\w+|{_EVENT}|{_WHO} (?:{_COULD_NOT}|complain\w*)|complain\w*)\b", re.IGNORECASE)
_MAX_TOPIC_WORDS = 6
# Words that no topic may have: they ask for figures, narrow by something that no filter expresses, or negate.
_NOT_IN_A_TOPIC = _words(
    r"how, number, count\w*, shares?, percent\w*, average, mean, total, sum, trend\w*, rate, most, least, fewest, top, highest,"
    r" lowest, longest, first, last, only, than, over, above, below, per, each, every, once, twice, times, again, also, then,"
    r" both, but, and, or, who, that, which, whose, where, when, while, because, after, before, risk\w*, scores?, segments?,"
    r" affluent, smb, students?, mass, spend\w*, spent, model, control group, critical, happy, unhappy, sentiment, customers?,"
    r" clients?, names?, address\w*, e-?mails?, no, not, never, without, except, nor, none, nobody"
)
_OTHER_TIME = _words(
    r"january, february, march, april, may, june, july, august, september, october, november, december, ago, past, next, last,"
    r" (?:mon|tues|wednes|thurs|fri|satur|sun)days?, years?, quarters?, months?, weeks?, days?, hours?, minutes?, noon, night,"
    r" morning, evening, summer, winter, spring, autumn, since, before, after, until, between, during, \d{4}, \d+[./:]\d+\S*"
)
_CODE = re.compile(r"\b(?:(?:with|of|code|error) )*(ERR_[A-Z0-9_]*[A-Z0-9])\b", re.IGNORECASE)
_CUSTOMER = re.compile(
    r"\b(?:(?:of|for|from|by) )?(?:(?:customer|client|user) (?:id )?#?([A-Za-z]*\d[\w-]*)|(C\d{3,}))\b", re.IGNORECASE
)
_DEVICE = re.compile(
    r"\b(?:(?:on|with|from|by|for|using|in) )?(?:an? |the )?(ios|iphone|ipad|android|web|browser)s?"
    r"(?: (?:devices?|phones?|app|users?))*\b",
    re.IGNORECASE,
)
_DEVICES = {"ios": "IOS", "iphone": "IOS", "ipad": "IOS", "android": "ANDROID", "web": "WEB", "browser": "WEB"}
_CASE, _ERROR = _words(r"cases?, tickets?, complain\w*"), _words("errors?, logs, error logs?, app logs?, log entries")
_HOURS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 30 * 24}

_Span = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class SearchRequest:
    """What to search for; without words, the newest events that pass the filters."""

    words: str
    filters: Filters


@dataclass(frozen=True)
class Unsure:
    """The part of a question that the search cannot do, in one sentence."""

    why: str


def asks_for_events(question: str) -> bool:
    """Whether a question seems to ask for errors or cases."""
    return bool(_SIGNS.search(_plain(question)))


def read_request(question: str, now: datetime) -> SearchRequest | Unsure:
    """The search that a question asks for, if all of it is understood; `now` is UTC."""
    read = read_filters(question, now)
    if isinstance(read, Unsure):
        return read
    form = next((found for form in _FORMS if (found := form.fullmatch(read.words))), None)
    if form is None:
        return Unsure("say it as “find errors about …”, “support cases about …” or “who could not …”")
    topic: str = form.groupdict().get("topic") or ""
    if found := _NOT_IN_A_TOPIC.search(re.sub(rf"^{_COULD_NOT}", "", topic, flags=re.IGNORECASE)):
        return Unsure(f"a search for errors and cases cannot handle “{found[0]}”")
    if len(topic.split()) > _MAX_TOPIC_WORDS:
        return Unsure("the topic is too long; say it in a few words")
    if not topic and read.filters == Filters():
        return Unsure("the question does not say which errors or cases")
    return replace(read, words=topic)


def read_filters(question: str, now: datetime) -> SearchRequest | Unsure:
    """The filters in a question, and the rest of its words; `now` is UTC."""
    rest, codes = _taken(_CODE, _plain(question))
    rest, customers = _taken(_CUSTOMER, rest)
    rest, devices = _taken(_DEVICE, rest)
    for name, values in (("error code", codes), ("customer", customers), ("device", devices)):
        if len(values) > 1:
            return Unsure(f"the question names more than one {name}; a search takes one")
    try:
        rest, (since, until) = _times(rest, now)
    except (ValueError, OverflowError):
        return Unsure("a date in the question is invalid; write it as 2026-11-30")
    if found := _OTHER_TIME.search(rest):
        return Unsure(f"the time “{found[0]}” is not understood; say “last 7 days”, “yesterday” or “since 2026-11-30”")
    kinds = [kind for kind, sign in (("case", _CASE), ("error", _ERROR)) if sign.search(rest)]
    filters = Filters(
        kind=kinds[0] if len(kinds) == 1 else None,
        customer_id=customers[0] if customers else None,
        error_code=codes[0].upper() if codes else None,
        device=_DEVICES[devices[0].lower()] if devices else None,
        since=since,
        until=until,
    )
    return SearchRequest(" ".join(rest.split()), filters)


def _plain(question: str) -> str:
    return question.replace("’", "'").strip(" ?!.\n")


def _taken(pattern: re.Pattern[str], text: str) -> tuple[str, list[str]]:
    """A text without the pattern's matches, and the distinct matches."""
    found = [next(group for group in match.groups() if group) for match in pattern.finditer(text)]
    return pattern.sub(" ", text), list({name.upper(): name for name in found}.values())


def _times(text: str, now: datetime) -> tuple[str, _Span]:
    """A text without the first time that is understood, and that time as a span."""
    for pattern, span_of in _TIMES:
        if found := pattern.search(text):
            return pattern.sub(" ", text, count=1), span_of(found, now)
    return text, (None, None)


def _last(found: re.Match[str], now: datetime) -> _Span:
    since = now - timedelta(hours=int(found[1] or 1) * _HOURS[found[2].lower()])
    return since.replace(second=0, microsecond=0), None


def _named(found: re.Match[str], now: datetime) -> _Span:
    midnight = datetime.combine(now.date(), time())
    return (midnight, None) if found[1].lower() == "today" else (midnight - timedelta(days=1), midnight)


def _between(found: re.Match[str], now: datetime) -> _Span:
    return _midnight(found[1]), _midnight(found[2]) + timedelta(days=1)


def _from(found: re.Match[str], now: datetime) -> _Span:
    return _midnight(found[1]), None


def _to(found: re.Match[str], now: datetime) -> _Span:
    day = _midnight(found[2])
    return None, day if found[1].lower() == "before" else day + timedelta(days=1)


def _on(found: re.Match[str], now: datetime) -> _Span:
    return _midnight(found[1]), _midnight(found[1]) + timedelta(days=1)


def _midnight(text: str) -> datetime:
    return datetime.combine(date.fromisoformat(text), time())


_DATE = r"(\d{4}-\d{2}-\d{2})"
_TIMES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], datetime], _Span]], ...] = tuple(
    (re.compile(rf"\b{pattern}\b", re.IGNORECASE), span_of)
    for pattern, span_of in (
        (
            r"(?:(?:in|within|during|over|from|for|of) )?(?:the )?(?:last|past) (?:(\d{1,4}) )?(hour|day|week|month)s?",
            _last,
        ),
        (r"(?:of |from )?(today|yesterday)", _named),
        (rf"(?:between|from) {_DATE} (?:and|to|until) {_DATE}", _between),
        (rf"(?:since|from) {_DATE}", _from),
        (rf"(before|until) {_DATE}", _to),
        (rf"on {_DATE}", _on),
    )
)
