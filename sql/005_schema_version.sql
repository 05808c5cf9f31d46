-- The versions of these tables (churn_assets/warehouse/schema_version.py): one row for each that was deployed, of which
-- the highest counts.
CREATE TABLE IF NOT EXISTS schema_version (
    version INTEGER NOT NULL,
    deployed_at TIMESTAMP NOT NULL
);
