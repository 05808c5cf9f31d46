-- Every change of status of each intervention.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.email_moves (
    intervention_id,
    customer_id,
    segment,
    status_from,
    status_to,
    moved_at,
    moved_by
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    moves.intervention_id,
    log.customer_id,
    customers.segment,
    moves.status_from,
    moves.status_to,
    moves.moved_at,
    moves.moved_by
FROM {{ database }}.{{ schema }}.intervention_moves AS moves
INNER JOIN {{ database }}.{{ schema }}.agent_intervention_log AS log ON moves.intervention_id = log.intervention_id
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON log.customer_id = customers.customer_id;
