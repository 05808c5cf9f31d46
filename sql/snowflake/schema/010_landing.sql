-- Where a micro-batch lies as Parquet between PUT and the transaction that stores it. Rows go from the file straight
-- into their ledger: a landing table would be shared by all runs and would have to be emptied in every transaction.
-- (The models' stage is made with the functions that read it: churn_assets/model/snowflake_functions.py.)

-- BINARY_AS_TEXT would read the original bytes of a reject as text, and fail on those that are none.
CREATE FILE FORMAT IF NOT EXISTS event_batches TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE;

CREATE STAGE IF NOT EXISTS landing
    ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')
    FILE_FORMAT = (FORMAT_NAME = 'event_batches')
    COMMENT = 'Micro-batches of events on their way into the ledgers';
