"""CALL of a procedure in Python: its handler runs in a process of its own, from its imports, with its packages alone.

The handler gets a session of Snowpark's that signs in over HTTP, with the role that owns the procedure, as other clients do. What
Snowflake can and this cannot, is refused: arguments, another language, a call within a transaction, the caller's rights.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from churn_assets_tests.snowflake.emulator import stages
from churn_assets_tests.snowflake.emulator.account import Definition
from churn_assets_tests.snowflake.emulator.errors import StatementError, no_scripting, unsupported
from churn_assets_tests.snowflake.emulator.names import shown
from churn_assets_tests.snowflake.emulator.wire import Rows, listed
from churn_assets_tests.snowflake.packages import ONLY_PACKAGES, importable

if TYPE_CHECKING:
    from churn_assets_tests.snowflake.emulator.session import Session

_SECONDS = 300  # that a procedure may take
_PROGRAM = """
import importlib
import snowflake.connector
from snowflake.snowpark import Session

told = json.loads(sys.argv[2])
sys.path[:0] = told["imports"]
session = Session.builder.configs({"connection": snowflake.connector.connect(**told["connection"])}).create()
module, _, name = told["handler"].rpartition(".")
defined = {}
if told["body"]:
    exec(told["body"], defined)
handler = defined[name] if told["body"] else getattr(importlib.import_module(module), name)
print("\\0" + json.dumps(handler(session)))
"""


def call(session: "Session", procedure: Definition) -> Rows:
    """Run a procedure without arguments; the row with what it returns."""
    text = procedure.text
    if not re.search(r"\bLANGUAGE\s+PYTHON\b", text, re.IGNORECASE):
        raise no_scripting(f"the procedure {shown(procedure.name)}")
    if not re.search(r"\bEXECUTE\s+AS\s+OWNER\b", text, re.IGNORECASE) or not procedure.name[2].endswith("()"):
        raise unsupported(f"the procedure {shown(procedure.name)}: it has arguments, or its caller's rights")
    if session.transaction is not None:
        raise unsupported("a call of a procedure within a transaction")
    head, _, body = text.partition("$$")
    told = {
        "imports": [str(_file(session, place)) for place in re.findall(r"'(@[^']+)'", _listed(head, "IMPORTS"))],
        "handler": _option(head, "HANDLER"),
        "body": body.rpartition("$$")[0],
        "connection": {
            **dict.fromkeys(("account", "user", "password"), "emulator"),
            "host": "127.0.0.1",
            "port": session.account.port,
            "protocol": "http",
            "role": procedure.owner,
            "warehouse": session.warehouse,
            "database": procedure.name[0],
            "schema": procedure.name[1],
            "paramstyle": "qmark",
        },
    }
    packages = [name.partition("==")[0] for name in re.findall(r"'([^']+)'", _listed(head, "PACKAGES"))]
    command = [sys.executable, "-I", "-c", ONLY_PACKAGES + _PROGRAM, json.dumps(importable(packages)), json.dumps(told)]
    # Others' statements run meanwhile, its own among them.
    session.account.turn.release()
    try:
        ran = subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, timeout=_SECONDS)
    finally:
        session.account.turn.acquire()
    if ran.returncode != 0:
        raise StatementError(100357, "P0000", f"Python Interpreter Error:\n{ran.stderr[-4000:]}")
    answer = json.loads(ran.stdout.rpartition("\0")[2])
    return listed({procedure.name[2].partition("(")[0]: "VARCHAR"}, [[None if answer is None else str(answer)]])


def _file(session: "Session", location: str) -> Path:
    base, inner, _ = stages.folder(session, location)
    return base / inner


def _listed(head: str, option: str) -> str:
    found = re.search(rf"\b{option}\s*=\s*\(([^)]*)\)", head, re.IGNORECASE)
    return found[1] if found else ""


def _option(head: str, option: str) -> str:
    found = re.search(rf"\b{option}\s*=\s*'([^']+)'", head, re.IGNORECASE)
    if not found:
        raise unsupported(f"a procedure without {option}")
    return found[1]
