"""The client of a server with OpenAI's protocol: Ollama, vLLM, OpenAI itself.

Here belong the call and the messages of its errors. The callers, which are the writer of emails and the analyst, choose the
prompts and check the answers.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI, OpenAIError, omit
from pydantic import BaseModel, ValidationError

from churn_assets.errors import ChurnError
from churn_assets.settings import SettingsError


# The part of an answer that is read. The client does not validate its own types: it returns an HTML page as a string, and an
# error with status 200 as an answer without choices.
class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True)
class Completion:
    """The model's text, unchecked and never empty, and its tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class LanguageModelError(ChurnError):
    """The model gave no text; the message gives the reason in one line, without secrets."""


class LanguageModel:
    """One model of one server. Thread-safe; the client retries transient errors with growing pauses."""

    def __init__(
        self, base_url: str, api_key: str, model: str, *, setting: str, timeout: float, max_retries: int
    ) -> None:
        """`setting` is the setting that messages name; `timeout` (seconds) applies to each of the `max_retries` + 1 tries."""
        self._client = OpenAI(
            base_url=_address(base_url), api_key=_key(api_key), timeout=timeout, max_retries=max_retries
        )
        self._server = _without_credentials(base_url)
        self._setting = setting
        self._timeout = timeout
        self._tries = max_retries + 1
        self.model = model

    def complete(
        self, system: str, user: str, *, temperature: float, max_tokens: int, json_schema: dict[str, Any] | None = None
    ) -> Completion:
        """The model's answer to these messages, as JSON if `json_schema` is given; or `LanguageModelError`."""
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
                temperature=temperature,
                max_tokens=max_tokens,
                response_format=(
                    {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": json_schema}}
                    if json_schema
                    else omit
                ),
            )
            return self._completion(response.text, max_tokens)
        # The causes are not chained, as they hold the request with the key.
        except APITimeoutError:
            raise LanguageModelError(
                f"the language model at {self._server} did not answer within {self._timeout:g} s, {self._tries} times;"
                f" choose a smaller one in {self._setting}, or a faster server"
            ) from None
        except APIConnectionError:
            raise LanguageModelError(
                f"no language model answers at {self._server}; start it (`ollama serve`) or correct OPENAI_BASE_URL"
            ) from None
        except APIStatusError as error:
            raise LanguageModelError(self._refusal(error.status_code)) from None
        except OpenAIError as error:
            raise LanguageModelError(
                f"the call to the language model at {self._server} failed ({type(error).__name__});"
                " check OPENAI_BASE_URL and OPENAI_API_KEY"
            ) from None

    def _refusal(self, status: int) -> str:
        """One line about an HTTP status. The server's own words are left out: some repeat the key or the prompt."""
        server = f"the language model at {self._server}"
        match status:
            case 401 | 403:
                return f"{server} refuses the key (status {status}); correct OPENAI_API_KEY"
            case 404:
                return (
                    f"{server} does not have the model {self.model!r}, or not at this address (status 404);"
                    f" get it (`ollama pull {self.model}`), or correct {self._setting} or OPENAI_BASE_URL"
                )
            case 429:
                return f"{server} asks to wait (status 429), {self._tries} times; try later or raise its quota"
            case _ if status >= 500:
                return f"{server} fails (status {status}), {self._tries} times; look into its log"
            case _:
                return f"{server} refuses the request (status {status}); check {self._setting} and OPENAI_BASE_URL"

    def _completion(self, body: str, max_tokens: int) -> Completion:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError:
            raise LanguageModelError(
                f"what answers at {self._server} does not speak OpenAI's protocol;"
                " correct OPENAI_BASE_URL (it usually ends in /v1)"
            ) from None
        if not completion.choices:
            raise LanguageModelError(
                f"the language model gave no answer; try again or choose another in {self._setting}"
            )
        choice, usage = completion.choices[0], completion.usage or _Usage()
        match choice.finish_reason:
            case "length":
                raise LanguageModelError(
                    f"the language model did not come to an end within {max_tokens} tokens; choose another in {self._setting}"
                )
            case "content_filter":
                raise LanguageModelError(
                    "the language model's content filter withheld the text; look at the prompt's words"
                )
            case _:
                text = (choice.message.content or "").strip()
        if not text:
            raise LanguageModelError(
                f"the language model gave an empty text; try again or choose another in {self._setting}"
            )
        return Completion(text, usage.prompt_tokens, usage.completion_tokens)


def _address(url: str) -> str:
    # An @ elsewhere means a password with a special character, whose rest would be parsed as a path.
    host = r"(\[[\da-fA-F:]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?"
    if not re.fullmatch(rf"https?://([^\s/?#@\[\]]*@)?{host}(/[^\s@]*)?", url):
        raise SettingsError(
            "wrong setting: OPENAI_BASE_URL must be an address such as http://localhost:11434/v1; special characters of"
            " user and password are written as %XX"
        )
    return url


def _key(key: str) -> str:
    """The key, if a request's header can hold it; otherwise `SettingsError`."""
    if not (key and key.isascii() and key.isprintable()):
        raise SettingsError(
            "wrong setting: OPENAI_API_KEY must be one line of ASCII; any word if the server needs no key"
        )
    return key


def _without_credentials(url: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
