-- The stage that holds a micro-batch as Parquet between PUT and the transaction that stores it. Rows go straight from
-- the file into their ledger: all runs would share a landing table and would have to empty it in every transaction.
-- (The models' stage is created with the functions that read it: churn_assets/model/snowflake_functions.py.)

-- BINARY_AS_TEXT would read the original bytes of a reject as text, and fail if they are not text.
CREATE FILE FORMAT IF NOT EXISTS event_batches TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE;

CREATE STAGE IF NOT EXISTS landing
    ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')
    FILE_FORMAT = (FORMAT_NAME = 'event_batches')
    COMMENT = 'Micro-batches of events on their way into the ledgers';
