-- The bank's ledgers. The first columns are the event's payload (churn_assets/ingestion/events.py); the last four say
-- when a row was stored (UTC) and which Kafka message it came from (NULL for history that was loaded in bulk).
-- extra_fields holds the members of the event that the contract does not know, as a JSON object.

CREATE TABLE IF NOT EXISTS dim_customers (
    customer_id VARCHAR NOT NULL,
    full_name VARCHAR NOT NULL,
    email VARCHAR,
    segment VARCHAR NOT NULL,
    join_date DATE NOT NULL,
    risk_profile_score DOUBLE,
    email_consent BOOLEAN,
    updated_at TIMESTAMP NOT NULL,
    extra_fields VARCHAR,
    ingested_at TIMESTAMP NOT NULL,
    kafka_topic VARCHAR,
    kafka_partition INTEGER,
    kafka_offset BIGINT
);

CREATE TABLE IF NOT EXISTS dim_accounts (
    account_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    product_code VARCHAR NOT NULL,
    available_balance DOUBLE,
    account_status VARCHAR NOT NULL,
    opened_at TIMESTAMP,
    closed_at TIMESTAMP,
    updated_at TIMESTAMP NOT NULL,
    extra_fields VARCHAR,
    ingested_at TIMESTAMP NOT NULL,
    kafka_topic VARCHAR,
    kafka_partition INTEGER,
    kafka_offset BIGINT
);

CREATE TABLE IF NOT EXISTS fact_transaction_ledger (
    transaction_ref VARCHAR NOT NULL,
    account_id VARCHAR NOT NULL,
    posting_date TIMESTAMP NOT NULL,
    transaction_code VARCHAR NOT NULL,
    amount DOUBLE NOT NULL,
    channel_id VARCHAR,
    merchant VARCHAR,
    extra_fields VARCHAR,
    ingested_at TIMESTAMP NOT NULL,
    kafka_topic VARCHAR,
    kafka_partition INTEGER,
    kafka_offset BIGINT
);

CREATE TABLE IF NOT EXISTS app_activity_logs (
    log_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    event_type VARCHAR NOT NULL,
    event_timestamp TIMESTAMP NOT NULL,
    error_code VARCHAR,
    device VARCHAR,
    extra_fields VARCHAR,
    ingested_at TIMESTAMP NOT NULL,
    kafka_topic VARCHAR,
    kafka_partition INTEGER,
    kafka_offset BIGINT
);

CREATE TABLE IF NOT EXISTS support_cases (
    case_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    open_timestamp TIMESTAMP NOT NULL,
    category VARCHAR NOT NULL,
    sentiment_score DOUBLE,
    case_text VARCHAR,
    extra_fields VARCHAR,
    ingested_at TIMESTAMP NOT NULL,
    kafka_topic VARCHAR,
    kafka_partition INTEGER,
    kafka_offset BIGINT
);

-- Scores from another system, each for a customer's recent actions.
CREATE TABLE IF NOT EXISTS churn_scores_raw (
    score_id VARCHAR NOT NULL,
    customer_id VARCHAR NOT NULL,
    scored_at TIMESTAMP NOT NULL,
    churn_score DOUBLE NOT NULL,
    declines DOUBLE,
    spend DOUBLE,
    extra_fields VARCHAR,
    ingested_at TIMESTAMP NOT NULL,
    kafka_topic VARCHAR,
    kafka_partition INTEGER,
    kafka_offset BIGINT
);
