-- What the churn model learns from: one row per customer on the books and cut-off day (a Sunday, end of day UTC), the
-- features as they were known then, and whether the customer left within the label window after it.
CREATE TABLE IF NOT EXISTS churn_training_set (
    customer_id VARCHAR NOT NULL,
    cut_off DATE NOT NULL,
    total_spend_30d DOUBLE NOT NULL,
    wire_out_30d DOUBLE NOT NULL,
    txn_count_30d INTEGER NOT NULL,
    error_count_30d INTEGER NOT NULL,
    support_cases_30d INTEGER NOT NULL,
    avg_sentiment DOUBLE NOT NULL,
    active_days_30d INTEGER NOT NULL,
    has_left BOOLEAN NOT NULL,
    made_at TIMESTAMP NOT NULL
);
