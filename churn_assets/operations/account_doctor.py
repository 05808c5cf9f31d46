"""The checks of a Snowflake account that `churn doctor` runs, and the look-ups that it shares with a deployment.

Here belong the checks and the fix for each problem. Nothing is changed; one check costs a few tokens of Cortex.

Written from the documentation and tested against an emulator, never on a live account.
"""

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from typing import Any, TypeAlias

from churn_assets.errors import ChurnError
from churn_assets.operations import statements
from churn_assets.operations.cost import CREDITS_PER_HOUR
from churn_assets.operations.dbt import DBT_PROJECT
from churn_assets.operations.statements import Statement
from churn_assets.project_files import files_in
from churn_assets.settings import Settings
from churn_assets.warehouse.snowflake_connection import Rows, known_fix
from churn_assets.warehouse.snowflake_names import Names

MAX_CLOCK_SECONDS = 60.0  # between this machine and Snowflake, which refuses key signatures with a clock too far off
# A check: its name, and a function that returns the state or raises `ChurnError` with the problem.
Check: TypeAlias = tuple[str, Callable[[], str]]
Shown: TypeAlias = Callable[[], list[dict[str, Any]]]

_DEPLOY = "run `churn deploy --target snowflake`"
_AI_COMPLETE = """
    SELECT AI_COMPLETE(
        model => ?, prompt => 'Say yes.', model_parameters => {'max_tokens': 1}, return_error_details => TRUE
    ) AS answer
"""
_LAST_REFRESHES = """
    SELECT name, state, state_message FROM TABLE(INFORMATION_SCHEMA.DYNAMIC_TABLE_REFRESH_HISTORY(RESULT_LIMIT => 10000))
    WHERE schema_name = ?
    QUALIFY ROW_NUMBER() OVER (PARTITION BY name ORDER BY data_timestamp DESC) = 1
"""
_GRANT = re.compile(r"GRANT (.+) ON (ACCOUNT|(?!FUTURE)[A-Z ]+? [\w.$]+) TO ROLE (\S+)")
_GRANT_OF_ROLE = re.compile(r"GRANT (?:DATABASE )?ROLE (\S+) TO ROLE (\S+)")


def checks(settings: Settings, names: Names, rows: Rows, now: Callable[[], datetime]) -> list[Check]:
    """All checks over the user's connection, in order."""
    session = [one for one in statements.statements(names) if one.phase == "schema" and one.is_of_the_session]
    tables = cache(partial(dynamic_tables, rows, names))  # one query for all checks
    refreshes = cache(partial(rows, _LAST_REFRESHES, [names.schema]))
    uses_cortex = settings.writer == "cortex" or settings.driver == "native"
    return [
        ("connection", lambda: _connection(settings, rows)),
        ("clock", lambda: _clock(rows, now)),
        ("role", lambda: _role(names, rows, session)),
        ("warehouse", lambda: _warehouse(names, rows)),
        ("schema", lambda: _schema(names, rows, session)),
        *_privileges(names, rows),
        *([("Cortex", lambda: _cortex(settings, names, rows))] if uses_cortex else []),
        ("versions", lambda: _versions(rows)),
        *((f"dynamic table {name}", lambda name=name: _dynamic_table(name, tables, refreshes)) for name in _models()),
        ("streams", lambda: _streams(names, rows, tables)),
        ("tasks", lambda: _tasks(settings, names, rows)),
    ]


def dynamic_tables(rows: Rows, names: Names) -> list[dict[str, Any]]:
    """The dynamic tables of the schema, as SHOW returns them."""
    return rows(f"SHOW DYNAMIC TABLES IN SCHEMA {names.database}.{names.schema}")


def streams(rows: Rows, names: Names) -> list[dict[str, Any]]:
    """The streams of the schema, as SHOW returns them."""
    return rows(f"SHOW STREAMS IN SCHEMA {names.database}.{names.schema}")


def warehouses(rows: Rows, names: Names) -> list[dict[str, Any]]:
    """The warehouse as SHOW returns it; empty if the current role cannot see it."""
    found = rows(f"SHOW WAREHOUSES LIKE '{names.warehouse}'")
    return [one for one in found if one["name"] == names.warehouse]  # LIKE matches any character with _


def is_unreadable(stream: dict[str, Any], table: dict[str, Any] | None) -> bool:
    """Whether a stream cannot be read: it is stale, or its table was recreated after it."""
    return _is(stream["stale"]) or table is None or stream["created_on"] < table["created_on"]


