"""The writer that asks a server which speaks OpenAI's protocol: Ollama, vLLM, OpenAI itself.

`language_model` makes the call, `prompts` has the messages, and `text_checks` decides whether an answer may be sent.
"""

from collections.abc import Sequence

from churn_assets.language_model import LanguageModel, LanguageModelError
from churn_assets.retention.writing.prompts import MAX_ANSWER_TOKENS, TEMPERATURE, Prompts
from churn_assets.retention.writing.writer import Answer, EmailRequest, WriterError


class OpenAIWriter:
    """Asks for one email with each call. Any number of threads may use it at once."""

    name = "openai"

    def __init__(
        self, base_url: str, api_key: str, model: str, prompts: Prompts, timeout: float, max_retries: int
    ) -> None:
        """`timeout` is in seconds and holds for each of the `max_retries` + 1 tries; `SettingsError` for invalid values."""
        self._model = LanguageModel(
            base_url, api_key, model, setting="CHURN_WRITER_MODEL", timeout=timeout, max_retries=max_retries
        )
        self._prompts = prompts

    @property
    def prompt_version(self) -> str:
        """See `Writer`."""
        return self._prompts.prompt_version

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        """See `Writer`."""
        messages = self._prompts.messages(request, complaints)
        try:
            said = self._model.complete(
                messages.system, messages.user, temperature=TEMPERATURE, max_tokens=MAX_ANSWER_TOKENS
            )
        except LanguageModelError as error:
            raise WriterError(str(error)) from None
        return Answer(said.text, self._model.model, said.prompt_tokens, said.completion_tokens)
