"""The protocol of all writers of retention emails. A writer sees a name, a segment and reasons, never an address, id or score.

Each writer is in a module of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EmailRequest:
    """What a writer may know about a customer. `reasons` are the risk rules that apply, in words, separated by semicolons."""

    full_name: str
    segment: str
    reasons: str


@dataclass(frozen=True)
class Answer:
    """What a writer gave, unchecked, and what it cost."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int


class WriterError(Exception):
    """The writer gave no text for this one request; the message says why in one line, without secrets."""


class Writer(Protocol):
    """Writes one email. Several threads may call one writer at once."""

    @property
    def name(self) -> str:
        """The writer's name in the intervention log: template, openai or cortex."""
        ...

    @property
    def prompt_version(self) -> str:
        """The version of the prompt or the sentences."""
        ...

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        """A text of a greeting, at most three sentences and the sign-off; `WriterError` if there is none.

        `complaints` say what was wrong with the previous text.
        """
        ...
