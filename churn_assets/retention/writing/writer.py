"""What a writer of retention emails is. Writers see a name, a segment and reasons, never an address, an id or a score.

Here belongs the protocol that all writers keep; each writer is a module of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EmailRequest:
    """What a writer may know of a customer; `reasons` are the rules that hold, in words, separated by semicolons."""

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
        """Its name, as it stands in the intervention log: template, openai or cortex."""
        ...

    @property
    def prompt_version(self) -> str:
        """The version of the prompt or the sentences."""
        ...

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        """A text of a greeting, at most three sentences and the sign-off; `WriterError` where there is none.

        `complaints` say what was wrong with the text before this one.
        """
        ...
