-- Which role sees the customers of which segment in the serving views; '*' stands for all. They read it at each query,
-- so a change holds at once. It is made with the one row that lets the analyst's role see every segment: delete that
-- row, insert others, and no deployment brings it back.
CREATE TABLE IF NOT EXISTS segment_grants AS
SELECT
    cast('{{ analyst_role }}' AS VARCHAR) AS role_name,
    cast('*' AS VARCHAR) AS segment;
