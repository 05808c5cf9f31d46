"""One event from its JSON: the typed values of the contract's fields and what else it says, or what is wrong with it.

Here belongs what a member may look like: times, numbers, texts, ids. JSON itself is `json_text`, the fields are `events`.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Any, cast

from churn_assets.ingestion.events import EVENT_TYPES, EventType, Field, SqlType
from churn_assets.ingestion.json_text import Number, UnreadableError, whole_characters, written
from churn_assets.rules import NO_END_FROM

ENVELOPE = "envelope"  # the member of the extra fields that holds those outside the payload
# Unicode's white space, and the marks that cannot be seen and come with copied text.
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"

_BY_NAME = {event_type.name: event_type for event_type in EVENT_TYPES}
_FIRST, _LAST = (datetime.combine(day, time()) for day in (date.min, date.max))
_EARLIEST = {
    field.earliest: datetime.fromisoformat(field.earliest) for event_type in EVENT_TYPES for field in event_type.fields
}
_NO_END = datetime.fromisoformat(NO_END_FROM)
_KINDS = {dict: "an object", list: "a list", bool: "true or false"}


def event(message: Any, latest: datetime) -> tuple[EventType, list[Any], str | None]:
    """The type of an event, the values of its fields in the order of the contract, and its extra fields as JSON.

    `message` is what `json_text.parsed` gives; no time of the event is later than `latest` (UTC). Raises `UnreadableError`.
    """
    if not isinstance(message, dict):
        kind = "a list" if isinstance(message, list) else "a text" if type(message) is str else "a single value"
        raise UnreadableError(f"not an event but {kind}")
    envelope = cast(dict[str, Any], message)
    event_type = _event_type(envelope)
    payload = envelope.get("payload")
    if not isinstance(payload, dict):
        raise UnreadableError("missing payload" if payload is None else "payload is not an object")
    members = cast(dict[str, Any], payload)
    values = [value_of(field, members.get(field.name), latest) for field in event_type.fields]
    return event_type, values, _extra_fields(envelope, members, event_type)


def _event_type(envelope: dict[str, Any]) -> EventType:
    name = envelope.get("event_type")
    if name is None:
        raise UnreadableError(_other_envelope(envelope) or "missing event_type")
    known = _BY_NAME.get(_stripped(name)) if type(name) is str else None
    if known is None:
        raise UnreadableError("unknown event_type")
    return known


def _other_envelope(envelope: dict[str, Any]) -> str | None:
    """Whose envelope it is, if not ours."""
    payload: Any = envelope.get("payload")
    for members in (envelope, payload):
        if isinstance(members, dict) and "op" in members and ("after" in members or "before" in members):
            return "a Debezium change event; map its topic with format: debezium (docs/mapping.md)"
    if "specversion" in envelope:
        return "a CloudEvent without event_type and payload; map its topic with format: cloudevents (docs/mapping.md)"
    if "schema" in envelope and "payload" in envelope:
        return "a Kafka Connect record with its schema and no event_type; map its topic (docs/mapping.md)"
    return None


def _extra_fields(envelope: dict[str, Any], payload: dict[str, Any], event_type: EventType) -> str | None:
    """The members beyond the contract as a JSON object: those of the payload, and under `ENVELOPE` those around it.

    A payload's own member of that name, with any number of underscores before it, gets one underscore more.
    """
    known = event_type.field_names
    extra = {
        f"_{name}" if name.endswith(ENVELOPE) and not name.removesuffix(ENVELOPE).strip("_") else name: value
        for name, value in payload.items()
        if name not in known
    }
    if len(envelope) > 2:
        extra[ENVELOPE] = {name: value for name, value in envelope.items() if name not in ("event_type", "payload")}
    return written(extra) if extra else None


def value_of(field: Field, given: Any, latest: datetime) -> Any:
    """The value of a field, or None if the event has none for it. Raises `UnreadableError`."""
    if type(given) is str:
        given = _stripped(given) or None
    if given is None:
        if field.required:
            raise UnreadableError(f"missing {field.name}")
        return None
    return _READERS[field.type](field, given, latest)


def _stripped(text: str) -> str:
    """The text without white space around it, which no one means and everyone sends."""
    return text.strip() if text.isascii() else text.strip(BLANKS)


# What spreadsheets and data frames make of an id of digits. Not 12e5, which may be hexadecimal.
FLOAT_ID = r"^\s*[+-]?[0-9]+(\.0*|\.[0-9]*[eE][0-9]+|(\.[0-9]*)?[eE][+-][0-9]+)\s*$"
_FLOAT = re.compile(FLOAT_ID)
_INTEGER = re.compile(r"-?\d+", re.ASCII)


def _text(field: Field, given: Any, _latest: datetime) -> str:
    name = field.name
    if type(given) is str:
        text = given
        if field.is_id and not given[0].isalpha() and _FLOAT.search(text):
            raise UnreadableError(f"{name} is an id that became a floating-point number (such as 10.0)")
    elif isinstance(given, Number):
        if not _INTEGER.fullmatch(given):
            what = "an id that became a floating-point number" if field.is_id else "a floating-point number, not text"
            raise UnreadableError(f"{name} is {what} (such as 10.0)")
        text = "0" if given == "-0" else str(given)
    else:
        raise UnreadableError(f"{name} is {_KINDS[type(given)]}, not text")
    if len(text) > field.max_length:
        raise UnreadableError(f"{name} is too long (limit {field.max_length:,})")
    if "\0" in text:
        raise UnreadableError(f"{name} has a NUL character")
    if not text.isascii():
        whole = whole_characters(text)
        if field.is_id and whole != text:
            raise UnreadableError(f"{name} has half a surrogate pair, which is no character")
        text = whole
    return text.upper() if field.is_upper_case and text.isascii() else text


_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _number(field: Field, given: Any, _latest: datetime) -> float:
    if not isinstance(given, str) or not _DECIMAL.fullmatch(given):
        raise UnreadableError(f"{field.name} is not a number")
    number = float(given)
    if not field.low <= number <= field.high:
        raise UnreadableError(f"{field.name} is out of range")
    return number


_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


def _boolean(field: Field, given: Any, _latest: datetime) -> bool:
    value = given if isinstance(given, bool) else _BOOLEANS.get(given.lower()) if isinstance(given, str) else None
    if value is None:
        raise UnreadableError(f"{field.name} is not true or false")
    return value


# RFC 3339, and of ISO 8601 calendar dates and times of day, extended or basic, to the minute or finer.
_EXTENDED = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?([Zz]|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)
_BASIC = re.compile(
    r"(\d{4})(\d\d)(\d\d)(?:[Tt](\d\d)(\d\d)(?:(\d\d)(?:[.,](\d+))?)?([Zz]|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)


def _time(field: Field, given: Any, latest: datetime, *, of_day: bool = False) -> Any:
    """The time in UTC, or with `of_day` midnight of the day that is written; None for an end that means "no end"."""
    found = (
        None
        if not isinstance(given, str) or isinstance(given, Number)
        else (_EXTENDED.fullmatch(given) or _BASIC.fullmatch(given))
    )
    try:
        at = None if found is None else _instant(*found.groups(), of_day=of_day)
    except ValueError:
        at = None
    if at is None:
        raise UnreadableError(f"{field.name} is not a time (ISO 8601)")
    if field.is_end and at >= _NO_END:
        return None
    if not _EARLIEST[field.earliest] <= at <= latest:
        raise UnreadableError(f"{field.name} is an impossible time")
    return at


def _instant(
    year: str,
    month: str,
    day: str,
    hour: str | None,
    minute: str | None,
    second: str | None,
    fraction: str | None,
    offset: str | None,
    *,
    of_day: bool,
) -> datetime | None:
    """The time in UTC, at the ends of the calendar if it is beyond; None or ValueError if no clock shows it."""
    if year == "0000":
        date(4, int(month), int(day))  # a leap year, as the year 0 is
        return _FIRST
    midnight = datetime.combine(date(int(year), int(month), int(day)), time())
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    microseconds = int((fraction or "0")[:6].ljust(6, "0"))
    ahead = _offset(offset)
    if ahead is None or minutes > 59 or seconds > 60 or hours > 24:
        return None
    if hours == 24 and (minutes or seconds or (fraction or "").strip("0")):
        return None  # 24:00:00 is the end of the day, and nothing is after it
    try:
        # A leap second counts as the first second of the next day.
        at = midnight + timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=microseconds) - ahead
    except OverflowError:
        at = _LAST if midnight.year > 1 else _FIRST
    else:
        if seconds == 60 and at.time().replace(microsecond=0) != time():
            return None  # leap seconds are added at midnight UTC
    return midnight if of_day else at


def _offset(text: str | None) -> timedelta | None:
    """How far a clock with that offset is ahead of UTC; None if none is."""
    if text is None or text in "Zz":
        return timedelta()
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    if hours > 23 or minutes > 59:
        return None
    ahead = timedelta(hours=hours, minutes=minutes)
    return -ahead if text[0] == "-" else ahead


def _day(field: Field, given: Any, latest: datetime) -> date:
    return _time(field, given, latest, of_day=True).date()


_READERS: dict[SqlType, Callable[[Field, Any, datetime], Any]] = {
    "VARCHAR": _text,
    "DOUBLE": _number,
    "BOOLEAN": _boolean,
    "TIMESTAMP": _time,
    "DATE": _day,
}
