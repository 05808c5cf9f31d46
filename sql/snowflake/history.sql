-- What was deployed: a row for each statement that was new or had changed when it ran. The latest row of a statement is
-- its current state. `statement` names the object, `checksum` is the SHA-256 of the statement's text.
CREATE TABLE IF NOT EXISTS churn_deployments (
    file VARCHAR NOT NULL,
    statement VARCHAR NOT NULL,
    checksum VARCHAR NOT NULL,
    deployed_at TIMESTAMP_NTZ NOT NULL,
    deployed_by VARCHAR NOT NULL,
    version VARCHAR NOT NULL
);
