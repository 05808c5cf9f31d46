"""What SHOW, DESCRIBE, INFORMATION_SCHEMA and its table functions tell, in the columns that Snowflake documents."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from churn_assets_tests.snowflake.emulator import dynamic_tables
from churn_assets_tests.snowflake.emulator.account import Grant
from churn_assets_tests.snowflake.emulator.errors import does_not_exist, unsupported
from churn_assets_tests.snowflake.emulator.names import NAME, PART, Name, in_sql, parts, shown, stored, text_of
from churn_assets_tests.snowflake.emulator.wire import Rows, listed

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.session import Session

_TEXT = r"'(?:[^'\\]|''|\\.)*'"
TIME = "TIMESTAMP WITH TIME ZONE"
Row = dict[str, Any]
_TYPE_NAMES = {
    "BIGINT": "NUMBER(38,0)",
    "INTEGER": "NUMBER(38,0)",
    "HUGEINT": "NUMBER(38,0)",
    "DOUBLE": "FLOAT",
    "VARCHAR": "VARCHAR(16777216)",
    "BLOB": "BINARY(8388608)",
    "TIMESTAMP": "TIMESTAMP_NTZ(9)",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_LTZ(9)",
    "TIME": "TIME(9)",
    "JSON": "VARIANT",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
}


def type_name(type_: str) -> str:
    """DuckDB's type as Snowflake calls it."""
    if type_.startswith("DECIMAL"):
        return type_.replace("DECIMAL", "NUMBER")
    return _TYPE_NAMES.get(type_, type_)


# ---- relations of the engine


def _relations(session: "Session") -> list[tuple[Name, str]]:
    """Every table and view, with its kind."""
    found = session.account.duck.execute("""
        SELECT table_catalog, upper(table_schema), table_name, table_type FROM information_schema.tables
        WHERE table_schema NOT IN ('_fs_information_schema', 'information_schema', 'pg_catalog')
            AND table_catalog NOT IN ('_fs_global', 'memory', 'system', 'temp')
        ORDER BY ALL
    """).fetchall()
    return [((catalog, schema, name), "VIEW" if "VIEW" in kind else "TABLE") for catalog, schema, name, kind in found]


def _columns(session: "Session", name: Name) -> list[tuple[str, str, bool]]:
    """Name, DuckDB's type and whether it may be NULL, of each column."""
    described = session.duck.execute(f"DESCRIBE {in_sql(name)}").fetchall()
    return [(row[0], row[1], row[2] == "YES") for row in described]


def _count(session: "Session", name: Name) -> int:
    ((count,),) = session.account.duck.execute(f"SELECT count(*) FROM {in_sql(name)}").fetchall()
    return count


def _objects(session: "Session") -> list[Row]:
    account = session.account
    return [
        {
            "created_on": _created(session, name, kind),
            "name": name[2],
            "database_name": name[0],
            "schema_name": name[1],
            "kind": kind,
            "comment": "",
            "cluster_by": "",
            "rows": _count(session, name) if kind == "TABLE" else None,
            "bytes": 0 if kind == "TABLE" else None,
            "owner": _owner(session, name, kind),
            "retention_time": "1",
            "owner_role_type": "ROLE",
            "budget": None,
            "is_hybrid": "N",
            "is_dynamic": "Y" if name in account.dynamic_tables else "N",
            "is_iceberg": "N",
            "is_interactive": "N",
        }
        for name, kind in _relations(session)
    ]


def _created(session: "Session", name: Name, kind: str) -> datetime | None:
    if name in session.account.dynamic_tables:
        return session.account.dynamic_tables[name].created_on
    definition = session.account.definitions.get((kind, name))
    return definition.created_on if definition else None


def _owner(session: "Session", name: Name, kind: str) -> str:
    if name in session.account.dynamic_tables:
        return session.account.dynamic_tables[name].owner
    definition = session.account.definitions.get((kind, name))
    return definition.owner if definition else session.role


