"""A first mapping for data that nobody has described: guessed from the names of its fields and from their values.

What is written is YAML with the reasons and the doubts as comments, for a person to read. The names are in `vocabulary`.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher

import yaml

from churn_assets.configuration import rules
from churn_assets.ingestion.events import EVENT_TYPES, EventType, Field
from churn_assets.ingestion.mapping.engine import cursor
from churn_assets.ingestion.mapping.expressions import Fields, compiled
from churn_assets.ingestion.mapping.file import ENVELOPE, Format, MappingError
from churn_assets.ingestion.mapping.vocabulary import CODES, DATE_FORMATS, LEDGERS, NAMES
from churn_assets.rules import Codes
from churn_assets.warehouse.values import literal

_FITS = 0.95  # of the values, for a kind to be that of a field; of few values, all but one
_SURE, _POSSIBLE = 0.85, 0.6  # how alike two names must be
_MAX_CODES = 60
_ISO = r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}([Tt ].*)?"


@dataclass(frozen=True)
class Sample:
    """What is known of data: by field, values of its rows (None where it has none), and where it comes from."""

    name: str
    """A topic, or a file's name."""
    is_file: bool
    format: Format
    fields: Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class _Seen:
    """A field of the data: its values, and what they may be."""

    name: str
    plain_name: str
    values: list[str]
    is_unique: bool
    date_formats: list[str]
    decimal: str | None
    """The sign of decimals if the values are numbers: "" for numbers as the contract takes them."""


def suggest(sample: Sample, ledger: str | None) -> str:
    """The YAML of a mapping of the data into `ledger`, or into the one that fits best."""
    seen = [_look_at(name, sample.is_file, values) for name, values in sample.fields.items()]
    choices = [event_type for event_type in EVENT_TYPES if ledger in (None, event_type.ledger)]
    guesses = [(event_type, _guesses(event_type, seen)) for event_type in choices]
    event_type, found = max(guesses, key=lambda guess: _fit(*guess) + _named(guess[0], sample.name))
    return _written(sample, event_type, found, seen)


def _fit(event_type: EventType, found: Mapping[str, tuple[_Seen, float]]) -> float:
    required = [field.name for field in event_type.fields if field.required]
    share = sum(found[name][1] for name in required if name in found) / len(required)
    return share + 0.1 * sum(score for _, score in found.values()) / len(event_type.fields)


def _named(event_type: EventType, name: str) -> float:
    """How much a topic or a file says by its name that it feeds a ledger."""
    plain = _plain(name)
    return 0.3 if any(word in plain for word in LEDGERS[event_type.ledger].split()) else 0


def _guesses(event_type: EventType, seen: Sequence[_Seen]) -> dict[str, tuple[_Seen, float]]:
    """By field of the contract, the field of the data that is most likely it; each is taken once, the surest first."""
    scores = sorted(
        (
            (_likeness(field, one, event_type), -number, field.name, one)
            for field in event_type.fields
            for number, one in enumerate(seen)
        ),
        key=lambda score: score[:3],
        reverse=True,
    )
    found: dict[str, tuple[_Seen, float]] = {}
    taken: set[str] = set()
    for score, _, name, one in scores:
        if score >= _POSSIBLE and name not in found and one.name not in taken:
            found[name] = (one, score)
            taken.add(one.name)
    return found


def _likeness(field: Field, seen: _Seen, event_type: EventType) -> float:
    """How likely a field of the data is one of the contract, 0 to 1: by its name, if its values are of the kind."""
    if not _may_be(field, seen):
        return 0
    name = seen.plain_name
    known = [field.name, *NAMES.get(field.name, "").split()]
    joined = [one.replace("_", "") for one in known]
    if field.name == event_type.key and name in ("id", "uuid"):
        score = _SURE
    elif name.replace("_", "") in joined:
        # The first names of a list are the clearest.
        score = 1 - 0.005 * min(joined.index(name.replace("_", "")), 20)
    elif any(len(word) > 3 and word in known for word in name.split("_")):
        score = 0.75
    else:
        score = 0.9 * max(SequenceMatcher(None, name, other).ratio() for other in known if len(other) > 2)
    if field.name == event_type.key and not seen.is_unique:
        score -= 0.3
    return score


def _may_be(field: Field, seen: _Seen) -> bool:
    if not seen.values:
        return not field.required
    match field.type:
        case "TIMESTAMP" | "DATE":
            return bool(seen.date_formats)
        case "DOUBLE":
            return seen.decimal is not None
        case "BOOLEAN":
            return len(set(seen.values)) <= 3
        case "VARCHAR":
            # A field that is only times or fractions is no name and no code.
            is_time = bool(seen.date_formats) and not seen.date_formats[0].startswith("unix")
            return not is_time and (seen.decimal is None or all(value.lstrip("-").isdecimal() for value in seen.values))