def missing_grants(rows: Rows, names: Names, statements: Iterable[Statement]) -> list[str]:
    """The grants in `statements` that the engineer's role lacks, as statements to run.

    A role that is granted to PUBLIC counts as granted.
    """
    role = names.engineer_role
    has = rows(f"SHOW GRANTS TO ROLE {role}")
    granted = {(row["privilege"], _object(row)) for row in has}
    roles = {row["name"] for row in has if row["granted_on"].replace("_", " ") in {"ROLE", "DATABASE ROLE"}}
    missing: list[str] = []
    for_everybody: set[str] | None = None
    for statement in statements:
        text = statement.plain
        if (found := _GRANT_OF_ROLE.fullmatch(text)) and found[2] == role and found[1] not in roles:
            if for_everybody is None:
                for_everybody = {row["name"] for row in rows("SHOW GRANTS TO ROLE PUBLIC")}
            if found[1] not in for_everybody:
                missing.append(text)
        elif (found := _GRANT.fullmatch(text)) and found[3] == role and ("OWNERSHIP", found[2]) not in granted:
            privileges = [one.strip() for one in found[1].split(",")]
            lacking = [one for one in privileges if (one, found[2]) not in granted]
            if lacking:
                missing.append(f"GRANT {', '.join(lacking)} ON {found[2]} TO ROLE {role}")
    return missing


def _object(row: dict[str, Any]) -> str:
    kind = row["granted_on"].replace("_", " ")
    return kind if kind == "ACCOUNT" else f"{kind} {row['name']}"


def _connection(settings: Settings, rows: Rows) -> str:
    (found,) = rows("SELECT CURRENT_USER() AS user_name, CURRENT_ACCOUNT() AS account, CURRENT_REGION() AS region")
    kind = (
        "a key"
        if settings.snowflake_private_key_path
        else "a token"
        if settings.snowflake_token
        else "a password, which Snowflake refuses for service users"
    )
    return f"{found['user_name']} in account {found['account']}, {found['region']}, signed in with {kind}"


def _clock(rows: Rows, now: Callable[[], datetime]) -> str:
    (found,) = rows("SELECT SYSDATE() AS there")
    there: datetime = found["there"]
    if there.tzinfo:
        there = there.astimezone(UTC).replace(tzinfo=None)
    ahead = (now() - there).total_seconds()
    if abs(ahead) > MAX_CLOCK_SECONDS:
        raise ChurnError(
            f"the clock of this machine is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} Snowflake's; let it"
            " follow a time server, or sign-ins with a key will be refused"
        )
    return f"{abs(ahead):.0f} s from Snowflake's"


def _role(names: Names, rows: Rows, session: list[Statement]) -> str:
    rows(session[0].text)
    (found,) = rows("SELECT CURRENT_ROLE() AS role")
    if found["role"] != names.engineer_role:
        raise ChurnError(f"the role is {found['role']}, not {names.engineer_role}; check SNOWFLAKE_ROLE")
    return names.engineer_role


def _warehouse(names: Names, rows: Rows) -> str:
    found = next(iter(warehouses(rows, names)), None)
    if found is None:
        raise ChurnError(
            f"there is no warehouse {names.warehouse}, or role {names.engineer_role} may not see it; run"
            f" `churn deploy --target snowflake --only account`, or"
            f" GRANT USAGE, OPERATE ON WAREHOUSE {names.warehouse} TO ROLE {names.engineer_role}"
        )
    size, seconds = str(found["size"]), int(found.get("auto_suspend") or 0)
    if str(found["state"]).upper() == "SUSPENDED" and not _is(found.get("auto_resume", "true")):
        raise ChurnError(
            f"warehouse {names.warehouse} is suspended and does not resume automatically;"
            f" ALTER WAREHOUSE {names.warehouse} SET AUTO_RESUME = TRUE"
        )
    if not seconds:
        price = CREDITS_PER_HOUR.get(size.upper().replace("-", ""))
        cost = f"{24 * price} credits a day" if price else "credits all day"
        raise ChurnError(
            f"warehouse {names.warehouse} never suspends, which costs {cost};"
            f" ALTER WAREHOUSE {names.warehouse} SET AUTO_SUSPEND = 60"
        )
    return f"{names.warehouse}, {size}, {str(found['state']).lower()}, suspends after {seconds} s"


def _schema(names: Names, rows: Rows, session: list[Statement]) -> str:
    for statement in session[1:]:
        rows(statement.text)
    return f"{names.database}.{names.schema}"


