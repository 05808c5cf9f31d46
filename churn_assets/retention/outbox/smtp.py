"""How one email is handed to a mail server: the server, the message, and what the server's answer means.

Here belongs the protocol. `sending` decides who is written to and when, and stores the outcome.
"""

import re
import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from types import TracebackType
from typing import Literal
from urllib.parse import unquote, urlsplit

from churn_assets.settings import Settings, SettingsError

SUBJECT = "How can we do better for you?"
TIMEOUT_SECONDS = 30.0  # for each answer of the server
REASON_CHARACTERS = 300  # of what a server says

Security = Literal["none", "starttls", "tls"]
_SCHEMES: dict[str, tuple[Security, int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("tls", 465),
}
# What HTML accepts as an email address, ASCII only. No match can end a header or a command.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_MAX_ADDRESS_CHARACTERS = 254  # RFC 5321
# Otherwise Python encodes a header that is one long word, and no server reads that as an address.
_WITHOUT_FOLDING = SMTP.clone(max_line_length=998)


@dataclass(frozen=True)
class Smtp:
    """A mail server and the sender that it knows us by."""

    host: str
    port: int
    security: Security
    sender: Address
    user: str | None = None
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one email, as the status that it gets next; `note` says why it was not sent.

    `is_last` means that the next email would meet the same problem.
    """

    status: Literal["SENT", "FAILED", "APPROVED", "UNCERTAIN"]
    note: str | None = None
    is_last: bool = False


def smtp_of(settings: Settings) -> Smtp:
    """The server and sender of the settings; `SettingsError` says what to set. No message contains a password."""
    if settings.smtp_url is None or not settings.email_from:
        raise SettingsError("no email is sent until CHURN_SMTP_URL and CHURN_EMAIL_FROM are set; see .env.example")
    name, address = parseaddr(settings.email_from)
    if not is_address(address):
        raise SettingsError(
            "wrong setting: CHURN_EMAIL_FROM must be an address such as care@bank.example"
            f' or BankCo <care@bank.example> (got "{settings.email_from}")'
        )
    wrong_url = SettingsError(
        "wrong setting: CHURN_SMTP_URL must be smtp://, smtp+starttls:// or smtps://user:password@host:port;"
        " special characters of user and password are written as %XX"
    )
    try:
        url = urlsplit(settings.smtp_url.get_secret_value())
        port = url.port
    except ValueError:
        raise wrong_url from None  # its message may contain the password
    user, password = unquote(url.username or ""), unquote(url.password or "")
    is_whole = not (url.path.strip("/") or url.query or url.fragment)
    if url.scheme not in _SCHEMES or not url.hostname or not is_whole or bool(user) != bool(password):
        raise wrong_url
    if not (user + password).isascii():
        raise SettingsError("wrong setting: user and password in CHURN_SMTP_URL must be ASCII")
    security, usual_port = _SCHEMES[url.scheme]
    return Smtp(url.hostname, port or usual_port, security, Address(name, addr_spec=address), user or None, password)


def is_address(text: str | None) -> bool:
    """Whether a server can deliver to this text: an ASCII address without a name or comments."""
    return bool(text) and len(text) <= _MAX_ADDRESS_CHARACTERS and _ADDRESS.fullmatch(text) is not None


def message(smtp: Smtp, intervention_id: str, to: str, text: str, now: datetime) -> bytes:
    """The email of an intervention, as the server gets it. `now` is UTC.

    An intervention always has the same Message-ID, so that a receiver can drop a repeat.
    """
    email = EmailMessage(policy=SMTP)
    email["From"] = smtp.sender
    email["To"] = to
    email["Subject"] = SUBJECT
    email["Date"] = format_datetime(now.replace(tzinfo=UTC))
    email["Message-ID"] = f"<{intervention_id}@{smtp.sender.domain}>"
    email["Auto-Submitted"] = "auto-generated"
    email["List-Unsubscribe"] = f"<mailto:{smtp.sender.addr_spec}?subject=unsubscribe>"
    email.set_content(text, cte="quoted-printable")  # ASCII only, which every server takes
    return email.as_bytes(policy=_WITHOUT_FOLDING)


class Line:
    """A connection to a server. It opens when it is needed, and again if the server has hung up between two emails."""

    def __init__(self, smtp: Smtp) -> None:
        self._smtp = smtp
        self._connection: smtplib.SMTP | None = None

    def __enter__(self) -> "Line":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.quit()

    def open(self) -> str | None:
        """Make sure that the server listens; returns why it does not, or None."""
        try:
            if self._connection is None or not _listens(self._connection):
                self._connection = _connect(self._smtp)
        except OSError as error:  # also every error of smtplib
            return f"{self._smtp.host}:{self._smtp.port} cannot be reached: {_one_line(error)}"
        return None

    def deliver(self, to: str, content: bytes) -> Outcome:
        """Hand over one message; the line must be open. Errors of the server and the network become an `Outcome`."""
        assert self._connection is not None
        try:
            refusal = _envelope(self._connection, self._smtp.sender.addr_spec, to)
        except OSError as error:
            return Outcome("APPROVED", f"the server hung up before the message: {_one_line(error)}", is_last=True)
        if refusal:
            return refusal
        try:
            return _answer(*self._connection.data(content))
        except smtplib.SMTPDataError as error:  # no part of the message was sent yet
            return _refusal(error.smtp_code, error.smtp_error, "the message was refused")
        except OSError as error:
            return Outcome("UNCERTAIN", f"no answer to the message: {_one_line(error)}", is_last=True)


def _connect(smtp: Smtp) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if smtp.security == "tls":
        connection = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        connection = smtplib.SMTP(smtp.host, smtp.port, timeout=TIMEOUT_SECONDS)
    try:
        if smtp.security == "starttls":
            connection.starttls(
                context=context
            )  # fails if the server does not offer it, so nothing is sent unencrypted
        if smtp.user:
            connection.login(smtp.user, smtp.password)
    except BaseException:
        connection.close()
        raise
    return connection


def _listens(connection: smtplib.SMTP) -> bool:
    try:
        return connection.rset()[0] == 250  # it also ends the transaction that a refusal has left half done
    except OSError:
        return False


def _envelope(connection: smtplib.SMTP, sender: str, to: str) -> Outcome | None:
    """Tell the server the sender and the recipient; returns the outcome if it refuses one of them."""
    connection.ehlo_or_helo_if_needed()
    code, answer = connection.mail(sender)
    if code != 250:
        # Every other email has the same sender.
        return Outcome("APPROVED", f"the sender was refused: {code} {_text(answer)}", is_last=True)
    code, answer = connection.rcpt(to)
    return None if code in (250, 251) else _refusal(code, answer, "the recipient was refused")


def _answer(code: int, answer: bytes) -> Outcome:
    """What the answer to a whole message means."""
    if code == 250:
        return Outcome("SENT")
    if 400 <= code < 600:
        return _refusal(code, answer, "the message was refused")
    return Outcome("UNCERTAIN", f"not a valid answer to the message: {code} {_text(answer)}", is_last=True)


def _refusal(code: int, answer: bytes | str, what: str) -> Outcome:
    note = f"{what}: {code} {_text(answer)}"
    if 500 <= code < 600:
        return Outcome("FAILED", note)
    return Outcome("APPROVED", note, is_last=True)  # a server that is busy now is busy for the next email too


def _text(answer: bytes | str) -> str:
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    return " ".join(text.split())[:REASON_CHARACTERS]


def _one_line(error: OSError) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    return _text(str(error)) or type(error).__name__
