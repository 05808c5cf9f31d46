"""The text of a retention email. Writers see a name, a segment and reasons, never an address, an id or a score."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EmailRequest:
    """What a writer may know of a customer; `reasons` are the rules that hold, in words, separated by semicolons."""

    full_name: str
    segment: str
    reasons: str


class Writer(Protocol):
    """Writes one email."""

    @property
    def name(self) -> str:
        """Name and version, as it stands in the intervention log."""
        ...

    def write(self, request: EmailRequest) -> str:
        """The text: a greeting, at most three sentences and the sign-off."""
        ...


_OPENINGS = {
    "AFFLUENT": "Thank you for placing your trust in our private banking team",
    "SMB": "Thank you for letting us look after your business",
    "STUDENT": "Thank you for banking with us while you study",
}
_OPENING = "Thank you for being our customer"
_OFFER = "We would like to hear what we could do better for you."
# One offer a rule, in the order in which they are worth mentioning.
_OFFERS = {
    "unhappy with support": "We were not at our best when you asked us for help, and a senior adviser would like to mend that.",
    "many support cases": "You have had to ask us for help too often lately, so you now have one adviser who knows your matters.",
    "many app errors": "Our app has let you down lately, and our technical team would like to mend it together with you.",
    "large wires out": "If you are moving larger sums, an adviser can go through our savings rates with you.",
    "rarely active": "We would be glad to show you in ten minutes what has become easier in our app.",
}


class TemplateWriter:
    """Writes from fixed sentences, by segment and reason: offline, free, the same text for the same request."""

    name = "template-1"

    def write(self, request: EmailRequest) -> str:
        """See `Writer`; names the customer, then the weightiest reason, then what to do."""
        reasons = set(request.reasons.split("; "))
        offer = next((text for reason, text in _OFFERS.items() if reason in reasons), _OFFER)
        return (
            f"Dear {request.full_name},\n\n"
            f"{_OPENINGS.get(request.segment, _OPENING)}. {offer}"
            " Just reply to this message and choose a time that suits you.\n\n"
            "Kind regards\nYour team at BankCo"
        )
