-- The support cases of customers.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.customer_cases (
    case_id,
    customer_id,
    segment,
    open_timestamp,
    category,
    sentiment_score,
    case_text WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_case_text
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    cases.case_id,
    cases.customer_id,
    customers.segment,
    cases.open_timestamp,
    cases.category,
    cases.sentiment_score,
    cases.case_text
FROM {{ database }}.{{ schema }}.support_cases AS cases
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON cases.customer_id = customers.customer_id;
