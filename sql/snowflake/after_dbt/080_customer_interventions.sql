-- Every intervention, without its text, which contains the customer's name.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.customer_interventions (
    intervention_id,
    customer_id,
    segment,
    status,
    source,
    churn_score,
    reason_codes,
    writer,
    model,
    is_fallback,
    tokens,
    created_at
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    interventions.intervention_id,
    interventions.customer_id,
    customers.segment,
    interventions.status,
    interventions.source,
    interventions.churn_score,
    interventions.reason_codes,
    interventions.writer,
    interventions.model,
    interventions.is_fallback,
    COALESCE(interventions.prompt_tokens, 0) + COALESCE(interventions.completion_tokens, 0) AS tokens,
    interventions.created_at
FROM {{ database }}.{{ schema }}.agent_intervention_log AS interventions
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON interventions.customer_id = customers.customer_id;