def _tables(session: "Session") -> list[Row]:
    return [
        {**row, "change_tracking": "ON", "automatic_clustering": "OFF", "is_external": "N", "is_event": "N"}
        for row in _objects(session)
        if row["kind"] == "TABLE"
    ]


def _views(session: "Session") -> list[Row]:
    def is_secure(row: Row) -> bool:
        definition = session.account.definitions.get(("VIEW", (row["database_name"], row["schema_name"], row["name"])))
        return bool(definition and definition.options.get("is_secure"))

    return [
        {
            "created_on": row["created_on"],
            "name": row["name"],
            "reserved": "",
            "database_name": row["database_name"],
            "schema_name": row["schema_name"],
            "owner": row["owner"],
            "comment": "",
            "text": "",
            "is_secure": str(is_secure(row)).lower(),
            "is_materialized": "false",
            "owner_role_type": "ROLE",
        }
        for row in _objects(session)
        if row["kind"] == "VIEW"
    ]


def _dynamic_tables(session: "Session") -> list[Row]:
    return [
        {
            "created_on": table.created_on,
            "name": table.name[2],
            "database_name": table.name[0],
            "schema_name": table.name[1],
            "cluster_by": "",
            "rows": _count(session, table.name),
            "bytes": 0,
            "owner": table.owner,
            "target_lag": table.target_lag,
            "refresh_mode": table.refresh_mode,
            "refresh_mode_reason": table.refresh_mode_reason,
            "warehouse": table.warehouse,
            "comment": "",
            "text": table.text,
            "automatic_clustering": "OFF",
            "scheduling_state": table.scheduling_state,
            "last_suspended_on": None,
            "is_clone": "false",
            "is_replica": "false",
            "is_iceberg": "false",
            "data_timestamp": table.data_timestamp,
            "owner_role_type": "ROLE",
            "immutable_where": None,
        }
        for table in session.account.dynamic_tables.values()
    ]


def _streams(session: "Session") -> list[Row]:
    return [
        {
            "created_on": stream.created_on,
            "name": stream.name[2],
            "database_name": stream.name[0],
            "schema_name": stream.name[1],
            "owner": stream.owner,
            "comment": "",
            "table_name": shown(stream.source),
            "source_type": stream.source_kind,
            "base_tables": shown(stream.source),
            "type": "DELTA",
            "stale": str(stream.is_stale).lower(),
            "mode": "DEFAULT",
            "stale_after": None,
            "invalid_reason": "N/A",
            "owner_role_type": "ROLE",
        }
        for stream in session.account.streams.values()
    ]


# ---- what is kept as it was defined


def _defined(session: "Session", kind: str, *more: str) -> list[Row]:
    """Definitions of a kind, with the columns that most kinds have and further ones from their options."""
    return [
        {
            "created_on": one.created_on,
            "name": one.name[-1].partition("(")[0],
            **({"database_name": one.name[0], "schema_name": one.name[1]} if len(one.name) == 3 else {}),
            **({"database_name": one.name[0]} if len(one.name) == 2 else {}),
            "owner": one.owner,
            "comment": "",
            **{column: one.options.get(column) for column in more},
        }
        for one in session.account.definitions.values()
        if one.kind == kind
    ]


def _tasks(session: "Session") -> list[Row]:
    return [
        {
            "created_on": one.created_on,
            "name": one.name[2],
            "id": str(number),
            "database_name": one.name[0],
            "schema_name": one.name[1],
            "owner": one.owner,
            "comment": "",
            "warehouse": one.options["warehouse"],
            "schedule": one.options["schedule"],
            "predecessors": "[]",
            "state": one.options["state"],
            "definition": one.options["body"],
            "condition": one.options["condition"],
            "allow_overlapping_execution": "false",
            "error_integration": "null",
            "last_committed_on": None,
            "last_suspended_on": None,
            "owner_role_type": "ROLE",
        }
        for number, one in enumerate(session.account.definitions.values())
        if one.kind == "TASK"
    ]


