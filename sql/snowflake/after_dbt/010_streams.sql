-- A stream on a dynamic table needs the table, and that it refreshes incrementally. Where a table was created anew
-- (`dbt run --full-refresh`, a changed query) its stream can no longer be read: the deployment then runs these with OR
-- REPLACE, and with 020 after them nobody is lost.
CREATE STREAM IF NOT EXISTS stream_high_risk_customers ON DYNAMIC TABLE dyn_churn_predictions;
CREATE STREAM IF NOT EXISTS churn_metrics_stream ON DYNAMIC TABLE churn_metrics_live;
