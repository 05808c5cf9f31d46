"""One session: its transaction, and the statements that read and write rows.

Here belong queries, DML and transactions. Objects are `objects`, what SHOW tells is `listings`, files are `stages`.

A transaction is the set of changes that it has made (`changes`). For each statement they are applied in a transaction of the
engine, which then is rolled back: so each statement sees its own transaction and what others have committed by now, one that
fails leaves the transaction as it was, and nothing of a client that has died holds anything but its locks. UPDATE, DELETE, MERGE
and TRUNCATE lock their table until the transaction ends, as does DML the streams that it reads; INSERT and COPY lock nothing.
"""

import re
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from fakesnow import statement_type
from sqlglot import ErrorLevel, Expr, exp, parse_one
from sqlglot.errors import UnsupportedError

from churn_assets.operations.statements import split
from churn_assets_tests.snowflake.emulator import changes, functions, listings, streams
from churn_assets_tests.snowflake.emulator.account import Account, Asked
from churn_assets_tests.snowflake.emulator.changes import Change
from churn_assets_tests.snowflake.emulator.errors import (
    StatementError,
    does_not_exist,
    no_scripting,
    refusal,
    syntax_error,
    unsupported,
)
from churn_assets_tests.snowflake.emulator.names import (
    NAME,
    TEMPORARY,
    Name,
    in_sql,
    parts,
    shown,
    stored,
    without_comments,
)
from churn_assets_tests.snowflake.emulator.streams import Content, Stream
from churn_assets_tests.snowflake.emulator.wire import Rows, fetched, listed, status, with_values

DONE = "Statement executed successfully."
_RESULTS = 20  # of how many statements a session can be asked for the rows again
_STATEMENT_TYPES = {
    "": statement_type.SELECT,
    "SELECT": statement_type.SELECT,
    "WITH": statement_type.SELECT,
    "VALUES": statement_type.SELECT,
    "INSERT": statement_type.INSERT,
    "UPDATE": statement_type.UPDATE,
    "DELETE": statement_type.DELETE,
    "MERGE": statement_type.MERGE,
    "COPY": statement_type.COPY,
    "SHOW": statement_type.SHOW,
    "DESCRIBE": statement_type.DESCRIBE,
    "DESC": statement_type.DESCRIBE,
    "USE": statement_type.USE,
    "CREATE": statement_type.DDL,
    "ALTER": statement_type.DDL,
    "DROP": statement_type.DDL,
    "TRUNCATE": statement_type.DDL,
    "GRANT": statement_type.DDL,
    "REVOKE": statement_type.DDL,
    "BEGIN": statement_type.TCL,
    "START": statement_type.TCL,
    "COMMIT": statement_type.TCL,
    "ROLLBACK": statement_type.TCL,
}
# What a statement of Snowflake's may begin with; another word is a mistake rather than something unknown here.
_VERBS = {
    *_STATEMENT_TYPES,
    "PUT",
    "GET",
    "LIST",
    "LS",
    "REMOVE",
    "RM",
    "CALL",
    "EXECUTE",
    "EXPLAIN",
    "COMMENT",
    "SET",
    "UNSET",
}
Rule = tuple[str, Callable[["Session", "re.Match[str]", str], Rows]]


@dataclass
class Transaction:
    id: int
    changes: dict[Name, Change] = field(default_factory=dict[Name, Change])
    # What each stream shows in it, and of these the ones that DML has read.
    streams: dict[Name, Content] = field(default_factory=dict[Name, Content])
    consumed: set[Name] = field(default_factory=set[Name])
    loaded: dict[Name, set[tuple[str, str]]] = field(default_factory=dict[Name, set[tuple[str, str]]])


@dataclass(frozen=True)
class Outcome:
    """What a statement came to: its rows, what the protocol calls its kind, and its id."""

    rows: Rows
    statement_type: int
    id: str


