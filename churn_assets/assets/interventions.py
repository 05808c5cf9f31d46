"""Stage 4: from the stream of customers who came into HIGH to the emails. The rules are in `churn_assets.retention`."""

from datetime import date

import dagster as dg

from churn_assets.assets.ledgers import row_count
from churn_assets.clock import utc_now
from churn_assets.retention.emails import customers_written_to_twice, write_emails
from churn_assets.retention.queue import STREAM, fill_queue
from churn_assets.retention.writer import Writer
from churn_assets.settings import EMAIL_PAUSE_DAYS
from churn_assets.warehouse.protocol import Warehouse

GROUP = "interventions"
OWNER = "team:marketing"
FIRST_DAY = "2026-01-01"

email_days = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)  # includes today (UTC)


@dg.asset(
    name=STREAM,
    deps=["dyn_churn_predictions"],
    description="Moves each transition into the class HIGH from the predictions' change stream to the retention queue.",
    kinds={"ducklake", "stream"},
    group_name=GROUP,
    owners=[OWNER],
    metadata={"dagster/table_name": "lake.main.retention_queue"},
    pool="refresh",
)
def stream_high_risk_customers(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Consume the stream into the queue."""
    joined = warehouse.transact(lambda tx: fill_queue(tx, utc_now()))
    return dg.MaterializeResult(
        metadata={"joined_the_queue": joined, "dagster/row_count": row_count(warehouse, "retention_queue")}
    )


@dg.asset(
    deps=[stream_high_risk_customers, "dim_customers"],
    partitions_def=email_days,
    description=(
        "One retention email to each waiting high-risk customer, at most 50 a run and one in 7 days, logged in"
        " agent_intervention_log. A past day is only completed, never extended."
    ),
    kinds={"ducklake", "email"},
    group_name=GROUP,
    owners=[OWNER],
    check_specs=[
        dg.AssetCheckSpec(
            "one_email_in_7_days",
            asset="retention_emails",
            blocking=True,
            description="No customer has two interventions within 7 days.",
        )
    ],
    metadata={"dagster/table_name": "lake.main.agent_intervention_log"},
    pool="emails",
)
def retention_emails(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse], writer: dg.ResourceParam[Writer]
) -> dg.MaterializeResult:
    """Claim, write and log the day's emails."""
    day = date.fromisoformat(context.partition_key)
    run = write_emails(warehouse, writer, day, utc_now())
    twice = customers_written_to_twice(warehouse)
    logged = "agent_intervention_log"
    sample = warehouse.query(
        f"SELECT generated_email FROM {logged} WHERE partition_day = ? AND status = 'READY' ORDER BY created_at DESC LIMIT 1",
        [day],
    )["generated_email"].to_pylist()
    return dg.MaterializeResult(
        metadata={
            "claimed": run.claimed,
            "written": run.written,
            "dropped_from_queue": run.dropped,
            "sample": dg.MetadataValue.md("\n\n".join(f"```\n{text}\n```" for text in sample)),
            "dagster/row_count": row_count(warehouse, logged),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="one_email_in_7_days",
                passed=not twice,
                metadata={"customers": twice[:20], "pause_days": EMAIL_PAUSE_DAYS},
            )
        ],
    )
