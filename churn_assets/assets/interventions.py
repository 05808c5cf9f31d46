"""Stage 4: from the streams of customers at risk to emails that leave. The rules are in `churn_assets.retention`."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from textwrap import fill
from time import perf_counter
from typing import Any

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.columns import table_metadata
from churn_assets.assets.driver import DRIVER_CHECK_SPEC, driver_found, must_drive
from churn_assets.assets.readable import failing, rounded, table
from churn_assets.clock import utc_now
from churn_assets.configuration import rules
from churn_assets.operations.setbacks import must_not_have_gone_back
from churn_assets.retention.claims import customers_written_to_twice
from churn_assets.retention.emails import EmailRun, EmailRunResult, emails_with_complaints, write_emails
from churn_assets.retention.outbox.approval import masked
from churn_assets.retention.queue import STREAM, fill_queue, raise_alerts
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse, row_count

ALERTS = "high_risk_history"
ONCE_CHECK, TEXT_CHECK = "one_email_in_7_days", "every_text_passes_the_checks"
EMAIL_CHECKS = tuple(dg.AssetCheckKey(dg.AssetKey("retention_emails"), name) for name in (ONCE_CHECK, TEXT_CHECK))


@dg.asset(
    name=STREAM,
    deps=["dyn_churn_predictions"],
    description="Moves each transition into the class HIGH from the predictions' change stream to the retention queue.",
    **groups.INTERVENTIONS.spec("ducklake", "stream"),
    metadata=table_metadata("retention_queue"),
    pool=pools.REFRESH,
)
def stream_high_risk_customers(
    warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Consume the stream into the queue."""
    must_drive(settings, warehouse)
    joined = warehouse.transact(lambda tx: fill_queue(tx, utc_now()))
    return dg.MaterializeResult(
        metadata={"joined_the_queue": joined, "dagster/row_count": row_count(warehouse, "retention_queue")}
    )


