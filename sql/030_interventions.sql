-- Who waits for a retention email, and every email that was written.

-- A customer waits while left_at is NULL.
CREATE TABLE IF NOT EXISTS retention_queue (
    customer_id VARCHAR NOT NULL,
    churn_score DOUBLE NOT NULL,
    queued_at TIMESTAMP NOT NULL,
    left_at TIMESTAMP,
    left_reason VARCHAR
);

-- status: CLAIMED (a run has taken the customer and owes the text) or READY (the text is written).
CREATE TABLE IF NOT EXISTS agent_intervention_log (
    intervention_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    churn_score DOUBLE NOT NULL,
    generated_email VARCHAR,
    created_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,
    reason_codes VARCHAR,
    writer VARCHAR,
    partition_day DATE NOT NULL
);

INSERT INTO streams (name, table_name, position)
SELECT
    'stream_high_risk_customers' AS name,
    'dyn_churn_predictions' AS table_name,
    NULL AS position
WHERE NOT EXISTS (
    SELECT name FROM streams
    WHERE name = 'stream_high_risk_customers'
);
