-- The state of the refresh engine: definitions with their position, one line per refresh, and streams with their
-- position.

CREATE TABLE IF NOT EXISTS dynamic_tables (
    name VARCHAR NOT NULL,
    query VARCHAR NOT NULL,
    refresh_key VARCHAR[] NOT NULL,
    row_timestamp VARCHAR,          -- column that the engine sets to the time a row was last written
    refresh_mode VARCHAR NOT NULL DEFAULT 'AUTO',   -- AUTO, INCREMENTAL or FULL
    changed_keys MAP (VARCHAR, VARCHAR), -- by source: a query of the keys that its changed rows touch, where declared
    target_lag VARCHAR NOT NULL,    -- '5 minutes', or DOWNSTREAM: as fresh as its readers need
    initialize VARCHAR NOT NULL DEFAULT 'ON_CREATE',    -- or ON_SCHEDULE: the first refresh waits for the scheduler
    clock_window VARCHAR,           -- for how long a row may move the result of a query that reads as_of_time
    declared_at TIMESTAMP NOT NULL,
    position BIGINT,                -- snapshot that the last refresh read; NULL: INITIAL is due
    base_position BIGINT,           -- snapshot of the base tables that the rows reflect
    as_of_day DATE,                 -- last day of the windows at the last refresh
    moving_until TIMESTAMP,         -- when the last known row leaves the clock_window; later refreshes change nothing
    refreshed_at TIMESTAMP,
    refresh_action VARCHAR
);

CREATE TABLE IF NOT EXISTS dynamic_table_refresh_history (
    name VARCHAR NOT NULL,
    refresh_action VARCHAR NOT NULL,
    reason VARCHAR,
    started_at TIMESTAMP NOT NULL,
    duration_seconds DOUBLE NOT NULL,
    rows_inserted BIGINT NOT NULL,
    rows_updated BIGINT NOT NULL,
    rows_deleted BIGINT NOT NULL,
    lag_seconds_before DOUBLE NOT NULL,
    position BIGINT NOT NULL,
    base_position BIGINT NOT NULL,
    as_of_day DATE NOT NULL
);

CREATE TABLE IF NOT EXISTS streams (
    name VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL,
    position BIGINT
);
