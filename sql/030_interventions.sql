-- The queue for retention emails, every intervention, and every alert.

-- source: prediction (the customer became HIGH) or alert (the live metrics became CRITICAL).
-- A customer waits while left_at is NULL.
CREATE TABLE IF NOT EXISTS retention_queue (
    customer_id VARCHAR NOT NULL,
    source VARCHAR NOT NULL DEFAULT 'prediction',
    churn_score DOUBLE NOT NULL,
    reason_codes VARCHAR,
    queued_at TIMESTAMP NOT NULL,
    left_at TIMESTAMP,
    left_reason VARCHAR
);

-- Statuses and their moves are in churn_assets/retention/statuses.py. Times are UTC. complaints: the findings of the
-- text checks in refused texts; writer_error: why the writer returned no text. is_fallback: the template wrote
-- instead.
CREATE TABLE IF NOT EXISTS agent_intervention_log (
    intervention_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    churn_score DOUBLE NOT NULL,
    generated_email VARCHAR,
    created_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,
    source VARCHAR NOT NULL DEFAULT 'prediction',
    reason_codes VARCHAR,
    writer VARCHAR,
    model VARCHAR,
    prompt_version VARCHAR,
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    latency_seconds DOUBLE,
    complaints VARCHAR,
    writer_error VARCHAR,
    failed_attempts INTEGER,
    retry_after TIMESTAMP,
    is_fallback BOOLEAN,
    partition_day DATE NOT NULL
);

-- Every move of an intervention from one status to the next; status_from is NULL for the first.
CREATE TABLE IF NOT EXISTS intervention_moves (
    intervention_id VARCHAR NOT NULL,
    status_from VARCHAR,
    status_to VARCHAR NOT NULL,
    moved_at TIMESTAMP NOT NULL,
    moved_by VARCHAR NOT NULL,
    note VARCHAR
);

-- Customers who must get no email until a day (exclusive, UTC), or forever if it is NULL; unless lifted.
CREATE TABLE IF NOT EXISTS suppressions (
    customer_id VARCHAR NOT NULL,
    suppressed_at TIMESTAMP NOT NULL,
    suppressed_until DATE,
    lifted_at TIMESTAMP,
    note VARCHAR
);

-- Addresses that must get no email, as hashes: those of suppressed customers, and those that were suppressed by
-- themselves (customer_id is NULL). They stay when a customer's address changes or the customer is erased.
CREATE TABLE IF NOT EXISTS suppressed_addresses (
    address_hash VARCHAR NOT NULL,
    customer_id VARCHAR,
    suppressed_at TIMESTAMP NOT NULL,
    suppressed_until DATE,
    lifted_at TIMESTAMP
);

-- To which address each email was to go when it was claimed, and then when it left: a hash, NULL for no address. Rows
-- older than the 7-day rule are deleted.
CREATE TABLE IF NOT EXISTS addressed_emails (
    intervention_id VARCHAR NOT NULL,
    address_hash VARCHAR,
    addressed_at TIMESTAMP NOT NULL
);

-- One row: what is hashed with every address, see churn_assets/retention/addresses.py.
CREATE TABLE IF NOT EXISTS address_salt (
    salt VARCHAR NOT NULL
);

-- Each time that a customer's live metrics became CRITICAL: the metrics, the champion's score and the email.
CREATE TABLE IF NOT EXISTS high_risk_history (
    alert_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    alerted_at TIMESTAMP NOT NULL,
    avg_churn_score DOUBLE NOT NULL,
    max_churn_score DOUBLE NOT NULL,
    declines INTEGER NOT NULL,
    spend DOUBLE NOT NULL,
    model_score DOUBLE,
    intervention_id VARCHAR,
    generated_email VARCHAR
);

INSERT INTO streams (name, table_name, position)
SELECT
    wanted.name,
    wanted.table_name,
    NULL AS position
FROM (
    VALUES
    ('stream_high_risk_customers', 'dyn_churn_predictions'),
    ('churn_metrics_stream', 'churn_metrics_live')
) AS wanted (name, table_name)
WHERE NOT EXISTS (
    SELECT known.name FROM streams AS known
    WHERE known.name = wanted.name
);
