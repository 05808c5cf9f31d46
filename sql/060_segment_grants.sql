-- Which role sees the customers of which segment in the serving views; '*' means all segments. The views read this
-- table at each query, so a change takes effect at once. The table is created with one row that lets the analyst's
-- role see every segment. If you delete that row and insert others, no deployment restores it.
CREATE TABLE IF NOT EXISTS segment_grants AS
SELECT
    cast('{{ analyst_role }}' AS VARCHAR) AS role_name,
    cast('*' AS VARCHAR) AS segment;
