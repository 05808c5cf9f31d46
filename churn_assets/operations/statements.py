"""Every Snowflake object that dbt does not own, as statements in the order of deployment.

Here belong the rendering of `sql/snowflake` and of the tables in `sql/*.sql`, and the splitting into statements. Nothing here
connects: `account` runs the statements, and dbt before the last phase. Objects that are deployed with the code that they run
are in `model.snowflake_functions` and `procedures`.

Written from the documentation, never run on a live account.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from churn_assets.analyst.semantic_model import for_snowflake, load_semantic_model
from churn_assets.configuration import rules
from churn_assets.dashboard.files import APP_FILE, APP_FOLDER
from churn_assets.project_files import PROJECT_FILES, files_in
from churn_assets.retention.effect import outcomes_in_sql
from churn_assets.rules import SEARCH_TARGET_LAG, Rules
from churn_assets.search.catalogue import load_case_categories, load_error_codes
from churn_assets.settings import Settings
from churn_assets.warehouse.snowflake_names import Names, SnowflakeSqlError
from churn_assets.warehouse.values import literal

Phase = Literal["account", "schema", "functions", "dbt", "after_dbt"]
# In the order of deployment. `account` makes the statements of `functions` and `dbt`.
PHASES: dict[Phase, str] = {
    "account": "by an administrator, once",
    "schema": "the tables, by the engineer's role",
    "functions": "the model's stage and functions and the tasks' procedures, with their code, and the dashboard's files",
    "dbt": "the dynamic tables, by `dbt run`",
    "after_dbt": "the objects that read the dynamic tables",
}
_SQL = PROJECT_FILES / "sql"
_SESSION, HISTORY = "snowflake/session.sql", "snowflake/history.sql"
QUEUE_AT_RISK = "snowflake/after_dbt/020_queue_who_is_at_risk.sql"  # a new stream does not contain the existing rows
_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")
# Within these a semicolon does not end a statement: comments, strings, quoted names and bodies.
_OPAQUE = re.compile(r"--[^\n]*|//[^\n]*|/\*.*?\*/|'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"|\$\$.*?\$\$", re.DOTALL)
_COMMENTS = ("--", "//", "/*")
# The kind and name of a statement's object; the first pattern that matches counts.
_KIND = r"(?:(?:SECURE|DYNAMIC|SEMANTIC|CORTEX|SEARCH|MASKING|ROW|ACCESS|FILE) )*[A-Z]+"
_ABOUT = (
    re.compile(rf"CREATE (?:OR (?:REPLACE|ALTER) )?({_KIND}) (?:IF NOT EXISTS )?([\w.$]+)"),
    re.compile(rf"(ALTER {_KIND}) (?:IF EXISTS )?([\w.$]+(?: [A-Z]+)?)"),
    re.compile(r"(INSERT INTO [\w.$]+).*?( FROM \S+)"),
    re.compile(r"(PUT) (\S+)"),
)
CREATES_STREAM = re.compile(r"CREATE STREAM IF NOT EXISTS (\S+) ON DYNAMIC TABLE (\S+)")
_OF_THE_SESSION = re.compile(r"(USE|ALTER SESSION)\b")


@dataclass(frozen=True)
class Statement:
    """One statement, without its semicolon, and its file below `sql/`."""

    file: str
    text: str
    phase: Phase

    @cached_property
    def plain(self) -> str:
        """The text on one line, without comments."""
        return " ".join(_without_comments(self.text).split())

    @property
    def path(self) -> str:
        """The file, from the project's root."""
        return self.file if self.phase in {"functions", "dbt"} else f"sql/{self.file}"

    @cached_property
    def about(self) -> str:
        """The object that it creates or changes. It stays the same when the text changes, and is unique in its file."""
        for pattern in _ABOUT:
            if found := pattern.match(self.plain):
                create = "CREATE " if self.plain.startswith("CREATE") else ""
                return f"{create}{found[1]} {found[2].strip()}"
        return self.plain[:200]

    @property
    def is_of_the_session(self) -> bool:
        """Whether its effect ends with the connection."""
        return bool(_OF_THE_SESSION.match(self.plain))


def statements(names: Names) -> tuple[Statement, ...]:
    """All statements in the order of deployment. Each is idempotent, and none drops or replaces an object that holds data.

    `account` needs an administrator. `schema` and `after_dbt` begin by setting the session's role and schema. `after_dbt`
    needs the model's functions and the dynamic tables (dbt).
    """
    return _statements(names, rules())  # type: ignore[arg-type]  # a frozen model has a hash, which pyright does not see


