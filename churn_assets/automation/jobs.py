"""The jobs. The other modules of this package decide when to request them.

Here belong the jobs on the way from an event to an email. Periodic jobs are listed in `upkeep`.
"""

import dagster as dg

from churn_assets.assets.interventions import ALERTS
from churn_assets.assets.ledgers import INGEST_CHECKS, REJECTS
from churn_assets.automation.streaming import stream
from churn_assets.automation.upkeep import UPKEEP
from churn_assets.ingestion.events import LEDGERS
from churn_assets.retention.queue import STREAM

# Runs that an event waits for go first; after a restart everything is due at once.
_FIRST = {"dagster/priority": "1"}

ingest_job = dg.define_asset_job(
    "ingest_events",
    dg.AssetSelection.assets(*LEDGERS, REJECTS).without_checks() | dg.AssetSelection.checks(*INGEST_CHECKS),
    description="Store an offset range of Kafka messages in the ledgers.",
    tags=_FIRST,
)
refresh_job = dg.define_asset_job(
    "refresh_dynamic_tables",
    dg.AssetSelection.groups("features", "predictions") | dg.AssetSelection.assets(STREAM, ALERTS),
    description="Refresh features and predictions, then put customers who became HIGH or CRITICAL into the retention queue.",
    tags=_FIRST,
)


@dg.job(
    name="stream_events",
    description=(
        "With CHURN_REFRESH=eager: take events from Kafka to the ledgers, the scores and the retention queue, batch after"
        " batch, for as long as events come."
    ),
    tags=_FIRST,
)
def stream_job() -> None:
    """One step that goes on."""
    stream()


emails_job = dg.define_asset_job(
    "write_retention_emails",
    dg.AssetSelection.assets("retention_emails"),
    description="Write the emails of one day.",
    tags=_FIRST,
)
outbox_job = dg.define_asset_job(
    "send_emails",
    dg.AssetSelection.assets("email_outbox"),
    description="Approve and send emails as the settings allow.",
)

JOBS = [
    ingest_job,
    refresh_job,
    stream_job,
    emails_job,
    outbox_job,
    *(dg.define_asset_job(each.job, each.selection, description=each.description) for each in UPKEEP),
]
