"""Functions of Snowflake's that ask for the session, the account or a model, as what they give here.

Everything else is fakesnow's to translate, and an error where DuckDB does not have it.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import Expr, exp

from churn_assets_tests.snowflake.emulator import listings
from churn_assets_tests.snowflake.emulator.errors import StatementError, does_not_exist, unsupported
from churn_assets_tests.snowflake.emulator.names import TEMPORARY
from churn_assets_tests.snowflake.emulator.wire import Rows

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.session import Session


def replaced(session: "Session", node: Expr) -> Expr:
    """The node, or what stands for it."""
    if isinstance(node, exp.TableFromRows):
        return _table_function(session, node)
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Var):
        raise unsupported(f"reading the stage {node.this.name} in a query")
    if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Anonymous):
        # A function with its schema; all are known without.
        return node.expression
    return _function(session, node) if isinstance(node, exp.Func) else node


def _function(session: "Session", node: exp.Func) -> Expr:
    name = (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).upper()
    of_session: dict[str, Callable[[], Any]] = {
        "CURRENT_ROLE": lambda: session.role,
        "CURRENT_USER": lambda: session.user,
        "CURRENT_WAREHOUSE": lambda: session.warehouse,
        "CURRENT_DATABASE": lambda: session.database,
        "CURRENT_SCHEMA": lambda: session.schema,
        "CURRENT_SESSION": lambda: str(session.number),
        "CURRENT_ACCOUNT": lambda: "EMULATOR",
        "CURRENT_ACCOUNT_NAME": lambda: "EMULATOR",
        "CURRENT_ORGANIZATION_NAME": lambda: "EMULATOR",
        "CURRENT_REGION": lambda: "EMULATOR",
        "CURRENT_TRANSACTION": lambda: str(session.transaction.id) if session.transaction else None,
        "LAST_QUERY_ID": lambda: session.last_query,
        # An administrator has every role.
        "IS_ROLE_IN_SESSION": lambda: session.role in {_text(node), "ACCOUNTADMIN"},
        # Clients ask for it when they close; of a session only one statement runs at a time, and that is this one.
        "SYSTEM$CANCEL_ALL_QUERIES": lambda: "0 queries cancelled.",
        "SYSTEM$STREAM_HAS_DATA": lambda: stream_has_data(session, _text(node)),
    }
    if name in of_session:
        return exp.convert(of_session[name]())
    if name == "AI_COMPLETE":
        return _completion(session, node)
    if name.startswith("SYSTEM$"):
        raise unsupported(f"the function {name}")
    return node


def stream_has_data(session: "Session", written: str) -> bool:
    name = session.name(written)
    if name not in session.account.streams:
        raise does_not_exist("Stream", written)
    return session.stream_content(session.account.streams[name]).rows.table.num_rows > 0


def _table_function(session: "Session", node: exp.TableFromRows) -> Expr:
    call = node.this.expression if isinstance(node.this, exp.Dot) else node.this
    if not isinstance(call, exp.Anonymous):
        return node  # FLATTEN and others that fakesnow may know
    name = call.name.upper()
    if name == "RESULT_SCAN":
        rows = _result(session, call.expressions[0])
    else:
        arguments: dict[str, Any] = {}
        for argument in call.expressions:
            if not isinstance(argument, exp.Kwarg):
                raise unsupported(f"arguments of {name} without their names")
            value = argument.expression
            arguments[argument.this.name.upper()] = (
                value.to_py() if isinstance(value, exp.Literal | exp.Boolean) else value
            )
        rows = listings.table_function(session, name, arguments)
    identifiers = [exp.to_identifier(part, quoted=True) for part in (*TEMPORARY, session.stand_in(rows))]
    table = exp.Table(this=identifiers[2], db=identifiers[1], catalog=identifiers[0])
    if node.args.get("alias"):
        table.set("alias", node.args["alias"].copy())
    return table


def _result(session: "Session", of: Expr) -> Rows:
    number = of.name if isinstance(of, exp.Literal) else session.last_query
    if number not in session.results:
        raise StatementError(709, "02000", f"Statement {number} not found")
    return session.results[number]


def _completion(session: "Session", node: Expr) -> Expr:
    """An answer in the form that is documented, whatever is asked."""
    asked = {one.this.name.lower(): one.expression for one in node.expressions if isinstance(one, exp.Kwarg)}
    if not {"model", "prompt"} <= set(asked):
        raise unsupported("AI_COMPLETE without the names model and prompt of its arguments")
    told = session.account.completion
    usage = {
        "prompt_tokens": 120,
        "completion_tokens": told.completion_tokens,
        "total_tokens": 120 + told.completion_tokens,
    }
    details: Any = {"choices": [{"messages": told.text}], "created": 0, "model": asked["model"].name, "usage": usage}
    value = None if told.error else details if _is_true(asked.get("show_details")) else told.text
    if _is_true(asked.get("return_error_details")):
        value = {"value": value, "error": told.error}
    if value is None:
        return exp.null()
    if isinstance(value, str):
        return exp.Literal.string(value)
    return exp.cast(exp.Literal.string(json.dumps(value)), "JSON")


def _is_true(node: Expr | None) -> bool:
    return isinstance(node, exp.Boolean) and bool(node.this)


def _text(node: Expr) -> str:
    (argument,) = node.expressions if isinstance(node, exp.Anonymous) else [node.this]
    if not isinstance(argument, exp.Literal):
        raise unsupported(f"{node.sql()[:60]} of something else than a text")
    return argument.name