@dg.asset(
    name=ALERTS,
    # Each alert logs the score of the predictions, so they are refreshed first.
    deps=["churn_metrics_live", "dyn_churn_predictions"],
    description=(
        "Each transition of a customer's live metrics to CRITICAL, with the score of the model in use and, once it is"
        " written, the email. The customer joins the retention queue: same rules, claims and writer."
    ),
    **groups.INTERVENTIONS.spec("ducklake", "stream"),
    metadata=table_metadata(ALERTS),
    pool=pools.REFRESH,
)
def high_risk_history(
    warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Consume the metrics' stream into alerts."""
    must_drive(settings, warehouse)
    raised = warehouse.transact(lambda tx: raise_alerts(tx, utc_now()))
    return dg.MaterializeResult(metadata={"alerts": raised, "dagster/row_count": row_count(warehouse, ALERTS)})


def retention_emails_asset(first_day: date) -> dg.AssetsDefinition:
    """`retention_emails`, with a partition for each day (UTC) from `first_day` to today."""

    @dg.asset(
        deps=[stream_high_risk_customers, high_risk_history, "dim_customers"],
        partitions_def=dg.DailyPartitionsDefinition(start_date=first_day.isoformat(), end_offset=1),  # includes today
        description=(
            "One retention email to each waiting customer at risk, at most 50 a run and one in 7 days, checked and logged in"
            " agent_intervention_log. One in ten gets none, as the control group. A past day gets no new customers."
        ),
        **groups.INTERVENTIONS.spec("ducklake", "email"),
        check_specs=[
            dg.AssetCheckSpec(
                ONCE_CHECK,
                asset="retention_emails",
                blocking=True,
                description="No customer has two interventions within 7 days.",
            ),
            dg.AssetCheckSpec(
                TEXT_CHECK,
                asset="retention_emails",
                blocking=True,
                description="The text checks find nothing in any text of the day that has yet to leave.",
            ),
            dg.AssetCheckSpec(
                "the_writer_answers",
                asset="retention_emails",
                description="The writer gave a text for every customer, within the day's limits.",
            ),
            DRIVER_CHECK_SPEC,
        ],
        metadata=table_metadata("agent_intervention_log"),
        pool=pools.EMAILS,
    )
    def retention_emails(
        context: dg.AssetExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
        email_run: dg.ResourceParam[EmailRun],
    ) -> dg.MaterializeResult:
        """Claim, write, check and log the day's emails; only check them if the warehouse's own tasks write them."""
        day = date.fromisoformat(context.partition_key)
        started = perf_counter()
        if settings.driver == "native":
            result = EmailRunResult()
        else:
            must_drive(settings, warehouse)
            must_not_have_gone_back(settings, warehouse, utc_now())
            result = write_emails(warehouse, email_run, day, utc_now(), context.log.info)
        seconds = perf_counter() - started
        twice = customers_written_to_twice(warehouse)
        complaints = emails_with_complaints(warehouse, email_run.check, day)
        return dg.MaterializeResult(
            metadata={
                **{name: value for name, value in asdict(result).items() if value is not None},
                **_day_metadata(warehouse, day),
                **rounded({"seconds": seconds}),
                "writer": email_run.writer.name,
                "prompt_version": email_run.writer.prompt_version,
                "dagster/row_count": row_count(warehouse, "agent_intervention_log"),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=ONCE_CHECK,
                    passed=not twice,
                    metadata={
                        "customers": len(twice),
                        "pause_days": rules().emails.pause_days,
                        **failing([{"customer_id": customer} for customer in twice], ["customer_id"]),
                    },
                ),
                dg.AssetCheckResult(
                    check_name=TEXT_CHECK,
                    passed=not complaints,
                    metadata={
                        "emails": len(complaints),
                        **failing(
                            [
                                {"intervention_id": intervention, "complaints": "; ".join(found)}
                                for intervention, found in complaints.items()
                            ],
                            ["intervention_id", "complaints"],
                        ),
                    },
                ),
                dg.AssetCheckResult(
                    check_name="the_writer_answers",
                    passed=not (result.failed or result.unasked or result.by_template),
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={
                        "failed": result.failed,
                        "unasked": result.unasked,
                        "by_template": result.by_template,
                        "stopped_by": result.stopped_by or "",
                    },
                ),
                dg.AssetCheckResult(**driver_found(settings, warehouse.tasks())),
            ],
        )

    return retention_emails


def _wrapped(text: str) -> str:
    """The text with lines that are short enough for the UI."""
    return "\n".join(fill(line, 90) for line in text.split("\n"))


def _day_metadata(warehouse: Warehouse, day: date) -> Mapping[str, Any]:
    """The state of the day: interventions by status, tokens, and three samples with masked addresses."""
    statuses = warehouse.query(
        "SELECT status, count(*) AS interventions, cast(coalesce(sum(prompt_tokens + completion_tokens), 0) AS bigint) AS tokens"
        " FROM agent_intervention_log WHERE partition_day = ? GROUP BY status ORDER BY status",
        [day],
    ).to_pylist()
    samples = warehouse.query(
        "SELECT customers.email, log.churn_score, log.reason_codes, log.generated_email FROM agent_intervention_log AS log"
        " INNER JOIN dim_customers AS customers ON log.customer_id = customers.customer_id"
        " WHERE log.partition_day = ? AND log.generated_email IS NOT NULL AND log.status <> 'CLAIMED'"
        " ORDER BY log.churn_score DESC NULLS LAST LIMIT 3",
        [day],
    ).to_pylist()
    return {
        "by_status": table(statuses, ["status", "interventions", "tokens"]),
        "tokens_of_the_day": sum(row["tokens"] for row in statuses),
        "samples": dg.MetadataValue.md(
            "\n\n".join(
                f"To {masked(row['email'])}, score {row['churn_score']:.2f} ({row['reason_codes'] or 'alert'})\n\n"
                f"```\n{_wrapped(row['generated_email'])}\n```"
                for row in samples
            )
            or "no text yet"
        ),
    }
