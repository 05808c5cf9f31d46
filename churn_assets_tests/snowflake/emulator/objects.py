"""Objects: CREATE, ALTER, DROP, GRANT, USE, and what is called.

Tables and views are the engine's; dynamic tables and streams have semantics here (`dynamic_tables`, `streams`), and procedures in
Python run (`procedures`). Everything else is kept as it was defined and does nothing: policies are not enforced, tasks do not
start, roles and grants refuse nobody. A statement that is not known is refused.

DDL commits the session's open transaction, as in Snowflake; USE and ALTER SESSION do not.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml
from fakesnow import info_schema, macros
from sqlglot import exp, parse_one

from churn_assets_tests.snowflake.emulator import dynamic_tables, procedures, stages
from churn_assets_tests.snowflake.emulator.account import SYSTEM_ROLES, Definition, Grant
from churn_assets_tests.snowflake.emulator.errors import (
    StatementError,
    already_exists,
    does_not_exist,
    missing_property,
    syntax_error,
    unsupported,
)
from churn_assets_tests.snowflake.emulator.names import (
    NAME,
    PART,
    TEMPORARY,
    Name,
    blanked,
    in_sql,
    parts,
    shown,
    stored,
    text_of,
)
from churn_assets_tests.snowflake.emulator.streams import Stream
from churn_assets_tests.snowflake.emulator.wire import Rows, status

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.session import Session

DONE = "Statement executed successfully."
OF_ACCOUNT = ("DATABASE", "ROLE", "WAREHOUSE")
# What a definition of each kind must have, as a pattern and in words.
REQUIRED: dict[str, dict[str, str]] = {
    "TASK": {r"\bAS\s+\S": "AS"},
    "PROCEDURE": {r"\bRETURNS\s": "RETURNS", r"\bLANGUAGE\s": "LANGUAGE"},
    "FUNCTION": {r"\bRETURNS\s": "RETURNS"},
    "MASKING POLICY": {r"\bAS\s*\(": "AS", r"\bRETURNS\s": "RETURNS", r"->": "->"},
    "ROW ACCESS POLICY": {r"\bAS\s*\(": "AS", r"\bRETURNS\s+BOOLEAN": "RETURNS BOOLEAN", r"->": "->"},
    "CORTEX SEARCH SERVICE": {
        r"\bON\s": "ON",
        r"\bWAREHOUSE\s*=": "WAREHOUSE",
        r"\bTARGET_LAG\s*=": "TARGET_LAG",
        r"\bAS\s+(?:SELECT|WITH|\()": "AS",
    },
    "SEMANTIC VIEW": {r"\bTABLES\s*\(": "TABLES"},
    "AGENT": {r"\bFROM\s+SPECIFICATION\s*(?:\$\$|')": "FROM SPECIFICATION"},
    "STREAMLIT": {r"\b(?:FROM|ROOT_LOCATION)\b": "FROM", r"\bMAIN_FILE\s*=": "MAIN_FILE"},
    "FILE FORMAT": {r"\bTYPE\s*=": "TYPE"},
    "STAGE": {},
    "WAREHOUSE": {},
}
SESSION_PARAMETERS = (
    "AUTOCOMMIT",
    "LOCK_TIMEOUT",
    "QUERY_TAG",
    "STATEMENT_TIMEOUT_IN_SECONDS",
    "TIMESTAMP_TYPE_MAPPING",
    "TIMEZONE",
    "USE_CACHED_RESULT",
)
PYTHON = {r"\bRUNTIME_VERSION\s*=": "RUNTIME_VERSION", r"\bHANDLER\s*=": "HANDLER", r"\bPACKAGES\s*=": "PACKAGES"}
MODEL_FUNCTIONS = ("PREDICT_CHURN", "CHURN_REASONS")
_KINDS = ("DYNAMIC TABLE", "TABLE", "VIEW", "STREAM", "DATABASE", "SCHEMA", "ROLE", *REQUIRED)
_KIND = "|".join(kind.replace(" ", r"\s+") for kind in sorted(_KINDS, key=len, reverse=True))


@dataclass(frozen=True)
class Create:
    kind: str
    name: Name
    replaces: bool
    modifiers: frozenset[str]
    rest: str
    text: str

    def define(self, session: "Session", **options: Any) -> None:
        """Keep the definition."""
        definition = Definition(self.kind, self.name, self.text, session.role, options)
        session.account.definitions[self.kind, self.name] = definition

    def property(self, name: str) -> str | None:
        """The value of `NAME = value`, outside of texts and bodies."""
        if not (found := re.search(rf"\b{name}\s*=\s*", blanked(self.rest), re.IGNORECASE)):
            return None
        value = re.match(r"'(?:[^'\\]|''|\\.)*'|\$\$.*?\$\$|\([^)]*\)|[^\s,;]+", self.rest[found.end() :], re.DOTALL)
        return value[0] if value else None


def is_defined(session: "Session", kind: str, name: Name) -> bool:
    account = session.account
    match kind:
        case "TABLE":
            return name in session.temporary or account.is_there(name)
        case "VIEW":
            return account.is_there(name)
        case "DYNAMIC TABLE":
            return name in account.dynamic_tables
        case "STREAM":
            return name in account.streams
        case "ROLE":
            return name[0] in account.roles
        case _:
            return (kind, name) in account.definitions


def _create(session: "Session", found: "re.Match[str]", sql: str) -> Rows:
    session.commit()
    kind = _kind(found["kind"])
    name = _object_name(session, kind, found["name"], found["rest"])
    create = Create(
        kind,
        name,
        bool(found["replace"]),
        frozenset(found["modifiers"].upper().split()),
        found["rest"].strip(),
        sql,
    )
    if create.replaces and found["exists"]:
        raise syntax_error("OR REPLACE and IF NOT EXISTS exclude each other")
    is_temporary = kind == "TABLE" and bool(create.modifiers & {"TEMPORARY", "TEMP"})
    is_there = name in session.temporary if is_temporary else is_defined(session, kind, name)
    if is_there and found["exists"]:
        return status(f"{name[-1]} already exists, statement succeeded.")
    if is_there and not create.replaces:
        raise already_exists(kind.capitalize(), shown(name))
    if len(name) == 3 and not session.account.has_schema(name[0], name[1]):
        raise does_not_exist("Schema", shown(name[:2]))
    if kind in REQUIRED:
        _require(create, REQUIRED[kind])
    return status(_MAKERS.get(kind, _store)(session, create))


def _kind(written: str) -> str:
    return " ".join(written.upper().split())


def _object_name(session: "Session", kind: str, written: str, rest: str = "") -> Name:
    if kind in OF_ACCOUNT:
        (only,) = parts(written)
        return (only,)
    if kind == "SCHEMA":
        given = parts(written)
        if len(given) == 1:
            given = [_database(session), *given]
        return tuple(given)
    name = session.name(written)
    if kind in {"PROCEDURE", "FUNCTION"}:
        return (*name[:2], f"{name[2]}({', '.join(_types_of_arguments(rest))})")
    return name


def _database(session: "Session") -> str:
    if session.database is None:
        raise StatementError(90105, "22000", "This session does not have a current database.")
    return session.database


def _types_of_arguments(rest: str) -> list[str]:
    """The types within the parentheses that a signature begins with, with or without names."""
    if not (found := re.match(r"\s*\(([^)]*)\)", rest)):
        raise syntax_error("a signature needs its arguments in parentheses")
    arguments = [one.split() for one in found[1].split(",") if one.strip()]
    return [(words[1] if len(words) > 1 else words[0]).upper() for words in arguments]


def _require(create: Create, required: dict[str, str]) -> None:
    text = blanked(create.rest).upper()
    raw = create.rest
    for pattern, said in required.items():
        # What follows a keyword may itself be a text, which is blanked out but for its first sign.
        if not re.search(pattern, text, re.IGNORECASE) and not re.search(pattern, raw, re.IGNORECASE):
            raise missing_property(create.kind, said)


def _store(session: "Session", create: Create) -> str:
    create.define(session)
    return f"{create.kind.capitalize()} {create.name[-1]} successfully created."


# ---- what has a meaning of its own


def _make_database(session: "Session", create: Create) -> str:
    (database,) = create.name
    if create.replaces:
        raise unsupported("CREATE OR REPLACE DATABASE")
    duck = session.account.duck
    duck.execute(f"ATTACH ':memory:' AS {in_sql(create.name)}")
    duck.execute(info_schema.per_db_creation_sql(database))
    duck.execute(macros.creation_sql(database))
    create.define(session)
    _add_schema(session, (database, "PUBLIC"))
    session.use(database, "PUBLIC")
    return f"Database {database} successfully created."


def _make_schema(session: "Session", create: Create) -> str:
    if create.replaces:
        raise unsupported("CREATE OR REPLACE SCHEMA")
    if not session.account.has_schema(create.name[0]):
        raise does_not_exist("Database", create.name[0])
    _add_schema(session, create.name, text=create.text)
    session.use(*create.name)
    return f"Schema {create.name[-1]} successfully created."


def _add_schema(session: "Session", name: Name, text: str = "") -> None:
    session.account.duck.execute(f"CREATE SCHEMA IF NOT EXISTS {in_sql(name)}")
    managed = bool(re.search(r"WITH\s+MANAGED\s+ACCESS", text, re.IGNORECASE))
    session.account.definitions["SCHEMA", name] = Definition(
        "SCHEMA", name, text, session.role, {"MANAGED ACCESS": managed}
    )


def _make_role(session: "Session", create: Create) -> str:
    session.account.roles[create.name[0]] = datetime.now(UTC)
    return f"Role {create.name[0]} successfully created."


def _make_warehouse(session: "Session", create: Create) -> str:
    suspended = (create.property("INITIALLY_SUSPENDED") or "FALSE").upper() == "TRUE"
    size = (create.property("WAREHOUSE_SIZE") or "XSMALL").strip("'").upper()
    create.define(
        session,
        state="SUSPENDED" if suspended else "STARTED",
        size=size,
        auto_suspend=create.property("AUTO_SUSPEND") or "600",
        auto_resume=(create.property("AUTO_RESUME") or "TRUE").lower(),
    )
    session.warehouse = create.name[0]
    return f"Warehouse {create.name[0]} successfully created."


def _make_table(session: "Session", create: Create) -> str:
    is_temporary = bool(create.modifiers & {"TEMPORARY", "TEMP"})
    target = (*TEMPORARY, create.name[-1]) if is_temporary else create.name
    if is_temporary and any(other == target for name, other in session.temporary.items() if name != create.name):
        raise unsupported("two temporary tables of one name in different schemas")
    if like := re.fullmatch(rf"LIKE\s+(?P<source>{NAME})", create.rest, re.IGNORECASE):
        _make_like(session, target, session.name(like["source"]))
    else:
        session.duck.execute(session.translated(_as_engine_has_it(session, create, target)))
    if is_temporary:
        session.temporary[create.name] = target
    else:
        create.define(session)
        session.account.replaced(create.name)
    return f"Table {create.name[-1]} successfully created."


def _make_like(session: "Session", target: Name, source: Name) -> None:
    """An empty table with the columns of another."""
    source = session.temporary.get(source, source)
    described = session.duck.execute(f"DESCRIBE {in_sql(source)}").fetchall()
    columns = ", ".join(
        f"{in_sql((name,))} {type_}{'' if nullable == 'YES' else ' NOT NULL'}"
        for name, type_, nullable, *_ in described
    )
    kind = "TEMPORARY TABLE" if target[:2] == TEMPORARY else "TABLE"
    session.duck.execute(f"CREATE OR REPLACE {kind} {in_sql(target)} ({columns})")


def _as_engine_has_it(session: "Session", create: Create, target: Name) -> exp.Create:
    """A CREATE TABLE with columns or a query, without what DuckDB would enforce and Snowflake only declares."""
    expression = parse_one(create.text, read="snowflake")
    if not isinstance(expression, exp.Create) or expression.args.get("clone"):
        raise unsupported(create.text[:100])
    if session.streams_in(expression):
        raise unsupported("CREATE TABLE AS a query of a stream")
    keys = (exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint, exp.Reference)
    for constraint in list(expression.find_all(exp.ColumnConstraint)):
        if isinstance(constraint.args["kind"], keys):
            constraint.pop()
    for constraint in list(expression.find_all(exp.PrimaryKey, *keys[1:2], exp.ForeignKey, exp.Constraint)):
        constraint.pop()
    if (query := expression.args.get("expression")) is not None:
        expression.set("expression", session.prepared(query))
    node = expression.this.this if isinstance(expression.this, exp.Schema) else expression.this
    for key, part in zip(("catalog", "db", "this"), target, strict=True):
        node.set(key, exp.to_identifier(part, quoted=True))
    _refuse_unknown_properties(expression)
    is_temporary = target[:2] == TEMPORARY
    expression.set("properties", exp.Properties(expressions=[exp.TemporaryProperty()]) if is_temporary else None)
    expression.set("exists", False)
    return expression


def _refuse_unknown_properties(table: exp.Create) -> None:
    known = (exp.TemporaryProperty, exp.TransientProperty, exp.SchemaCommentProperty, exp.ClusterProperty)
    properties = table.args.get("properties")
    for given in properties.expressions if properties else []:
        if not isinstance(given, known) and given.name.upper() not in {
            "CHANGE_TRACKING",
            "DATA_RETENTION_TIME_IN_DAYS",
        }:
            raise unsupported(f"{given.sql(dialect='snowflake')} of a table")


def _make_view(session: "Session", create: Create) -> str:
    header, query = _halves(create.rest)
    header = re.sub(
        r"\bUSING\s*\([^)]*\)", "", header, flags=re.IGNORECASE
    )  # what a masking policy reads beside its column
    if session.streams_in(parse_one(query, read="snowflake")):
        raise unsupported("a view of a stream")
    for policy in re.finditer(
        rf"WITH\s+(?P<kind>MASKING|ROW\s+ACCESS)\s+POLICY\s+(?P<name>{NAME})", header, re.IGNORECASE
    ):
        session.account.definition(f"{_kind(policy['kind'])} POLICY", session.name(policy["name"]))
    columns = re.match(r"\s*\((.*?)\)\s*(?:$|WITH|COPY|COMMENT)", header, re.IGNORECASE | re.DOTALL)
    names = [re.match(rf"\s*({PART})", one) for one in columns[1].split(",")] if columns else []
    listed = ", ".join(f'"{stored(one[1])}"' for one in names if one)
    rest = re.sub(
        rf"WITH\s+(?:MASKING|ROW\s+ACCESS)\s+POLICY\s+{NAME}(?:\s+ON\s*\([^)]*\))?|COPY\s+GRANTS|COMMENT\s*=\s*'[^']*'",
        "",
        header[columns.end(1) + 1 :] if columns else header,
        flags=re.IGNORECASE,
    )
    if rest.strip():
        raise unsupported(f"{rest.strip()!r} in CREATE VIEW")
    session.duck.execute(
        f"CREATE OR REPLACE VIEW {in_sql(create.name)} {f'({listed})' if listed else ''} AS {session.engine_sql(query)}"
    )
    create.define(session, is_secure="SECURE" in create.modifiers)
    return f"View {create.name[-1]} successfully created."


def _halves(rest: str) -> tuple[str, str]:
    """What stands before and after the AS that a query follows."""
    if not (found := re.search(r"\bAS\s+(?=SELECT\b|WITH\b|\()", blanked(rest), re.IGNORECASE)):
        raise syntax_error("unexpected '<EOF>', a query after AS is missing")
    return rest[: found.start()].strip(), rest[found.end() :].strip()


def _make_stage(session: "Session", create: Create) -> str:
    if create.property("URL"):
        raise unsupported("external stages")
    folder = stages.stage_folder(session, create.name)
    if create.replaces:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    create.define(session, FILE_FORMAT=create.property("FILE_FORMAT"))
    return f"Stage area {create.name[-1]} successfully created."


def _make_file_format(session: "Session", create: Create) -> str:
    create.define(session, **stages.options_of(create.rest))
    return f"File format {create.name[-1]} successfully created."


def _make_stream(session: "Session", create: Create) -> str:
    found = re.match(rf"ON\s+(?P<kind>DYNAMIC\s+TABLE|TABLE)\s+(?P<name>{NAME})(?P<rest>.*)$", create.rest, re.I | re.S)
    if not found:
        raise unsupported(f"a stream {create.rest[:60]!r}")
    source, kind, account = session.name(found["name"]), _kind(found["kind"]), session.account
    options = stages.options_of(found["rest"])
    if unknown := set(options) - {"COMMENT", "SHOW_INITIAL_ROWS"}:
        raise unsupported(f"the options {sorted(unknown)} of a stream")
    is_dynamic = source in account.dynamic_tables
    if (kind == "DYNAMIC TABLE") != is_dynamic or not account.is_there(source):
        raise does_not_exist(kind.capitalize(), shown(source))
    if is_dynamic:
        if "SHOW_INITIAL_ROWS" in options:
            raise unsupported("SHOW_INITIAL_ROWS for a dynamic table, as Snowflake does not")
        if account.dynamic_tables[source].refresh_mode != "INCREMENTAL":
            raise StatementError(
                2, "0A000", f"Change tracking is not supported on dynamic tables in full refresh mode: {shown(source)}"
            )
    rows = account.duck.execute(f"SELECT * FROM {in_sql(source)}").to_arrow_table()
    if options.get("SHOW_INITIAL_ROWS", "FALSE").upper() == "TRUE":
        rows = rows.slice(0, 0)
    account.streams[create.name] = Stream(
        create.name, source, "Dynamic Table" if is_dynamic else "Table", rows, session.role, create.text
    )
    return f"Stream {create.name[-1]} successfully created."


def _make_task(session: "Session", create: Create) -> str:
    body = re.search(r"\bAS\s+(?P<body>\S.*)$", create.rest, re.IGNORECASE | re.DOTALL)
    head = create.rest[: body.start()] if body else create.rest
    condition = re.search(r"\bWHEN\s+(?P<condition>.+)$", head, re.IGNORECASE | re.DOTALL)
    if not re.search(r"\b(?:SCHEDULE\s*=|AFTER\s|WHEN\s)", head, re.IGNORECASE):
        raise missing_property("TASK", "SCHEDULE, AFTER or WHEN")
    create.define(
        session,
        state="suspended",
        warehouse=create.property("WAREHOUSE"),
        schedule=create.property("SCHEDULE"),
        condition=condition["condition"].strip() if condition else None,
        body=body["body"] if body else "",
        head=head,
    )
    return f"Task {create.name[-1]} successfully created."


def _make_routine(session: "Session", create: Create) -> str:
    if (create.property("LANGUAGE") or "") or re.search(r"\bLANGUAGE\s+PYTHON\b", blanked(create.rest), re.IGNORECASE):
        _require(create, PYTHON)
        _imports_are_there(session, create)
    create.define(session)
    name = create.name[2].partition("(")[0]
    if create.kind == "FUNCTION" and name in MODEL_FUNCTIONS:
        _register_model(session, create)
    return f"{create.kind.capitalize()} {name} successfully created."


def _imports_are_there(session: "Session", create: Create) -> None:
    for location in re.findall(r"'(@[^']+)'", create.property("IMPORTS") or ""):
        base, inner, _ = stages.folder(session, location)
        if not (base / inner).is_file():
            raise StatementError(1003, "42000", f"SQL compilation error:\nRemote file '{location}' was not found.")


def _register_model(session: "Session", create: Create) -> None:
    """Let the project's own functions answer, over the models in the stage that the body names."""
    from churn_assets.model.serving import register

    if not (found := re.search(rf"'@({NAME})'", create.rest)):
        raise unsupported(f"a {create.name[2]} that names no stage")
    stage = session.name(found[1])
    if ("STAGE", stage) not in session.account.definitions:
        raise does_not_exist("Stage", shown(stage))
    there = session.account.duck.execute("SELECT 1 FROM duckdb_functions() WHERE function_name = 'predict_churn'")
    if there.fetchone() is None:
        folder = stages.stage_folder(session, stage)
        register(session.account.duck, lambda name: (folder / name).read_bytes())


