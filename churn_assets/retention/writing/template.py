"""The writer that works offline and free of charge: marketing's own sentences, by segment and reason.

It also writes in place of another writer that fails, so its text must pass the checks for every customer.
"""

from collections.abc import Sequence
from itertools import product

from churn_assets.configuration import rules
from churn_assets.retention.writing.addressee import MAX_NAME_CHARACTERS, addressee
from churn_assets.retention.writing.prompts import Prompts, PromptsError
from churn_assets.retention.writing.text_checks import complaints_about
from churn_assets.retention.writing.writer import Answer, EmailRequest

_LONGEST_NAME = "A" * MAX_NAME_CHARACTERS


class TemplateWriter:
    """Writes the same text for the same request: greeting, opening, the most relevant offer, closing."""

    name = "template"

    def __init__(self, prompts: Prompts) -> None:
        """`PromptsError` if one of its texts does not pass the checks: better now than for one customer in ten."""
        self._prompts = prompts
        segments, reasons = prompts.wording.openings, ("", *(rule.reason for rule in rules().risk.rules))
        for segment, reason in product(segments, reasons):
            request = EmailRequest(_LONGEST_NAME, segment, reason)
            if complaints := complaints_about(self._text(request), request, prompts):
                raise PromptsError(
                    f"the email for openings.{segment} and the offer for {reason or 'no reason'!r} could not be sent:"
                    f" {'; '.join(complaints)}; change these sentences in marketing/retention_email.yaml"
                )

    @property
    def prompt_version(self) -> str:
        """See `Writer`."""
        return self._prompts.prompt_version

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        """See `Writer`. It has no other text to give, so complaints change nothing."""
        return Answer(self._text(request), model="template", prompt_tokens=0, completion_tokens=0)

    def _text(self, request: EmailRequest) -> str:
        wording = self._prompts.wording
        offer = self._prompts.offers(request)[0]
        return (
            f"Dear {addressee(request.full_name)},\n\n"
            f"{self._prompts.opening(request)} {offer.sentence} {wording.closing}\n\n"
            f"{wording.signature}"
        )
