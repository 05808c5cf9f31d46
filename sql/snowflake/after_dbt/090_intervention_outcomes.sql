-- Whether each customer left after the first intervention, by the rule of churn_assets/retention/effect.py.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.intervention_outcomes (
    customer_id,
    segment,
    is_control,
    created_at,
    has_left
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    outcomes.customer_id,
    customers.segment,
    outcomes.is_control,
    outcomes.created_at,
    outcomes.has_left
FROM ({{ outcomes }}) AS outcomes
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON outcomes.customer_id = customers.customer_id;
