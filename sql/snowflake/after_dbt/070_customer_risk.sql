-- What an analyst sees. A view holds no data, so it is replaced, with its policies in the same statement: it is never
-- there without them.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.customer_risk (
    customer_id,
    full_name WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_name,
    email WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_email,
    segment,
    risk_score,
    risk_class,
    reason_codes
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.customers_at_risk ON (risk_class)
COPY GRANTS
AS
SELECT
    customers.customer_id,
    customers.full_name,
    customers.email,
    customers.segment,
    predictions.risk_score,
    predictions.risk_class,
    predictions.reason_codes
FROM {{ database }}.{{ schema }}.dyn_churn_predictions AS predictions
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON predictions.customer_id = customers.customer_id;
