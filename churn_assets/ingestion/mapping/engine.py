"""The DuckDB that evaluates mappings: cut off from files, network and settings, with macros that read numbers and times.

Macros take text and give NULL for what they cannot read; the callers say so in a reject.
"""

from functools import cache

import duckdb

_GROUPS = "'’ \u00a0\u202f"  # what may stand between thousands, beside the other decimal sign
_MINUS = "-−"

# A wall clock's hour that comes twice is the later one, and one that is skipped is moved by the gap, as in ICU.
_OFFSET = r"^.{10}.*[Tt ].*([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$"
_MACROS = {
    # Numbers where a mapping has no decimal sign: as the contract takes them.
    "number_plain(t)": "CAST(CASE WHEN contains(t, '_') THEN 'no number' ELSE nullif(trim(t), '') END AS DOUBLE)",
    "number_point(t)": "CAST(CASE WHEN trim(t) <> '' THEN coalesce(decimal_point(trim(t)), 'no number') END AS DOUBLE)",
    "number_comma(t)": "CAST(CASE WHEN trim(t) <> '' THEN coalesce(decimal_comma(trim(t)), 'no number') END AS DOUBLE)",
    "decimal_point(t)": None,
    "decimal_comma(t)": None,
    "is_day(t)": "regexp_full_match(t, '[0-9]{4}-?[0-9]{2}-?[0-9]{2}')",
    "as_utc(moment)": "replace(CAST(moment AS VARCHAR), ' ', 'T') || 'Z'",
    "zoned(moment, zone)": "make_timestamp(epoch_us(timezone(zone, CAST(moment AS TIMESTAMP))))",
    # Without a digit, DuckDB takes 'infinity' and 'epoch' for 1900-01-01, whatever the pattern.
    "parsed_time(t, pattern)": (
        "CASE WHEN t BETWEEN '.' AND ':' OR regexp_matches(t, '[0-9]') THEN try_strptime(t, pattern) END"
    ),
    # An ISO time of a wall clock. With an offset it says all, and a day alone is that day.
    "iso_local(t, zone)": (
        f"CASE WHEN is_day(t) OR regexp_matches(t, '{_OFFSET}') THEN t ELSE as_utc(zoned(coalesce("
        "try_cast(replace(t, ',', '.') AS TIMESTAMP),"
        " try_strptime(t, '%Y%m%dT%H%M%S'), try_strptime(t, '%Y%m%dT%H%M')), zone)) END"
    ),
    "unix_time(t, per_second)": (
        "make_timestamp(CAST(try_cast(t AS DECIMAL(30, 6)) * (1000000 // per_second) AS BIGINT))"
    ),
}


def _decimal(sign: str, other: str) -> str:
    groups = f"[{other}{_GROUPS}]".replace("'", "''")
    whole = f"(?:[0-9]{{1,3}}(?:{groups}[0-9]{{3}})+|[0-9]+)"
    # "5,-" is a price without cents, and "5,50-" a debit.
    digits = f"(?:{whole}(?:[{sign}][0-9]+)?|[{sign}][0-9]+)"
    number = f"[{_MINUS}+]? ?(?:{digits}|{whole}[{sign}])|{digits} ?[{_MINUS}]|\\({digits}\\)"
    gone = f"{other}{_GROUPS}+{_MINUS}()".replace("'", "''")
    minus = " OR ".join(f"contains(t, '{mark}')" for mark in (*_MINUS, "("))
    return (
        # What most numbers are, without the cost of all that they may be.
        f"CASE WHEN regexp_full_match(t, '-?[0-9]+([{sign}][0-9]+)?') THEN replace(t, '{sign}', '.')"
        f" WHEN regexp_full_match(t, '{number}') THEN CASE WHEN {minus} THEN '-' ELSE '' END"
        f" || replace(translate(t, '{gone}', ''), '{sign}', '.') END"
    )


@cache
def engine() -> duckdb.DuckDBPyConnection:
    """The connection; use a cursor of it. It has one thread: decoding runs beside storing."""
    connection = duckdb.connect(":memory:", config={"threads": "1", "enable_external_access": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    bodies = _MACROS | {"decimal_point(t)": _decimal(".", ","), "decimal_comma(t)": _decimal(",", ".")}
    for name in sorted(bodies, key=lambda name: name.startswith(("number", "iso"))):
        connection.execute(f"CREATE MACRO {name} AS {bodies[name]}")
    connection.execute("SET lock_configuration = true")
    return connection


def cursor() -> duckdb.DuckDBPyConnection:
    """A cursor of the engine; its times are UTC."""
    return engine().cursor()
