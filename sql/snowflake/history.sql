-- What was deployed: a row for each statement that was new or had changed when it ran. The latest of a statement is
-- what there is. `statement` is what it is about, `checksum` the SHA-256 of its text.
CREATE TABLE IF NOT EXISTS churn_deployments (
    file VARCHAR NOT NULL,
    statement VARCHAR NOT NULL,
    checksum VARCHAR NOT NULL,
    deployed_at TIMESTAMP_NTZ NOT NULL,
    deployed_by VARCHAR NOT NULL,
    version VARCHAR NOT NULL
);
