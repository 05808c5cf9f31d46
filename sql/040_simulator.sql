-- The simulated bank whose history these ledgers hold: its parameters as JSON, and how much has been loaded.
CREATE TABLE IF NOT EXISTS simulated_bank (
    parameters VARCHAR NOT NULL,
    chunks_loaded BIGINT NOT NULL,
    is_complete BOOLEAN NOT NULL
);
