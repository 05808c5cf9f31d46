-- A stream on a dynamic table needs the table, and that it refreshes incrementally. After `dbt run --full-refresh` both
-- are stale and have to be created anew by hand, with the tables of 015_changes_of_streams.sql: to do so here would
-- lose what they still hold.
CREATE STREAM IF NOT EXISTS stream_high_risk_customers ON DYNAMIC TABLE dyn_churn_predictions;
CREATE STREAM IF NOT EXISTS churn_metrics_stream ON DYNAMIC TABLE churn_metrics_live;
