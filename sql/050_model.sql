-- The training set of the churn model: one row per cut-off day (a Sunday, end of day UTC) and customer with an open
-- account, with the features as they were known then, and whether the customer left within the label window after it.
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

-- What the labels of the training set are: one row, or none before it is first made. The rule is `labels` of
-- churn.toml as JSON; what was stored until then (UTC) is in the labels.
CREATE TABLE IF NOT EXISTS churn_training_state (
    labels VARCHAR NOT NULL,
    corrected_until TIMESTAMP NOT NULL
);

-- Every trained model and its status: challenger, champion or archived. The model itself is a file, named by the
-- SHA-256 of its content; card and gate are JSON.
CREATE TABLE IF NOT EXISTS churn_models (
    version INTEGER NOT NULL,
    status VARCHAR NOT NULL,
    artefact VARCHAR NOT NULL,
    trained_at TIMESTAMP NOT NULL,
    card VARCHAR NOT NULL,
    gate VARCHAR NOT NULL,
    passed_gate BOOLEAN NOT NULL
);

-- The history of each model: one row per change of its status.
CREATE TABLE IF NOT EXISTS churn_model_log (
    version INTEGER NOT NULL,
    status VARCHAR NOT NULL,
    changed_at TIMESTAMP NOT NULL,
    changed_by VARCHAR NOT NULL,
    reason VARCHAR NOT NULL
);

-- The model that serves: one row, or none until a model is promoted.
CREATE TABLE IF NOT EXISTS churn_champion (
    serves VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    artefact VARCHAR NOT NULL
);