def _look_at(name: str, is_column: bool, values: Sequence[str | None]) -> _Seen:
    plain = _plain(name if is_column else name.rsplit(".", maxsplit=1)[-1])
    there = [value.strip() for value in values if value is not None and value.strip()]
    return _Seen(name, plain, there, len(set(there)) == len(values) > 0, _date_formats(there), _decimal(there))


def _share(values: Sequence[str], condition: str) -> float:
    """The share of values that meet a condition over `v`."""
    if not values:
        return 0
    with cursor() as connection:
        found = connection.execute(
            f"SELECT avg(CASE WHEN {condition} THEN 1 ELSE 0 END) FROM (SELECT unnest(?) AS v)", [list(values)]
        )
        return float(found.fetchall()[0][0])


def _is_kind(share: float, values: Sequence[str]) -> bool:
    return share >= _FITS or (len(values) > 2 and round((1 - share) * len(values)) <= 1)


def _decimal(values: Sequence[str]) -> str | None:
    ways = {
        "": "try_cast(v AS DOUBLE) IS NOT NULL",
        ",": "decimal_comma(v) IS NOT NULL",
        ".": "decimal_point(v) IS NOT NULL",
    }
    shares = {sign: _share(values, condition) for sign, condition in ways.items()}
    best = max(shares, key=lambda sign: shares[sign])  # the first of equals: nothing to say is best
    return best if _is_kind(shares[best], values) else None


def _date_formats(values: Sequence[str]) -> list[str]:
    """The patterns of times that the values need, the most frequent first, or nothing if they are no times."""
    if not values:
        return []
    iso = f"regexp_full_match(v, '{_ISO}') AND (is_day(v) OR try_cast(v AS TIMESTAMPTZ) IS NOT NULL)"
    if _is_kind(_share(values, iso), values):
        return ["iso"]
    numbers = "try_cast(v AS BIGINT)"
    for name, low, high in (
        ("unix_seconds", 9e8, 4e9),
        ("unix_milliseconds", 9e11, 4e12),
        ("unix_microseconds", 9e14, 4e15),
    ):
        if _is_kind(_share(values, f"{numbers} BETWEEN {low:.0f} AND {high:.0f}"), values):
            return [name]
    left, formats = list(values), list[str]()
    for _ in range(3):
        shares = {
            one: _share(left, f"try_strptime(v, {literal(one)}) BETWEEN '1900-01-01' AND '2100-01-01'")
            for one in DATE_FORMATS
        }
        best = max(shares, key=lambda one: shares[one])
        if not shares[best]:
            break
        formats.append(best)
        with cursor() as connection:
            asked = f"SELECT v FROM (SELECT unnest(?) AS v) WHERE try_strptime(v, {literal(best)}) IS NULL"
            left = [value for (value,) in connection.execute(asked, [left]).fetchall()]
        if _is_kind(1 - len(left) / len(values), values):
            return formats
    return []


