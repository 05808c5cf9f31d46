-- The customers who wait in the queue for an email, and why.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.waiting_customers (
    customer_id,
    segment,
    source,
    churn_score,
    reason_codes,
    queued_at
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    queue.customer_id,
    customers.segment,
    queue.source,
    queue.churn_score,
    queue.reason_codes,
    queue.queued_at
FROM {{ database }}.{{ schema }}.retention_queue AS queue
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON queue.customer_id = customers.customer_id
WHERE queue.left_at IS NULL;