class Session:
    def __init__(self, account: Account, *, parameters: Mapping[str, Any], user: str = "EMULATOR") -> None:
        self.account = account
        self.number = next(account.numbers)
        self.user = user
        self.role = "PUBLIC"
        self.warehouse: str | None = None
        self.database: str | None = None
        self.schema: str | None = None
        self.parameters: dict[str, Any] = {name.upper(): value for name, value in parameters.items()}
        self.transaction: Transaction | None = None
        self.temporary: dict[Name, Name] = {}
        self.is_busy = False
        self.last_active = time.monotonic()
        self.last_query = ""
        self.results: dict[str, Rows] = {}
        self._lost: str | None = None
        self._translator = account.engine.connect()
        self.duck = self._translator._duck_conn
        self._inputs = count(1)
        self._registered: list[str] = []

    # ---- the statement

    def run(
        self,
        text: str,
        bindings: Mapping[str, Mapping[str, Any]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        describe_only: bool = False,
    ) -> Outcome:
        """Run one statement; `StatementError` where it fails."""
        with self.account.turn:
            self.is_busy = True
            number = str(uuid.uuid4())
            own = {name.upper(): value for name, value in (parameters or {}).items()}
            of_session, self.parameters = self.parameters, {**self.parameters, **own}
            tag = str(self.parameters.get("QUERY_TAG") or "")
            now = datetime.now(UTC)
            self.account.asked.append(Asked(text, tag, self.number, number, self.role, now))
            try:
                self.account.fail_if_told(text)
                rows, kind = self._run(with_values(text, bindings))
                if describe_only:
                    rows = Rows(rows.table.slice(0, 0), rows.types)
            except Exception as error:
                raise refusal(error) from error
            finally:
                # What the statement itself has set stays; what was only said with it does not.
                changed = {name: value for name, value in self.parameters.items() if own.get(name) != value}
                gone = set(of_session) - set(self.parameters)
                self.parameters = {name: value for name, value in {**of_session, **changed}.items() if name not in gone}
                self._forget_stand_ins()
                self.last_active = time.monotonic()
                self.is_busy = False
                self.account.turn.notify_all()
            self.last_query = number
            self.results[number] = rows
            self.results.pop(next(iter(self.results)) if len(self.results) > _RESULTS else "", None)
            return Outcome(rows, kind, number)

    def _run(self, sql: str) -> tuple[Rows, int]:
        bare = without_comments(sql).rstrip(";").strip()
        if not re.match(r"(?:BEGIN|DECLARE)\s", bare, re.IGNORECASE) and (number := len(split(sql))) > 1:
            raise StatementError(
                8, "0A000", f"Actual statement count {number} did not match the desired statement count 1."
            )
        if self._lost is not None and not re.match(r"(BEGIN|START|ROLLBACK)\b", bare, re.IGNORECASE):
            why, self._lost = self._lost, None
            raise StatementError(608, "57014", f"The transaction of session {self.number} was aborted: {why}")
        for pattern, run in rules():
            if found := re.match(pattern, bare, re.IGNORECASE | re.DOTALL):
                return run(self, found, bare), _statement_type(bare)
        if bare.split(None, 1)[:1] and bare.split(None, 1)[0].upper() not in _VERBS:
            raise syntax_error(f"unexpected '{bare.split(None, 1)[0]}'")
        raise unsupported(f"the statement {bare[:200]!r}")

    # ---- names

    def qualified(self, written: list[str]) -> Name:
        """A name with the session's database and schema where it has none."""
        if len(written) < 3 and self.database is None:
            raise StatementError(
                90105,
                "22000",
                "Cannot perform operation. This session does not have a current database. Call 'USE DATABASE', or use a"
                " qualified name.",
            )
        if len(written) == 1 and self.schema is None:
            raise StatementError(
                90106,
                "22000",
                "Cannot perform operation. This session does not have a current schema. Call 'USE SCHEMA', or use a qualified"
                " name.",
            )
        here = [self.database or "", self.schema or ""]
        return tuple(here[: 3 - len(written)] + written)

    def name(self, written: str) -> Name:
        return self.qualified(parts(written))

    def use(self, database: str | None, schema: str | None) -> None:
        """Make these the session's own; they must be there."""
        self.database, self.schema = database, schema
        self._translator.database, self._translator._schema = database, schema
        self._translator.database_set, self._translator.schema_set = database is not None, schema is not None
        if database is not None:
            # Tables are always written with their schema; the second place is where fakesnow has its macros.
            self.duck.execute(
                f"SET search_path = '{in_sql((database, schema or 'main'))},{in_sql((database, 'main'))}'"
            )

    @property
    def lock_timeout(self) -> float:
        return float(self.parameters.get("LOCK_TIMEOUT") or self.account.limits.lock_timeout)

    @property
    def autocommit(self) -> bool:
        return str(self.parameters.get("AUTOCOMMIT", True)).upper() != "FALSE"

    # ---- transactions

    def begin(self) -> None:
        self._lost = None
        if self.transaction is None:
            self.transaction = Transaction(next(self.account.numbers))

    def commit(self) -> None:
        """Make the transaction's changes everybody's. Without one it does nothing, as in Snowflake."""
        transaction = self.transaction
        if transaction is None:
            return
        changed = list(transaction.changes)
        # From here on the transaction is no longer one that keeps what streams show.
        self.transaction = None
        try:
            self.account.before_change(changed)
            with self._engine_transaction(keep=True):
                for name, change in transaction.changes.items():
                    changes.apply(self.duck, in_sql(name), change)
            self.account.changed(changed)
            for name in transaction.consumed & set(self.account.streams):
                self.account.streams[name].offset = transaction.streams[name].next_offset
            for name, files in transaction.loaded.items():
                self.account.loaded.setdefault(name, set()).update(files)
        finally:
            self.account.release(self)

    def rollback(self) -> None:
        self._lost = None
        self.transaction = None
        self.account.release(self)

    def abort(self, why: str) -> None:
        """End the transaction from outside; the session's next statement is told so."""
        self.rollback()
        self._lost = why

    def close(self) -> None:
        self.rollback()
        self.duck.close()

    @contextmanager
    def _engine_transaction(self, *, keep: bool) -> Generator[None]:
        self.duck.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.duck.execute("ROLLBACK")
            raise
        self.duck.execute("COMMIT" if keep else "ROLLBACK")

    # ---- reading

    def query(self, sql: str) -> Rows:
        """The rows of a SELECT."""
        _, engine_sql = self._understood(sql)
        return self.read(engine_sql)

    def read(self, engine_sql: str) -> Rows:
        """The rows of a query in DuckDB's SQL, as the transaction sees the tables."""
        if self.transaction is None or not self.transaction.changes:
            self.duck.execute(engine_sql)
            return fetched(self.duck)
        with self._engine_transaction(keep=False):
            self._apply_own()
            self.duck.execute(engine_sql)
            return fetched(self.duck)

    def _apply_own(self) -> None:
        if self.transaction is not None:
            for name, change in self.transaction.changes.items():
                changes.apply(self.duck, in_sql(name), change)

    def stream_content(self, stream: Stream) -> Content:
        """What a stream shows; within a transaction always the same."""
        if self.transaction is None:
            return streams.content(stream, self.account.duck)
        if stream.name not in self.transaction.streams:
            self.transaction.streams[stream.name] = streams.content(stream, self.account.duck)
        return self.transaction.streams[stream.name]

    # ---- writing

    def write(self, sql: str) -> Rows:
        """INSERT, UPDATE, DELETE, MERGE or TRUNCATE; the counts of rows that it touched."""
        expression = parse_one(sql, read="snowflake")
        if isinstance(expression, exp.Insert) and expression.args.get("overwrite"):
            raise unsupported("INSERT OVERWRITE")
        target = self._target(expression)
        read = [stream.name for stream in self.streams_in(expression)]
        adds_only = isinstance(expression, exp.Insert)
        with self.implicit_transaction() as is_alone:
            self.account.lock(self, [*([] if adds_only or target[:2] == TEMPORARY else [target]), *read])
            statement, engine_sql = self._understood(sql)
            if isinstance(statement, exp.Merge):
                self._refuse_ambiguous(statement)
            rows = self.change(
                target, lambda: self._counts(statement, engine_sql), adds_only=adds_only, is_alone=is_alone
            )
            assert self.transaction is not None
            self.transaction.consumed.update(read)
            return rows

    def change(self, target: Name, work: Callable[[], Rows], *, adds_only: bool, is_alone: bool) -> Rows:
        """Run what writes one table, whose locks are had: for good if it is alone, else within the transaction."""
        transaction = self.transaction
        assert transaction is not None
        table = in_sql(target)
        if is_alone:
            self.account.before_change([target])
            with self._engine_transaction(keep=True):
                rows = work()
            self.account.changed([target])
            return rows
        with self._engine_transaction(keep=False):
            if not adds_only:
                self.duck.execute(f"CREATE TEMP TABLE _before AS SELECT * FROM {table}")
            self._apply_own()
            rows = work()
            if adds_only:
                made = changes.with_own_rows(self.duck, table, transaction.changes.get(target))
            else:
                made = changes.between(self.duck, "temp.main._before", table)
        transaction.changes[target] = made
        return rows

    @contextmanager
    def implicit_transaction(self) -> Generator[bool]:
        """The open transaction, or one of its own for a statement that is alone (and then True)."""
        if self.transaction is not None:
            yield False
            return
        self.begin()
        try:
            yield self.autocommit
            if self.autocommit:
                self.commit()
        except BaseException:
            self.rollback()
            raise

    def _target(self, expression: Expr) -> Name:
        node = expression.expressions[0] if isinstance(expression, exp.TruncateTable) else expression.this
        node = node.this if isinstance(node, exp.Schema) else node
        if not isinstance(node, exp.Table):
            raise syntax_error(f"no table to write to in {expression.sql()[:100]}")
        return self.writable(self.table_name(node))

    def writable(self, name: Name) -> Name:
        """The table of that name that DML may write, the session's own before all others."""
        if name in self.temporary:
            return self.temporary[name]
        if name in self.account.dynamic_tables:
            raise StatementError(
                1506, "0A000", f"SQL compilation error:\nDML on dynamic table '{shown(name)}' is not allowed."
            )
        if name in self.account.streams:
            raise StatementError(2, "0A000", f"SQL compilation error:\nDML on stream '{shown(name)}' is not allowed.")
        if not self.account.is_there(name):
            raise does_not_exist("Table", shown(name))
        return name

    def _counts(self, statement: Expr, engine_sql: str) -> Rows:
        if isinstance(statement, exp.Merge):
            done = [action for (action,) in self.duck.execute(f"{engine_sql} RETURNING merge_action").fetchall()]
            whens = list(statement.find_all(exp.When))
            kinds = {
                "inserted": any(isinstance(when.args["then"], exp.Insert) for when in whens),
                "updated": any(isinstance(when.args["then"], exp.Update) for when in whens),
                "deleted": any(isinstance(when.args["then"], exp.Var) for when in whens),
            }
            actions = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}
            counts = {kind: done.count(actions[kind]) for kind, is_asked in kinds.items() if is_asked}
            return listed({f"number of rows {kind}": "BIGINT" for kind in counts}, [list(counts.values())])
        (touched,) = self.duck.execute(engine_sql).fetchall()[0]
        if isinstance(statement, exp.Insert):
            return listed({"number of rows inserted": "BIGINT"}, [[touched]])
        if isinstance(statement, exp.Update):
            columns = {"number of rows updated": "BIGINT", "number of multi-joined rows updated": "BIGINT"}
            return listed(columns, [[touched, 0]])
        if isinstance(statement, exp.Delete):
            return listed({"number of rows deleted": "BIGINT"}, [[touched]])
        return status(DONE)

    def _refuse_ambiguous(self, merge: exp.Merge) -> None:
        """A row that two rows of the source would change is an error in Snowflake, and not in DuckDB."""
        conditions = [
            when.args.get("condition") or exp.true() for when in merge.find_all(exp.When) if when.args.get("matched")
        ]
        if not conditions:
            return
        target = merge.this.copy()
        query = (
            exp.select("1")
            .from_(target)
            .join(merge.args["using"].copy(), on=merge.args["on"].copy())
            .where(exp.or_(*(condition.copy() for condition in conditions)))
            .group_by(exp.column("rowid", table=target.alias_or_name, quoted=True))
            .having("count(*) > 1")
            .limit(1)
        )
        if self.read(self.translated(query)).table.num_rows:
            raise StatementError(100090, "42P18", "Duplicate row detected during DML action")

    # ---- from Snowflake's SQL to the engine's

    def table_name(self, node: exp.Table) -> Name:
        identifiers = [node.args.get("catalog"), node.args.get("db"), node.this]
        if not isinstance(node.this, exp.Identifier):
            raise unsupported(f"{node.sql(dialect='snowflake')} as a table")
        written = [one.name if one.args.get("quoted") else one.name.upper() for one in identifiers if one is not None]
        return self.qualified(written)

    def streams_in(self, expression: Expr) -> list[Stream]:
        """The streams that a statement reads."""
        known = self.account.streams
        return [known[name] for name in dict.fromkeys(self.names_in(expression)) if name in known]

    def names_in(self, expression: Expr) -> list[Name]:
        return [self.table_name(node) for node in _tables(expression)]

    def _understood(self, sql: str) -> tuple[Expr, str]:
        """A statement and what it is in DuckDB's SQL, over relations that stand in for streams and table functions."""
        expression = parse_one(sql, read="snowflake")
        if isinstance(expression, exp.Command):
            raise unsupported(f"the statement {sql[:200]!r}")
        if self.warehouse is None and _tables(expression):
            raise StatementError(606, "57P03", "No active warehouse selected in the current session.")
        expression = self.prepared(expression)
        return expression, self.translated(expression)

    def prepared(self, expression: Expr) -> Expr:
        """The same statement with everything that DuckDB does not have replaced."""
        expression = expression.transform(lambda node: functions.replaced(self, node))
        for node in _tables(expression):
            name = self.table_name(node)
            if name in self.temporary:
                _put(node, self.temporary[name])
            elif (stream := self.account.streams.get(name)) is not None:
                _put(node, (*TEMPORARY, self.stand_in(self.stream_content(stream).rows)), alias=name[-1])
            elif (table := self.account.dynamic_tables.get(name)) is not None and table.data_timestamp is None:
                raise StatementError(
                    2,
                    "0A000",
                    f"Dynamic Table '{shown(name)}' is not initialized. Please run a manual refresh or wait for a scheduled"
                    " refresh before querying.",
                )
            else:
                _put(node, name)
        for node in list(expression.find_all(exp.Table)):
            if node.text("db").upper() == "INFORMATION_SCHEMA":
                rows = listings.information_schema(self, node.text("catalog") or self.database, node.name.upper())
                _put(node, (*TEMPORARY, self.stand_in(rows)), alias=node.name.upper())
        for column in expression.find_all(exp.Column):
            if column.name.upper().startswith("METADATA$"):
                column.set("this", exp.to_identifier(column.name.upper(), quoted=True))
        return _as_duckdb_has_it(expression)

    def stand_in(self, rows: Rows) -> str:
        """The name of a relation with these rows, for this statement."""
        name = f"_STAND_IN_{next(self._inputs)}"
        self.duck.register(f"{name}_ROWS", rows.table)
        columns = ", ".join(
            f"CAST({in_sql((column,))} AS {type_}) AS {in_sql((column,))}"
            for column, type_ in zip(rows.table.column_names, rows.types, strict=True)
        )
        self.duck.execute(f"CREATE TEMP VIEW {name} AS SELECT {columns} FROM {name}_ROWS")
        self._registered.append(name)
        return name

    def _forget_stand_ins(self) -> None:
        for name in self._registered:
            self.duck.execute(f"DROP VIEW IF EXISTS temp.main.{name}")
            self.duck.unregister(f"{name}_ROWS")
        self._registered.clear()

    def translated(self, expression: Expr) -> str:
        """A prepared statement in DuckDB's SQL."""
        # Every name between quotes: DuckDB reserves other words than Snowflake.
        cursor = self._translator.cursor()
        try:
            return cursor._transform(expression, None).sql(
                dialect="duckdb", identify=True, unsupported_level=ErrorLevel.RAISE
            )
        except UnsupportedError as error:
            raise unsupported(str(error)) from error

    def run_within(self, sql: str) -> None:
        """Run what another statement asks for."""
        self._run(sql)

    def engine_sql(self, sql: str) -> str:
        """What a query is in DuckDB's SQL; for one that reads no stream."""
        return self.translated(self.prepared(parse_one(sql, read="snowflake")))


