-- A transaction of Python copies a stream into these tables, reads them and empties them: only DML moves a stream's
-- position, and a transaction cannot create a table. They are empty while no transaction runs.
--
-- A dynamic table whose query has changed is created again, and then its stream. If it has a new column that a
-- transaction reads, drop the table of this file while no run is in progress, and deploy: it is created with that
-- column.
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
