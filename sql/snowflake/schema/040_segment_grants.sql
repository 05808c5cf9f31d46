-- Which role sees the customers of which segment; '*' stands for all. The policies of after_dbt/060_policies.sql read
-- it at each query, so a change holds at once. It is made with the one row that lets the analyst's role see every
-- segment: delete that row, insert others, and no deployment brings it back.
CREATE TABLE IF NOT EXISTS segment_grants AS
SELECT
    CAST('{{ analyst_role }}' AS VARCHAR) AS role_name,
    CAST('*' AS VARCHAR) AS segment;