def _routines(kind: str) -> Callable[["Session"], list[Row]]:
    def rows(session: "Session") -> list[Row]:
        return [
            {
                "created_on": one.created_on,
                "name": one.name[2].partition("(")[0],
                "schema_name": one.name[1],
                "is_builtin": "N",
                "is_aggregate": "N",
                "arguments": one.name[2],
                "description": f"user-defined {kind.lower()}",
                "catalog_name": one.name[0],
                "is_table_function": "N",
                "database_name": one.name[0],
                "language": (re.findall(r"LANGUAGE\s+(\w+)", one.text, re.IGNORECASE) or ["SQL"])[0].upper(),
            }
            for one in session.account.definitions.values()
            if one.kind == kind
        ]

    return rows


def _warehouses(session: "Session") -> list[Row]:
    return [
        {
            "name": one.name[0],
            "state": one.options["state"],
            "type": "STANDARD",
            "size": {"XSMALL": "X-Small"}.get(one.options["size"], one.options["size"]),
            "is_default": "N",
            "is_current": "Y" if session.warehouse == one.name[0] else "N",
            "auto_suspend": one.options["auto_suspend"],
            "auto_resume": one.options["auto_resume"],
            "created_on": one.created_on,
            "owner": one.owner,
            "comment": "",
        }
        for one in session.account.definitions.values()
        if one.kind == "WAREHOUSE"
    ]


def _roles(session: "Session") -> list[Row]:
    return [
        {
            "created_on": at,
            "name": role,
            "is_default": "N",
            "is_current": "Y" if session.role == role else "N",
            "is_inherited": "N",
            "owner": "USERADMIN",
            "comment": "",
        }
        for role, at in session.account.roles.items()
    ]


def _schemas(session: "Session") -> list[Row]:
    return [
        {
            "created_on": one.created_on,
            "name": one.name[1],
            "is_default": "N",
            "is_current": "Y" if (session.database, session.schema) == one.name else "N",
            "database_name": one.name[0],
            "owner": one.owner,
            "comment": "",
            "options": "MANAGED ACCESS" if one.options.get("MANAGED ACCESS") else "",
            "retention_time": "1",
        }
        for one in session.account.definitions.values()
        if one.kind == "SCHEMA"
    ]


def _locks(session: "Session") -> list[Row]:
    return [
        {"resource": shown(name), "type": "PARTITIONS", "transaction": str(holder.number), "status": "HOLDING"}
        for name, holder in session.account.locks()
    ]


_SHOWN: dict[str, Callable[["Session"], list[Row]]] = {
    "OBJECTS": _objects,
    "TABLES": _tables,
    "VIEWS": _views,
    "DYNAMIC TABLES": _dynamic_tables,
    "STREAMS": _streams,
    "TASKS": _tasks,
    "DATABASES": lambda session: _defined(session, "DATABASE"),
    "SCHEMAS": _schemas,
    "WAREHOUSES": _warehouses,
    "ROLES": _roles,
    "STAGES": lambda session: _defined(session, "STAGE"),
    "FILE FORMATS": lambda session: _defined(session, "FILE FORMAT", "TYPE"),
    "USER FUNCTIONS": _routines("FUNCTION"),
    "FUNCTIONS": _routines("FUNCTION"),
    "USER PROCEDURES": _routines("PROCEDURE"),
    "PROCEDURES": _routines("PROCEDURE"),
    "MASKING POLICIES": lambda session: _defined(session, "MASKING POLICY"),
    "ROW ACCESS POLICIES": lambda session: _defined(session, "ROW ACCESS POLICY"),
    "CORTEX SEARCH SERVICES": lambda session: _defined(session, "CORTEX SEARCH SERVICE"),
    "SEMANTIC VIEWS": lambda session: _defined(session, "SEMANTIC VIEW"),
    "AGENTS": lambda session: _defined(session, "AGENT"),
    "STREAMLITS": lambda session: _defined(session, "STREAMLIT"),
    "LOCKS": _locks,
}
_EMPTY: dict[str, list[str]] = {
    "OBJECTS": [
        "created_on",
        "name",
        "database_name",
        "schema_name",
        "kind",
        "is_dynamic",
        "is_iceberg",
        "is_interactive",
    ],
    "DYNAMIC TABLES": [
        "created_on",
        "name",
        "database_name",
        "schema_name",
        "target_lag",
        "refresh_mode",
        "warehouse",
        "text",
    ],
    "STREAMS": ["created_on", "name", "database_name", "schema_name", "table_name", "stale", "mode"],
    "TASKS": ["created_on", "name", "database_name", "schema_name", "state", "definition", "condition"],
    "LOCKS": ["resource", "type", "transaction", "status"],
}
_TIMES = {"created_on", "data_timestamp", "last_suspended_on", "stale_after"}
_NUMBERS = {"rows", "bytes"}


