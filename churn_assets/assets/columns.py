"""The columns of the tables that assets write, for Dagster's UI. `sql/` defines the tables.

The event contracts describe the columns of the ledgers, and `schema.yml` those of the dynamic tables. All others are described
here.
"""

import dagster as dg

from churn_assets.ingestion.events import LEDGERS, STORED_COLUMNS

_STORED_TYPES = {
    "extra_fields": "VARCHAR",
    "ingested_at": "TIMESTAMP",
    "kafka_topic": "VARCHAR",
    "kafka_partition": "INTEGER",
    "kafka_offset": "BIGINT",
}

_COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "event_rejects": {
        "epoch": ("VARCHAR", "The life of the message's topic; 'file' for a row of a loaded file."),
        "kafka_topic": ("VARCHAR", "Topic of the message; the path of a loaded file."),
        "kafka_partition": ("INTEGER", "Partition of the message."),
        "kafka_offset": ("BIGINT", "Offset of the message; of a loaded file the line, or the row of Parquet."),
        "kafka_time": ("TIMESTAMP", "Kafka's time stamp of the message (UTC)."),
        "reason": ("VARCHAR", "Why the message could not become a row."),
        "original": ("BLOB", "The message's bytes, as they came."),
        "rejected_at": ("TIMESTAMP", "When it was rejected (UTC)."),
        "replayed_at": ("TIMESTAMP", "When a replay stored its row, because the contract now accepts it (UTC)."),
    },
    "retention_queue": {
        "customer_id": ("VARCHAR", "Id of the customer who waits for an email."),
        "source": ("VARCHAR", "prediction: the customer moved into HIGH. alert: the live metrics moved to CRITICAL."),
        "churn_score": ("DOUBLE", "The score at that time, 0 to 1."),
        "reason_codes": ("VARCHAR", "Why, in words separated by semicolons."),
        "queued_at": ("TIMESTAMP", "When the customer joined the queue (UTC)."),
        "left_at": ("TIMESTAMP", "When the customer left it (UTC); empty while waiting."),
        "left_reason": ("VARCHAR", "Why the customer left it."),
    },
    "agent_intervention_log": {
        "intervention_id": ("VARCHAR", "Id of the intervention: one for a customer and day."),
        "customer_id": ("VARCHAR", "Id of its customer."),
        "churn_score": ("DOUBLE", "The score that led to it, 0 to 1."),
        "generated_email": ("VARCHAR", "The text; empty until one passes the checks, and for the control group."),
        "created_at": ("TIMESTAMP", "When the customer was claimed (UTC)."),
        "status": ("VARCHAR", "Where it stands: CLAIMED, READY, APPROVED, SENT, CONTROL, CANCELLED ..."),
        "source": ("VARCHAR", "prediction or alert, as in the queue."),
        "reason_codes": ("VARCHAR", "Why the customer is at risk, in words separated by semicolons."),
        "writer": ("VARCHAR", "Who wrote the text: template, openai or cortex."),
        "model": ("VARCHAR", "The language model that wrote it."),
        "prompt_version": ("VARCHAR", "Version of the prompts that it was written with."),
        "prompt_tokens": ("BIGINT", "Tokens of the prompts, of all attempts."),
        "completion_tokens": ("BIGINT", "Tokens of the answers, of all attempts."),
        "latency_seconds": ("DOUBLE", "How long the writer took, in seconds."),
        "complaints": ("VARCHAR", "What the text checks found in texts that were refused."),
        "writer_error": ("VARCHAR", "Why the writer gave no text."),
        "failed_attempts": ("INTEGER", "Runs in which the writer gave no text."),
        "retry_after": ("TIMESTAMP", "When the next attempt may be made (UTC)."),
        "is_fallback": ("BOOLEAN", "Whether the template wrote in the writer's place."),
        "partition_day": ("DATE", "The day that it counts for (UTC): the partition of retention_emails."),
    },
    "intervention_moves": {
        "intervention_id": ("VARCHAR", "The intervention that moved."),
        "status_from": ("VARCHAR", "The status before; empty for the first."),
        "status_to": ("VARCHAR", "The status after."),
        "moved_at": ("TIMESTAMP", "When (UTC)."),
        "moved_by": ("VARCHAR", "Who moved it: a person, or a run."),
        "note": ("VARCHAR", "Why, where it was said."),
    },
    "high_risk_history": {
        "alert_id": ("VARCHAR", "Id of the alert."),
        "customer_id": ("VARCHAR", "Id of the customer whose live metrics moved to CRITICAL."),
        "alerted_at": ("TIMESTAMP", "When (UTC)."),
        "avg_churn_score": ("DOUBLE", "Average score in the window, 0 to 1."),
        "max_churn_score": ("DOUBLE", "Highest score in the window, 0 to 1."),
        "declines": ("INTEGER", "Declined payments and actions in the window."),
        "spend": ("DOUBLE", "Money that left the accounts in the window, in the bank's currency."),
        "model_score": ("DOUBLE", "The champion's probability that the customer leaves within 30 days."),
        "intervention_id": ("VARCHAR", "The intervention that followed; empty while there is none."),
        "generated_email": ("VARCHAR", "The email that followed; empty while there is none."),
    },
    "churn_training_set": {
        "customer_id": ("VARCHAR", "Id of the customer."),
        "cut_off": ("DATE", "A Sunday; the features are those of its evening (UTC)."),
        "total_spend_30d": ("DOUBLE", "Money that left the accounts, in the bank's currency."),
        "wire_out_30d": ("DOUBLE", "Money wired out, in the bank's currency."),
        "txn_count_30d": ("INTEGER", "Number of postings."),
        "error_count_30d": ("INTEGER", "Number of app actions that met an error."),
        "support_cases_30d": ("INTEGER", "Number of support cases opened."),
        "avg_sentiment": ("DOUBLE", "Mean sentiment of the cases, 0 (angry) to 1 (happy); 0.5 without cases."),
        "active_days_30d": ("INTEGER", "Days with a posting or an app action, 0 to 30."),
        "has_left": ("BOOLEAN", "Whether the customer left after the cut-off, by the rule `[labels]` of churn.toml."),
        "made_at": ("TIMESTAMP", "When the row was made (UTC)."),
    },
    "churn_models": {
        "version": ("INTEGER", "Number of the model."),
        "status": ("VARCHAR", "challenger, champion or archived."),
        "artefact": ("VARCHAR", "SHA-256 of the model's file, which is its name."),
        "trained_at": ("TIMESTAMP", "When it was trained (UTC)."),
        "card": ("VARCHAR", "What is known about the model, a JSON object."),
        "gate": ("VARCHAR", "What it was compared with and what was found, a JSON object."),
        "passed_gate": ("BOOLEAN", "Whether it may serve."),
    },
    "churn_champion": {
        "serves": ("VARCHAR", "What it is the champion of; always churn."),
        "version": ("INTEGER", "Number of the model in churn_models."),
        "artefact": ("VARCHAR", "SHA-256 of the model's file."),
    },
    "risk_by_segment": {
        "counted_at": ("TIMESTAMP", "When the customers were counted (UTC)."),
        "segment": ("VARCHAR", "The segment."),
        "customer_count": ("BIGINT", "Its customers with a score."),
        "high_count": ("BIGINT", "Those at HIGH."),
        "medium_count": ("BIGINT", "Those at MEDIUM."),
        "average_risk_score": ("DOUBLE", "Their average score, 0 to 1."),
    },
}  # fmt: skip


def table_metadata(table: str) -> dict[str, object]:
    """The name of a table on the lake and its columns, for the metadata of the asset that writes it."""
    return {
        "dagster/table_name": f"lake.main.{table}",
        "dagster/column_schema": dg.TableSchema(_ledger_columns(table) if table in LEDGERS else _other_columns(table)),
    }


def _ledger_columns(ledger: str) -> list[dg.TableColumn]:
    return [
        *(
            dg.TableColumn(
                field.name, field.type, field.description, dg.TableColumnConstraints(nullable=not field.required)
            )
            for field in LEDGERS[ledger].fields
        ),
        *(dg.TableColumn(name, _STORED_TYPES[name], text) for name, text in STORED_COLUMNS.items()),
    ]


def _other_columns(table: str) -> list[dg.TableColumn]:
    return [dg.TableColumn(name, type_, description) for name, (type_, description) in _COLUMNS[table].items()]