def _tables(expression: Expr) -> list[exp.Table]:
    """The tables that a statement names, without its common table expressions and functions."""
    known = {stored(cte.alias) for cte in expression.find_all(exp.CTE)}
    return [
        node
        for node in expression.find_all(exp.Table)
        if isinstance(node.this, exp.Identifier)
        and not (node.args.get("db") is None and node.name.upper() in known)
        and node.text("db").upper() != "INFORMATION_SCHEMA"
        and node.text("catalog") != TEMPORARY[0]
    ]


def _put(node: exp.Table, name: Name, alias: str | None = None) -> None:
    for key, part in zip(("catalog", "db", "this"), name, strict=True):
        node.set(key, exp.to_identifier(part, quoted=True))
    if alias and not node.alias:
        node.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))


def _as_duckdb_has_it(expression: Expr) -> Expr:
    """SET names a column without its table there, and so does the list of columns of an INSERT."""
    if isinstance(expression, exp.TruncateTable):
        expression.set("exists", False)
    for update in expression.find_all(exp.Update):
        for one in update.expressions:
            if isinstance(one, exp.EQ) and isinstance(one.this, exp.Column):
                one.set("this", exp.column(one.this.this.copy()))
    for when in expression.find_all(exp.When):
        then = when.args["then"]
        if isinstance(then, exp.Insert) and isinstance(then.this, exp.Tuple):
            then.this.set("expressions", [exp.column(one.this.copy()) for one in then.this.expressions])
    return expression


