-- A stream on a dynamic table needs a table that refreshes incrementally. If a table was created again
-- (`dbt run --full-refresh`, a changed query), its stream can no longer be read. The deployment then runs these
-- statements with OR REPLACE, followed by 020, so that no customer is lost.
CREATE STREAM IF NOT EXISTS stream_high_risk_customers ON DYNAMIC TABLE dyn_churn_predictions;
CREATE STREAM IF NOT EXISTS churn_metrics_stream ON DYNAMIC TABLE churn_metrics_live;
