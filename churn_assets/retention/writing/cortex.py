"""The writer that asks Snowflake's Cortex, so that name and reasons stay in the account.

Written from the documentation, never run on a live account.
https://docs.snowflake.com/en/sql-reference/functions/ai_complete-single-string
"""

from collections.abc import Sequence

from pydantic import BaseModel, Field, Json, ValidationError

from churn_assets.retention.writing.prompts import MAX_ANSWER_TOKENS, TEMPERATURE, Prompts
from churn_assets.retention.writing.writer import Answer, EmailRequest, WriterError
from churn_assets.warehouse.protocol import Warehouse, WarehouseError

# Without return_error_details an error is NULL. show_details adds the number of tokens. The prompt is one text, not messages
# with roles.
AI_COMPLETE = f"""
    SELECT AI_COMPLETE(
        model => ?,
        prompt => ?,
        model_parameters => {{'temperature': {TEMPERATURE}, 'max_tokens': {MAX_ANSWER_TOKENS}}},
        show_details => TRUE,
        return_error_details => TRUE
    ) AS answer
"""


class _Choice(BaseModel):
    messages: str


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage = _Usage()


class _Result(BaseModel):
    """`value` is the answer with its details, as an object or as JSON, or a bare text if there are no details."""

    value: Json[_Completion] | _Completion | str | None = None
    error: str | None = None


class CortexWriter:
    """Asks for one email with each statement."""

    name = "cortex"

    def __init__(self, warehouse: Warehouse, model: str, prompts: Prompts) -> None:
        self._warehouse = warehouse
        self._model = model
        self._prompts = prompts

    @property
    def prompt_version(self) -> str:
        """See `Writer`."""
        return self._prompts.prompt_version

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        """See `Writer`."""
        messages = self._prompts.messages(request, complaints)
        try:
            found = self._warehouse.query(AI_COMPLETE, [self._model, f"{messages.system}\n\n{messages.user}"])
        except WarehouseError as error:
            # Without Snowflake's own message: it may repeat the statement, and with it the prompt.
            raise WriterError(
                f"Snowflake refused AI_COMPLETE (error {error.number}, query {error.query_id}); look it up in the query history,"
                " and check the grants USE AI FUNCTIONS ON ACCOUNT and SNOWFLAKE.CORTEX_USER"
            ) from None
        return self._answer(found["answer"][0].as_py())

    def _answer(self, cell: str | None) -> Answer:
        try:
            # The connector gives an object as JSON.
            result = _Result.model_validate_json(cell or "")
        except ValidationError:
            raise WriterError(
                "AI_COMPLETE answered in an undocumented form; see churn_assets/retention/writing/cortex.py"
            ) from None
        if result.error:
            reason = " ".join(result.error.split())[:200]
            raise WriterError(f"Cortex could not write with {self._model}: {reason}; check CHURN_WRITER_MODEL")
        if isinstance(result.value, _Completion):
            text, usage = result.value.choices[0].messages.strip(), result.value.usage
        else:
            text, usage = (result.value or "").strip(), _Usage()
        if not text:
            raise WriterError("Cortex gave an empty text; try again or choose another model with CHURN_WRITER_MODEL")
        if usage.completion_tokens >= MAX_ANSWER_TOKENS:
            raise WriterError(
                f"Cortex did not come to an end within {MAX_ANSWER_TOKENS} tokens; choose another model with CHURN_WRITER_MODEL"
            )
        return Answer(text, self._model, usage.prompt_tokens, usage.completion_tokens)
