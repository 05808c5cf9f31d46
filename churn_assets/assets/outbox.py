"""Stage 5: ready emails leave, if the settings let them. The rules are in `churn_assets.retention.outbox`."""

from dataclasses import asdict
from typing import Any

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.columns import table_metadata
from churn_assets.assets.readable import failing
from churn_assets.clock import utc_now
from churn_assets.operations.setbacks import must_not_have_gone_back
from churn_assets.retention.outbox import approval, sending
from churn_assets.retention.outbox.quiet_hours import quiet_hours
from churn_assets.retention.outbox.smtp import smtp_of
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse, row_count
from churn_assets.wiring import shelf_of


@dg.asset(
    deps=["retention_emails"],
    description=(
        "Emails that leave: approved by a person (`churn outbox approve`) or automatically, then sent over SMTP outside of the"
        " quiet hours, each at most once. Off unless CHURN_SMTP_URL is set; `churn outbox export` is the other way out."
    ),
    **groups.INTERVENTIONS.spec("ducklake", "email"),
    metadata=table_metadata("intervention_moves"),
    check_specs=[
        dg.AssetCheckSpec(
            "no_email_is_in_doubt",
            asset="email_outbox",
            description="It is known of every email whether it was sent. `churn outbox list` shows the others.",
        )
    ],
    pool=pools.OUTBOX,
)
def email_outbox(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Approve emails if that is automatic, and send the approved ones."""
    must_not_have_gone_back(settings, warehouse, utc_now())
    approved = approval.approve_if_automatic(warehouse, settings, utc_now())
    metadata: dict[str, Any] = {"approved_automatically": approved}
    if settings.smtp_url is not None:
        done = sending.send(
            warehouse, smtp_of(settings), shelf_of(settings), quiet_hours(settings), approval.AUTO, utc_now
        )
        metadata |= {"sent": done.sent, "failed": done.failed, "cancelled": done.cancelled, "waiting": done.waiting}
        if done.stopped:
            metadata["stopped"] = done.stopped
            context.log.warning(f"sending stopped: {done.stopped}")
    in_doubt = approval.waiting(warehouse, ["UNCERTAIN"])
    return dg.MaterializeResult(
        metadata={**metadata, "dagster/row_count": row_count(warehouse, "intervention_moves")},
        check_results=[
            dg.AssetCheckResult(
                check_name="no_email_is_in_doubt",
                passed=not in_doubt,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={
                    "in_doubt": len(in_doubt),
                    **failing(
                        [asdict(entry) for entry in in_doubt],
                        ["intervention_id", "customer_id", "moved_at", "moved_by", "note"],
                    ),
                },
            )
        ],
    )
