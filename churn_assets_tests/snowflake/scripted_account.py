"""An account that answers what a deployment and the doctor ask, and remembers what it was told to run.

Its answers are this file's own idea of Snowflake: what is tested over it is our logic, not that Snowflake takes a statement.
"""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from churn_assets.operations.statements import statements
from churn_assets.settings import Settings
from churn_assets.warehouse.schema_version import READ_VERSION
from churn_assets.warehouse.snowflake_connection import SnowflakeError
from churn_assets.warehouse.snowflake_names import Names

START = datetime.fromisoformat("2026-11-23T08:00:00")
MODELS = ("customer_day", "dyn_customer_features", "dyn_churn_predictions", "churn_metrics_live")
TYPES = {"VARCHAR": "TEXT", "DOUBLE": "FLOAT", "INTEGER": "NUMBER", "BIGINT": "NUMBER", "TIMESTAMP": "TIMESTAMP_NTZ"}


def reported(file: str, done: str = "") -> str:
    """What a deployment says of a file below `sql`; unless `done` says otherwise, all that it records is new."""
    here = [one for one in statements(Names()) if one.file == file]
    new = sum(not one.plain.startswith("USE ") for one in here)
    plural = "s" if len(here) > 1 else ""
    return f"{here[0].phase}: sql/{file}, {len(here)} statement{plural}, {done or f'{new} new'}"


class KilledError(BaseException):
    """Stands for the end of the process."""


