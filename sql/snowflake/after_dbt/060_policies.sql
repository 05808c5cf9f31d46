-- Who sees what in the secure views. Policies are attached only to the views: on a base table they would make its
-- dynamic tables start over. The second statement of each pair updates an existing policy to the current rule.

-- Only roles that may write to the customer see the name; the analyst sees initials.
CREATE MASKING POLICY IF NOT EXISTS {{ database }}.{{ serving_schema }}.mask_name AS (full_name VARCHAR) -- noqa: LT01
RETURNS VARCHAR -> 'masked';
ALTER MASKING POLICY {{ database }}.{{ serving_schema }}.mask_name SET BODY ->
CASE
    WHEN IS_ROLE_IN_SESSION('{{ engineer_role }}') THEN full_name
    ELSE REGEXP_REPLACE(full_name, '(\\S)\\S*', '\\1.')
END;

CREATE MASKING POLICY IF NOT EXISTS {{ database }}.{{ serving_schema }}.mask_email AS (email VARCHAR) -- noqa: LT01
RETURNS VARCHAR -> 'masked';
ALTER MASKING POLICY {{ database }}.{{ serving_schema }}.mask_email SET BODY ->
CASE
    WHEN IS_ROLE_IN_SESSION('{{ engineer_role }}') THEN email
    ELSE REGEXP_REPLACE(email, '^.*@', '***@')
END;

-- The analyst sees an email's text without the name, which the view has in its own column.
CREATE MASKING POLICY IF NOT EXISTS {{ database }}.{{ serving_schema }}.mask_text
AS (email_text VARCHAR, text_without_name VARCHAR) -- noqa: LT01
RETURNS VARCHAR -> 'masked';
ALTER MASKING POLICY {{ database }}.{{ serving_schema }}.mask_text SET BODY ->
CASE WHEN IS_ROLE_IN_SESSION('{{ engineer_role }}') THEN email_text ELSE text_without_name END;

-- What a customer wrote may name anybody: the analyst does not see it.
CREATE MASKING POLICY IF NOT EXISTS {{ database }}.{{ serving_schema }}.mask_case_text
AS (case_text VARCHAR) -- noqa: LT01
RETURNS VARCHAR -> 'masked';
ALTER MASKING POLICY {{ database }}.{{ serving_schema }}.mask_case_text SET BODY ->
CASE WHEN IS_ROLE_IN_SESSION('{{ engineer_role }}') THEN case_text END;

-- Everyone except engineers sees only the segments that segment_grants gives to a role of the session; a role without
-- a grant sees no rows.
CREATE ROW ACCESS POLICY IF NOT EXISTS {{ database }}.{{ serving_schema }}.granted_segments -- noqa: PRS
AS (customer_segment VARCHAR)
RETURNS BOOLEAN -> FALSE;
ALTER ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments SET BODY ->
IS_ROLE_IN_SESSION('{{ engineer_role }}')
OR EXISTS (
    SELECT 1 FROM {{ database }}.{{ schema }}.segment_grants AS granted
    WHERE IS_ROLE_IN_SESSION(granted.role_name) AND granted.segment IN (customer_segment, '*')
);
