"""A mail server of the tests' own, and a bank whose emails are written."""

import asyncio
import email.policy
import ssl
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from threading import Event
from typing import Any

import pyarrow as pa
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from churn_assets.retention.outbox import approval
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets_tests.ports import free_port
from churn_assets_tests.retention.bank import NOW, TODAY

TABLES = (
    "dim_customers", "dim_accounts", "agent_intervention_log", "intervention_moves", "suppressions",
    "suppressed_addresses", "addressed_emails",
)  # fmt: skip


def empty(lake: LakeWarehouse) -> None:
    """Leave nobody, and nothing to send."""
    lake.transact(lambda tx: [tx.execute(f"DELETE FROM {table}") for table in TABLES])


def write_emails(lake: LakeWarehouse, customers: Sequence[str], status: str = "READY") -> None:
    """Customers with an open account, an address and one email each; the email's id is `email to` and the customer's."""

    texts = {name: f"Dear {name} Müller,\n\n.A dot begins this line.\n" for name in customers}
    written = pa.table({"name": pa.array(texts, pa.string()), "text": pa.array(texts.values(), pa.string())})

    def work(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, email, segment, join_date, updated_at, ingested_at)"
            " SELECT name, name || ' Müller', lower(name) || '@bank.example', 'MASS', ?, ?, ? FROM written",
            [TODAY, NOW, NOW],
        )
        tx.execute(
            "INSERT INTO dim_accounts (account_id, customer_id, product_code, account_status, updated_at, ingested_at)"
            " SELECT 'account of ' || name, name, 'CHK', 'OPEN', ?, ? FROM written",
            [NOW, NOW],
        )
        tx.execute(
            "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, generated_email, created_at,"
            " status, source, partition_day) SELECT 'to-' || name, name, 0.9, text, ?, ?, 'prediction', ? FROM written",
            [NOW, status, TODAY],
        )

    lake.transact(work, {"written": written})


def approved_emails(lake: LakeWarehouse, customers: Sequence[str]) -> None:
    """As `write_emails`, and approved; they leave in the order of their names."""
    write_emails(lake, customers)
    approval.approve_all(lake, "boss", NOW)


def statuses(lake: LakeWarehouse) -> dict[str, str]:
    """The status of each customer's email."""
    rows = lake.query("SELECT customer_id, status FROM agent_intervention_log ORDER BY customer_id").to_pylist()
    return {row["customer_id"]: row["status"] for row in rows}


def last_note(lake: LakeWarehouse, customer: str) -> str | None:
    return approval.shown(lake, f"to-{customer}")[0].note


class Mailbox:
    """What an SMTP server does: it counts what it took, and refuses or dies as told, by customer."""

    def __init__(self) -> None:
        self.delivered: list[EmailMessage] = []
        self.sender_answer = "250 OK"
        self.recipient_answers: dict[str, str] = {}
        self.message_answers: dict[str, str | None] = {}  # None: it hangs up instead of an answer
        self.may_answer = Event()
        self.may_answer.set()
        self.was_asked = Event()
        self.is_encrypted = False

    def count(self) -> Counter[str]:
        """How many messages each customer has got."""
        return Counter(str(message["To"]).partition("@")[0].capitalize() for message in self.delivered)

    async def handle_MAIL(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return self.sender_answer

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.rcpt_tos.append(address)
        return self.recipient_answers.get(_customer(address), "250 OK")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str | None:  # noqa: N802
        self.was_asked.set()
        while not self.may_answer.is_set():
            await asyncio.sleep(0.01)
        customer = _customer(envelope.rcpt_tos[0])
        answer = self.message_answers.get(customer, "250 OK")
        if answer is None:
            server.transport.abort()
        elif answer.startswith("250"):
            self.is_encrypted = server.transport.get_extra_info("sslcontext") is not None
            assert isinstance(envelope.content, bytes)
            parsed = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
            assert isinstance(parsed, EmailMessage)
            self.delivered.append(parsed)
        return answer


def _customer(address: str) -> str:
    return address.partition("@")[0].capitalize()


@contextmanager
def mail_server(box: Mailbox, *, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
    """A server that delivers to `box`; its port. With `tls` it is encrypted from the first byte."""
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), ssl_context=tls, **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()