def _show(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    kind = " ".join(found["kind"].upper().split())
    rows = _within(session, _SHOWN[kind](session), found["place"])
    if found["like"]:
        # Any letter may be small; % and _ stand for any signs.
        pattern = re.escape(text_of(found["like"])).replace("%", ".*").replace("_", ".")
        rows = [row for row in rows if re.fullmatch(pattern, row["name"], re.IGNORECASE)]
    if found["start"]:
        rows = [row for row in rows if row["name"].startswith(text_of(found["start"]))]
    rows.sort(key=lambda row: [row.get(key) or "" for key in ("database_name", "schema_name", "name")])
    if found["after"]:
        rows = [row for row in rows if row["name"] > text_of(found["after"])]
    if found["limit"]:
        rows = rows[: int(found["limit"])]
    columns = list(rows[0]) if rows else _EMPTY.get(kind, ["created_on", "name", "database_name", "schema_name"])
    if found["terse"]:
        columns = [name for name in ("created_on", "name", "kind", "database_name", "schema_name") if name in columns]
    return _rows(columns, rows)


def _rows(columns: Sequence[str], rows: Iterable[Row]) -> Rows:
    types = {name: TIME if name in _TIMES else "BIGINT" if name in _NUMBERS else "VARCHAR" for name in columns}
    return listed(types, [[row.get(name) for name in columns] for row in rows])


def _within(session: "Session", rows: list[Row], place: str | None) -> list[Row]:
    """Those within IN ...; else within the session's schema, or database, if there is one."""
    if not rows or not {"database_name", "schema_name"} & set(rows[0]):
        return rows
    words = (place or "").split(None, 1)
    database, schema = session.database, session.schema
    if words:
        kind = words[0].upper()
        if kind == "ACCOUNT":
            return rows
        written = parts(words[1]) if kind in {"SCHEMA", "DATABASE"} and len(words) > 1 else None
        if kind == "DATABASE":
            database, schema = (written or [session.database])[0], None
        else:
            given = written or ([session.database, session.schema] if kind == "SCHEMA" else parts(place or ""))
            database, schema = given if len(given) == 2 else (session.database, given[0])
            if database and not session.account.has_schema(database, schema):
                raise does_not_exist("Schema", f"{database}.{schema}")
        if database and not session.account.has_schema(database):
            raise does_not_exist("Database", database)
    return [
        row
        for row in rows
        if (database is None or row["database_name"] == database)
        and (schema is None or row.get("schema_name", schema) == schema)
    ]


def _show_parameters(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    pattern = text_of(found["like"]).replace("%", ".*") if found["like"] else ".*"
    known = {"QUERY_TAG": "", "TIMEZONE": "UTC", "AUTOCOMMIT": "true", "LOCK_TIMEOUT": str(session.lock_timeout)}
    shown_now = {**known, **{name: str(value) for name, value in session.parameters.items()}}
    columns = ["key", "value", "default", "level", "description", "type"]
    return listed(
        dict.fromkeys(columns, "VARCHAR"),
        [
            [name, value, known.get(name, ""), "SESSION" if name in session.parameters else "", "", "STRING"]
            for name, value in sorted(shown_now.items())
            if re.fullmatch(pattern, name, re.IGNORECASE)
        ],
    )


def _show_grants(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    is_future = bool(found["future"])
    grants = [(grant, at) for grant, at in session.account.grants.items() if grant.is_future == is_future]
    what = " ".join(found["what"].split())
    if to_role := re.fullmatch(rf"TO ROLE (?P<role>{PART})", what, re.IGNORECASE):
        (role,) = parts(to_role["role"])
        if role not in session.account.roles:
            raise does_not_exist("Role", role)
        chosen = [(grant, at) for grant, at in grants if grant.role == role]
    elif to_user := re.fullmatch(rf"TO USER (?P<user>{PART})", what, re.IGNORECASE):
        chosen = [(grant, at) for grant, at in grants if grant.role == f"USER {stored(to_user['user'])}"]
    elif of_role := re.fullmatch(rf"OF ROLE (?P<role>{PART})", what, re.IGNORECASE):
        (role,) = parts(of_role["role"])
        chosen = [(grant, at) for grant, at in grants if grant.granted_on == "ROLE" and grant.name == role]
    elif within := re.fullmatch(rf"IN (?:SCHEMA|DATABASE) (?P<name>{NAME})", what, re.IGNORECASE):
        prefix = ".".join(parts(within["name"]))
        chosen = [(grant, at) for grant, at in grants if grant.name.startswith(f"{prefix}.")]
    elif on := re.fullmatch(rf"ON (?P<kind>[A-Z ]+?) (?P<name>{NAME})", what, re.IGNORECASE):
        kind, name = on["kind"].upper(), on["name"]
        wanted = ".".join(parts(name) if kind in {"WAREHOUSE", "DATABASE", "ROLE", "SCHEMA"} else session.name(name))
        chosen = [(grant, at) for grant, at in grants if (grant.granted_on, grant.name) == (kind, wanted)]
    elif re.fullmatch(r"ON ACCOUNT", what, re.IGNORECASE):
        chosen = [(grant, at) for grant, at in grants if grant.granted_on == "ACCOUNT"]
    else:
        raise unsupported(f"SHOW GRANTS {what}")
    columns = [
        "created_on",
        "privilege",
        "granted_on",
        "name",
        "granted_to",
        "grantee_name",
        "grant_option",
        "granted_by",
    ]
    if is_future:
        columns = ["created_on", "privilege", "grant_on", "name", "grant_to", "grantee_name", "grant_option"]
    return _rows(columns, [_grant_row(grant, at) for grant, at in chosen])


def _grant_row(grant: Grant, at: datetime) -> Row:
    kind = grant.granted_on.replace(" ", "_")
    grantee = "USER" if grant.role.startswith("USER ") else "ROLE"
    return {
        "created_on": at,
        "privilege": grant.privilege,
        "granted_on": kind,
        "grant_on": kind,
        "name": grant.name,
        "granted_to": grantee,
        "grant_to": grantee,
        "grantee_name": grant.role.removeprefix("USER "),
        "grant_option": str(grant.grant_option).lower(),
        "granted_by": "",
    }


def _describe(session: "Session", found: "re.Match[str]", _: str) -> Rows:
    kind = " ".join((found["kind"] or "TABLE").upper().split())
    name = session.name(found["name"])
    if kind == "STREAM":
        rows = [row for row in _streams(session) if (row["database_name"], row["schema_name"], row["name"]) == name]
        if not rows:
            raise does_not_exist("Stream", shown(name))
        return _rows(list(rows[0]), rows)
    name = session.temporary.get(name, name)
    if name not in session.temporary.values() and not session.account.is_there(name):
        raise does_not_exist(kind.capitalize(), shown(name))
    columns = [
        "name",
        "type",
        "kind",
        "null?",
        "default",
        "primary key",
        "unique key",
        "check",
        "expression",
        "comment",
        "policy name",
        "privacy domain",
    ]
    return listed(
        dict.fromkeys(columns, "VARCHAR"),
        [
            [column, type_name(type_), "COLUMN", "Y" if nullable else "N", None, "N", "N", *[None] * 5]
            for column, type_, nullable in _columns(session, name)
        ],
    )


# ---- INFORMATION_SCHEMA


def information_schema(session: "Session", database: str | None, view: str) -> Rows:
    """A view of a database's INFORMATION_SCHEMA, with those of its columns that most ask for."""
    if database is None or not session.account.has_schema(database):
        raise does_not_exist("Database", str(database))
    relations = [(name, kind) for name, kind in _relations(session) if name[0] == database]
    if view == "SCHEMATA":
        schemas = [name for kind, name in session.account.definitions if kind == "SCHEMA" and name[0] == database]
        return _upper(
            ["CATALOG_NAME", "SCHEMA_NAME", "SCHEMA_OWNER"], [[*name, "SYSADMIN"] for name in sorted(schemas)]
        )
    if view == "DATABASES":
        names = [name[0] for kind, name in session.account.definitions if kind == "DATABASE"]
        return _upper(["DATABASE_NAME"], [[name] for name in sorted(names)])
    if view == "TABLES":
        columns = ["TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "TABLE_TYPE", "IS_DYNAMIC", "ROW_COUNT"]
        return _upper(
            columns,
            [
                [
                    *name,
                    "VIEW" if kind == "VIEW" else "BASE TABLE",
                    "YES" if name in session.account.dynamic_tables else "NO",
                    _count(session, name) if kind == "TABLE" else None,
                ]
                for name, kind in relations
            ],
            numbers={"ROW_COUNT"},
        )
    if view == "VIEWS":
        return _upper(
            ["TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME"], [[*name] for name, kind in relations if kind == "VIEW"]
        )
    if view == "COLUMNS":
        columns = [
            "TABLE_CATALOG",
            "TABLE_SCHEMA",
            "TABLE_NAME",
            "COLUMN_NAME",
            "ORDINAL_POSITION",
            "IS_NULLABLE",
            "DATA_TYPE",
            "NUMERIC_PRECISION",
            "NUMERIC_SCALE",
        ]
        rows: list[list[Any]] = []
        for name, _ in relations:
            for place, (column, type_, nullable) in enumerate(_columns(session, name), start=1):
                plain, _, sizes = type_name(type_).partition("(")
                numbers = [int(size) for size in sizes.rstrip(")").split(",")] if plain == "NUMBER" else [None, None]
                kind = "TEXT" if plain == "VARCHAR" else plain
                rows.append([*name, column, place, "YES" if nullable else "NO", kind, *numbers])
        return _upper(columns, rows, numbers={"ORDINAL_POSITION", "NUMERIC_PRECISION", "NUMERIC_SCALE"})
    raise unsupported(f"INFORMATION_SCHEMA.{view}")


def _upper(columns: Sequence[str], rows: list[list[Any]], numbers: set[str] | None = None) -> Rows:
    return listed({name: "BIGINT" if name in (numbers or ()) else "VARCHAR" for name in columns}, rows)


def table_function(session: "Session", name: str, arguments: dict[str, Any]) -> Rows:
    """What TABLE(INFORMATION_SCHEMA.name(...)) gives."""
    if name == "QUERY_HISTORY":
        columns = {
            "QUERY_ID": "VARCHAR",
            "QUERY_TEXT": "VARCHAR",
            "QUERY_TAG": "VARCHAR",
            "SESSION_ID": "BIGINT",
            "ROLE_NAME": "VARCHAR",
            "START_TIME": TIME,
        }
        asked = session.account.asked
        return listed(columns, [[one.id, one.text, one.tag, one.session, one.role, one.started_at] for one in asked])
    if name == "DYNAMIC_TABLE_REFRESH_HISTORY":
        return _refresh_history(session, arguments)
    raise unsupported(f"the table function {name}")


_REFRESH_HISTORY = {
    "NAME": "VARCHAR",
    "SCHEMA_NAME": "VARCHAR",
    "DATABASE_NAME": "VARCHAR",
    "STATE": "VARCHAR",
    "STATE_CODE": "VARCHAR",
    "STATE_MESSAGE": "VARCHAR",
    "QUERY_ID": "VARCHAR",
    "DATA_TIMESTAMP": TIME,
    "REFRESH_START_TIME": TIME,
    "REFRESH_END_TIME": TIME,
    "QUALIFIED_NAME": "VARCHAR",
    "STATISTICS": "JSON",
    "REFRESH_ACTION": "VARCHAR",
    "REFRESH_TRIGGER": "VARCHAR",
    "TARGET_LAG_SEC": "BIGINT",
}


def _refresh_history(session: "Session", arguments: dict[str, Any]) -> Rows:
    if unknown := set(arguments) - {"NAME", "NAME_PREFIX", "RESULT_LIMIT", "ERROR_ONLY", "DATA_TIMESTAMP_START"}:
        raise unsupported(f"the arguments {sorted(unknown)} of DYNAMIC_TABLE_REFRESH_HISTORY")
    if "DATA_TIMESTAMP_START" in arguments:
        raise unsupported("DATA_TIMESTAMP_START of DYNAMIC_TABLE_REFRESH_HISTORY")
    past = list(session.account.refreshes)
    if "NAME" in arguments:
        wanted = session.name(arguments["NAME"])
        past = [one for one in past if one.name == wanted]
    if "NAME_PREFIX" in arguments:
        prefix = arguments["NAME_PREFIX"].upper()
        past = [one for one in past if shown(one.name).startswith(prefix)]
    if arguments.get("ERROR_ONLY"):
        past = [one for one in past if one.state == "FAILED"]
    # The latest ones, 100 where nothing else is asked.
    past = past[-int(arguments.get("RESULT_LIMIT", 100)) :]
    return listed(
        _REFRESH_HISTORY,
        [
            [
                one.name[2],
                one.name[1],
                one.name[0],
                one.state,
                "ERROR" if one.state == "FAILED" else "SUCCESS",
                one.message,
                one.query_id,
                one.data_timestamp,
                one.started_at,
                one.ended_at,
                shown(one.name),
                json.dumps({"numInsertedRows": one.inserted, "numDeletedRows": one.deleted, "numCopiedRows": 0}),
                one.action,
                one.trigger,
                dynamic_tables.lag_in_seconds(one.target_lag),
            ]
            for one in reversed(past)
        ],
    )


_PLURALS = "|".join(kind.replace(" ", r"\s+") for kind in sorted(_SHOWN, key=len, reverse=True))
RULES = [
    (rf"SHOW\s+PARAMETERS(?:\s+LIKE\s+(?P<like>{_TEXT}))?(?:\s+(?:IN|FOR)\s+SESSION)?$", _show_parameters),
    (r"SHOW\s+(?P<future>FUTURE\s+)?GRANTS\s+(?P<what>.+)$", _show_grants),
    (
        rf"SHOW\s+(?P<terse>TERSE\s+)?(?P<kind>{_PLURALS})(?:\s+LIKE\s+(?P<like>{_TEXT}))?"
        rf"(?:\s+IN\s+(?P<place>(?:(?:SCHEMA|DATABASE)\s+)?{NAME}|SCHEMA|DATABASE|ACCOUNT))?"
        rf"(?:\s+STARTS\s+WITH\s+(?P<start>{_TEXT}))?(?:\s+LIMIT\s+(?P<limit>\d+))?(?:\s+FROM\s+(?P<after>{_TEXT}))?$",
        _show,
    ),
    (
        rf"(?:DESCRIBE|DESC)\s+(?:(?P<kind>DYNAMIC\s+TABLE|TABLE|VIEW|STREAM)\s+)?(?P<name>{NAME})$",
        _describe,
    ),
]
