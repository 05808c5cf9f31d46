-- The live metrics of customers, with the segment that decides who may see them.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.live_metrics (
    customer_id,
    segment,
    score_count,
    avg_churn_score,
    max_churn_score,
    declines,
    spend,
    last_scored_at,
    risk_status
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    metrics.customer_id,
    customers.segment,
    metrics.score_count,
    metrics.avg_churn_score,
    metrics.max_churn_score,
    metrics.declines,
    metrics.spend,
    metrics.last_scored_at,
    metrics.risk_status
FROM {{ database }}.{{ schema }}.churn_metrics_live AS metrics
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON metrics.customer_id = customers.customer_id;
