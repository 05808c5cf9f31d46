"""The writer that asks a server which speaks OpenAI's protocol: Ollama, vLLM, OpenAI itself.

Here belongs the call and what can go wrong with it. What is asked is in `prompts`, whether the answer may go out in
`text_checks`.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI, OpenAIError
from pydantic import BaseModel, ValidationError

from churn_assets.retention.prompts import MAX_ANSWER_TOKENS, TEMPERATURE, Prompts
from churn_assets.retention.writer import Answer, EmailRequest, WriterError


# The part of an answer that is read. The client's own types are not validated: it hands on a page of HTML as a string,
# and an error under status 200 as an answer without choices.
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


class OpenAIWriter:
    """Asks for one email a call. Its client is made for threads; it repeats what may pass, with growing pauses."""

    name = "openai"

    def __init__(
        self, base_url: str, api_key: str, model: str, prompts: Prompts, timeout: float, max_retries: int
    ) -> None:
        """`timeout` is in seconds and holds for each of the `max_retries` + 1 tries."""
        self._client = OpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries)
        self._server = _without_credentials(base_url)
        self._model = model
        self._prompts = prompts
        self._timeout = timeout
        self._tries = max_retries + 1

    @property
    def prompt_version(self) -> str:
        """See `Writer`."""
        return self._prompts.prompt_version

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        """See `Writer`."""
        return self._answer(self._ask(request, complaints))

    def _ask(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        """The body of the server's answer, as it came."""
        messages = self._prompts.messages(request, complaints)
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}],
                temperature=TEMPERATURE,
                max_tokens=MAX_ANSWER_TOKENS,
            )
            return response.text
        # The causes are not chained: they hold the request, and with it the key.
        except APITimeoutError:
            raise WriterError(
                f"the language model at {self._server} did not answer within {self._timeout:g} s, {self._tries} times;"
                " choose a smaller one by CHURN_WRITER_MODEL, or a faster server"
            ) from None
        except APIConnectionError:
            raise WriterError(
                f"no language model answers at {self._server}; start it (`ollama serve`) or correct OPENAI_BASE_URL"
            ) from None
        except APIStatusError as error:
            raise WriterError(self._refusal(error.status_code)) from None
        except OpenAIError as error:
            raise WriterError(
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
                    f"{server} does not have the model {self._model!r}, or not at this address (status 404);"
                    f" get it (`ollama pull {self._model}`), or correct CHURN_WRITER_MODEL or OPENAI_BASE_URL"
                )
            case 429:
                return f"{server} asks to wait (status 429), {self._tries} times; try later or raise its quota"
            case _ if status >= 500:
                return f"{server} fails (status {status}), {self._tries} times; look into its log"
            case _:
                return f"{server} refuses the request (status {status}); check CHURN_WRITER_MODEL and OPENAI_BASE_URL"

    def _answer(self, body: str) -> Answer:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError:
            raise WriterError(
                f"what answers at {self._server} does not speak OpenAI's protocol;"
                " correct OPENAI_BASE_URL (it mostly ends in /v1)"
            ) from None
        if not completion.choices:
            raise WriterError("the language model gave no answer; try again or choose another by CHURN_WRITER_MODEL")
        choice, usage = completion.choices[0], completion.usage or _Usage()
        match choice.finish_reason:
            case "length":
                raise WriterError(
                    f"the language model did not come to an end within {MAX_ANSWER_TOKENS} tokens;"
                    " choose another by CHURN_WRITER_MODEL"
                )
            case "content_filter":
                raise WriterError("the language model's content filter withheld the text; look at the prompt's words")
            case _:
                text = (choice.message.content or "").strip()
        if not text:
            raise WriterError(
                "the language model gave an empty text; try again or choose another by CHURN_WRITER_MODEL"
            )
        return Answer(text, self._model, usage.prompt_tokens, usage.completion_tokens)


def _without_credentials(url: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