def _plain(name: str) -> str:
    """A name in lower case and ASCII, its words joined by _."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    for letter, plain in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss"), ("Ä", "Ae"), ("Ö", "Oe"), ("Ü", "Ue")):
        text = text.replace(letter, plain)
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", ascii_only.lower()).strip("_")


def _written(
    sample: Sample, event_type: EventType, found: Mapping[str, tuple[_Seen, float]], seen: Sequence[_Seen]
) -> str:
    taken = {one.name for one, _ in found.values()}
    signs = Counter(
        one.decimal for name, (one, _) in found.items() if _kind(event_type, name) == "DOUBLE" and one.decimal
    )
    sign = signs.most_common(1)[0][0] if signs else None
    tables: list[str] = []
    lines = [
        f"# Suggested by `churn map suggest` from {_comment(sample.name)}.",
        "# Read it, then run: churn map check THIS_FILE --sample DATA",
        "mappings:",
        f"  - name: {_yaml(_plain(sample.name.rsplit('.', 1)[0] if sample.is_file else sample.name) or 'mapping')}",
        f"    ledger: {event_type.ledger}",
        f"    {'files' if sample.is_file else 'topics'}: [{_yaml(sample.name)}]",
    ]
    if sample.format != "json":
        lines.append(f"    format: {sample.format}")
    if sign:
        lines.append(f"    decimal: {_yaml(str(sign))}")
    lines += ["    # timezone: Europe/Berlin  # of times without an offset; UTC if it stays out", "    columns:"]
    for field in event_type.fields:
        if field.name not in found:
            if field.required:
                lines.append(f"      # {field.name}: ...  # NOT FOUND, and needed. {field.description}")
            continue
        one, score = found[field.name]
        column, table = _column(field, one, sign, is_file=sample.is_file)
        doubt = "" if score >= _SURE else "  # A GUESS"
        examples = ", ".join(dict.fromkeys(one.values[:50]))[:70]
        lines.append(f"      {field.name}: {column}  # {_comment(examples)}{doubt}{_ambiguous(field, one)}")
        tables += table
    if sample.format == "debezium" and event_type.is_dimension and event_type.event_time not in found:
        lines.append(f"      {event_type.event_time}: {{sql: {ENVELOPE}.ts_ms, date_format: unix_milliseconds}}")
    rest = [one.name for one in seen if one.name not in taken and not one.name.startswith(f"{ENVELOPE}.")]
    if rest:
        lines.append(f"    # Kept in extra_fields: {_comment(', '.join(rest))}")
    return "\n".join([*lines, *(["codes:", *tables] if tables else [])]) + "\n"


def _kind(event_type: EventType, name: str) -> str:
    return next(field.type for field in event_type.fields if field.name == name)


def _identifier(name: str) -> str:
    """A name as SQL takes it."""
    fields = Fields()
    with suppress(MappingError):
        compiled(name, fields, "number_plain")
    return name if fields.paths == [(name,)] else '"' + name.replace('"', '""') + '"'


def _column(field: Field, seen: _Seen, sign: str | None, *, is_file: bool) -> tuple[str, list[str]]:
    """The YAML of a column, and of its code table."""
    sql = seen.name if is_file else ".".join(map(_identifier, seen.name.split(".")))
    is_plain = not is_file or _identifier(seen.name) == seen.name
    if field.name == "amount" and _share(seen.values, "prefix(v, '-') OR suffix(v, '-')") > 1 - _FITS:
        # In the contract the code says whether money goes out, and a minus takes back.
        sql, is_plain = f"abs({sql if is_plain else _identifier(sql)})", True
    origin = f"sql: {_yaml(sql)}" if is_plain else f"field: {_yaml(sql)}"
    options: list[str] = []
    table: list[str] = []
    if field.type in ("TIMESTAMP", "DATE") and seen.date_formats and seen.date_formats != ["iso"]:
        options.append(f"date_format: [{', '.join(map(_yaml, seen.date_formats))}]")
    if field.type == "DOUBLE" and seen.decimal and seen.decimal != sign:
        options.append(f"decimal: {_yaml(seen.decimal)}")
    if field.name in CODES and 0 < len(set(seen.values)) <= _MAX_CODES:
        table = _code_table(field, seen)
        options += [f"codes: {field.name}"] if table else []
    if not options and is_plain:
        return _yaml(sql), table
    return f"{{{', '.join([origin, *options])}}}", table


def _code_table(field: Field, seen: _Seen) -> list[str]:
    """The YAML of a table for the codes of a field, or nothing if they are ours already."""
    known = rules().codes.of_column(field.name) or {code: code for code in CODES[field.name]}
    ours = {
        _plain(theirs): target for target, names in CODES[field.name].items() for theirs in (target, *names.split())
    }
    counts = Counter(seen.values)
    if {code.upper() for code in counts} <= {code.upper() for code in known}:
        return []
    lines: list[str] = []
    for code, count in counts.most_common():
        if target := _known(field.name, ours.get(_plain(code), code), known):
            lines.append(f"      {_yaml(code)}: {_yaml(target)}  # {count:,} of the sample")
        else:
            lines.append(f"      # {_yaml(code)}: ...  # UNKNOWN, {count:,} of the sample: rejects until it is listed")
    is_any_known = any(not line.lstrip().startswith("#") for line in lines)
    return [f"  {field.name}:", "    others: reject", f"    values:{'' if is_any_known else ' {}'}", *lines]


def _known(column: str, code: str, known: Mapping[str, str]) -> str | None:
    """A code that the bank's rules know and that means the same: itself, or of other codes with its meaning the first."""
    meaning = Codes().of_column(column).get(code)
    same = [one for one in known if one.upper() == code.upper()] + [one for one in known if known[one] == meaning]
    return next(iter(same), None)


def _ambiguous(field: Field, seen: _Seen) -> str:
    """A warning where day and month cannot be told apart."""
    if field.type not in ("TIMESTAMP", "DATE") or not any("%d/%m" in one for one in seen.date_formats):
        return ""
    swapped = [one.replace("%d/%m", "%m/%d") for one in seen.date_formats]
    fits = " OR ".join(f"try_strptime(v, {literal(one)}) IS NOT NULL" for one in swapped)
    return "  # DAY OR MONTH FIRST? Both fit all values" if _share(seen.values, fits) == 1 else ""


def _yaml(text: str) -> str:
    """A text as YAML that every reader takes for a text."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", text, re.ASCII) and yaml.safe_load(text) == text:
        return text
    # JSON is YAML, and knows all characters.
    return f"'{text.replace(chr(39), chr(39) * 2)}'" if text.isprintable() else json.dumps(text)


def _comment(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
