"""What runs within Snowflake's procedures: GENERATE_RETENTION_EMAILS and PROCESS_ALERTS, which its own
tasks call, and GENERATE_RETENTION_EMAIL for one text.

By documentation only: it has not met a live account. The rules are those of `queue`, `claims`, `emails` and `writing`, as where
Dagster drives; here belongs only what a procedure has in the place of a run of Dagster. `operations.procedures` registers them.
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
from churn_assets.retention.emails import Desk, EmailRun, Limits, next_day, write_emails
from churn_assets.retention.queue import fill_queue, raise_alerts
from churn_assets.retention.writing.cortex import CortexWriter
from churn_assets.retention.writing.prompts import prompts_of
from churn_assets.retention.writing.template import TemplateWriter
from churn_assets.retention.writing.text_checks import complaints_about
from churn_assets.retention.writing.writer import EmailRequest, WriterError
from churn_assets.settings import load_settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.snowflake import SessionWarehouse

# What these modules import that is not Python's own, as PyPI names it; the connector gives Arrow only where pandas is, too.
PACKAGES = ("pandas", "pyarrow", "pydantic-settings", "pyyaml", "snowflake-snowpark-python")
SECONDS = 20 * 60.0  # after which no further run begins; the task is stopped after 30 minutes


def generate_retention_emails(
    session: Session, *, model: str, emails_per_day: int, tokens_per_day: int, marketing: str
) -> str:
    """Empty the stream into the queue, then write to all who may be written to now; what each run did, as JSON.

    Cortex's `model` writes, and `marketing` is the content of the file with marketing's words.
    """
    warehouse = _warehouse(session)
    prompts = prompts_of(marketing.encode())
    desk = Desk(
        writer=CortexWriter(warehouse, model, prompts),
        template=TemplateWriter(prompts),
        check=partial(complaints_about, prompts=prompts),
        # It ends with the procedure, so an answer that Cortex gave to one that was stopped is paid for again.
        folder=Path(tempfile.gettempdir()) / "churn_assets",
        limits=Limits(emails_per_day, tokens_per_day),
        concurrency=1,
    )
    return json.dumps([asdict(run) for run in _runs(warehouse, desk)])


def generate_retention_email(
    session: Session, full_name: str, segment: str, reason_codes: str | None, *, model: str, marketing: str
) -> str:
    """The text of one email, for whoever calls the procedure by hand or from another task. Nothing is claimed or stored.

    Cortex's `model` is asked once. Where it gives nothing that passes the checks, the template writes. '' where that does not
    pass either, as for a name that nobody can be greeted by.
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
    """Empty the stream of live metrics into alerts and the queue; how many alerts there were."""
    return str(_warehouse(session).transact(lambda tx: raise_alerts(tx, utc_now())))


def _runs(warehouse: Warehouse, desk: Desk) -> Iterator[EmailRun]:
    # The stream calls the task as long as it has data, so it is emptied also where nobody may be written to.
    warehouse.transact(lambda tx: fill_queue(tx, utc_now()))
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends and (day := next_day(warehouse, desk.limits, utc_now())):
        run = write_emails(warehouse, desk, day, utc_now())
        yield run
        if run.stopped_by:
            return


def _warehouse(session: Session) -> Warehouse:
    return SessionWarehouse(session.connection, load_settings())
