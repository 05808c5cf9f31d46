-- Where a transaction of Python's moves a stream to, reads it and empties it again: reading a stream moves it on only
-- within DML, and a table cannot be created in a transaction. Nothing is here while no transaction runs.
--
-- A dynamic table that gains a column has to be created anew, and its stream by hand (010_streams.sql): drop the table
-- of the stream at the same time, and the next deployment creates it with that column.
CREATE TABLE IF NOT EXISTS changes_of_stream_high_risk_customers AS
SELECT
    *, -- noqa: AM04
    CAST(NULL AS VARCHAR) AS change_action
FROM dyn_churn_predictions
WHERE FALSE;

CREATE TABLE IF NOT EXISTS changes_of_churn_metrics_stream AS
SELECT
    *, -- noqa: AM04
    CAST(NULL AS VARCHAR) AS change_action
FROM churn_metrics_live
WHERE FALSE;