_MAKERS: dict[str, Callable[["Session", Create], str]] = {
    "DATABASE": _make_database,
    "SCHEMA": _make_schema,
    "ROLE": _make_role,
    "WAREHOUSE": _make_warehouse,
    "TABLE": _make_table,
    "VIEW": _make_view,
    "DYNAMIC TABLE": dynamic_tables.create,
    "STAGE": _make_stage,
    "FILE FORMAT": _make_file_format,
    "STREAM": _make_stream,
    "TASK": _make_task,
    "PROCEDURE": _make_routine,
    "FUNCTION": _make_routine,
}


# ---- DROP and ALTER


def _drop(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    session.commit()
    kind = _kind(found["kind"])
    name = _object_name(session, kind, found["name"], found["rest"])
    account = session.account
    if kind == "ROLE" and name[0] in SYSTEM_ROLES:
        raise StatementError(
            3001, "42501", f"SQL access control error:\nInsufficient privileges to operate on role '{name[0]}'."
        )
    if not is_defined(session, kind, name) or (kind == "TABLE" and name in account.dynamic_tables):
        if found["exists"] and not (kind == "TABLE" and name in account.dynamic_tables):
            return status("Drop statement executed successfully.")
        raise does_not_exist(kind.capitalize(), shown(name))
    if kind == "TABLE" and name in session.temporary:
        session.duck.execute(f"DROP TABLE {in_sql(session.temporary.pop(name))}")
    elif kind in {"TABLE", "DYNAMIC TABLE"}:
        account.duck.execute(f"DROP TABLE {in_sql(name)}")
        account.dynamic_tables.pop(name, None)
        account.replaced(name)
    elif kind == "VIEW":
        account.duck.execute(f"DROP VIEW {in_sql(name)}")
    elif kind == "SCHEMA":
        account.duck.execute(f"DROP SCHEMA {in_sql(name)} CASCADE")
        _forget_within(session, name)
    elif kind == "DATABASE":
        raise unsupported("DROP DATABASE")
    elif kind == "STREAM":
        del account.streams[name]
    elif kind == "ROLE":
        del account.roles[name[0]]
        account.grants = {grant: at for grant, at in account.grants.items() if grant.role != name[0]}
    elif kind == "STAGE":
        shutil.rmtree(stages.stage_folder(session, name), ignore_errors=True)
    account.definitions.pop((kind, name), None)
    return status(f"{name[-1]} successfully dropped.")


def _forget_within(session: "Session", schema: Name) -> None:
    account = session.account
    account.definitions = {key: one for key, one in account.definitions.items() if key[1][:2] != schema}
    account.streams = {name: one for name, one in account.streams.items() if name[:2] != schema}
    account.dynamic_tables = {name: one for name, one in account.dynamic_tables.items() if name[:2] != schema}


def _alter(session: "Session", found: "re.Match[str]", sql: str) -> Rows:
    session.commit()
    kind = _kind(found["kind"])
    name = _object_name(session, kind, found["name"], found["rest"])
    what = found["rest"].strip()
    if not is_defined(session, kind, name):
        if found["exists"]:
            return status(DONE)
        raise does_not_exist(kind.capitalize(), shown(name))
    if kind == "DYNAMIC TABLE":
        return status(dynamic_tables.alter(session, name, what))
    if kind == "TABLE":
        return _alter_table(session, name, sql)
    known = {
        "TASK": r"(?P<state>RESUME|SUSPEND)$|SET\s|UNSET\s",
        "WAREHOUSE": r"(?P<state>RESUME|SUSPEND)(?:\s+IF\s+SUSPENDED)?$|SET\s",
        "MASKING POLICY": r"SET\s+BODY\s+->\s*(?P<body>.+)$",
        "ROW ACCESS POLICY": r"SET\s+BODY\s+->\s*(?P<body>.+)$",
        "STREAMLIT": r"(?P<live>ADD\s+LIVE\s+VERSION\s+FROM\s+LAST)$|SET\s|COMMIT$",
        "AGENT": r"(?:MODIFY\s+LIVE\s+VERSION\s+SET|SET)\s",
        "CORTEX SEARCH SERVICE": r"SET\s|REFRESH$|SUSPEND|RESUME",
    }.get(kind)
    if known is None or not (change := re.match(known, what, re.IGNORECASE | re.DOTALL)):
        raise unsupported(f"ALTER {kind} ... {what[:60]!r}")
    definition = session.account.definition(kind, name)
    told = {key: value for key, value in change.groupdict().items() if value is not None}
    if "state" in told:
        resumed, suspended = ("started", "suspended") if kind == "TASK" else ("STARTED", "SUSPENDED")
        told["state"] = resumed if told["state"].upper() == "RESUME" else suspended
    definition.options.update(told or {"altered": what})
    return status(DONE)


def _alter_table(session: "Session", name: Name, sql: str) -> Rows:
    if name in session.account.dynamic_tables:
        raise unsupported(f"ALTER TABLE of the dynamic table {shown(name)}")
    if re.search(r"\bSET\s+(?:CHANGE_TRACKING|COMMENT|DATA_RETENTION_TIME_IN_DAYS)\s*=", blanked(sql), re.IGNORECASE):
        return status(DONE)
    expression = parse_one(sql, read="snowflake")
    if not isinstance(expression, exp.Alter) or not re.search(
        r"\b(?:ADD|DROP|RENAME)\s+COLUMN\b|\bADD\b", blanked(sql), re.IGNORECASE
    ):
        raise unsupported(sql[:200])
    target = session.temporary.get(name, name)
    session.account.before_change([target])
    for key, part in zip(("catalog", "db", "this"), target, strict=True):
        expression.this.set(key, exp.to_identifier(part, quoted=True))
    actions = expression.args["actions"]
    for action in actions:
        one = expression.copy()
        one.set("actions", [action.copy()])
        session.duck.execute(session.translated(one))
    session.account.changed([target])
    return status(DONE)


# ---- roles and grants


def _grant(session: "Session", found: "re.Match[str]", sql: str) -> Rows:
    session.commit()
    account = session.account
    is_user = found["to"].upper() == "USER"
    role = f"USER {stored(found['role'])}" if is_user else _role(session, found["role"])
    gives = found["verb"].upper() == "GRANT"
    for grant in _granted(session, found["what"].strip(), role, with_option=bool(found["option"])):
        if gives:
            account.grants.setdefault(grant, datetime.now(UTC))
        else:
            account.grants.pop(grant, None)
    return status(DONE)


def _granted(session: "Session", what: str, role: str, *, with_option: bool) -> list[Grant]:
    if one := re.fullmatch(rf"ROLE\s+(?P<role>{PART})", what, re.IGNORECASE):
        return [Grant("USAGE", "ROLE", _role(session, one["role"]), role)]
    if one := re.fullmatch(rf"DATABASE\s+ROLE\s+(?P<role>{NAME})", what, re.IGNORECASE):
        return [Grant("USAGE", "DATABASE_ROLE", ".".join(parts(one["role"])), role)]
    one = re.fullmatch(r"(?P<privileges>[A-Z_,\s]+?)\s+ON\s+(?P<place>.+)", what, re.IGNORECASE | re.DOTALL)
    if not one:
        raise unsupported(f"the grant {what!r}")
    privileges = [_kind(privilege) for privilege in one["privileges"].split(",")]
    if "OWNERSHIP" in privileges or any(privilege.startswith("ALL") for privilege in privileges):
        raise unsupported("grants of OWNERSHIP or ALL")
    place = " ".join(one["place"].split())
    if place.upper() == "ACCOUNT":
        return [Grant(privilege, "ACCOUNT", "EMULATOR", role, grant_option=with_option) for privilege in privileges]
    if future := re.fullmatch(
        rf"FUTURE (?P<kinds>[A-Z ]+) IN (?P<in>SCHEMA|DATABASE) (?P<name>{NAME})", place, re.IGNORECASE
    ):
        kind = future["kinds"].upper().removesuffix("S")
        schema = _place(session, future["in"].upper(), future["name"])
        name = f"{shown(schema)}.<{kind.replace(' ', '_')}>"
        return [
            Grant(privilege, kind, name, role, is_future=True, grant_option=with_option) for privilege in privileges
        ]
    if known := re.fullmatch(rf"(?P<kind>{_KIND}) (?P<name>{NAME})(?P<rest>\(.*\))?", place, re.IGNORECASE):
        kind = _kind(known["kind"])
        name = _place(session, kind, known["name"], known["rest"] or "")
        return [Grant(privilege, kind, shown(name), role, grant_option=with_option) for privilege in privileges]
    raise unsupported(f"the grant {what!r}")


def _place(session: "Session", kind: str, written: str, rest: str = "") -> Name:
    name = _object_name(session, kind, written, rest)
    if not is_defined(session, kind, name):
        raise does_not_exist(kind.capitalize(), shown(name))
    return name


def _role(session: "Session", written: str) -> str:
    (role,) = parts(written)
    if role not in session.account.roles:
        raise does_not_exist("Role", role)
    return role


# ---- the session


def _use(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    kind = (found["kind"] or "DATABASE").upper()
    if kind.startswith("SECONDARY"):
        return status(DONE)
    if kind == "ROLE":
        session.role = _role(session, found["name"])
    elif kind == "WAREHOUSE":
        (warehouse,) = parts(found["name"])
        if ("WAREHOUSE", (warehouse,)) not in session.account.definitions:
            raise _cannot_use()
        session.warehouse = warehouse
    elif kind == "DATABASE":
        (database,) = parts(found["name"])
        if not session.account.has_schema(database):
            raise _cannot_use()
        session.use(database, "PUBLIC" if session.account.has_schema(database, "PUBLIC") else None)
    else:
        database, schema = _object_name(session, "SCHEMA", found["name"])
        if not session.account.has_schema(database, schema):
            raise _cannot_use()
        session.use(database, schema)
    return status(DONE)


def _cannot_use() -> StatementError:
    return StatementError(
        2043, "02000", "SQL compilation error:\nObject does not exist, or operation cannot be performed."
    )


def _alter_session(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    if found["verb"].upper() == "UNSET":
        for name in found["what"].split(","):
            session.parameters.pop(name.strip().upper(), None)
        return status(DONE)
    given = stages.options_of(found["what"].replace(",", " "))
    if not given:
        raise syntax_error(f"unexpected '{found['what']}'")
    for name, value in given.items():
        if name not in SESSION_PARAMETERS:
            raise StatementError(1, "22023", f"SQL compilation error:\ninvalid property '{name}' for 'SESSION'")
        session.parameters[name] = text_of(value) if value.startswith("'") else value
    return status(DONE)


# ---- what is called


def _call(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    name = session.name(found["name"])
    of_that_name = [
        one
        for (kind, one) in _defined(session)
        if kind == "PROCEDURE" and one[:2] == name[:2] and one[2].startswith(f"{name[2]}(")
    ]
    if not of_that_name:
        raise StatementError(2140, "42601", f"SQL compilation error:\nUnknown user-defined procedure {shown(name)}.")
    if found["arguments"].strip() or len(of_that_name) > 1:
        raise unsupported(f"the procedure {shown(name)} with arguments")
    return procedures.call(session, session.account.definition("PROCEDURE", of_that_name[0]))


def _defined(session: "Session") -> list[tuple[str, Name]]:
    return list(session.account.definitions)


def _execute_task(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    """Runs what the task would, at once; nothing of it is scheduled."""
    session.commit()
    task = session.account.definition("TASK", session.name(found["name"]))
    session.run_within(task.options["body"])
    return status(f"Task {task.name[-1]} is scheduled to run immediately.")


def _semantic_view_from_yaml(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    session.commit()
    schema = _object_name(session, "SCHEMA", text_of(found["schema"]))
    if not session.account.has_schema(schema[0], schema[1]):
        raise does_not_exist("Schema", shown(schema))
    model = yaml.safe_load(text_of(found["yaml"]))
    wrong = [key for key in ("name", "tables") if not (isinstance(model, dict) and model.get(key))]
    wrong += [
        f"base_table of {table.get('name')}"
        for table in (model.get("tables") or [] if not wrong else [])
        if "base_table" not in table
    ]
    if wrong:
        raise StatementError(392400, "22023", f"the semantic model lacks {', '.join(wrong)}")
    if (found["verify"] or "").upper() == "TRUE":
        return status("YAML file is valid for creating a semantic view. No object has been created yet.")
    name = (*schema, model["name"].upper())
    session.account.definitions["SEMANTIC VIEW", name] = Definition("SEMANTIC VIEW", name, found["yaml"], session.role)
    return status("Semantic view was successfully created.")


_TEXT = r"'(?:[^'\\]|''|\\.)*'|\$\$.*?\$\$"
FIRST_RULES = [
    (
        r"(?:CALL|SELECT)\s+SYSTEM\$CREATE_SEMANTIC_VIEW_FROM_YAML\s*\(\s*"
        rf"(?P<schema>{_TEXT})\s*,\s*(?P<yaml>{_TEXT})\s*(?:,\s*(?P<verify>TRUE|FALSE)\s*)?\)$",
        _semantic_view_from_yaml,
    ),
]
RULES = [
    (
        r"CREATE\s+(?P<replace>OR\s+REPLACE\s+)?(?P<modifiers>(?:(?:SECURE|TEMPORARY|TEMP|TRANSIENT|LOCAL|GLOBAL)\s+)*)"
        rf"(?P<kind>{_KIND})\s+(?P<exists>IF\s+NOT\s+EXISTS\s+)?(?P<name>{NAME})(?P<rest>.*)$",
        _create,
    ),
    (rf"DROP\s+(?P<kind>{_KIND})\s+(?P<exists>IF\s+EXISTS\s+)?(?P<name>{NAME})(?P<rest>.*)$", _drop),
    (r"ALTER\s+SESSION\s+(?P<verb>SET|UNSET)\s+(?P<what>.+)$", _alter_session),
    (rf"ALTER\s+(?P<kind>{_KIND})\s+(?P<exists>IF\s+EXISTS\s+)?(?P<name>{NAME})(?P<rest>.*)$", _alter),
    (
        rf"(?P<verb>GRANT|REVOKE)\s+(?P<what>.+)\s+(?:TO|FROM)\s+(?P<to>ROLE|USER)\s+(?P<role>{PART})"
        r"(?P<option>\s+WITH\s+GRANT\s+OPTION)?$",
        _grant,
    ),
    (rf"USE\s+(?P<kind>SECONDARY\s+ROLES)\s+(?P<name>{NAME})$", _use),
    (rf"USE\s+(?:(?P<kind>ROLE|WAREHOUSE|DATABASE|SCHEMA)\s+)?(?P<name>{NAME})$", _use),
    (rf"EXECUTE\s+TASK\s+(?P<name>{NAME})$", _execute_task),
    (rf"CALL\s+(?P<name>{NAME})\s*\((?P<arguments>.*)\)$", _call),
]
