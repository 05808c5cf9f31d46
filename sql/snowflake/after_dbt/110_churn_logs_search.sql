-- Search in words over the app's errors and the support cases. Filling a service costs money (each text is embedded
-- once), so neither it nor the view that fills it is replaced. To change what is searched, replace both by hand. The
-- service answers with its owner's rights, so the views' policies do not apply. Therefore its texts contain no name,
-- address or amount, and callers filter by segment.

-- The texts that are searched. A search without words reads this view directly (churn_assets/search/cortex.py), because
-- a service needs words.
CREATE VIEW IF NOT EXISTS {{ database }}.{{ schema }}.searchable_events
AS
SELECT
    logs.log_id AS event_id,
    'error' AS kind,
    logs.customer_id,
    customers.segment,
    logs.error_code,
    logs.device,
    logs.event_timestamp AS happened_at,
    COALESCE(codes.title || '. ' || codes.description, 'An error that the catalogue does not know.')
    || COALESCE(' In other words: ' || codes.words || '.', '')
    || ' ' || logs.error_code || ' at ' || logs.event_type || COALESCE(' on ' || logs.device, '') AS document
FROM {{ database }}.{{ schema }}.app_activity_logs AS logs
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON logs.customer_id = customers.customer_id
LEFT JOIN {{ database }}.{{ schema }}.error_codes AS codes ON logs.error_code = codes.error_code
WHERE logs.error_code IS NOT NULL
UNION ALL
SELECT
    cases.case_id AS event_id,
    'case' AS kind,
    cases.customer_id,
    customers.segment,
    CAST(NULL AS VARCHAR) AS error_code,
    CAST(NULL AS VARCHAR) AS device,
    cases.open_timestamp AS happened_at,
    'Support case about ' || LOWER(REPLACE(cases.category, '_', ' '))
    || CASE WHEN cases.sentiment_score < {{ unhappy_below }} THEN '. The customer was unhappy.' ELSE '.' END
    || COALESCE(' In other words: ' || categories.words || '.', '') AS document
FROM {{ database }}.{{ schema }}.support_cases AS cases
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON cases.customer_id = customers.customer_id
LEFT JOIN {{ database }}.{{ schema }}.case_categories AS categories ON cases.category = categories.category;

CREATE CORTEX SEARCH SERVICE IF NOT EXISTS {{ database }}.{{ serving_schema }}.churn_logs_search -- noqa: PRS
ON document
PRIMARY KEY (event_id)
ATTRIBUTES kind, customer_id, segment, error_code, device, happened_at
WAREHOUSE = {{ warehouse }}
TARGET_LAG = '{{ search_target_lag }}'
EMBEDDING_MODEL = 'snowflake-arctic-embed-l-v2.0'
COMMENT = 'Errors of the app and support cases, in words'
AS
SELECT
    event_id,
    kind,
    customer_id,
    segment,
    error_code,
    device,
    happened_at,
    document
FROM {{ database }}.{{ schema }}.searchable_events;
