"""What marketing lets the emails say: `marketing/retention_email.yaml`, read, validated and made into prompts.

Here belong the file's form, its version and the messages for a language model. The writers send the messages; `text_checks`
decides whether a text may be sent.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from churn_assets.configuration import rules
from churn_assets.errors import ChurnError
from churn_assets.project_files import PROJECT_FILES
from churn_assets.retention.writing.addressee import addressee
from churn_assets.retention.writing.writer import EmailRequest
from churn_assets.rules import Rules

PROMPTS_FILE = PROJECT_FILES / "marketing" / "retention_email.yaml"
TEMPERATURE = 0.3  # some variety, few inventions
MAX_ANSWER_TOKENS = 300  # the longest email has about 250

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class PromptsError(ChurnError):
    """The file of prompts cannot be used; the message is one line that names the file, the key and what to do."""


def _with(*names: str) -> AfterValidator:
    """Requires a text to have exactly these placeholders."""

    def check(text: str) -> str:
        if set(_PLACEHOLDER.findall(text)) != set(names):
            raise ValueError(f"must have {' and '.join(f'{{{name}}}' for name in names)}, and nothing else in braces")
        return text

    return AfterValidator(check)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Offer(_Part):
    """What one sentence of the template says, and what a language model may promise in its place."""

    sentence: _Text
    promise: _Text


class OfferForReason(Offer):
    """An offer to customers for whom one of the bank's rules holds."""

    reason: _Text


class PromptTexts(_Part):
    """What a language model is told."""

    system: Annotated[_Text, _with("sentences", "offers", "closing", "signature")]
    user: Annotated[_Text, _with("customer")]
    retry: Annotated[_Text, _with("complaints")]


class Wording(_Part):
    """The content of the file."""

    version: _Text
    signature: _Text
    openings: dict[str, _Text]
    offers: list[OfferForReason]
    general_offer: Offer
    closing: _Text
    prompt: PromptTexts

    @model_validator(mode="after")
    def _serves_every_customer(self) -> "Wording":
        if "default" not in self.openings:
            raise ValueError("openings: add a `default` for segments that are not named")
        offered = [offer.reason for offer in self.offers]
        own, default = ({rule.reason for rule in these.risk.rules} for these in (rules(), Rules()))
        # The file is written for the default rules. A reason of the bank's own may go without an offer, and an offer for a
        # default rule that the bank has left out may stay.
        if missing := sorted((own & default) - set(offered)):
            raise ValueError(f"offers: add an offer for the reason {missing[0]!r}")
        known = own | default
        if unknown := sorted(set(offered) - known):
            raise ValueError(
                f"offers: no rule has the reason {unknown[0]!r}; the reasons are {', '.join(sorted(known))}"
            )
        if len(offered) > len(set(offered)):
            raise ValueError("offers: keep one offer for each reason")
        return self

    @property
    def reasons_without_offer(self) -> list[str]:
        """The reasons of the bank's rules whose customers get the general offer."""
        return [
            rule.reason for rule in rules().risk.rules if rule.reason not in {offer.reason for offer in self.offers}
        ]


@dataclass(frozen=True)
class Messages:
    """What a language model gets for one email."""

    system: str
    user: str


@dataclass(frozen=True)
class Prompts:
    """The file's wording, as it applies to a request, and its version."""

    wording: Wording
    prompt_version: str

    def opening(self, request: EmailRequest) -> str:
        """The first sentence for the customer's segment."""
        return self.wording.openings.get(request.segment, self.wording.openings["default"])

    def offers(self, request: EmailRequest) -> list[Offer]:
        """The offers for this customer, the most relevant first, the general offer last."""
        reasons = _reasons(request)
        return [offer for offer in self.wording.offers if offer.reason in reasons] + [self.wording.general_offer]

    def messages(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Messages:
        """The rules, and the request with the customer as data; `complaints` about the previous text come last."""
        texts = self.wording.prompt
        parts = [_filled(texts.user, {"customer": _customer_as_data(request)})]
        if complaints:
            parts.append(_filled(texts.retry, {"complaints": _listed(complaints)}))
        offers = _listed([offer.promise for offer in self.offers(request)])
        return Messages(system=self.rules(offers), user="\n\n".join(parts))

    def rules(self, offers: str) -> str:
        """The rules for a customer who may be made `offers`, one to a line."""
        return _filled(
            self.wording.prompt.system,
            {
                "sentences": str(rules().emails.max_sentences),
                "offers": offers,
                "closing": self.wording.closing,
                "signature": self.wording.signature,
            },
        )

    def approved_text(self, request: EmailRequest) -> str:
        """All that marketing lets an email to this customer say."""
        offers = (text for offer in self.offers(request) for text in (offer.sentence, offer.promise))
        return "\n".join((self.opening(request), *offers, self.wording.closing, self.wording.signature))


def load_prompts(path: Path = PROMPTS_FILE) -> Prompts:
    """The wording in a file, or `PromptsError`. Its version ends in a digest of the file, so that every edit shows."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PromptsError(f"{path} cannot be read ({error.strerror}); restore it from the repository") from error
    return prompts_of(content, path)


def prompts_of(content: bytes, path: Path = PROMPTS_FILE) -> Prompts:
    """The wording in the content of the file, for code that cannot read the file. `PromptsError` names the file by `path`."""
    try:
        wording = Wording.model_validate(yaml.safe_load(content))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)  # absent if the bytes are not text
        line = f" at line {place.line + 1}" if place else ""
        raise PromptsError(f"{path} is not valid YAML{line}; check quotation marks and indentation") from error
    except ValidationError as error:
        raise PromptsError(f"{path}: {'; '.join(_problem(problem) for problem in error.errors())}") from error
    return Prompts(wording, f"{wording.version}-{hashlib.sha256(content).hexdigest()[:8]}")


def _problem(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "missing":
            return f"{key}: add it"
        case "extra_forbidden":
            return f"{key}: remove it, nothing reads it"
        case "model_type" | "model_attributes_type" if not key:
            return "it has no keys; restore it from the repository"
        case "string_type":
            return f"{key}: write a text, in quotation marks"
        case "string_too_short":
            return f"{key}: write a text, it is empty"
        case _:
            message = str(problem["msg"]).removeprefix("Value error, ")
            return f"{key}: {message}" if key else message


def _reasons(request: EmailRequest) -> list[str]:
    return [reason for reason in request.reasons.split("; ") if reason]


def _customer_as_data(request: EmailRequest) -> str:
    """The customer as JSON on one line, in which nothing can end the marked part of the prompt."""
    customer = {
        "full_name": addressee(request.full_name),
        "segment": request.segment,
        "reasons": _reasons(request),
    }
    return json.dumps(customer, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders filled, all at once: braces in a value stay what they are."""
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], text)
