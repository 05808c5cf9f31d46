"""The author that calls Cortex Analyst over REST; it writes SQL over the account's semantic view.

Here belong the call and the parsing of the answer. Its SQL uses the full names of the serving views; the caller tells the
guard which tables these stand for.

Written from the documentation and tested against a server of the tests, never on a live account.
https://docs.snowflake.com/en/user-guide/snowflake-cortex/cortex-analyst/rest-api
"""

import json
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

from pydantic import BaseModel, ValidationError

from churn_assets.analyst.answer import AuthorError, By, Proposal, RefusedSql
from churn_assets.rules import ANALYST_TIMEOUT_SECONDS
from churn_assets.settings import Settings
from churn_assets.warehouse.snowflake_connection import Connections, connections, opened

_PATH = "/api/v2/cortex/analyst/message"
_MAX_BYTES = 1_000_000  # of an answer; the rest is not read


class _Content(BaseModel):
    type: str
    text: str = ""
    statement: str = ""
    suggestions: list[str] = []


class _Message(BaseModel):
    content: list[_Content]


class _Reply(BaseModel):
    message: _Message


class CortexAuthor:
    """Asks with the session of the settings' role, which must have SNOWFLAKE.CORTEX_USER. Implements `Author`."""

    by: By = "cortex"

    def __init__(
        self,
        settings: Settings,
        semantic_view: str,
        *,
        timeout: float = ANALYST_TIMEOUT_SECONDS,
        connect: Connections | None = None,
    ) -> None:
        """`semantic_view` is the view's full name; `timeout` is in seconds; `connect` opens a connection."""
        self._settings = settings
        self._semantic_view = semantic_view
        self._timeout = timeout
        self._connect = connect or connections(settings)

    def propose(self, question: str, refused: RefusedSql | None = None) -> Proposal:
        """See `Author`."""
        messages = [_says("user", type="text", text=question)]
        if refused:
            complaint = f"That SQL may not run: {refused.reason}. Answer the question in another way."
            messages += [
                _says("analyst", type="sql", statement=refused.sql),
                _says("user", type="text", text=complaint),
            ]
        body = json.dumps({"messages": messages, "semantic_view": self._semantic_view, "stream": False})
        return _proposal(self._sent(body.encode()))

    def _sent(self, body: bytes) -> bytes:
        with opened(self._connect, self._settings) as connection:
            session = connection.rest
            if session is None:
                raise AuthorError("the connection to Snowflake was closed; ask again")
            request = urllib.request.Request(
                f"{session.server_url}{_PATH}",
                data=body,
                headers={
                    "Authorization": f'Snowflake Token="{session.token}"',
                    "Content-Type": "application/json",
                    "Accept": "application/json",
                },
            )
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    return response.read(_MAX_BYTES)
            except HTTPError as error:
                raise AuthorError(self._refusal(error.code)) from None
            except TimeoutError:
                raise AuthorError(f"Cortex Analyst did not answer within {self._timeout:g} s; ask again") from None
            except (OSError, HTTPException):
                raise AuthorError(
                    "Cortex Analyst was not reached; check SNOWFLAKE_ACCOUNT, SNOWFLAKE_HOST and the network"
                ) from None

    def _refusal(self, status: int) -> str:
        """One line about an HTTP status. The server's own words are left out: they may repeat the question."""
        match status:
            case 401 | 403:
                role = self._settings.snowflake_role
                return (
                    f"Cortex Analyst refuses role {role} (status {status}); as an administrator:"
                    f" GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE {role}"
                )
            case 404:
                return (
                    f"Cortex Analyst knows no {self._semantic_view} (status 404); run `churn deploy --target snowflake`"
                )
            case 429:
                return "Cortex Analyst asks to wait (status 429); ask again in a minute"
            case _ if status >= 500:
                return f"Cortex Analyst fails (status {status}); ask again"
            case _:
                return f"Cortex Analyst refuses the request (status {status}); is {self._semantic_view} deployed?"


def _says(role: str, **content: str) -> dict[str, Any]:
    return {"role": role, "content": [content]}


def _proposal(body: bytes) -> Proposal:
    try:
        content = _Reply.model_validate_json(body).message.content
    except ValidationError:
        raise AuthorError("the answer of Cortex Analyst is not in its documented form") from None
    reading = " ".join(part.text.strip() for part in content if part.type == "text")
    suggestions = tuple(text for part in content if part.type == "suggestions" for text in part.suggestions)
    statements = [part.statement for part in content if part.type == "sql"]
    if not statements:
        return Proposal("none", reading or "Cortex Analyst gave no SQL", suggestions=suggestions)
    return Proposal("figures", reading, sql=statements[0], suggestions=suggestions)
