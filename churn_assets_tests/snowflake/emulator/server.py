"""The emulated account over HTTP, in the protocol of Snowflake's connectors, and what tests tell it over `/emulator`.

The protocol's forms are fakesnow's; its own handlers answer an error that they do not expect with 500, which the connector
repeats for ever, so that here everything that fails is told as a failed statement.
"""

import gzip
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from churn_assets_tests.snowflake.emulator import wire
from churn_assets_tests.snowflake.emulator.account import Account, Completion, Failure, Limits
from churn_assets_tests.snowflake.emulator.errors import StatementError, unsupported
from churn_assets_tests.snowflake.emulator.session import Session

_VERSION = "10.0.0"
Handler = Callable[[Request], Awaitable[JSONResponse]]


class Emulator:
    """The account that is served now; a reset puts an empty one in its place."""

    def __init__(self, stages: Path, limits: Limits, port: int) -> None:
        self._stages = stages
        self._limits = limits
        self._port = port
        self._resets = 0
        self.account = self._empty()

    def _empty(self) -> Account:
        stages = self._stages / str(self._resets)
        stages.mkdir(parents=True, exist_ok=True)
        return Account(stages, self._limits, self._port)

    # ---- the protocol

    async def log_in(self, request: Request) -> JSONResponse:
        data = (await _body(request))["data"]
        asked = request.query_params
        return JSONResponse(await run_in_threadpool(self._log_in, data, dict(asked)))

    def _log_in(self, data: dict[str, Any], asked: dict[str, str]) -> dict[str, Any]:
        account = self.account
        with account.turn:
            session = Session(
                account, parameters=data.get("SESSION_PARAMETERS") or {}, user=str(data.get("LOGIN_NAME") or "").upper()
            )
            role = (asked.get("roleName") or "PUBLIC").strip('"').upper()
            if role not in account.roles:
                text = f"Role '{role}' specified in the connect string does not exist or not authorized."
                return {"success": False, "code": "390189", "message": text, "data": {}}
            session.role = role
            warehouse = (asked.get("warehouse") or "").strip('"').upper()
            if ("WAREHOUSE", (warehouse,)) in account.definitions:
                session.warehouse = warehouse
            database = (asked.get("databaseName") or "").strip('"').upper()
            schema = (asked.get("schemaName") or "PUBLIC").strip('"').upper()
            # What is not there is left out, as Snowflake does; a statement that needs it says so.
            if account.has_schema(database):
                session.use(database, schema if account.has_schema(database, schema) else None)
            token = secrets.token_urlsafe(32)
            account.sessions[token] = session
        known = {
            "TIMEZONE": "UTC",
            "AUTOCOMMIT": True,
            "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD": 65280,
            **session.parameters,
        }
        return {
            "success": True,
            "data": {
                "token": token,
                "masterToken": token,
                "sessionId": session.number,
                "serverVersion": _VERSION,
                "parameters": [{"name": name, "value": value} for name, value in known.items()],
                "sessionInfo": _session_info(session),
            },
        }

    async def query(self, request: Request) -> JSONResponse:
        if (session := self._session(request)) is None:
            return JSONResponse({"success": False, "code": "390104", "message": "Session gone.", "data": None})
        body = await _body(request)
        return JSONResponse(await run_in_threadpool(_answer, session, body))

    async def session(self, request: Request) -> JSONResponse:
        if request.query_params.get("delete"):
            token = _token(request)
            account = self.account
            if (session := account.sessions.pop(token, None)) is not None:
                await run_in_threadpool(_close, account, session)
        return _ok()

    def _session(self, request: Request) -> Session | None:
        return self.account.sessions.get(_token(request))

    # ---- what tests ask for

    async def fail(self, request: Request) -> JSONResponse:
        told = await _body(request)
        failure = Failure(
            re.compile(told["pattern"], re.IGNORECASE | re.DOTALL),
            int(told["errno"]),
            str(told.get("message") or "a failure that a test asked for"),
            int(told.get("times", 1)),
        )
        self.account.failures.append(failure)
        return _ok()

    async def complete(self, request: Request) -> JSONResponse:
        self.account.completion = Completion(**(await _body(request)))
        return _ok()

    async def reset(self, _: Request) -> JSONResponse:
        self._resets += 1
        self.account = await run_in_threadpool(self._empty)
        return _ok()

    def app(self) -> Starlette:
        async def ok(_: Request) -> JSONResponse:
            return _ok()

        routes: list[tuple[str, Handler, str]] = [
            ("/session/v1/login-request", self.log_in, "POST"),
            ("/session", self.session, "POST"),
            ("/session/heartbeat", ok, "POST"),
            ("/telemetry/send", ok, "POST"),
            ("/queries/v1/query-request", self.query, "POST"),
            ("/queries/v1/abort-request", ok, "POST"),
            ("/emulator", ok, "GET"),
            ("/emulator/fail", self.fail, "POST"),
            ("/emulator/completion", self.complete, "POST"),
            ("/emulator/reset", self.reset, "POST"),
        ]
        return Starlette(routes=[Route(path, handler, methods=[method]) for path, handler, method in routes])


def _answer(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    try:
        if body.get("bindStage"):
            raise unsupported("65,280 bound values or more, which the connector lays on a stage; send fewer at once")
        if body.get("asyncExec"):
            raise unsupported("asynchronous statements")
        outcome = session.run(
            body["sqlText"],
            body.get("bindings"),
            body.get("parameters"),
            describe_only=bool(body.get("describeOnly")),
        )
        if outcome.rows.transfer:
            return {"success": True, "data": {**outcome.rows.transfer, "queryId": outcome.id}}
        answer = wire.answer(outcome.rows, outcome.statement_type)
    except StatementError as error:
        code = f"{error.number:06d}"
        data = {"errorCode": code, "sqlState": error.state, "queryId": session.last_query}
        return {"success": False, "code": code, "message": error.message, "data": data}
    info = _session_info(session)
    return {
        "success": True,
        "data": {
            "parameters": [{"name": "TIMEZONE", "value": "UTC"}],
            "queryId": outcome.id,
            "statementTypeId": outcome.statement_type,
            "finalDatabaseName": info["databaseName"],
            "finalSchemaName": info["schemaName"],
            "finalWarehouseName": info["warehouseName"],
            "finalRoleName": info["roleName"],
            **answer,
        },
    }


def _session_info(session: Session) -> dict[str, str | None]:
    return {
        "databaseName": session.database,
        "schemaName": session.schema,
        "warehouseName": session.warehouse,
        "roleName": session.role,
    }


def _close(account: Account, session: Session) -> None:
    with account.turn:
        session.close()


def _token(request: Request) -> str:
    return request.headers.get("Authorization", "").removeprefix('Snowflake Token="').removesuffix('"')


async def _body(request: Request) -> dict[str, Any]:
    body = await request.body()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return json.loads(body or b"{}")


def _ok() -> JSONResponse:
    return JSONResponse({"success": True, "data": None, "code": None, "message": None})
