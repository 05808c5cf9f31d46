-- What customers did in the app, and the errors that they saw.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.customer_activity (
    log_id,
    customer_id,
    segment,
    event_timestamp,
    event_type,
    error_code,
    device
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    logs.log_id,
    logs.customer_id,
    customers.segment,
    logs.event_timestamp,
    logs.event_type,
    logs.error_code,
    logs.device
FROM {{ database }}.{{ schema }}.app_activity_logs AS logs
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON logs.customer_id = customers.customer_id;
