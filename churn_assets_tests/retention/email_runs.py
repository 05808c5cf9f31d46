"""Email runs for tests, and writers that behave as a test wants."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from threading import Lock

from churn_assets.folder import Folder
from churn_assets.retention.emails import EmailRun, EmailRunResult, Limits, write_emails
from churn_assets.retention.writing.writer import Answer, EmailRequest, Writer, WriterError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.shelf import Shelf
from churn_assets_tests.retention.bank import NOW, TODAY

TOKENS = 10  # that one answer of a stub costs
LIMITS = Limits(emails_per_day=500, tokens_per_day=100_000)


@dataclass
class StubWriter:
    """Greets by name, and remembers what it was asked."""

    name: str = "stub"
    prompt_version: str = "stub-1"
    requests: list[EmailRequest] = field(default_factory=list)

    def write(self, request: EmailRequest, complaints: Sequence[str] = ()) -> Answer:
        self.requests.append(request)
        return Answer(self.text(request, complaints), "stub-model", TOKENS // 2, TOKENS // 2)

    def text(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        return f"Dear {request.full_name}"


class SayingWriter(StubWriter):
    """Says one thing after the other, whoever asks; the last for ever."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self._texts = list(texts)
        self._lock = Lock()

    def text(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        with self._lock:
            return self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]


class FailingWriter(StubWriter):
    """Gives no text to these customers, or to nobody."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names

    def text(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        if not self._names or request.full_name in self._names:
            raise WriterError("the server is down")
        return super().text(request, complaints)


class BrokenWriter(StubWriter):
    """Gives some texts and then meets a fault of ours."""

    def __init__(self, texts: int = 0) -> None:
        super().__init__()
        self._left = texts
        self._lock = Lock()

    def text(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        with self._lock:
            if not self._left:
                raise ZeroDivisionError("a fault")
            self._left -= 1
        return super().text(request, complaints)


class KillingWriter(StubWriter):
    """Takes its process with it."""

    def text(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().text(request, complaints)


class SlowWriter(StubWriter):
    """So slow that another run comes in between."""

    def text(self, request: EmailRequest, complaints: Sequence[str]) -> str:
        time.sleep(0.005)
        return super().text(request, complaints)


def complaints(text: str, request: EmailRequest) -> list[str]:
    """The test's own check: a text must greet the customer."""
    return [] if f"Dear {request.full_name}" in text else ["it does not greet the customer"]


def email_run_of(
    lake: LakeWarehouse,
    writer: Writer | None = None,
    *,
    check: Callable[[str, EmailRequest], list[str]] = complaints,
    emails_per_day: int = LIMITS.emails_per_day,
    tokens_per_day: int = LIMITS.tokens_per_day,
    control_share: float = 0.0,
) -> EmailRun:
    """An email run beside the lake, without a control group unless a test wants one."""
    template = StubWriter(name="template")
    return EmailRun(
        writer or StubWriter(),
        template,
        check,
        shelf_beside(lake),
        Limits(emails_per_day, tokens_per_day),
        control_share,
    )


def shelf_beside(lake: LakeWarehouse) -> Shelf:
    """Where the email run keeps its journal, and senders their marks."""
    folder = lake.place.folder
    if folder.is_local:
        return Shelf.here(Path(folder.absolute).parent / "emails")
    return Shelf(Folder(f"{folder.absolute}/emails"), lake.place.turns)


def write(
    lake: LakeWarehouse, writer: Writer | None = None, day: date = TODAY, now: datetime = NOW, **limits: float
) -> EmailRunResult:
    """Write once, and say what was done."""
    return write_emails(lake, email_run_of(lake, writer, **limits), day, now)


def clear_journal(lake: LakeWarehouse) -> None:
    """Leave no journal behind."""
    shelf_beside(lake).lines("answers.ndjson").keep(lambda _: False)
