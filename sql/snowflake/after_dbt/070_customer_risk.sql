-- Every customer with an open account, with features, scores, reasons and the latest email. A view holds no data, so
-- it is replaced, with its policies in the same statement: it never exists without them. The lake uses the query after
-- AS, too (churn_assets/serving/views.py), so it is SQL that both engines accept.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.customer_risk (
    customer_id,
    full_name WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_name,
    email WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_email,
    segment,
    join_date,
    total_spend_30d,
    wire_out_30d,
    txn_count_30d,
    error_count_30d,
    support_cases_30d,
    avg_sentiment,
    active_days_30d,
    churn_score,
    model_score,
    model_version,
    risk_score,
    risk_class,
    reason_codes,
    last_case_at,
    last_email_status,
    last_email_at
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
WITH cases AS (
    SELECT
        customer_id,
        MAX(open_timestamp) AS last_case_at
    FROM {{ database }}.{{ schema }}.support_cases
    GROUP BY customer_id
),

latest AS (
    SELECT
        customer_id,
        status,
        created_at,
        ROW_NUMBER() OVER (PARTITION BY customer_id ORDER BY created_at DESC, intervention_id ASC) AS place
    FROM {{ database }}.{{ schema }}.agent_intervention_log
)

SELECT
    customers.customer_id,
    customers.full_name,
    customers.email,
    customers.segment,
    customers.join_date,
    features.total_spend_30d,
    features.wire_out_30d,
    features.txn_count_30d,
    features.error_count_30d,
    features.support_cases_30d,
    features.avg_sentiment,
    features.active_days_30d,
    predictions.churn_score,
    predictions.model_score,
    predictions.model_version,
    predictions.risk_score,
    predictions.risk_class,
    predictions.reason_codes,
    cases.last_case_at,
    latest.status AS last_email_status,
    latest.created_at AS last_email_at
FROM {{ database }}.{{ schema }}.dyn_churn_predictions AS predictions
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON predictions.customer_id = customers.customer_id
LEFT JOIN {{ database }}.{{ schema }}.dyn_customer_features AS features
    ON predictions.customer_id = features.customer_id
LEFT JOIN cases ON predictions.customer_id = cases.customer_id
LEFT JOIN latest ON predictions.customer_id = latest.customer_id AND latest.place = 1;
