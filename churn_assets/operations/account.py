"""Bringing a Snowflake account to the state that the code describes: `sql/`, the model's functions, dbt, the tasks.

Here belong the order of the phases, the use of the account's history, and the meaning of errors. The statements come from
`statements` and `model.snowflake_functions`, the dynamic tables from `dbt`. (schemachange was considered: it keeps its
history by file, has no phases with dbt and functions between them, and reports errors as tracebacks.)

Every statement is idempotent and drops nothing, so every deployment runs all of them: about 100 statements of some tenths
of a second each. A deployment that was killed is simply run again, and objects that somebody dropped or changed by hand are
restored. The history (`churn_deployments`) is needed only to
- show which statements are new or changed,
- skip the phase `account`, which needs an administrator, if nothing in it changed,
- find the dynamic tables whose query changed, which dbt would leave as they are,
- know for which creation of a stream the customers at risk were queued.

An existing table gets its missing columns, if they may be NULL or have a default. No column is narrowed or dropped. Once all of a
deployment has run, the account has the version of this code (`schema_version`), and runs accept it.

Written from the documentation and tested against an emulator, never on a live account.
"""

import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from churn_assets.clock import utc_now
from churn_assets.dashboard.files import APP_FOLDER, APP_STAGE, app_files
from churn_assets.operations import dbt, statements
from churn_assets.operations.account_doctor import dynamic_tables, missing_grants, streams, warehouses
from churn_assets.operations.columns import additions
from churn_assets.operations.cost import estimate
from churn_assets.operations.dbt import DeploymentError, Model
from churn_assets.operations.first_day import OLDEST_EMAIL, note_first_day
from churn_assets.operations.history import Known, count_marks, is_opening, look, makes_up, named
from churn_assets.operations.statements import CREATES_STREAM, HISTORY, PHASES, Phase, Statement
from churn_assets.settings import Settings, SettingsError
from churn_assets.warehouse.schema_version import (
    NOTE_VERSION,
    READ_VERSION,
    SCHEMA_VERSION,
    UNVERSIONED,
    SchemaVersionError,
    refuse_newer,
)
from churn_assets.warehouse.snowflake_connection import Rows, SnowflakeError, known_fix, signed_in
from churn_assets.warehouse.snowflake_names import Names, names_of

Report = Callable[[str], None]
_FUNCTIONS = "churn_assets/model/snowflake_functions.py"
_PROCEDURES = "churn_assets/operations/procedures.py"
_CREATES_IF_MISSING = re.compile(r"CREATE (?!TABLE )[A-Z ]+ IF NOT EXISTS ")
_IS_NOT_THERE = {2003, 2043, 3013, 390189}  # errors: the object does not exist, or the role may not see or use it
_NUMBER = re.compile(r"\b(\d{6}) \(\w{5}\)")  # of an error in dbt's messages


@dataclass
class _Plan:
    """All statements in order, dbt's models, and the content of the files to upload, by name."""

    statements: list[Statement]
    models: list[Model]
    files: dict[str, bytes]


def deploy(
    settings: Settings,
    only: Sequence[str],
    report: Report,
    connect: Callable[[Settings], AbstractContextManager[Rows]] = signed_in,
    declare: Callable[[Settings, Sequence[str], Sequence[str]], None] = dbt.declare,
) -> None:
    """Run the statements that `only` selects (phases or file patterns), or all. The first failure raises `ChurnError`."""
    names = names_of(settings)
    with connect(settings) as rows:
        plan = _plan(settings, names)
        _Run(settings, names, plan, rows, report, declare).run(_select(plan.statements, only), forced=bool(only))


def preview(
    settings: Settings,
    only: Sequence[str],
    connect: Callable[[Settings], AbstractContextManager[Rows]] = signed_in,
) -> str:
    """What `deploy` would run, as a script: it marks new and changed statements and estimates the cost. Changes nothing."""
    names = names_of(settings)
    plan = _plan(settings, names)
    chosen = _select(plan.statements, only)
    known, notes, warehouse = None, list[str](), {"size": "XSMALL", "auto_suspend": 60}
    try:
        with connect(settings) as rows:
            try:
                _enter(rows, names)
                _refuse_newer(rows, names)
                known = look(rows, names)
                notes = [f"would add a column: {sql}" for sql in additions(rows, names, chosen)]
            except SnowflakeError as error:
                known = Known() if error.number in _IS_NOT_THERE else None
                notes = [f"the deployment's history cannot be read: {error}"]
            warehouse |= next(iter(warehouses(rows, names)), {})
    except (SettingsError, SnowflakeError) as error:
        notes = [f"history unknown, so all statements are shown: {error}"]
    except (DeploymentError, SchemaVersionError) as error:
        notes = [f"would stop: {error}"]
    if any(one.phase == "account" for one in chosen):
        user = settings.snowflake_user or "…"
        notes.append(f"if another user deploys, grant it the role: GRANT ROLE {names.engineer_role} TO USER {user};")
    lines = [*_script(chosen, known), *(f"-- {note}" for note in [_summary(chosen, known), *notes])]
    if not only:
        size, seconds = str(warehouse["size"]), int(warehouse["auto_suspend"] or 0)
        lines += [f"-- {line}" for line in estimate(settings, plan.models, size, seconds)]
    return "\n".join(lines)


