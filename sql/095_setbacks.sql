-- Each time that the warehouse was found to be older than what the world has seen (docs/backup.md). No email is written
-- or leaves while a row has no goes_on_at, which `churn restore --confirm` gives it, or one that is yet to come (UTC).
CREATE TABLE IF NOT EXISTS setbacks (
    noticed_at TIMESTAMP NOT NULL,
    evidence VARCHAR NOT NULL,
    confirmed_at TIMESTAMP,
    confirmed_by VARCHAR,
    goes_on_at TIMESTAMP
);