def _privileges(names: Names, rows: Rows) -> list[Check]:
    """One failing check per missing privilege, or one passing check if none is missing."""
    account = [one for one in statements.statements(names) if one.phase == "account"]
    try:
        missing = missing_grants(rows, names, account)
    except ChurnError as error:
        return [("privileges", lambda error=error: _problem(str(error)))]
    return [
        (
            "privileges",
            lambda grant=grant: _problem(f"role {names.engineer_role} lacks a privilege; as an administrator: {grant}"),
        )
        for grant in missing
    ] or [("privileges", lambda: f"role {names.engineer_role} has all that sql/snowflake/account grants")]


def _problem(text: str) -> str:
    raise ChurnError(text)


def _cortex(settings: Settings, names: Names, rows: Rows) -> str:
    (found,) = rows(_AI_COMPLETE, [names.writer_model])
    answer = found["answer"]
    answer = json.loads(answer) if isinstance(answer, str) else answer
    if error := (answer or {}).get("error"):
        said = " ".join(str(error).split())[:300]
        fix = known_fix(None, said, settings) or "set CHURN_WRITER_MODEL to a model that the account has"
        raise ChurnError(f"model {names.writer_model} does not answer: {said}; {fix}")
    return f"{names.writer_model} answers; this question cost about ten tokens"


def _versions(rows: Rows) -> str:
    (found,) = rows("SELECT CURRENT_VERSION() AS version")
    ours = ", ".join(
        f"{name} {version(name)}"
        for name in ("snowflake-connector-python", "snowflake-snowpark-python", "dbt-snowflake")
    )
    return f"Snowflake {found['version']}, {ours}"


def _models() -> list[str]:
    return sorted(
        path.stem for folder in ("features", "predictions") for path in files_in(DBT_PROJECT, f"models/{folder}/*.sql")
    )


def _dynamic_table(name: str, tables: Shown, refreshes: Shown) -> str:
    found = next((one for one in tables() if one["name"].upper() == name.upper()), None)
    if found is None:
        raise ChurnError(f"it is not there; {_DEPLOY}")
    if "SUSPENDED" in str(found["scheduling_state"]).upper():
        raise ChurnError(f"it is suspended, so its rows get old; ALTER DYNAMIC TABLE {name} RESUME")
    if found["refresh_mode"] != "INCREMENTAL":
        reason = f" ({found['refresh_mode_reason']})" if found.get("refresh_mode_reason") else ""
        raise ChurnError(
            f"it refreshes {found['refresh_mode']}{reason}, so no stream can be on it; {_DEPLOY}, which recreates it"
            " if its query has changed"
        )
    last = next((one for one in refreshes() if one["name"].upper() == name.upper()), None)
    if last and "FAILED" in last["state"]:
        said = " ".join(str(last["state_message"]).split())[:300]
        raise ChurnError(f"its last refresh failed: {said}; fix that, then ALTER DYNAMIC TABLE {name} REFRESH")
    return f"{found['refresh_mode']}, target lag {found['target_lag']}, last refresh {last['state'] if last else 'unknown'}"


def _streams(names: Names, rows: Rows, shown: Shown) -> str:
    there = {one["name"].upper(): one for one in streams(rows, names)}
    tables = {one["name"].upper(): one for one in shown()}
    problems: list[str] = []
    for statement in statements.statements(names):
        if found := statements.CREATES_STREAM.match(statement.plain):
            stream = there.get(found[1].upper())
            if stream is None:
                problems.append(f"{found[1]} is not there")
            elif is_unreadable(stream, tables.get(found[2].upper())):
                problems.append(f"{found[1]} is stale, or its table was recreated")
    if problems:
        raise ChurnError(f"{'; '.join(problems)}; {_DEPLOY}, which creates it and queues the customers at risk")
    return ", ".join(sorted(there)).lower()


def _tasks(settings: Settings, names: Names, rows: Rows) -> str:
    found = rows(f"SHOW TASKS IN SCHEMA {names.database}.{names.schema}")
    states = {one["name"].lower(): str(one["state"]).lower() for one in found}
    wanted = [one.plain.split()[-2] for one in statements.driver_statements(settings, names)]
    if settings.driver == "native":
        if idle := [name for name in wanted if states.get(name) != "started"]:
            raise ChurnError(f"CHURN_DRIVER=native, but {', '.join(idle)} does not run; {_DEPLOY}, which resumes it")
    elif active := [name for name in wanted if states.get(name) == "started"]:
        raise ChurnError(
            f"CHURN_DRIVER=dagster, but {', '.join(active)} runs too, and both write emails; {_DEPLOY}, which suspends it"
        )
    return f"CHURN_DRIVER={settings.driver}; " + (
        ", ".join(f"{name} {states[name]}" for name in sorted(states)) or "none"
    )


def _is(value: object) -> bool:
    """Whether a value of SHOW, which returns strings, means yes."""
    return str(value).lower() in {"true", "y", "yes"}
