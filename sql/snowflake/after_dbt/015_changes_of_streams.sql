-- Where a transaction of Python's moves a stream to, reads it and empties it again: reading a stream moves it on only
-- within DML, and a table cannot be created in a transaction. Nothing is here while no transaction runs.
--
-- A dynamic table whose query has changed is created anew, and its stream after it. Where it has gained a column that a
-- transaction reads, drop the table here while no run is under way, and deploy: it is created with that column.
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
