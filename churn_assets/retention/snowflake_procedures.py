"""The code of Snowflake's procedures. Tasks call GENERATE_RETENTION_EMAILS and PROCESS_ALERTS; GENERATE_RETENTION_EMAIL gives one
text.

Written from the documentation, never run on a live account. The rules are in `queue`, `claims`, `emails` and `writing`, the same
as where Dagster drives. Here belongs only what a procedure does in place of a Dagster run. `operations.procedures` registers the
procedures.
https://docs.snowflake.com/en/developer-guide/stored-procedure/python/procedure-python-overview
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from snowflake.snowpark import Session

from churn_assets.clock import utc_now
from churn_assets.retention.emails import EmailRun, EmailRunResult, Limits, next_day, write_emails
from churn_assets.retention.queue import fill_queue, raise_alerts
from churn_assets.retention.writing.cortex import CortexWriter
from churn_assets.retention.writing.prompts import prompts_of
from churn_assets.retention.writing.template import TemplateWriter
from churn_assets.retention.writing.text_checks import complaints_about
from churn_assets.retention.writing.writer import EmailRequest, WriterError
from churn_assets.settings import load_settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.shelf import Shelf
from churn_assets.warehouse.snowflake import SessionWarehouse

# The packages outside of Python's library that these modules import, by their PyPI names. The connector gives Arrow only if
# pandas is installed too.
PACKAGES = ("pandas", "pyarrow", "pydantic-settings", "pyyaml", "snowflake-snowpark-python")
SECONDS = 20 * 60.0  # no run begins later; Snowflake stops the task after 30 minutes


def generate_retention_emails(
    session: Session, *, model: str, emails_per_day: int, tokens_per_day: int, marketing: str
) -> str:
    """Empty the stream into the queue, then write to all customers who may be written to now; returns each run's result, as JSON.

    Cortex's `model` writes. `marketing` is the content of marketing's file.
    """
    warehouse = _warehouse(session)
    prompts = prompts_of(marketing.encode())
    email_run = EmailRun(
        writer=CortexWriter(warehouse, model, prompts),
        template=TemplateWriter(prompts),
        check=partial(complaints_about, prompts=prompts),
        # The folder ends with the procedure, so the answers of a procedure that was stopped are paid for again.
        shelf=Shelf.here(Path(tempfile.gettempdir()) / "churn_assets"),
        limits=Limits(emails_per_day, tokens_per_day),
        concurrency=1,
    )
    return json.dumps([asdict(result) for result in _runs(warehouse, email_run)])


def generate_retention_email(
    session: Session, full_name: str, segment: str, reason_codes: str | None, *, model: str, marketing: str
) -> str:
    """The text of one email, for calls by hand or from another task. Nothing is claimed or stored.

    Cortex's `model` is asked once. If it gives no text that passes the checks, the template writes. '' if that does not pass
    either.
    """
    prompts = prompts_of(marketing.encode())
    request = EmailRequest(full_name, segment, reason_codes or "")
    for writer in (CortexWriter(_warehouse(session), model, prompts), TemplateWriter(prompts)):
        with suppress(WriterError):
            text = writer.write(request).text
            if not complaints_about(text, request, prompts=prompts):
                return text
    return ""


def process_alerts(session: Session) -> str:
    """Empty the stream of live metrics into alerts and the queue; returns the number of alerts."""
    return str(_warehouse(session).transact(lambda tx: raise_alerts(tx, utc_now())))


def _runs(warehouse: Warehouse, email_run: EmailRun) -> Iterator[EmailRunResult]:
    # The task runs as long as the stream has data, so the stream is emptied even if nobody may be written to.
    warehouse.transact(lambda tx: fill_queue(tx, utc_now()))
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends and (day := next_day(warehouse, email_run.limits, utc_now())):
        result = write_emails(warehouse, email_run, day, utc_now())
        yield result
        if result.stopped_by:
            return


def _warehouse(session: Session) -> Warehouse:
    return SessionWarehouse(session.connection, load_settings())
