-- Every email that has a text. The text without the name is for roles that may decide about an email but not see the
-- name. It lacks the whole name and the first and last word of it; words of one or two letters are removed only in a
-- greeting.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.written_emails (
    intervention_id,
    customer_id,
    segment,
    full_name WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_name,
    status,
    email_text WITH MASKING POLICY {{ database }}.{{ serving_schema }}.mask_text USING (email_text, text_without_name),
    text_without_name,
    created_at
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    log.intervention_id,
    log.customer_id,
    customers.segment,
    customers.full_name,
    log.status,
    log.generated_email AS email_text,
    REPLACE(
        REPLACE(
            REPLACE(
                REPLACE(
                    REPLACE(log.generated_email, customers.full_name, '[name]'),
                    'Dear ' || SPLIT_PART(customers.full_name, ' ', 1) || ',',
                    'Dear [name],'
                ),
                'Dear ' || SPLIT_PART(customers.full_name, ' ', -1) || ',',
                'Dear [name],'
            ),
            CASE
                WHEN LENGTH(SPLIT_PART(customers.full_name, ' ', 1)) > 2 THEN SPLIT_PART(customers.full_name, ' ', 1)
                ELSE customers.full_name
            END,
            '[name]'
        ),
        CASE
            WHEN LENGTH(SPLIT_PART(customers.full_name, ' ', -1)) > 2 THEN SPLIT_PART(customers.full_name, ' ', -1)
            ELSE customers.full_name
        END,
        '[name]'
    ) AS text_without_name,
    log.created_at
FROM {{ database }}.{{ schema }}.agent_intervention_log AS log
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON log.customer_id = customers.customer_id
WHERE log.generated_email IS NOT NULL AND log.status != 'CLAIMED';