def _plan(settings: Settings, names: Names) -> _Plan:
    # A second of imports each.
    from churn_assets.model import snowflake_functions  # noqa: PLC0415
    from churn_assets.operations import procedures  # noqa: PLC0415

    of_sql = statements.statements(names)
    tasks = statements.driver_statements(settings, names)
    schema, code = f"{names.database}.{names.schema}", snowflake_functions.package_zip()
    stage, *functions = snowflake_functions.statements(schema, code)
    of_tasks = procedures.code()
    models = dbt.compiled(settings)
    of: dict[Phase, list[Statement]] = {phase: [one for one in of_sql if one.phase == phase] for phase in PHASES}
    session = [one for one in of["schema"] if one.is_of_the_session]
    of["schema"][len(session) : len(session)] = [one for one in tasks if one.phase == "schema"]
    upload, upload_of_tasks = (snowflake_functions.upload(schema, one) for one in (code, of_tasks))
    app = app_files()
    of["functions"] = [
        *(Statement(_FUNCTIONS, text, "functions") for text in (stage, upload, *functions)),
        *(
            Statement(_PROCEDURES, text, "functions")
            for text in (upload_of_tasks, *procedures.statements(names, of_tasks))
        ),
    ] + [
        Statement(
            f"churn_assets/dashboard/{name}",
            f"PUT 'file://{name}' @{names.database}.{names.serving_schema}.{APP_STAGE}/{APP_FOLDER}"
            " AUTO_COMPRESS = FALSE OVERWRITE = TRUE",
            "functions",
        )
        for name in app
    ]
    of["dbt"] = [
        Statement(
            model.file,
            f"CREATE DYNAMIC TABLE {model.name} TARGET_LAG = '{model.target_lag}' WAREHOUSE = {names.warehouse}"
            f" REFRESH_MODE = {model.refresh_mode} AS\n{model.query}",
            "dbt",
        )
        for model in models
    ]
    of["after_dbt"] += [one for one in tasks if one.phase == "after_dbt"]
    files = {_put_name(upload): code, _put_name(upload_of_tasks): of_tasks, **app}
    return _Plan([one for phase in PHASES for one in of[phase]], models, files)


def _put_name(text: str) -> str:
    return re.findall(r"'file://([^']+)'", text)[0]


def _select(statements: list[Statement], only: Sequence[str]) -> list[Statement]:
    """The statements of the phases, or whose file matches, in `only`; with the session and history that they need."""
    if not only:
        return statements

    def is_chosen(one: Statement, wanted: str) -> bool:
        if wanted in PHASES:
            return one.phase == wanted
        return any(fnmatch(name, wanted) for name in (one.file, one.path, Path(one.file).name))

    for wanted in only:
        if not any(is_chosen(one, wanted) for one in statements):
            raise DeploymentError(
                f"--only {wanted} matches nothing; give {', '.join(PHASES)}, or a file or pattern such as"
                " 'sql/snowflake/after_dbt/*'"
            )
    chosen = [one for one in statements if any(is_chosen(one, wanted) for wanted in only)]
    phases = {one.phase for one in chosen if not one.is_of_the_session}
    return [one for one in statements if one in chosen or (one.phase in phases and is_opening(one))]