class ScriptedAccount:
    """An account, empty but for the user's roles."""

    def __init__(self, *roles: str) -> None:
        self.roles = {*roles, "PUBLIC"}
        self.role = "PUBLIC"
        self.ran: list[str] = []  # each on one line, without comments
        self.there: set[str] = set()  # roles, warehouses and schemas
        self.columns: dict[str, dict[str, str]] = {}
        self.history: list[dict[str, Any]] = []
        self.version: int | None = None
        self.streams: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, str] = {}
        self.grants: list[dict[str, str]] = []
        self.answers: dict[str, list[dict[str, Any]] | SnowflakeError] = {}  # by how a statement begins
        self.fails: Callable[[str], BaseException | None] = lambda sql: None
        self.declared: list[tuple[list[str], list[str]]] = []
        self.broken = ""  # what dbt says
        self.has_what_it_makes = True  # the role that creates a role may use it
        self._ticks = 0

    def now(self) -> datetime:
        """Each time a second later."""
        self._ticks += 1
        return START + timedelta(seconds=self._ticks)

    @contextmanager
    def connect(self, settings: Settings) -> Generator[Callable[..., list[dict[str, Any]]]]:
        """In place of `signed_in`."""
        self.role = "PUBLIC"
        yield self.rows

    def declare(self, settings: Settings, models: Sequence[str], rebuilt: Sequence[str]) -> None:
        """In place of dbt."""
        from churn_assets.operations.dbt import DeploymentError

        self.declared.append((list(models), list(rebuilt)))
        if self.broken:
            raise DeploymentError(self.broken)
        for model in models or MODELS:
            if model.upper() not in self.tables or model in rebuilt:
                self.tables[model.upper()] = {
                    "name": model.upper(),
                    "created_on": self.now(),
                    "scheduling_state": "ACTIVE",
                    "refresh_mode": "INCREMENTAL",
                    "target_lag": "5 minutes",
                }

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run one statement."""
        text = " ".join(re.sub(r"--[^\n]*", "", sql).split())
        error = self.fails(text)
        if error:
            raise error
        self.ran.append(text)
        return self._rows(text, list(parameters))

    def _rows(self, text: str, parameters: list[Any]) -> list[dict[str, Any]]:
        for start, answer in self.answers.items():
            if text.startswith(start):
                if isinstance(answer, SnowflakeError):
                    raise answer
                return answer
        if found := re.match(r"USE (\w+) (\S+)", text):
            return self._use(found[1], found[2])
        if text.startswith(("CREATE", "ALTER", "GRANT", "INSERT")):
            self._change(text, parameters)
            return []
        return self._asked(text)

    def _change(self, text: str, parameters: list[Any]) -> None:
        if found := re.match(r"CREATE (ROLE|WAREHOUSE|SCHEMA) IF NOT EXISTS (\S+)", text):
            self.there.add(found[2])
            if found[1] == "ROLE" and self.has_what_it_makes:
                self.roles.add(found[2])
        elif found := re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*)\)", text):
            columns = {one.split()[0].upper(): one.split()[1] for one in found[2].split(", ")}
            self.columns.setdefault(
                found[1].upper(), {name: TYPES.get(type_, type_) for name, type_ in columns.items()}
            )
        elif found := re.match(r"ALTER TABLE (\w+) ADD COLUMN (?:IF NOT EXISTS )?(\w+) (\w+)", text):
            self.columns[found[1].upper()][found[2].upper()] = TYPES.get(found[3], found[3])
        elif found := re.match(r"CREATE (STREAM IF NOT EXISTS|OR REPLACE STREAM) (\w+) ON DYNAMIC TABLE (\w+)", text):
            name = found[2].upper()
            if found[1].startswith("OR") or name not in self.streams:
                self.streams[name] = {
                    "name": name,
                    "created_on": self.now(),
                    "stale": "false",
                    "table_name": f"CHURN.MAIN.{found[3].upper()}",
                }
        elif found := re.match(r"CREATE TASK IF NOT EXISTS (\w+)", text):
            self.tasks.setdefault(found[1], "suspended")
        elif found := re.match(r"ALTER TASK (?:IF EXISTS )?(\w+) (RESUME|SUSPEND)", text):
            if found[1] in self.tasks:
                self.tasks[found[1]] = "started" if found[2] == "RESUME" else "suspended"
        elif text.startswith("GRANT"):
            self._grant(text)
        elif text.startswith("INSERT INTO schema_version"):
            self.version = parameters[0]
        elif text.startswith("INSERT INTO churn_deployments"):
            names = ("file", "statement", "checksum")
            values = parameters[1:]
            rows = [dict(zip(names, values[at : at + 3], strict=True)) for at in range(0, len(values), 3)]
            self.history += [{**row, "deployed_at": self.now()} for row in rows]

    def _asked(self, text: str) -> list[dict[str, Any]]:
        if text.startswith("SELECT file, statement, checksum FROM churn_deployments"):
            if "CHURN_DEPLOYMENTS" not in self.columns:
                raise SnowflakeError("Snowflake (2003): Object 'CHURN_DEPLOYMENTS' does not exist", 2003)
            latest = {(row["file"], row["statement"]): row for row in self.history}
            return list(latest.values())
        if text == READ_VERSION.format(table="schema_version"):
            if "SCHEMA_VERSION" not in self.columns:
                raise SnowflakeError("Snowflake (2003): Object 'SCHEMA_VERSION' does not exist", 2003)
            return [{"version": self.version}]
        if "INFORMATION_SCHEMA.COLUMNS" in text:
            return [
                {"table_name": table, "column_name": column, "data_type": type_}
                for table, columns in self.columns.items()
                for column, type_ in columns.items()
            ]
        answers: dict[str, list[dict[str, Any]]] = {
            "SHOW STREAMS": list(self.streams.values()),
            "SHOW DYNAMIC TABLES": list(self.tables.values()),
            "SHOW GRANTS TO ROLE DATA_ENGINEER": list(self.grants),
            "SHOW TASKS": [{"name": name.upper(), "state": state} for name, state in self.tasks.items()],
            "SHOW WAREHOUSES": [
                {
                    "name": "CHURN",
                    "size": "X-Small",
                    "state": "SUSPENDED",
                    "auto_suspend": 60,
                    "auto_resume": "true",
                }
            ]
            if "CHURN" in self.there
            else [],
            "SELECT CURRENT_USER()": [{"user_name": "ANN", "account": "AB123", "region": "AWS_EU_CENTRAL_1"}],
            "SELECT CURRENT_ROLE()": [{"role": self.role}],
            "SELECT CURRENT_VERSION()": [{"version": "10.41.0"}],
            "SELECT SYSDATE()": [{"there": START}],
        }
        return next((rows for start, rows in answers.items() if text.startswith(start)), [])

    def _use(self, kind: str, name: str) -> list[dict[str, Any]]:
        if kind == "ROLE":
            if name not in self.roles:
                raise SnowflakeError(
                    f"Snowflake (3013): Requested role '{name}' is not assigned to the executing user.", 3013
                )
            self.role = name
        elif name not in self.there:
            raise SnowflakeError(f"Snowflake (2043): {name} does not exist or may not be used", 2043)
        return []

    def _grant(self, text: str) -> None:
        if found := re.match(r'GRANT ROLE (\S+) TO USER "ANN"', text):
            self.roles.add(found[1])
        elif found := re.match(r"GRANT (DATABASE )?ROLE (\S+) TO ROLE DATA_ENGINEER", text):
            kind = "DATABASE_ROLE" if found[1] else "ROLE"
            self.grants.append({"privilege": "USAGE", "granted_on": kind, "name": found[2]})
        elif found := re.match(r"GRANT (.+) ON (?!FUTURE)([A-Z ]+?)(?: ([A-Z.]+))? TO ROLE DATA_ENGINEER", text):
            self.grants += [
                {"privilege": one.strip(), "granted_on": found[2], "name": found[3] or "AB123"}
                for one in found[1].split(",")
                if "FUTURE" not in found[2]
            ]

    def count(self, start: str) -> int:
        """How many statements that begin with these words have run."""
        return sum(f"{one} ".startswith(f"{start} ") for one in self.ran)

    def made_by_an_administrator(self) -> "ScriptedAccount":
        """The account after somebody else ran the phase `account`, and gave its user the engineer's role."""
        for one in statements(Names()):
            if one.phase == "account" and not one.plain.startswith("USE"):
                self._rows(one.plain, [])
        self.roles |= {"DATA_ENGINEER"}
        self.roles -= {"ACCOUNTADMIN"}
        return self
