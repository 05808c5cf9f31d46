-- Who sees what of the secure view. Policies are attached to the view alone: on a base table they would make the
-- dynamic tables above it start over. The second statement of each pair brings a policy that exists to its present
-- rule.

-- A name is for whoever may write to the customer; the analyst sees initials.
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

-- The analyst works on customers at risk and has no business with others; other roles see no row at all.
CREATE ROW ACCESS POLICY IF NOT EXISTS {{ database }}.{{ serving_schema }}.customers_at_risk AS (risk_class VARCHAR) -- noqa: PRS
RETURNS BOOLEAN -> FALSE;
ALTER ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.customers_at_risk SET BODY ->
IS_ROLE_IN_SESSION('{{ engineer_role }}')
OR (IS_ROLE_IN_SESSION('{{ analyst_role }}') AND risk_class IN ('HIGH', 'MEDIUM'));