class _Run:
    """One deployment over one connection."""

    def __init__(
        self,
        settings: Settings,
        names: Names,
        plan: _Plan,
        rows: Rows,
        report: Report,
        declare: Callable[[Settings, Sequence[str], Sequence[str]], None],
    ) -> None:
        self.settings, self.names, self.plan, self.rows, self.report = settings, names, plan, rows, report
        self.declare = declare
        self.known = Known()
        self.pending: list[tuple[str, str, str]] = []  # file, about, checksum: ran, but not recorded yet
        self.is_open = False  # whether the engineer's session has begun and the history is read
        self.shut_by = ""  # the error that prevented it

    def run(self, statements: list[Statement], *, forced: bool) -> None:
        """Run statements in order. `forced`: run the phase `account` even if it is unchanged."""
        try:
            self._open()
        except SnowflakeError as error:  # before the first deployment there is no role or schema to use
            self.shut_by = str(error)
        by_phase = {phase: [one for one in statements if one.phase == phase] for phase in PHASES}
        if by_phase["account"]:
            self._account(by_phase["account"], forced=forced)
        rest = [one for phase in PHASES if phase != "account" for one in by_phase[phase]]
        if not rest:
            self._record_for_others()
            return
        self._open()
        at_once = [one for one in rest if one.phase == "schema" and one.plain.startswith("ALTER TASK ")]
        if at_once:  # first, so that Dagster and the tasks never work at the same time
            self._file(at_once)
        self._add_columns(rest)
        rest = [one for one in rest if one not in at_once]
        for (phase, _), group in groupby(rest, key=lambda one: (one.phase, one.file if one.phase != "dbt" else "")):
            together = [one for one in group if not is_opening(one)]
            if together:
                self._dbt(together) if phase == "dbt" else self._file(together)
        if statements == self.plan.statements:
            self._note_version()

    def _open(self) -> None:
        """Begin the engineer's session. The first time, also read what the account has."""
        _enter(self.rows, self.names)
        if not self.is_open:
            history = next(one for one in self.plan.statements if one.file == HISTORY)
            _refuse_newer(self.rows, self.names)
            self.rows(history.text)
            self.known = look(self.rows, self.names)
            self.is_open = True
        self._record()

    def _account(self, statements: list[Statement], *, forced: bool) -> None:
        counted = count_marks(statements, self.known)
        if self.is_open and not forced and not counted:
            self.report("account: unchanged")
            return
        try:
            self.rows(f"USE ROLE {self.names.admin_role}")
        except SnowflakeError as error:
            missing = missing_grants(self.rows, self.names, statements) if self.is_open else [self.shut_by]
            if forced or missing:
                raise DeploymentError(
                    f"the phase account needs role {self.names.admin_role}, which {self.settings.snowflake_user} may not"
                    f" use ({error}); missing: {'; '.join(missing) or 'nothing'}; give an administrator the output of"
                    " `churn deploy --target snowflake --only account --dry-run`, with GRANT ROLE"
                    f" {self.names.engineer_role} TO USER {self.settings.snowflake_user}, then deploy again"
                ) from error
            self.report(f"account: {self.settings.snowflake_user} is no administrator, but all that it grants is there")
            return
        for _, group in groupby(statements, key=lambda one: one.file):
            self._file(list(group))
        try:
            self.rows(f"USE ROLE {self.names.engineer_role}")
        except SnowflakeError:  # a user who creates a role does not always get it
            (found,) = self.rows("SELECT CURRENT_USER() AS user_name")
            user = found["user_name"].replace('"', '""')
            self.rows(f'GRANT ROLE {self.names.engineer_role} TO USER "{user}"')
            self.report(f"account: role {self.names.engineer_role} granted to user {user}")

    def _record_for_others(self) -> None:
        """Record what an administrator ran, if the administrator may use the engineer's role."""
        try:
            self._open()
        except SnowflakeError as error:
            self.report(f"account: done, but not recorded in the history ({error})")

    def _file(self, statements: list[Statement]) -> None:
        """Run the statements of one file."""
        before = count_marks(statements, self.known)
        left = []
        for statement in statements:
            if _CREATES_IF_MISSING.match(statement.plain) and self.known.mark(statement) == "changed":
                left.append(statement.about.removeprefix("CREATE "))
            self._run(statement)
        self._record()
        if all(one.plain.startswith("ALTER TASK ") for one in statements):
            done = "resumed" if self.settings.driver == "native" else "suspended"
            self.report(f"tasks: {done}, as CHURN_DRIVER={self.settings.driver}")
        else:
            self.report(f"{statements[0].phase}: {statements[0].path}, {_in_words(statements, before)}")
        for one in left:
            self.report(f"  {one} has changed in the code; the one that exists was left as it is")

    def _run(self, statement: Statement) -> None:
        text = statement.text
        if found := CREATES_STREAM.match(statement.plain):
            self.known = replace(self.known, streams=named(streams(self.rows, self.names)))
            if self.known.is_unreadable(found[1], found[2]):
                text = text.replace("CREATE STREAM IF NOT EXISTS", "CREATE OR REPLACE STREAM", 1)
                self.report(f"  {found[1]} could not be read any more and was recreated")
        if makes_up(statement):
            self.known = replace(self.known, streams=named(streams(self.rows, self.names)))
            if self.known.mark(statement) == "unchanged":
                return
        try:
            if text.startswith("PUT "):
                self._put(text)
            else:
                self.rows(text)
        except SnowflakeError as error:
            with suppress(SnowflakeError):  # an unrecorded statement counts as new next time, which does no harm
                self._record()
            raise DeploymentError(
                f"{statement.about} of {statement.path} failed: {error}; the earlier statements stay; run `churn deploy`"
                " again to go on"
            ) from error
        if self.known.mark(statement) in {"new", "changed"}:
            self.pending.append((statement.file, statement.about, self.known.checksum(statement)))

    def _put(self, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            name = _put_name(text)
            Path(folder, name).write_bytes(self.plan.files[name])
            self.rows(text.replace("file://", f"file://{folder}/", 1))

    def _dbt(self, statements: list[Statement]) -> None:
        names = {one.file: model.name for one in statements for model in self.plan.models if model.file == one.file}
        before = count_marks(statements, self.known)
        # dbt does not change the query of an existing table; one that is not in the history may have any query.
        rebuilt = [
            names[one.file]
            for one in statements
            if names[one.file].upper() in self.known.tables and self.known.mark(one) != "unchanged"
        ]
        some = [] if len(statements) == len(self.plan.models) else list(names.values())
        try:
            self.declare(self.settings, some, rebuilt)
        except DeploymentError as error:
            number = _NUMBER.search(str(error))
            fix = known_fix(int(number[1]) if number else None, str(error), self.settings)
            raise DeploymentError(f"{error}; {fix}" if fix else str(error)) from error
        oldest = next(iter(self.rows(OLDEST_EMAIL)), {}).get("oldest_day")
        note_first_day(self.settings, oldest, utc_now().date())
        self.pending += [
            (one.file, one.about, self.known.checksum(one))
            for one in statements
            if self.known.mark(one) in {"new", "changed"}
        ]
        self._record()
        self.known = replace(self.known, tables=named(dynamic_tables(self.rows, self.names)))
        self.report(f"dbt: {_in_words(statements, before)}")
        if rebuilt:
            self.report(
                f"  recreated because the query has changed: {', '.join(rebuilt)}; after_dbt recreates their streams"
            )

    def _add_columns(self, statements: Iterable[Statement]) -> None:
        for sql in additions(self.rows, self.names, statements):
            self.rows(sql)
            self.report(f"schema: {sql}")

    def _note_version(self) -> None:
        """Note that the account has the tables of this code: runs refuse it before."""
        found = _schema_version(self.rows)
        if found != SCHEMA_VERSION:
            self.rows(NOTE_VERSION, [SCHEMA_VERSION, utc_now()])
            self.report(f"version {found} is now version {SCHEMA_VERSION}" if found else f"version {SCHEMA_VERSION}")

    def _record(self) -> None:
        if not (self.pending and self.is_open):
            return
        places = ", ".join(["(?, ?, ?)"] * len(self.pending))
        self.rows(
            "INSERT INTO churn_deployments (file, statement, checksum, deployed_at, deployed_by, version)"
            " SELECT file, statement, checksum, SYSDATE(), CURRENT_USER(), ?"
            f" FROM (VALUES {places}) AS ran (file, statement, checksum)",
            [version("churn-assets"), *(value for row in self.pending for value in row)],
        )
        self.known.history.update({(file, about): checksum for file, about, checksum in self.pending})
        self.pending = []


def _enter(rows: Rows, names: Names) -> None:
    """Set the role and schema that all phases but `account` run in."""
    for statement in statements.statements(names):
        if statement.phase == "schema" and statement.is_of_the_session:
            rows(statement.text)


def _refuse_newer(rows: Rows, names: Names) -> None:
    refuse_newer(_schema_version(rows) or UNVERSIONED, f"{names.database}.{names.schema}")


def _schema_version(rows: Rows) -> int | None:
    """The version of the account's tables; None if none was noted yet."""
    try:
        return next(iter(rows(READ_VERSION.format(table="schema_version"))), {}).get("version")
    except SnowflakeError as error:
        if error.number not in _IS_NOT_THERE:
            raise
        return None


def _script(statements: list[Statement], known: Known | None) -> Generator[str]:
    for phase, said in PHASES.items():
        of_phase = [one for one in statements if one.phase == phase]
        if of_phase:
            yield f"-- ==== {phase}: {said}"
        for _, of_file in groupby(of_phase, key=lambda one: one.file):
            together = list(of_file)
            yield f"-- ---- {together[0].path}"
            for one in together:
                yield f"-- {known.mark(one) if known else 'history unknown'}\n{one.text};\n"


def _summary(statements: list[Statement], known: Known | None) -> str:
    return _in_words(statements, count_marks(statements, known)) if known else f"{len(statements)} statements"


def _in_words(statements: list[Statement], counted: dict[str, int]) -> str:
    found = ", ".join(f"{count} {mark}" for mark, count in counted.items()) or "nothing new or changed"
    return f"{len(statements)} statement{'s' if len(statements) != 1 else ''}, {found}"