@cache  # 40 files are read and filled in; a deployment asks several times
def _statements(names: Names, of_bank: Rules) -> tuple[Statement, ...]:
    values = _values(names, of_bank)
    return tuple(
        Statement(file, text, phase)
        for phase, files in _files().items()
        for file in files
        for text in split(render((_SQL / file).read_text(), values, file))
        # The other statements of the tables' files declare the lake's streams.
        if file.startswith("snowflake/") or _without_comments(text).startswith("CREATE TABLE IF NOT EXISTS")
    )


def driver_statements(settings: Settings, names: Names) -> list[Statement]:
    """The statements that resume every task (CHURN_DRIVER=native), or suspend every task, as Dagster does their work."""
    change = "RESUME" if settings.driver == "native" else "SUSPEND"
    if_exists = "" if settings.driver == "native" else "IF EXISTS "
    return [
        Statement(
            one.file, f"ALTER TASK {if_exists}{found[1]} {change}", "after_dbt" if change == "RESUME" else "schema"
        )
        for one in statements(names)
        if (found := re.match(r"CREATE TASK IF NOT EXISTS (\S+)", one.plain))
    ]


def render(text: str, values: dict[str, str], file: str) -> str:
    """Replace every `{{ name }}` in a text, in one pass; `SnowflakeSqlError` for a name that has no value."""
    if unknown := sorted(set(_PLACEHOLDER.findall(text)) - set(values)):
        raise SnowflakeSqlError(
            f"sql/{file} has the unknown placeholder {unknown[0]}; known placeholders: {sorted(values)}"
        )
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], text)


def split(script: str) -> list[str]:
    """The statements of a script, without their semicolons. Comments alone are not a statement."""
    found, start = [], 0
    for end in _ends(script):
        text = script[start:end].strip()
        if _without_comments(text):
            found.append(text)
        start = end + 1
    return found


def _ends(script: str) -> Iterator[int]:
    place = 0
    for opaque in _OPAQUE.finditer(script):
        yield from (place + end.start() for end in re.finditer(";", script[place : opaque.start()]))
        place = opaque.end()
    yield from (place + end.start() for end in re.finditer(";", script[place:]))
    yield len(script)


def _without_comments(text: str) -> str:
    return _OPAQUE.sub(lambda found: " " if found[0].startswith(_COMMENTS) else found[0], text).strip()


def _files() -> dict[Phase, list[str]]:
    def files(pattern: str) -> list[str]:
        return [file.relative_to(_SQL).as_posix() for file in files_in(_SQL, pattern)]

    return {
        "account": files("snowflake/account/*.sql"),
        "schema": [_SESSION, HISTORY, *files("*.sql"), *files("snowflake/schema/*.sql")],
        "after_dbt": [_SESSION, *files("snowflake/after_dbt/*.sql")],
    }


def _values(names: Names, of_bank: Rules) -> dict[str, str]:
    model = load_semantic_model()
    return {
        **names.identifiers(),
        "email_pause_days": str(of_bank.emails.pause_days),
        "alert_hours": str(of_bank.emails.alert_hours),
        "error_codes": ", ".join(f"({', '.join(map(_literal, code))})" for code in load_error_codes()),
        "case_categories": ", ".join(f"({', '.join(map(_literal, category))})" for category in load_case_categories()),
        "outcomes": outcomes_in_sql(f"{names.database}.{names.schema}."),
        "unhappy_below": str(of_bank.risk.unhappy_below),
        "search_target_lag": SEARCH_TARGET_LAG,
        "semantic_model": within_dollars(for_snowflake(names.database, names.serving_schema)),
        "semantic_view": model.name.upper(),
        "sample_question": model.verified_queries[0].question,
        "app_folder": APP_FOLDER,
        "app_file": APP_FILE,
    }


def within_dollars(text: str) -> str:
    """The same text, for a $$ body; `SnowflakeSqlError` if it contains $$, which would end the body."""
    if "$$" in text:
        raise SnowflakeSqlError(f"a text for Snowflake cannot have $$: {text[:60]!r}")
    return text


def _literal(text: str) -> str:
    """A text as a Snowflake literal within a $$ body, which the text cannot end."""
    return literal(within_dollars(text), "snowflake")
