-- How far the search index has read. These streams are never consumed, because the index reads the change feed by keys;
-- their positions keep the snapshots that it still has to read. See churn_assets/search/index.py.
INSERT INTO streams (name, table_name, position)
SELECT
    wanted.name,
    wanted.table_name,
    NULL AS position
FROM (
    VALUES
    ('search_of_app_activity_logs', 'app_activity_logs'),
    ('search_of_support_cases', 'support_cases'),
    ('search_of_dim_customers', 'dim_customers')
) AS wanted (name, table_name)
WHERE NOT EXISTS (
    SELECT known.name FROM streams AS known
    WHERE known.name = wanted.name
);