def _statement_type(sql: str) -> int:
    """How the protocol numbers a kind of statement, by its first word."""
    return _STATEMENT_TYPES.get(sql.split(None, 1)[0].upper().strip("("), statement_type.UNKNOWN)


def rules() -> list[Rule]:
    """What each statement begins with, and what runs it."""
    from churn_assets_tests.snowflake.emulator import objects, stages

    return [
        (r"(?:BEGIN|START\s+TRANSACTION)(?:\s+(?:TRANSACTION|WORK))?(?:\s+NAME\s+\w+)?$", _begin),
        (r"(?:BEGIN|DECLARE|EXECUTE\s+IMMEDIATE)\b", _refuse_scripting),
        (r"COMMIT(?:\s+WORK)?$", lambda session, _, __: _then(session.commit)),
        (r"ROLLBACK(?:\s+WORK)?$", lambda session, _, __: _then(session.rollback)),
        *objects.FIRST_RULES,
        (r"(?:SELECT|WITH|VALUES)\b|\(", lambda session, _, sql: session.query(sql)),
        (r"(?:INSERT|UPDATE|DELETE|MERGE|TRUNCATE)\b", lambda session, _, sql: session.write(sql)),
        *stages.RULES,
        *listings.RULES,
        *objects.RULES,
    ]


def _begin(session: Session, _: "re.Match[str]", __: str) -> Rows:
    session.begin()
    return status(DONE)


def _then(work: Callable[[], None]) -> Rows:
    work()
    return status(DONE)


def _refuse_scripting(_: Session, __: "re.Match[str]", sql: str) -> Rows:
    raise no_scripting(sql[:100])


__all__ = ["NAME", "Outcome", "Rule", "Session"]
